-- The control tables. Forward only: a later change is a later file.

-- Who may write: every writing transaction takes its row FOR SHARE and compares. Changed by takeover
-- only, so that whoever holds an older epoch can never commit again.
create table audit.epoch (
    resource   text primary key,
    epoch      bigint not null check (epoch > 0)
);

-- Who is who, for people and for takeover. `backends` are the sessions that may write, each
-- {"pid", "started"}: a stopped process keeps its locks, so they are terminated by these.
create table audit.owner (
    resource    text primary key,
    owner       text not null,
    backends    jsonb not null default '[]',
    lease_until timestamptz,
    since       timestamptz not null default now()
);

-- How far each log is applied: moved by the transaction that applies, as its last statement.
create table audit.progress (
    connector  text not null,
    partition  text not null,               -- the slot, or topic/partition
    position   bigint not null,             -- the end of the last applied commit, or an offset
    system_id  text not null,               -- whose log it is
    timeline   integer not null,
    moved_at   timestamptz not null default now(),
    primary key (connector, partition)
);

-- Slots we made. A slot found as `creating` was left by a crash: its snapshot is gone, it is remade.
create table audit.slots (
    connector  text primary key,
    slot       text not null,
    state      text not null check (state in ('creating', 'ready')),
    changed_at timestamptz not null default now()
);

-- The shape of source tables, as rows of `pending` and `raw` refer to it.
create table audit.schemas (
    id           integer generated always as identity primary key,
    connector    text not null,
    source_table text not null,
    digest       text not null,
    relation     jsonb not null,
    noticed_at   timestamptz not null default now(),
    unique (connector, source_table, digest)
);

-- What each warehouse table is doing. `floor_seq`: changes below it are in the table already, by the
-- snapshot that was taken behind them. `schema_id`: the shape that was applied last.
create table audit.tables (
    table_name   text primary key,          -- schema.table
    connector    text not null,
    source_table text not null,
    state        text not null check (state in
                 ('snapshotting', 'catching_up', 'streaming', 'paused', 'stopped', 'resyncing')),
    reason       text,
    remedy       text,
    floor_seq    bigint not null default 0,
    schema_id    integer references audit.schemas,
    changed_at   timestamptz not null default now()
);

-- What is yet to be read of source tables: a whole table, or (later) a range of its key. `waiting`
-- before a slot was made for it, `open` while it is read, `loaded` when its rows are in the table.
create table audit.snapshot_chunks (
    id           bigint generated always as identity primary key,
    connector    text not null,
    table_name   text not null,
    source_table text not null,
    lower        text,
    upper        text,
    as_of        bigint,
    state        text not null check (state in ('waiting', 'open', 'loaded', 'done')),
    rows         bigint not null default 0,
    changed_at   timestamptz not null default now()
);
create unique index snapshot_chunks_at_work on audit.snapshot_chunks (table_name) where state <> 'done';

-- Changes of tables that cannot take them now, in the order of the source.
create table audit.pending (
    connector    text not null,
    table_name   text not null,
    seq          bigint not null,
    ord          bigint not null,
    committed_at timestamptz not null,
    xid          bigint not null,
    schema_id    integer not null,
    key_hash     bigint not null,
    bytes        integer not null,
    format       "char" not null,           -- its values: b binary, t text
    event        bytea not null,            -- the pgoutput message
    primary key (connector, table_name, seq, ord)
);

-- Stretches of the source's log that a table never saw, and why. `until_seq` is null until the slot is
-- made that goes on behind the gap.
create table audit.gaps (
    id         bigint generated always as identity primary key,
    table_name text not null,
    after_seq  bigint,
    until_seq  bigint,
    reason     text not null,
    noticed_at timestamptz not null default now()
);

-- What an operator asked for; the owner carries it out.
create table audit.requests (
    id           bigint generated always as identity primary key,
    verb         text not null,
    connector    text not null,
    table_name   text,
    requested_at timestamptz not null default now(),
    requested_by text not null default session_user,
    state        text not null default 'open' check (state in ('open', 'done', 'failed')),
    answer       text,
    answered_at  timestamptz
);
create index requests_open on audit.requests (connector, id) where state = 'open';

-- The warehouse's own books: jobs, quality, lineage.
create table audit.etl_logs (
    log_id            bigint generated always as identity primary key,
    dag_id            varchar(100) not null,
    task_id           varchar(100) not null,
    execution_date    timestamptz not null,
    status            varchar(20) not null,
    records_processed bigint,
    duration_seconds  numeric(12,3),
    error_message     text,
    created_at        timestamptz not null default now()
);
create index on audit.etl_logs (dag_id, execution_date);

create table audit.data_quality (
    check_id       bigint generated always as identity primary key,
    check_date     date not null,
    check_name     varchar(200) not null,
    expected_value text,
    actual_value   text,
    status         varchar(4) not null check (status in ('PASS', 'FAIL', 'WARN')),
    description    text,
    created_at     timestamptz not null default now()
);
create index on audit.data_quality (check_date, check_name);

create table audit.data_lineage (
    source_table         varchar(200) not null,
    source_column        varchar(200) not null,
    target_table         varchar(200) not null,
    target_column        varchar(200) not null,
    transformation_type  varchar(50) not null,
    transformation_logic text,
    last_updated         timestamptz not null default now(),
    primary key (source_table, source_column, target_table, target_column)
);
