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

-- What `audit.seen` said of each table when its marks began, or when all of it was marked last.
create table audit.mart_saw (
    mart  text not null,
    input text not null,
    seen  text not null,
    primary key (mart, input, seen)
);

-- The transaction that changed `audit.mart_reads` last: one after the other does. Read regardless of snapshots.
create sequence audit.watching;

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
    -- a transaction that sees the tables as they were before a mart began to read this one does not see that mart,
    -- and could not mark for it: it is to begin again, as its isolation asks of it at any time
    if current_setting('transaction_isolation') in ('repeatable read', 'serializable')
       and not pg_visible_in_snapshot((select last_value from audit.watching)::text::xid8, pg_current_snapshot()) then
        raise serialization_failure using message = format('a mart began to read %s meanwhile', tg_argv[0]),
                                          hint = 'begin the transaction again';
    end if;
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

-- A table and all of its leaves, as the statement's snapshot has them; `born` tells a leaf that was taken off and put
-- back from one that stayed.
create function audit.tree(root oid) returns table (oid oid, born text)
    language sql stable
    set search_path to pg_catalog, pg_temp
as $$
    with recursive tree (oid, born) as (
        select root, ''
        union all
        select i.inhrelid, i.xmin::text || case when i.inhdetachpending then ' leaves' else '' end
          from tree t join pg_inherits i on i.inhparent = t.oid)
    select t.oid, t.born from tree t where t.oid is not null
$$;

-- What changes of a table, one of its leaves or one of some views are told by, where no trigger tells: each has
-- another line then. Neither TRUNCATE nor VACUUM FULL, CLUSTER or ANALYZE changes one.
create function audit.seen_of(relation oid, born text) returns text
    language sql stable
    set search_path to pg_catalog, pg_temp
as $$
    select format('%s %s: %s', relation, born,
                  (select string_agg(format('%s %s %s', t.tgname, t.xmin, t.tgenabled), ', ' order by t.tgname)
                     from pg_trigger t where t.tgrelid = relation and starts_with(t.tgname, 'siltstone_')))
$$;

create function audit.seen(root oid, views oid[]) returns setof text
    language sql stable
    set search_path to pg_catalog, pg_temp
as $$
    select audit.seen_of(t.oid, t.born) from audit.tree(root) t
    union all
    -- also a type that stays: its values may have been converted
    select format('columns %s: %s', root,
                  (select string_agg(format('%s %s', a.attname, a.xmin), ', ' order by a.attnum)
                     from pg_attribute a where a.attrelid = root and a.attnum > 0 and not a.attisdropped))
    union all
    select format('view %s: %s', v.oid, w.xmin) from unnest(views) v (oid) left join pg_rewrite w on w.ev_class = v.oid
$$;

-- Whether a table, or a leaf of it, notes what an event changes.
create function audit.tells(relation oid, event text, input text, root text) returns boolean
    language sql stable
    set search_path to pg_catalog, pg_temp
as $$
    select exists (
        select from pg_trigger t
         where t.tgrelid = relation and t.tgname = 'siltstone_' || event and t.tgenabled = 'A'
           and t.tgfoid = 'audit.touch()'::regprocedure
           and t.tgargs = convert_to(input, getdatabaseencoding()) || '\x00'::bytea
                       || convert_to(root, getdatabaseencoding()) || '\x00'::bytea)
$$;

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
        -- one that is off, or has the name that the table had before, does not do
        if not audit.tells(relation, kind.event, input, root) then
            execute format('create or replace trigger %I after %s on %s %s for each statement execute function audit.touch(%L, %L)',
                           'siltstone_' || kind.event, kind.event, relation, kind.rows, input, root);
            execute format('alter table %s enable always trigger %I', relation, 'siltstone_' || kind.event);
            made := made + 1;
        end if;
    end loop;
    return made;
end
$$;

-- The same for a leaf that was just made, where its table is watched. It has no rows yet: no mart is computed anew
-- for it.
create function audit.watch_leaf(root regclass, leaf regclass) returns void
    language plpgsql
    set search_path to pg_catalog, pg_temp
as $$
declare
    input_ text;
    root_ text;
begin
    -- each name in quotes, as whoever watches the table writes it
    select n.nspname || '.' || c.relname,
           format('"%s"."%s"', replace(n.nspname, '"', '""'), replace(c.relname, '"', '""'))
      into input_, root_
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.oid = root
       and exists (select from pg_trigger t where t.tgrelid = root and t.tgname = 'siltstone_insert');
    if input_ is not null then
        perform audit.watch_one(leaf, input_, root_);
        insert into audit.mart_saw (mart, input, seen)
        select m.mart, m.input, audit.seen_of(t.oid, t.born)
          from audit.mart_reads m, audit.tree(root) t
         where m.input = input_ and t.oid = leaf
            on conflict do nothing;
    end if;
end
$$;

-- Notes that more of a table changed than its statements tell: a leaf was detached, attached or dropped, or its
-- definition is another one. What it is now is what is known of it then; what its views are is not.
create function audit.touch_all(input text) returns void
    language plpgsql
    set search_path to pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    root oid := (select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
                  where n.nspname || '.' || c.relname = touch_all.input);
begin
    insert into audit.touched (mart, input) select m.mart, m.input from audit.mart_reads m where m.input = touch_all.input;
    if found then
        delete from audit.mart_saw s
         where s.input = touch_all.input and not starts_with(s.seen, 'view ')
           and s.seen not in (select n from audit.seen(root, '{}') n);
        insert into audit.mart_saw (mart, input, seen)
        select m.mart, m.input, n from audit.mart_reads m, audit.seen(root, '{}') n where m.input = touch_all.input
            on conflict do nothing;
    end if;
end
$$;
