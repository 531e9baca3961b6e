-- Columns that are looked up: how far each table with some is, and by what its rows are looked up now.

-- A table that looks others up is told of their changes as a mart is, by `audit.mart_reads` and `audit.touched` under
-- its own name.
create table audit.lookups (
    table_name text primary key,            -- schema.table
    columns    text[] not null,             -- those of its file
    definition text not null default '',    -- a digest of the lookups in place; empty while none are
    placed     jsonb,                       -- these: whoever writes a row goes by them, and not by a file; null while none are
    state      text not null check (state in ('waiting', 'filling', 'fresh', 'stopped')),
    reason     text,
    remedy     text,
    filled_at  timestamptz,                 -- all rows have what was there to be looked up then
    changed_at timestamptz not null default now()
);

-- Runs a statement that looks rows up, so that a query answers the same in every session, and by plans that are made
-- for it: the sessions that merge have theirs pinned. A small table is read whole for each row where that is allowed.
create function audit.look_up(statement text) returns bigint language plpgsql
    set search_path to pg_catalog, pg_temp
    set enable_hashjoin to on
    set enable_seqscan to off
    set work_mem to '64MB'
    set jit to off
as $$
declare
    answered bigint;
begin
    execute statement;
    get diagnostics answered = row_count;
    return answered;
end
$$;
