-- The leaves of partitioned tables. One came with rows if it, or what it hangs on, was not made as a part of its root:
-- its columns and its place under its parent were then not written by the same transaction.
select r.oid                                              as root,
       p.relid::oid                                       as leaf,
       p.relid::regclass::text                            as name,
       pg_relation_filenode(p.relid)::int8                as filenode,
       pg_relation_size(p.relid) > 0
         and exists (select from pg_partition_ancestors(p.relid) a (relid)
                       join pg_inherits i on i.inhrelid = a.relid
                       join pg_attribute c on c.attrelid = a.relid and c.attnum = 1
                      where i.xmin::text <> c.xmin::text) as attached
  from unnest($1::oid[]) r (oid), pg_partition_tree(r.oid) p
 where p.isleaf and p.relid <> r.oid
