-- What people hung on a view or a table ($1), as the statements that hang it on one of that name again. What hung
-- on columns is left out, but for those of $2.
with hung as (
    select c.oid, c.relowner, c.relacl, c.relkind = 'v' as is_view,
           format('%I.%I', n.nspname, c.relname) as name
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.oid = to_regclass($1) and c.relkind in ('v', 'r', 'p')
), columns as (
    select h.oid, h.name, h.relowner, c.attnum, c.attname, c.attacl
      from hung h join pg_attribute c on c.attrelid = h.oid
     where c.attnum > 0 and not c.attisdropped and c.attname = any ($2)
), rights as (
    select h.name, h.relowner, ''::text as part, a.* from hung h, aclexplode(h.relacl) a
    union all
    select c.name, c.relowner, format(' (%I)', c.attname), a.* from columns c, aclexplode(c.attacl) a
)
select format('grant %s%s on %s to %s%s', privilege_type, part, name,
              case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end,
              case when is_grantable then ' with grant option' else '' end)
  from rights where grantee <> relowner
union all
select format('comment on %s %s is %L', case when is_view then 'view' else 'table' end, name,
              obj_description(oid, 'pg_class'))
  from hung where obj_description(oid, 'pg_class') is not null
union all
select format('comment on column %s.%I is %L', name, attname, col_description(oid, attnum))
  from columns where col_description(oid, attnum) is not null
union all
select format('alter view %s owner to %I', name, pg_get_userbyid(relowner))
  from hung where is_view and pg_get_userbyid(relowner) <> current_user
