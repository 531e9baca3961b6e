-- The types of a Relation message's columns, in their order.
with recursive wanted(place, oid, typmod) as (
    select place, oid, typmod
      from unnest($1::oid[], $2::int4[]) with ordinality as w(oid, typmod, place)
),
base(place, oid, typmod) as (
    select place, oid, typmod from wanted
    union all
    select b.place, t.typbasetype, t.typtypmod
      from base b join pg_type t on t.oid = b.oid
     where t.typtype = 'd'
)
select w.oid,
       w.typmod,
       coalesce(format_type(w.oid, w.typmod), 'text')          as type_name,
       b.oid                                                   as base_oid,
       format_type(b.oid, b.typmod)                            as base_name,
       b.typname                                               as base_typname,
       b.typtype                                               as base_typtype,
       e.oid                                                   as element_oid,
       e.typtype::text                                         as element_typtype,
       exists (select from pg_depend d
                where d.classid = 'pg_type'::regclass and d.objid = b.oid
                  and d.deptype = 'e')                         as from_extension
  from wanted w
  left join lateral (
        select b.oid, b.typmod, t.typname, t.typtype::text, t.typelem, t.typcategory
          from base b join pg_type t on t.oid = b.oid
         where b.place = w.place and t.typtype <> 'd'
         limit 1) b on true
  left join pg_type e on e.oid = b.typelem and b.typcategory = 'A'
 order by w.place
