-- What people hung on a view, as the statements that hang it on one of that name again.
with view as (
    select c.oid, c.relowner, c.relacl, format('%I.%I', n.nspname, c.relname) as name
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.oid = to_regclass($1) and c.relkind = 'v'
), rights as (
    select v.name, v.relowner, ''::text as part, a.* from view v, aclexplode(v.relacl) a
    union all
    select v.name, v.relowner, format(' (%I)', c.attname), a.*
      from view v join pg_attribute c on c.attrelid = v.oid, aclexplode(c.attacl) a
)
select format('grant %s%s on %s to %s%s', privilege_type, part, name,
              case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end,
              case when is_grantable then ' with grant option' else '' end)
  from rights where grantee <> relowner
union all
select format('comment on view %s is %L', name, obj_description(oid, 'pg_class'))
  from view where obj_description(oid, 'pg_class') is not null
union all
select format('alter view %s owner to %I', name, pg_get_userbyid(relowner))
  from view where pg_get_userbyid(relowner) <> current_user
