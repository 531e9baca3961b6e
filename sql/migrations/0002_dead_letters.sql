-- Changes that the warehouse refuses, one row each, and what waits behind them.

create table audit.dead_letters (
    id           bigint generated always as identity primary key,
    connector    text not null,
    table_name   text not null,
    key          jsonb,                     -- the key's columns at the source, each value as text
    seq          bigint not null,
    ord          bigint not null,
    committed_at timestamptz not null,
    xid          bigint not null,
    schema_id    integer not null,
    key_hash     bigint not null,           -- digests of the key, and of the one it had before
    old_key_hash bigint not null,
    format       "char" not null,
    event        bytea not null,            -- the message as it arrived
    reason       text not null,
    attempts     integer not null default 1,
    state        text not null default 'open' check (state in ('open', 'replayed', 'dropped', 'read')),
    noticed_at   timestamptz not null default now(),
    changed_at   timestamptz not null default now()
);
-- the same change is one dead letter however often it is refused
create unique index dead_letters_at on audit.dead_letters (connector, table_name, seq, ord);
create index dead_letters_open on audit.dead_letters (connector, table_name, id) where state = 'open';

-- `waits`: it was set aside behind a dead letter while the others of its table went on.
alter table audit.pending
    add old_key_hash bigint not null default 0,
    add waits boolean not null default false;
alter table audit.pending alter old_key_hash drop default;
create index pending_waits on audit.pending (connector, table_name) where waits;

-- What a request is about beside its table, such as the number of a dead letter.
alter table audit.requests add argument text;
