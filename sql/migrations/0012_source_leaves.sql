-- The leaves of partitioned source tables as the tables that they feed know them: no change tells of one that is
-- detached, attached with its rows, or emptied by itself.
create table audit.source_leaves (
    table_name text not null references audit.tables on delete cascade,
    leaf oid not null,
    filenode bigint not null,
    primary key (table_name, leaf)
);
