-- Tables without key that topics append to: the rows of a page that COPY filled share one place of the source's log, so
-- that a place stands there once for each of them, and no index says otherwise.
do $$
declare
    of record;
begin
    for of in
        select i.indexrelid::regclass as index, pg_get_indexdef(i.indexrelid) as definition
          from audit.tables t
          join pg_namespace n on starts_with(t.table_name, n.nspname || '.')
          join pg_class c on c.relnamespace = n.oid and n.nspname || '.' || c.relname = t.table_name
          join pg_index i on i.indrelid = c.oid
         where t.source_topic <> '' and i.indisunique
           and pg_get_expr(i.indpred, i.indrelid) = '(_op <> ''r''::text)'
    loop
        execute 'drop index ' || of.index;
        execute regexp_replace(of.definition, '^CREATE UNIQUE INDEX ("([^"]|"")+"|\S+) ON (ONLY )?', 'create index on ');
    end loop;
end
$$;
