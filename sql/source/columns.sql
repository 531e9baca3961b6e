-- The columns of the given tables, in the order in which they are published. Generated columns are
-- left out: they stand in a snapshot but never in the stream.
with recursive base(attrelid, attnum, oid, typmod) as (
    select a.attrelid, a.attnum, a.atttypid, a.atttypmod
      from pg_attribute a
     where a.attrelid = any ($1) and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
    union all
    -- a domain is what it is based on, with the modifier that the domain carries
    select b.attrelid, b.attnum, t.typbasetype, t.typtypmod
      from base b join pg_type t on t.oid = b.oid
     where t.typtype = 'd'
)
select a.attrelid,
       a.attnum,
       a.attname,
       a.atttypid,
       a.atttypmod,
       format_type(a.atttypid, a.atttypmod)                    as type_name,
       b.oid                                                   as base_oid,
       format_type(b.oid, b.typmod)                            as base_name,
       t.typname                                               as base_typname,
       t.typtype::text                                         as base_typtype,
       e.oid                                                   as element_oid,
       e.typtype::text                                         as element_typtype,
       exists (select from pg_depend d
                where d.classid = 'pg_type'::regclass and d.objid = t.oid
                  and d.deptype = 'e')                         as from_extension,
       case when a.atthasmissing then (a.attmissingval::text::text[])[1] end as missing_value,
       a.atthasdef or a.attidentity <> ''                      as has_default,
       coalesce(a.attnum = any (k.indkey), false)              as in_key,
       col_description(a.attrelid, a.attnum)                   as comment
  from pg_attribute a
  join base b on b.attrelid = a.attrelid and b.attnum = a.attnum
  join pg_type t on t.oid = b.oid and t.typtype <> 'd'
  left join pg_type e on e.oid = t.typelem and t.typcategory = 'A'
  join pg_class c on c.oid = a.attrelid
  -- the chosen identity index, else the primary key; a deferrable key may hold a value twice in
  -- the middle of a transaction, and Postgres does not take it as an identity either
  left join lateral (
        select (i.indkey::int2[])[0:i.indnkeyatts - 1] as indkey
          from pg_index i
         where i.indrelid = c.oid and i.indisvalid and i.indimmediate
           and case when c.relreplident = 'i' then i.indisreplident else i.indisprimary end
         limit 1) k on true
 where a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
 order by a.attrelid, a.attnum
