-- Lineage: a column may depend on another one in more than one way, and names of sources come in front of their
-- tables'.
alter table audit.data_lineage
    drop constraint data_lineage_pkey,
    alter column source_table  type text,
    alter column source_column type text,
    alter column target_table  type text,
    alter column target_column type text,
    add primary key (source_table, source_column, target_table, target_column, transformation_type);
create index data_lineage_target on audit.data_lineage (target_table, target_column);
