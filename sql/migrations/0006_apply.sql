-- The leaves that a service without the right to make them has missed: a day in each. `siltstone apply` makes
-- them and takes the rows away.
create table audit.wanted_leaves (
    table_name text not null,               -- schema.table
    day        date not null,
    noticed_at timestamptz not null default now(),
    primary key (table_name, day)
);

-- By which file `siltstone apply` changed a table, until a service that has read the same file has seen it: one
-- with an older file must not read rows into it, or the new columns would stay empty.
alter table audit.tables add made_for text;
