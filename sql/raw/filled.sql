-- Looks values up that carried images leave out: in the newest event of the key that has them. A move from another
-- key goes on there, in another round; behind a delete there is nothing.
drop table if exists pg_temp.siltstone_found;
analyze pg_temp.siltstone_wanted;
create temp table siltstone_found as
select distinct on (w.n, w.name) w.n, w.name, e.raw_data->>'op' as op, m.key as moved, p.place,
       e.raw_data->'after' ? w.name or e.raw_data->'before' ? w.name as has,
       coalesce(e.raw_data->'after'->w.name, e.raw_data->'before'->w.name) as value
  from pg_temp.siltstone_wanted w
  join {{table}} e on e.raw_data->'key' = w.key and e.source_system = {{source}} and e.raw_data->>'op' <> 't'
 cross join lateral (select array[(e.raw_data->>'seq')::int8, (e.raw_data->>'ord')::int8] as place) p
 cross join lateral (select jsonb_object_agg(k, e.raw_data->'before'->k) as key
                       from jsonb_object_keys(e.raw_data->'key') k) m
 where p.place <= w.upto
   and (e.raw_data->'after' ? w.name or e.raw_data->'before' ? w.name or e.raw_data->>'op' = 'd'
        or jsonb_typeof(e.raw_data->'before') = 'object' and m.key <> w.key
           and not m.key @? '$.* ? (@ == null)')
 order by w.n, w.name, p.place desc;
update pg_temp.siltstone_carried c
   set raw_data = c.raw_data || jsonb_build_object('after', (c.raw_data->'after') || f.filled,
                                                   'unchanged', (c.raw_data->'unchanged') - f.names)
  from (select n, jsonb_object_agg(name, value) as filled, array_agg(name) as names
          from pg_temp.siltstone_found where has and op <> 'd' group by n) f
 where f.n = c.n;
truncate pg_temp.siltstone_wanted;
insert into pg_temp.siltstone_wanted (n, name, key, upto)
select n, name, moved, array[place[1], place[2] - 1] from pg_temp.siltstone_found
 where not has and op <> 'd';
