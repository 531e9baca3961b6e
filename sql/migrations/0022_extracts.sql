-- Tables without a stream: what tasks of jobs have brought of sources that are asked, an interval at a time.

-- Such tables. A row is locked by whoever writes the table, so that two runs do so one after the other.
create table audit.extracted (
    table_name text primary key,          -- schema.table
    source     text not null,             -- as in `from`
    noted_at   timestamptz not null default now()
);

-- What was brought into raw of each interval, last. `revision` is the `ord` of its newest rows: an attempt that finds
-- something else than the one before it is newer, and one that finds the same is none.
create table audit.extracts (
    table_name     text not null,         -- the raw one
    load_id        text not null,
    interval_start timestamptz not null,
    interval_end   timestamptz not null,
    revision       bigint not null,
    rows           bigint not null,
    pages          bigint not null,
    extracted_at   timestamptz not null default now(),
    primary key (table_name, load_id)
);

-- What of it was merged into each table, last.
create table audit.loads (
    table_name     text not null,
    load_id        text not null,
    interval_start timestamptz not null,
    interval_end   timestamptz not null,
    revision       bigint not null,
    rows           bigint not null,
    loaded_at      timestamptz not null default now(),
    primary key (table_name, load_id)
);
