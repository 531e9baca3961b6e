-- What of an old leaf of a raw table is carried on before the leaf goes: the newest image of each key, where no
-- other leaf has a later whole one. Of deletes and of moves to another key, those that an older image in another
-- leaf would survive; of truncates, the last one. `raw_data` is filled where values are to be looked up that the image leaves out.
drop table if exists pg_temp.siltstone_carried, pg_temp.siltstone_here, pg_temp.siltstone_over, pg_temp.siltstone_first,
                     pg_temp.siltstone_wanted, pg_temp.siltstone_found;

-- The newest event of each key in the leaf. A table without key has none: its rows cannot be told apart, so none is
-- carried, and that the first reading is not whole any more says that nothing can be rebuilt from the rest.
create temp table siltstone_here as
select distinct on (raw_data->'key') id, loaded_at, raw_data->'key' as key, raw_data->>'op' as op,
       array[(raw_data->>'seq')::int8, (raw_data->>'ord')::int8] as place
  from {{leaf}}
 where source_system = {{source}} and raw_data->>'op' <> 't' and raw_data ? 'seq' and raw_data->'key' <> '{}'
 order by raw_data->'key', (raw_data->>'seq')::int8 desc, (raw_data->>'ord')::int8 desc, id desc;
analyze pg_temp.siltstone_here;

-- What comes behind it. Nothing older is needed from a later event on that has all its values, or is the key's
-- delete or its move to another one; but a move elsewhere that leaves values out needs the image before it.
create temp table siltstone_over as
select key, place, needs
  from (select e.raw_data->'key' as key,
               array[(e.raw_data->>'seq')::int8, (e.raw_data->>'ord')::int8] as place, false as needs
          from {{table}} e
         where e.tableoid <> {{oid}} and e.source_system = {{source}} and e.raw_data->>'op' <> 't'
           and (e.raw_data->>'op' = 'd' or e.raw_data ? 'carried' or e.raw_data->'unchanged' = '[]')
         union all
        select m.key, array[(e.raw_data->>'seq')::int8, (e.raw_data->>'ord')::int8],
               not (e.tableoid = {{oid}} or e.raw_data ? 'carried' or e.raw_data->'unchanged' = '[]')
          from {{table}} e
         cross join lateral (select jsonb_object_agg(k, e.raw_data->'before'->k) as key
                               from jsonb_object_keys(e.raw_data->'key') k) m
         where e.source_system = {{source}} and e.raw_data->>'op' = 'u'
           and jsonb_typeof(e.raw_data->'before') = 'object'
           and m.key <> e.raw_data->'key' and not m.key @? '$.* ? (@ == null)') o
 where key in (select key from pg_temp.siltstone_here);
analyze pg_temp.siltstone_over;
create temp table siltstone_first as
select h.key, min(o.place) filter (where not o.needs) as place, min(o.place) filter (where o.needs) as needed
  from pg_temp.siltstone_here h join pg_temp.siltstone_over o on o.key = h.key and o.place >= h.place
 group by h.key;
analyze pg_temp.siltstone_first;

create temp table siltstone_carried (
    n         bigint generated always as identity primary key,
    id        bigint not null,
    loaded_at timestamptz not null,
    raw_data  jsonb
);
insert into pg_temp.siltstone_carried (id, loaded_at)
select h.id, h.loaded_at
  from pg_temp.siltstone_here h left join pg_temp.siltstone_first f using (key)
 where h.op <> 'd' and (f.place is null or f.needed <= f.place)
 order by h.place;
insert into pg_temp.siltstone_carried (id, loaded_at)
select h.id, h.loaded_at
  from pg_temp.siltstone_here h left join pg_temp.siltstone_first f using (key)
 where h.op = 'd' and f.place is null
   and exists (select from {{table}} e
                where e.tableoid <> {{oid}} and e.source_system = {{source}} and e.raw_data->'key' = h.key
                  and array[(e.raw_data->>'seq')::int8, (e.raw_data->>'ord')::int8] < h.place);

insert into pg_temp.siltstone_carried (id, loaded_at)
select t.id, t.loaded_at
  from (select id, loaded_at, array[(raw_data->>'seq')::int8, (raw_data->>'ord')::int8] as place
          from {{leaf}} where source_system = {{source}} and raw_data->>'op' = 't'
         order by place desc limit 1) t
 where not exists (select from {{table}} e
                    where e.source_system = {{source}} and e.raw_data->>'op' <> 't' and e.raw_data->'key' = '{}')
   and not exists (select from {{table}} e
                    where e.tableoid <> {{oid}} and e.source_system = {{source}} and e.raw_data->>'op' = 't'
                      and array[(e.raw_data->>'seq')::int8, (e.raw_data->>'ord')::int8] >= t.place);

insert into pg_temp.siltstone_carried (id, loaded_at)
select m.id, m.loaded_at
  from (select distinct on (k.key) e.id, e.loaded_at, k.key, e.raw_data->'key' as new_key, p.place
          from {{leaf}} e
         cross join lateral (select array[(e.raw_data->>'seq')::int8, (e.raw_data->>'ord')::int8] as place) p
         cross join lateral (select jsonb_object_agg(k, e.raw_data->'before'->k) as key
                               from jsonb_object_keys(e.raw_data->'key') k) k
         where e.source_system = {{source}} and e.raw_data->>'op' = 'u'
           and jsonb_typeof(e.raw_data->'before') = 'object'
           and k.key <> e.raw_data->'key' and not k.key @? '$.* ? (@ == null)'
         order by k.key, p.place desc) m
 where exists (select from {{table}} e
                where e.tableoid <> {{oid}} and e.source_system = {{source}} and e.raw_data->'key' = m.key
                  and array[(e.raw_data->>'seq')::int8, (e.raw_data->>'ord')::int8] < m.place)
   and not exists (select from {{table}} e
                    where e.tableoid <> {{oid}} and e.source_system = {{source}} and e.raw_data->'key' = m.key
                      and array[(e.raw_data->>'seq')::int8, (e.raw_data->>'ord')::int8] >= m.place
                      and (e.raw_data->>'op' = 'd' or e.raw_data ? 'carried' or e.raw_data->'unchanged' = '[]'))
   -- a copy of it is there already
   and not exists (select from {{table}} e
                    where e.tableoid <> {{oid}} and e.source_system = {{source}} and e.raw_data ? 'carried'
                      and e.raw_data->'key' = m.new_key
                      and array[(e.raw_data->>'seq')::int8, (e.raw_data->>'ord')::int8] = m.place)
   and not exists (select from pg_temp.siltstone_carried c where c.id = m.id and c.loaded_at = m.loaded_at);

-- The values that are looked up: under which key, and up to where.
create temp table siltstone_wanted as
select c.n, w.name, l.raw_data->'key' as key,
       array[(l.raw_data->>'seq')::int8, (l.raw_data->>'ord')::int8] as upto
  from pg_temp.siltstone_carried c
  join {{leaf}} l on l.id = c.id and l.loaded_at = c.loaded_at and l.raw_data->>'op' not in ('d', 't')
 cross join lateral jsonb_array_elements_text(l.raw_data->'unchanged') w (name);
update pg_temp.siltstone_carried c set raw_data = l.raw_data
  from {{leaf}} l
 where l.id = c.id and l.loaded_at = c.loaded_at and c.n in (select n from pg_temp.siltstone_wanted);
