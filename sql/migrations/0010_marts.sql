-- Marts: which rows they are yet to follow, and how far they are.

-- The marts that were made. `definition` is a digest of its file; `as_of` and `positions` say what of each log is
-- in all its rows.
create table audit.marts (
    mart         text primary key,          -- schema.table
    definition   text not null,
    state        text not null check (state in ('waiting', 'building', 'fresh', 'stale', 'stopped')),
    reason       text,
    remedy       text,
    as_of        timestamptz,
    positions    jsonb not null default '{}',   -- connector/partition: position
    refreshed_at timestamptz,
    took         double precision,          -- seconds of the last refresh
    rows_written bigint not null default 0,
    changed_at   timestamptz not null default now()
);

-- What of each table a mart wants to be told. `columns` are those that its `touches` names; where `compare` is not
-- null, rows in which none of these differs are not told of; `key` pairs the row before with the row after.
create table audit.mart_reads (
    mart     text not null,
    input    text not null,                 -- schema.table
    columns  text[] not null,
    compare  text[],
    key      text[] not null,
    versions boolean not null,
    primary key (mart, input)
);
create index mart_reads_input on audit.mart_reads (input);

-- Rows that changed, before and after, in the transaction that changed them. `row` has the columns as text; null
-- stands for all rows there are.
create table audit.touched (
    id    bigint generated always as identity,
    mart  text not null,
    input text not null,
    row   jsonb,
    at    timestamptz not null default clock_timestamp()
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
create index touched_mart on audit.touched (mart, id);

-- Groups to recompute, as text.
create table audit.stale_groups (
    mart  text not null,
    value text,
    since timestamptz not null,
    unique nulls not distinct (mart, value)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
create index stale_groups_oldest on audit.stale_groups (mart, since);

-- Notes what a statement changed, for each mart that reads its table. It runs in the statement's own transaction,
-- whoever writes: so no change can be in a table without its mark. A statement that changes more rows than a mart
-- is worth being told of one by one, and whatever else cannot be told, is noted as `all`.
create function audit.touch() returns trigger
    language plpgsql security definer
    set search_path to pg_catalog, pg_temp
    -- apply sessions have them off, and the pairing needs one
    set enable_hashjoin to on
    set timezone to 'UTC' set datestyle to 'ISO, MDY' set intervalstyle to 'postgres'
    set extra_float_digits to 1 set bytea_output to 'hex'
as $$
declare
    most constant bigint := 20000;
    r audit.mart_reads;
    before_ text;
    after_ text;
    pairs text;
    differ text;
    first text;
    told bigint;
begin
    for r in select * from audit.mart_reads m where m.input = tg_argv[0] loop
        if tg_op = 'TRUNCATE' then
            insert into audit.touched (mart, input) values (r.mart, r.input);
            continue;
        end if;
        begin
            select coalesce(string_agg(format('%L, o.%I::text', c, c), ', '), ''),
                   coalesce(string_agg(format('%L, n.%I::text', c, c), ', '), '')
              into before_, after_ from unnest(r.columns) c;
            before_ := format('jsonb_build_object(%s)', before_);
            after_ := format('jsonb_build_object(%s)', after_);
            select string_agg(format('o.%I::text is distinct from n.%I::text', c, c), ' or ')
              into differ from unnest(r.compare) c;
            first := r.key[1];
            select string_agg(format('o.%I = n.%I', c, c), ' and ') into pairs from unnest(r.key) c;
            execute 'insert into audit.touched (mart, input, row) select $1, $2, d.row from (select distinct x.row from ('
                || case
                   when tg_op = 'DELETE' then format('select %s as row from rows_before o', before_)
                   when tg_op = 'UPDATE' and differ is not null and pairs is not null then format(
                       'select s.row from rows_before o full join rows_after n on %s
                         cross join lateral (values (o.%I is not null, %s), (n.%I is not null, %s)) s (there, row)
                         where s.there and (o.%I is null or n.%I is null or %s)',
                       pairs, first, before_, first, after_, first, first, differ)
                   when tg_op = 'UPDATE' then format(
                       'select %s as row from rows_before o union all select %s from rows_after n', before_, after_)
                   -- a version that was closed as the one behind it opened, alike in what is compared, changes nothing
                   when r.versions and differ is not null then format(
                       'select %s as row from rows_after n where n.is_current or not exists (
                          select from %s o where %s and o.valid_from = n.valid_to and not (%s))',
                       after_, tg_argv[1],
                       (select string_agg(format('o.%I = n.%I', c, c), ' and ') from unnest(r.key) c where c <> 'valid_to'),
                       differ)
                   else format('select %s as row from rows_after n', after_)
                   end
                || ') x limit $3) d'
            using r.mart, r.input, most + 1;
            get diagnostics told = row_count;
            if told > most then
                insert into audit.touched (mart, input) values (r.mart, r.input);
            end if;
        exception when others then
            -- a column that is gone must not stop the stream: the mart will say what it lacks
            insert into audit.touched (mart, input) values (r.mart, r.input);
        end;
    end loop;
    return null;
end
$$;

-- It runs with its owner's rights, and its arguments are SQL: nobody else makes triggers of it.
revoke execute on function audit.touch() from public;

-- Lets a table, or a leaf of it, note what its statements change: statements fire the triggers of the table that
-- they name, and of no other. `input` is the table's name, `root` the same as SQL has it.
create function audit.watch_one(relation regclass, input text, root text) returns integer
    language plpgsql
    set search_path to pg_catalog, pg_temp
as $$
declare
    made integer := 0;
    kind record;
begin
    for kind in select * from (values
        ('insert', 'referencing new table as rows_after'),
        ('update', 'referencing old table as rows_before new table as rows_after'),
        ('delete', 'referencing old table as rows_before'),
        ('truncate', '')) k (event, rows)
    loop
        if not exists (select from pg_trigger t where t.tgrelid = relation and t.tgname = 'siltstone_' || kind.event) then
            execute format('create trigger %I after %s on %s %s for each statement execute function audit.touch(%L, %L)',
                           'siltstone_' || kind.event, kind.event, relation, kind.rows, input, root);
            execute format('alter table %s enable always trigger %I', relation, 'siltstone_' || kind.event);
            made := made + 1;
        end if;
    end loop;
    return made;
end
$$;

-- The same for a leaf that was just made, where its table is watched.
create function audit.watch_leaf(root regclass, leaf regclass) returns integer
    language sql
    set search_path to pg_catalog, pg_temp
as $$
    select audit.watch_one(leaf, n.nspname || '.' || c.relname, format('%I.%I', n.nspname, c.relname))
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.oid = root
       and exists (select from pg_trigger t where t.tgrelid = root and t.tgname = 'siltstone_insert')
$$;

-- Notes that more of a table changed than its statements tell: a leaf was detached, attached or dropped.
create function audit.touch_all(input text) returns void
    language sql
    set search_path to pg_catalog, pg_temp
as $$
    insert into audit.touched (mart, input) select m.mart, m.input from audit.mart_reads m where m.input = $1
$$;
