-- What keeps a connector from its work, as it told last: for people who ask without the service that it ran in.
-- `waiting`: it tries again by itself. `stopped`: it has ended, and needs a person. None while it works.
create table audit.standing (
    connector  text primary key,
    state      text not null check (state in ('waiting', 'stopped')),
    reason     text not null,
    remedy     text,
    since      timestamptz not null default clock_timestamp(),
    told_at    timestamptz not null default clock_timestamp()
);

-- Tables that the files ask for and that a connector could not take as it began, by what they would be here.
create table audit.left_out (
    connector    text not null,
    table_name   text not null,             -- schema.table
    source_table text,                      -- none where the source has no such table
    reason       text not null,
    remedy       text,
    noticed_at   timestamptz not null default now(),
    primary key (connector, table_name)
);
