-- Extracts of tables: rows have a shape, and where all rows were read, what they lack is gone at the source.
alter table audit.extracts
    add column schema_id integer references audit.schemas,
    add column whole boolean not null default false;

alter table audit.loads
    add column whole boolean not null default false;
