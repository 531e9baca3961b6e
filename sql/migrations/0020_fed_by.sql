-- Beside the source table that feeds a table of topics: the topic by which its records came first, and the source
-- that writes them, as it calls itself. Another source may have a table of the same name. Empty where a Postgres
-- feeds the table, or an older service made it, until its next record.
alter table audit.tables
    add source_topic text not null default '',
    add source_name  text not null default '';
