-- What a mirrored table is fed by, beside the name of its source table, which another source may have too: the
-- topic by which its rows came first, and the source that wrote them, as it calls itself.
alter table audit.tables
    add fed_topic text,
    add fed_source text;
