-- What tables with a key share where events may come late or again: the deletes of `audit.quiet`, which leave no
-- row to be compared with. Staged is `s`; `q` is a delete. A delete under no key is the emptying of the table.
{%- macro origin_text() -%}
jsonb_build_array({% for k in key %}{{ ", " if not loop.first }}({{ k.origin }})::text{% endfor %})::text
{%- endmacro -%}
{#- `q` is the delete by which the kept row `p` left its former key. -#}
{%- macro left() -%}
q.table_name = p.table_name and (q.seq, q.ord) = (p.event_seq, p.event_ord)
   and q.key = jsonb_build_array({% for k in key %}{{ ", " if not loop.first }}({{ k.arriving }})::text{% endfor %})::text
{%- endmacro %}
{% if topics %}
-- statement: newest_gone
-- The order of the newest delete: events that are newer need not be compared with any.
select seq, ord from audit.quiet where table_name = {{ literal }} and op = 'd' order by seq desc, ord desc limit 1

-- statement: drop_gone
-- An event that came behind the delete of its row, or of all rows. Each is looked up by itself: the other way
-- round all of them would be gone through for every delete; and by its key, for which the condition on `op` is
-- written so that the index of the newest deletes does not serve.
delete from {{ stage }} g
 using (
       select s.ctid as sid
         from {{ stage }} s
        cross join lateral (
              select from audit.quiet q
               where q.table_name = {{ literal }} and q.key = {{ key_text() }}
                 and q.op::text = 'd' and (q.seq, q.ord) > (s._seq, s._ord)
               limit 1) q
        where s._op <> 'd'
        union all
       select s.ctid
         from {{ stage }} s
        cross join (select q.seq, q.ord from audit.quiet q
                     where q.table_name = {{ literal }} and q.key = '' and q.op::text = 'd'
                     order by q.seq desc, q.ord desc limit 1) q
        where s._op <> 'd' and (q.seq, q.ord) > (s._seq, s._ord)) late
 where g.ctid = late.sid

-- statement: has_arrivals
-- Whether there is a row that waits for a delete which was applied.
select from audit.pending p
  join audit.quiet q
    on {{ left() }}
 where p.table_name = {{ literal }} and p.comes_from is not null and p.waits
   and ($1::int8[] is null or p.seq = any ($1))
 limit 1

-- statement: arrived
-- Which of the rows that are kept at these places come from another key whose delete there was applied.
select p.seq, p.ord
  from unnest($1::int8[], $2::int8[]) w(seq, ord)
  join audit.pending p
    on (p.seq, p.ord) = (w.seq, w.ord)
  join audit.quiet q
    on {{ left() }}
 where p.table_name = {{ literal }} and p.comes_from is not null

-- statement: remember_empty
-- The source table was emptied.
insert into audit.quiet (table_name, key, seq, ord, op, at) values ({{ literal }}, '', $1, $2, 'd', $3)
    on conflict (table_name, key, seq, ord) do nothing

-- statement: remember_gone
-- Of a row that goes on under another key with the values that it takes there, as far as they are known.
insert into audit.quiet (table_name, key, seq, ord, op, at, row)
select {{ literal }}, {{ key_text() }}, s._seq, s._ord, 'd', s._at,
       case when s._op = 'l' and s._keep is null then
            jsonb_object(array[{{ columns | map(attribute="literal") | join(", ") }}], array[{% for c in columns %}{{ ", " if not loop.first }}({{ c.value }})::text{% endfor %}]) end
  from {{ stage }} s
 where s._op in ('d', 'l')
    on conflict (table_name, key, seq, ord) do update
   set row = coalesce(excluded.row, audit.quiet.row)

-- statement: fill_gone
-- A row that comes from another key, whose delete was applied before.
update {{ stage }} g
   set {% for c in columns if not c.key -%}
       {{ c.stage }} = case when get_bit(g._keep, {{ c.bit }}) = 1 then {{ c.recalled }} else g.{{ c.stage }} end,
       {% endfor -%}
       _keep = null
  from (select s.ctid as sid, gone.row
          from {{ stage }} s
         cross join lateral (
               select q.row from audit.quiet q
                where q.table_name = {{ literal }} and q.key = {{ origin_text() }}
                  and (q.seq, q.ord) = (s._seq, s._ord) and q.row is not null
                limit 1) gone
         where s._op <> 'd' and s._keep is not null and s.o0 is not null) q
 where g.ctid = q.sid

{% endif -%}
