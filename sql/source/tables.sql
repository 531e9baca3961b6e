-- Every ordinary or partitioned table that could be published, with what publishing it depends on.
-- Leaves of partitioned tables are left out: their changes are published as the root's.
select c.oid,
       n.nspname,
       c.relname,
       c.relreplident::text                                    as replica_identity,
       obj_description(c.oid, 'pg_class')                      as comment,
       pg_has_role(c.relowner, 'USAGE')                        as owned,
       -- of a table whose columns are excluded, the others
       has_any_column_privilege(c.oid, 'SELECT')
         and has_schema_privilege(n.oid, 'USAGE')              as readable,
       greatest(c.reltuples, 0)::float8                        as estimated_rows,
       c.relkind = 'p'                                         as partitioned,
       c.relnatts                                              as attnums,
       case when c.relkind = 'r' then pg_relation_filenode(c.oid)::int8
            else (select coalesce(sum(pg_relation_filenode(p.relid)::int8), 0)::int8
                    from pg_partition_tree(c.oid) p
                   where p.isleaf) end                         as filenode,
       -- a leaf with an identity of its own decides what its updates carry
       (select min(l.oid::regclass::text)
          from pg_partition_tree(c.oid) p
          join pg_class l on l.oid = p.relid
         where c.relkind = 'p' and p.isleaf and l.relreplident <> c.relreplident) as odd_leaf
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p')
   and ($1::oid is null or c.oid = $1)
   and c.relpersistence = 'p'
   and not c.relispartition
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
   and n.nspname not like 'pg\_temp\_%'
 order by n.nspname, c.relname
