-- A table of history: versions (SCD type 2). `t` is the leaf of current versions, `d` the whole
-- table. Staged is a chain of states for each key, one a source transaction: `_n` counts from 1,
-- `_op` is 'd' where the row is gone, `_at` is the commit time.
{%- macro same_key(a) -%}
{% for k in key %}{{ " and " if not loop.first }}{{ a }}.{{ k.name }} = {{ k.value }}{% endfor %}
{%- endmacro -%}
{%- macro tracked_of(alias) -%}
({% for c in columns if c.tracked %}{{ ", " if not loop.first }}{{ alias }}.{{ c.name }}{{ c.compare }}{% endfor %})
{%- endmacro -%}
{%- macro event_text() -%}
jsonb_build_array({% for k in key %}{{ ", " if not loop.first }}(e.{{ k.name }})::text{% endfor %})::text
{%- endmacro -%}
{%- macro image_of(alias) -%}
jsonb_object(array[{{ columns | map(attribute="literal") | join(", ") }}], array[{% for c in columns %}{{ ", " if not loop.first }}({{ alias }}.{{ c.name }})::text{% endfor %}])
{%- endmacro -%}
{#- What is noted of the event `of`; nothing of a delete. -#}
{%- macro carried_of(of) -%}
case when {{ of }}.op <> 'd' then (
        select n.told from audit.carried n
         where n.table_name = {{ literal }} and n.key = {{ event_text() }} and (n.seq, n.ord) = ({{ of }}.seq, {{ of }}.ord)) end
{%- endmacro -%}
{#- When an event was told that is gathered here; a delete tells nothing. -#}
{%- macro event_at(c) -%}
case when e._op = 'd' then {{ never }} else {{ noted_at("e._carried", c, "e._seq, e._ord") }} end
{%- endmacro -%}
{#- under this a table is emptied whose first reading was begun again -#}
{%- set anew = "(-9223372036854775807 - 1)" -%}
{%- set open_end = "'9999-12-31 00:00+00'::timestamptz" -%}
{%- set names = all | map(attribute="name") | join(", ") %}

-- statement: fill
-- Unchanged columns are those of the version that was current before the batch.
update {{ stage }} s
   set {% for c in columns if not c.key -%}
       {{ c.stage }} = case when get_bit(s._keep, {{ c.bit }}) = 1 then {{ c.back }} else s.{{ c.stage }} end,
       {% endfor -%}
       _keep = null
  from {{ current }} t
 where s._keep is not null{{ " and s.o0 is not null" if topics }}
{%- if guard %} and (t._last_seq, t._last_ord) <= (s._seq, s._ord){% endif %}
   and {% for k in key %}{{ " and " if not loop.first }}t.{{ k.name }} = case when s.o0 is null then {{ k.value }} else {{ k.origin }} end{% endfor %}

{% if topics -%}
-- statement: carry_lock
-- Another member may just be writing an older event of the same row.
select from {{ current }} t
  join {{ stage }} s on {{ same_key("t") }}
 where s._op <> 'd' and s._told is not null
   for no key update of t

-- statement: carry
-- Values that are older than their event are those of the current version, where that is not newer and has them from
-- a later one.
update {{ stage }} s
   set {% for c in columns if not c.key -%}
       {{ c.stage }} = case when {{ stays(c, "n.told", "t._last_seq, t._last_ord", "<") }} then {{ c.back }} else s.{{ c.stage }} end,
       {% endfor -%}
       _told = {{ told_of_both("n.told", "t._last_seq, t._last_ord", "<") }},
       _keep = null
  from {{ current }} t
  left join audit.carried n
    on n.table_name = {{ literal }} and n.key = {{ key_of("t") }} and (n.seq, n.ord) = (t._last_seq, t._last_ord)
 where s._op <> 'd' and s._told is not null and (s.o0 is null or s._keep is null)
{%- if guard %} and (t._last_seq, t._last_ord) <= (s._seq, s._ord){% endif %}
   and {{ same_key("t") }}

-- statement: fill_left
-- A row that goes on under another key: its values, as far as no event of the batch told them. Others may
-- have come behind it already.
update {{ stage }} g
   set {% for c in columns if not c.key -%}
       {{ c.stage }} = case when get_bit(g._keep, {{ c.bit }}) = 1 then {{ c.back }} else g.{{ c.stage }} end,
       {% endfor -%}
       _keep = null
  from (select s.ctid as _sid, v.*
          from {{ stage }} s
         cross join lateral (
               select d.*
                 from {{ table }} d
                where {% for k in key %}d.{{ k.name }} = case when s.o0 is null then {{ k.value }} else {{ k.origin }} end and {% endfor %}(d._seq, d._ord) < (s._seq, s._ord)
                order by d._seq desc, d._ord desc
                limit 1) v
         where s._keep is not null
           and (v._end_seq is null or (v._end_seq, v._end_ord) >= (s._seq, s._ord))) t
 where g.ctid = t._sid

{% endif -%}
-- statement: undo_open
-- Same transaction, another batch: nobody could see what it had made of the row, so its version
-- goes, and the one it closed comes back; what it makes of the row now is merged as if at once.
delete from {{ current }} t
 using {{ stage }} s
 where s._n = 1 and {{ same_key("t") }}
   and t._seq = s._seq and (t._last_seq, t._last_ord) < (s._seq, s._ord)

-- statement: undo_close
update {{ table }} d
   set valid_to = {{ open_end }}, _end_seq = null, _end_ord = null
  from {{ stage }} s
 where s._n = 1 and {{ same_key("d") }} and d.valid_to < {{ open_end }}
   and d._end_seq = s._seq and (d._end_seq, d._end_ord) < (s._seq, s._ord)
   and not exists (select from {{ current }} t where {{ same_key("t") }})

-- statement: merge
with event as (
    -- what is not yet in the table, beside the version it meets (`_tid`) or, where the key has no
    -- current version, the end of its last one
    select {% for c in all %}{{ c.value }} as {{ c.name }}, {% endfor -%}
           s._keep, s._op, s._n, s._seq, s._ord,
           {% if since %}case when s._op = 'r' and t.ctid is null and isfinite({{ since }}::timestamptz)
                then least({{ since }}::timestamptz, s._at) else s._at end{% else %}s._at{% endif %} as _at,
           t.ctid as _tid, coalesce(t.valid_from, l.valid_to) as _base,
           case when t.ctid is null then s._op <> 'd'
                else s._op = 'd'
                  or ({% for c in columns if c.tracked %}{{ ", " if not loop.first }}t.{{ c.name }}{{ c.compare }}{% endfor %})
                     is distinct from
                     ({% for c in columns if c.tracked %}{{ ", " if not loop.first }}({{ c.value }}){{ c.compare }}{% endfor %})
           end as _differs
      from {{ stage }} s
      left join {{ current }} t on {{ same_key("t") }}
      left join lateral (
            select d.valid_to, d._end_seq, d._end_ord
              from {{ table }} d
             where {{ same_key("d") }} and t.ctid is null and d.valid_to < {{ open_end }}
             order by d.valid_to desc
             limit 1) l on true
{%- if guard and topics %}
     -- late is what comes behind something newer of its key, of its own transaction even, which may have
     -- been cut: what had been visible before that is known by what is remembered only
     where s._seq > coalesce(t._last_seq, l._end_seq, -1)
       -- a delete leaves no version where none was
       and (t.ctid is not null or not exists (
           select from audit.quiet q
            where q.table_name = {{ literal }} and q.key = {{ key_text() }} and q.seq >= s._seq))
       -- one that came behind the emptying of its table is late, whatever is known of its key
       and not exists (select from audit.quiet q
                        where q.table_name = {{ literal }} and q.key = '' and (q.seq, q.ord) > (s._seq, s._ord))
{%- elif guard %}
     where (s._seq, s._ord) > (coalesce(t._last_seq, l._end_seq, -1), coalesce(t._last_ord, l._end_ord, 0))
{%- endif %}
),
{%- if chains %}
changed as (
    -- the first event of a key meets the stored version, the others the event before them
    select e.*, lag(e._op) over chain is null as _first,
           case when lag(e._op) over chain is null then e._differs
                when e._op = 'd' or lag(e._op) over chain = 'd'
                then (e._op = 'd') <> (lag(e._op) over chain = 'd')
                else ({% for c in columns if c.tracked %}{{ ", " if not loop.first }}(lag(e.{{ c.name }}) over chain){{ c.compare }}{% endfor %})
                     is distinct from {{ tracked_of("e") }}
           end or (e._seq = $1 and e._op <> 'd') as _changes
      from event e
    window chain as (partition by {{ key | map(attribute="qualified") | join(", ") }} order by e._seq, e._ord)
),
numbered as (
    -- run 0 goes on with the stored version, every change starts another run
    select e.*, sum(e._changes::int) over chain as _run
      from changed e
    window chain as (partition by {{ key | map(attribute="qualified") | join(", ") }} order by e._seq, e._ord)
),
labelled as (
    -- a run's label: its commit time, but at least 1 µs behind the label before it
    select e.*,{% if topics and dated %} count(*) over (partition by {{ key | map(attribute="qualified") | join(", ") }}, e._run) as _together,{% endif %}
           greatest(e._base, max(case when e._changes then e._at - e._run * interval '1 us' end) over chain)
             + e._run * interval '1 us' as _label
      from numbered e
    window chain as (partition by {{ key | map(attribute="qualified") | join(", ") }} order by e._seq, e._ord)
),
run as (
    -- a run has the order and label of its first event, and the values of its last one
    select distinct on ({{ key | map(attribute="qualified") | join(", ") }}, e._run)
           {% for c in all %}e.{{ c.name }}, {% endfor -%}
           e._keep, e._op, e._tid, e._run,
           first_value(e._seq) over run as _seq, first_value(e._ord) over run as _ord,
           e._seq as _last_seq, e._ord as _last_ord,
           first_value(e._label) over run as _label,
           false as _final
      from labelled e
    window run as (partition by {{ key | map(attribute="qualified") | join(", ") }}, e._run order by e._seq, e._ord)
     order by {{ key | map(attribute="qualified") | join(", ") }}, e._run, e._seq desc, e._ord desc
),
state as (
    -- `_zero` and `_z…`: run 0 as run 1 finds it before itself. Not by a join of this with itself: with
    -- hash joins off that compares every event with every other
    select e.*, lead(e._label) over chain as _until,
           lead(e._seq) over chain as _end_seq, lead(e._ord) over chain as _end_ord,
           lag(e._run) over chain as _zero,
           lag(e._last_seq) over chain as _zero_seq, lag(e._last_ord) over chain as _zero_ord
           {%- for c in all %}, lag(e.{{ c.name }}) over chain as _z{{ loop.index }}{% endfor %}
      from run e
    window chain as (partition by {{ key | map(attribute="qualified") | join(", ") }} order by e._run)
),
{%- else %}
state as (
    select {% for c in all %}e.{{ c.name }}, {% endfor -%}
           e._keep, e._op, e._tid,
           case when e._differs or (e._seq = $1 and e._op <> 'd') then 1 else 0 end as _run,
           e._seq, e._ord, e._seq as _last_seq, e._ord as _last_ord,
           greatest(e._at, e._base + interval '1 us') as _label,
           null::timestamptz as _until, null::int8 as _end_seq, null::int8 as _end_ord
      from event e
),
{%- endif %}
{%- if topics %}
quiet as (
    -- what the table's rows do not tell: what opened no version, what opened one that has gone on since
    -- with other values, and when it did where the label had to be a later one. An event that comes late
    -- finds its place by it
    insert into audit.quiet (table_name, key, seq, ord, op, at, row)
    select {{ literal }}, {{ event_text() }}, e._seq, e._ord, case when e._op = 'd' then 'd' else 'u' end::"char", e._at,
           case when e._op <> 'd' then {{ image_of("e") }} end
{%- if chains %}
      from labelled e
     where e._op = 'd'{% if dated %} or not e._changes or e._together > 1 or e._label <> e._at{% endif %}
{%- else %}
      from event e
     where e._op = 'd'{% if dated %} or not e._differs or e._at <= e._base{% endif %}
{%- endif %}
{%- if dated %}
    union all
    -- what opened the version that the first of them goes on with; another one behind that may change its values
    select {{ literal }}, {{ event_text() }}, t._seq, t._ord, 'u', t.valid_from, {{ image_of("t") }}
      from {{ "labelled" if chains else "event" }} e
      join {{ current }} t on t.ctid = e._tid
     where e._op <> 'd' and not e._differs{% if chains %} and e._first{% endif %}
       and ({% if chains %}e._together > 1 or {% endif %}{{ image_of("t") }} <> {{ image_of("e") }})
{%- endif %}
        on conflict (table_name, key, seq, ord) do nothing
    returning 1
),
{%- endif %}
closed as (
    -- the stored version, with what run 0 made of it, and the versions that came and went at once
    insert into {{ table }} ({{ names }}, {% for c in unfed %}{{ c }}, {% endfor %}valid_from, valid_to, _seq, _ord, _last_seq, _last_ord, _end_seq, _end_ord, _synced_at)
    select {% for c in all %}{% if chains %}case when e._zero is null then t.{{ c.name }} else e._z{{ loop.index }} end{% else %}t.{{ c.name }}{% endif %}, {% endfor -%}
           {% for c in unfed %}t.{{ c }}, {% endfor -%}
           t.valid_from, e._label, t._seq, t._ord,
           {% if chains %}coalesce(e._zero_seq, t._last_seq), coalesce(e._zero_ord, t._last_ord){% else %}t._last_seq, t._last_ord{% endif %},
           e._seq, e._ord, now()
      from state e
      join {{ current }} t on t.ctid = e._tid
     where e._run = 1 and e._tid is not null
{%- if chains %}
    union all
    select {% for c in all %}e.{{ c.name }}, {% endfor -%}
           {% for c in unfed %}null, {% endfor -%}
           e._label, e._until, e._seq, e._ord, e._last_seq, e._last_ord, e._end_seq, e._end_ord, now()
      from state e
     where e._run > 0 and e._op <> 'd' and e._until is not null
{%- endif %}
    returning 1
),
gone as (
    delete from {{ current }} t
     using state e
     where t.ctid = e._tid and e._until is null and e._op = 'd' and e._run > 0
    returning 1
),
changed_in_place as (
    -- the row of the current version becomes the next one: its key stays, so its index does too
    update {{ current }} t
       set {% for c in all if not c.key or loose %}{{ c.name }} = e.{{ c.name }}, {% endfor -%}
           valid_from = case when e._run > 0 then e._label else t.valid_from end,
           _seq = case when e._run > 0 then e._seq else t._seq end,
           _ord = case when e._run > 0 then e._ord else t._ord end,
           _last_seq = e._last_seq, _last_ord = e._last_ord, _synced_at = now()
      from state e
     where t.ctid = e._tid and e._until is null and e._op <> 'd'
    returning e._run
),
opened as (
    insert into {{ current }} ({{ names }}, valid_from, valid_to, _seq, _ord, _last_seq, _last_ord, _synced_at)
    select {% for c in all %}e.{{ c.name }}, {% endfor -%}
           e._label, {{ open_end }}, e._seq, e._ord, e._last_seq, e._last_ord, now()
      from state e
     where e._tid is null and e._until is null and e._op <> 'd'
    returning 1
)
select (select count(*) from event) as events,
       (select count(*) from event where _keep is not null) as orphans,
       (select count(*) from closed) as closed,
       (select count(*) from opened) + (select count(*) from changed_in_place where _run > 0) as opened,
       (select count(*) from gone) as gone
{%- if topics %},
       -- another member of the group has written the current version since it was read, and this one goes by what was
       (select count(*) from state where _tid is not null and _until is null)
         - (select count(*) from gone) - (select count(*) from changed_in_place) as overtaken
{%- endif %}

{% if topics -%}
-- statement: late
-- Staged events that are not in the history yet. `_told` says that an event's values are its own; those of a
-- version may have been changed in place since.
create temporary table late_event on commit drop as
select {% for c in all %}{{ c.value }} as {{ c.name }}, {% endfor -%}
       {% for c in unfed %}d.{{ c }}, {% endfor -%}
       s._keep, s.o0 is not null as _moved, s._op, s._seq, s._ord, s._at,
       {% if since %}case when s._op = 'r' and isfinite({{ since }}::timestamptz) then {{ since }}::timestamptz end{% else %}null::timestamptz{% endif %} as _since,
       true as _new, true as _told,
       case when s._told is not null then {{ older_of_staged() }} end as _carried
  from {{ stage }} s
{%- if unfed %}
  left join {{ table }} d on false
{%- endif %}
 where (not exists (
       select from {{ table }} d
        where {{ same_key("d") }}
          and ((d._seq, d._ord) = (s._seq, s._ord) or (d._last_seq, d._last_ord) = (s._seq, s._ord)
               or (d._end_seq, d._end_ord) = (s._seq, s._ord)
               -- superseded by what its own transaction did later
               or (d._seq = s._seq and d._ord > s._ord) or (d._last_seq = s._seq and d._last_ord > s._ord)
               or (d._end_seq = s._seq and d._end_ord > s._ord)))
   and not exists (
       select from audit.quiet q
        where q.table_name = {{ literal }} and q.key = {{ key_text() }}
          and q.seq = s._seq and q.ord >= s._ord
          -- what a row takes along to another key was noted just now, before the delete by which it leaves
          and (q.op <> 'd' or q.row is null or q.noted_at <> now()))
   -- what a first reading brings still that was begun again
   and not (s._op = 'r' and exists (
       select from audit.quiet q
        where q.table_name = {{ literal }} and q.key = '' and q.ord = {{ anew }} and q.seq > s._seq)))
    -- though superseded, it tells what the later one of its transaction left out; so does one that came again, and in
    -- its batch behind one of its transaction that came late
    or (s._op <> 'd' and exists (
       select from audit.carried n
        where n.table_name = {{ literal }} and n.key = {{ key_text() }} and n.seq = s._seq and n.ord >= s._ord
          and not ({% for c in columns %}{{ " and " if not loop.first }}{{ stays(c, "n.told", "n.seq, n.ord", "<=") }}{% endfor %})))

-- statement: late_emptied
-- Keys of which something is known that came behind the emptying of the table, and something before; what its
-- own transaction did before counts as the former.
create temporary table late_event on commit drop as
select distinct on ({% for k in key %}{{ ", " if not loop.first }}t.{{ k.name }}{% endfor %})
       {% for c in all %}t.{{ c.name }}, {% endfor -%}
       {% for c in unfed %}t.{{ c }}, {% endfor -%}
       null::bytea as _keep, false as _moved, 'd'::"char" as _op, $1::int8 as _seq, $2::int8 as _ord, $3::timestamptz as _at,
       null::timestamptz as _since, true as _new, true as _told, null::jsonb as _carried
  from {{ table }} t
 where (t._seq, t._ord) < ($1, $2)
   and case when t._end_seq is null then t._last_seq >= $1
            else t._end_seq >= $1 and (t._end_seq, t._end_ord) <> ($1, $2) end
   -- the whole history is looked through only where something did come behind it
   and (exists (select from {{ current }})
        or exists (select from audit.quiet q where q.table_name = {{ literal }} and q.seq >= $1 and (q.seq, q.ord) <> ($1, $2)))

-- statement: late_known
-- The other events of their keys: versions as they stand and where they ended, and what is remembered. When a table
-- was emptied is remembered under no key; a version that it ended has a later label where its source's clock fell back.
insert into late_event ({{ names }}, {% for c in unfed %}{{ c }}, {% endfor %}_moved, _op, _seq, _ord, _at, _new, _told, _carried)
with keys as (select distinct {% for k in key %}{{ ", " if not loop.first }}{{ k.name }}{% endfor %} from late_event)
select {% for c in all %}d.{{ c.name }}, {% endfor %}{% for c in unfed %}d.{{ c }}, {% endfor %}false, v.op, v.seq, v.ord, v.at, false, false, {{ carried_of("v") }}
  from {{ table }} d join keys e on {% for k in key %}{{ " and " if not loop.first }}d.{{ k.name }} = e.{{ k.name }}{% endfor %}
 cross join lateral (values ('u'::"char", d._seq, d._ord, d.valid_from), ('d', d._end_seq, d._end_ord, d.valid_to)) v (op, seq, ord, at)
 where v.op = 'u'
    or (d._end_seq is not null and not exists (
        select from {{ table }} n
         where {% for k in key %}n.{{ k.name }} = d.{{ k.name }} and {% endfor %}(n._seq, n._ord) = (d._end_seq, d._end_ord))
        and not exists (
        select from audit.quiet q
         where q.table_name = {{ literal }} and q.key = '' and (q.seq, q.ord) = (d._end_seq, d._end_ord)))
union all
select {% for c in all %}{% if c.key %}e.{{ c.name }}{% elif c.looked %}null{% else %}case when q.row is null or q.row ? {{ c.literal }} then {{ c.kept }} else b.{{ c.name }} end{% endif %}, {% endfor -%}
       {% for c in unfed %}null, {% endfor %}false, q.op, q.seq, q.ord, q.at, false, true, {{ carried_of("q") }}
  from audit.quiet q join keys e on q.table_name = {{ literal }} and q.key = any (array[{{ event_text() }}, ''])
  -- a column that came later
  left join lateral (
       select d.* from {{ table }} d
        where {% for k in key %}d.{{ k.name }} = e.{{ k.name }} and {% endfor %}(d._seq, d._ord) <= (q.seq, q.ord)
          and q.row is not null and not q.row ?& array[{% for c in columns if not c.key %}{{ ", " if not loop.first }}{{ c.literal }}{% endfor %}]::text[]
        order by d._seq desc, d._ord desc limit 1) b on true
 where q.ord <> {{ anew }}

-- statement: late_index
-- The rest of a large transaction that was cut is as many events.
create index on late_event ({% for k in key %}{{ k.name }}, {% endfor %}_seq, _ord)

-- statement: late_analyze
analyze late_event

-- statement: late_fill
-- What an event left out is what the last one before it had that told it, of the same life of its row.
update late_event e
   set {% for c in columns if not c.key -%}
       {{ c.name }} = case when get_bit(e._keep, {{ c.bit }}) = 1 then
           (select p.{{ c.name }} from late_event p
             where {% for k in key %}p.{{ k.name }} = e.{{ k.name }} and {% endfor %}(p._seq, p._ord) < (e._seq, e._ord)
               and p._op <> 'd' and (p._keep is null or get_bit(p._keep, {{ c.bit }}) = 0)
             order by p._seq desc, p._ord desc, p._told desc limit 1) else e.{{ c.name }} end,
       {% endfor -%}
       _keep = null
  from late_event l
 cross join lateral (
       select p._seq, p._ord from late_event p
        where {% for k in key %}p.{{ k.name }} = l.{{ k.name }} and {% endfor %}(p._seq, p._ord) < (l._seq, l._ord)
          and p._op <> 'd' and p._keep is null
        order by p._seq desc, p._ord desc limit 1) f
 where l.ctid = e.ctid and l._keep is not null and not l._moved
   and not exists (
       select from late_event g
        where {% for k in key %}g.{{ k.name }} = l.{{ k.name }} and {% endfor %}g._op = 'd'
          and (g._seq, g._ord) > (f._seq, f._ord) and (g._seq, g._ord) < (l._seq, l._ord))

-- statement: late_orphan
select from late_event where _keep is not null limit 1

-- statement: late_has_carried
select from late_event where _carried is not null limit 1

-- statement: late_carry
-- What an event left out is what the one had that told it last: `_m…` says which that is, and the first event of
-- those of which it is the last is that one, or had it from it.
with newest as (
    select e.ctid as _eid, e._op, e._seq, e._ord, e._told{% for k in key %}, e.{{ k.name }}{% endfor %}
           {%- for c in columns if not c.key %},
           e.{{ c.name }}, {{ event_at(c) }} as _t{{ c.bit }}, max({{ event_at(c) }}) over chain as _m{{ c.bit }}
           {%- endfor %}
      from late_event e
    window chain as (partition by {{ key | map(attribute="qualified") | join(", ") }} order by e._seq, e._ord)
),
valued as (
    select e._eid
           {%- for c in columns if not c.key %}, e._m{{ c.bit }},
           first_value(e.{{ c.name }}) over (
               partition by {{ key | map(attribute="qualified") | join(", ") }}, e._m{{ c.bit }}
               order by e._seq, e._ord, e._t{{ c.bit }} <> e._m{{ c.bit }}, e._told desc) as _v{{ c.bit }}
           {%- endfor %}
      from newest e
)
update late_event e
   set {% for c in columns if not c.key -%}
       {{ c.name }} = case when e._carried ? {{ c.literal }} and v._m{{ c.bit }} > {{ never }} then v._v{{ c.bit }} else e.{{ c.name }} end,
       {% endfor -%}
       _carried = (select jsonb_object_agg(c.name, to_jsonb(c.at))
                     from (values (''::text, {{ never }}){% for c in columns if not c.key %}, ({{ c.literal }}, v._m{{ c.bit }}){% endfor %}) c (name, at)
                    where e._carried ? c.name)
  from valued v
 where v._eid = e.ctid and e._carried is not null

-- statement: late_amend
-- What is remembered of events, with what they had left out.
update audit.quiet q
   set row = {{ image_of("e") }}
  from late_event e
 where e._carried is not null and e._told and not e._new and e._op <> 'd' and q.op <> 'd'
   and q.table_name = {{ literal }} and q.key = {{ event_text() }} and (q.seq, q.ord) = (e._seq, e._ord)

-- statement: late_carried
insert into audit.carried as n (table_name, key, seq, ord, told)
select distinct on ({% for k in key %}e.{{ k.name }}, {% endfor %}e._seq, e._ord)
       {{ literal }}, {{ event_text() }}, e._seq, e._ord, e._carried
  from late_event e
 where e._carried is not null and e._op <> 'd'
 order by {% for k in key %}e.{{ k.name }}, {% endfor %}e._seq, e._ord, e._told desc
    on conflict (table_name, key, seq, ord) do update set told = excluded.told

-- statement: late_beyond
-- Events that are older than the newest of their key by more than is remembered.
select
  from (select e._new, e._at, max(e._at) over (partition by {{ key | map(attribute="qualified") | join(", ") }}) as _newest
          from late_event e) l
 where l._new and l._at < l._newest - make_interval(secs => $1)
 limit 1

-- statement: late_clear
delete from {{ table }} d
 using (select distinct {% for k in key %}{{ ", " if not loop.first }}{{ k.name }}{% endfor %} from late_event) e
 where {% for k in key %}{{ " and " if not loop.first }}d.{{ k.name }} = e.{{ k.name }}{% endfor %}

-- statement: late_write
-- The whole history of these keys anew: of a transaction its last event counts, equal neighbours are one
-- version, labels never fall back.
with settled as (
    select distinct on ({% for k in key %}e.{{ k.name }}, {% endfor %}e._seq) e.*
      from late_event e
     order by {% for k in key %}e.{{ k.name }}, {% endfor %}e._seq, e._ord desc, e._op = 'd', e._told desc
),
changed as (
    select e.*,
           case when coalesce(lag(e._op) over chain, 'd') = 'd' then least(e._since, e._at) else e._at end as _label_at,
           case when lag(e._op) over chain is null then e._op <> 'd'
                when e._op = 'd' or lag(e._op) over chain = 'd'
                then (e._op = 'd') <> (lag(e._op) over chain = 'd')
                else ({% for c in columns if c.tracked %}{{ ", " if not loop.first }}(lag(e.{{ c.name }}) over chain){{ c.compare }}{% endfor %})
                     is distinct from {{ tracked_of("e") }}
           end as _changes
      from settled e
    window chain as (partition by {{ key | map(attribute="qualified") | join(", ") }} order by e._seq, e._ord)
),
numbered as (
    select e.*, sum(e._changes::int) over chain as _run
      from changed e
    window chain as (partition by {{ key | map(attribute="qualified") | join(", ") }} order by e._seq, e._ord)
),
labelled as (
    select e.*,
           max(case when e._changes then e._label_at - e._run * interval '1 us' end) over chain
             + e._run * interval '1 us' as _label
      from numbered e
    window chain as (partition by {{ key | map(attribute="qualified") | join(", ") }} order by e._seq, e._ord)
),
run as (
    select distinct on ({{ key | map(attribute="qualified") | join(", ") }}, e._run)
           {% for c in all %}e.{{ c.name }}, {% endfor -%}
           e._op, e._run,
           first_value(e._seq) over run as _seq, first_value(e._ord) over run as _ord,
           e._seq as _last_seq, e._ord as _last_ord,
           first_value(e._label) over run as _label
      from labelled e
     where e._run > 0
    window run as (partition by {{ key | map(attribute="qualified") | join(", ") }}, e._run order by e._seq, e._ord)
     order by {{ key | map(attribute="qualified") | join(", ") }}, e._run, e._seq desc, e._ord desc
),
state as (
    select e.*, lead(e._label) over chain as _until,
           lead(e._seq) over chain as _end_seq, lead(e._ord) over chain as _end_ord
      from run e
    window chain as (partition by {{ key | map(attribute="qualified") | join(", ") }} order by e._run)
)
insert into {{ table }} ({{ names }}, {% for c in unfed %}{{ c }}, {% endfor %}valid_from, valid_to, _seq, _ord, _last_seq, _last_ord, _end_seq, _end_ord, _synced_at)
select {% for c in all %}e.{{ c.name }}, {% endfor -%}
       {% for c in unfed %}u.{{ c }}, {% endfor -%}
       e._label, coalesce(e._until, {{ open_end }}), e._seq, e._ord, e._last_seq, e._last_ord, e._end_seq, e._end_ord, now()
  from state e
{%- if unfed %}
  -- columns that the source no longer feeds go on with the versions that had them
  left join lateral (
       select k.* from late_event k
        where {% for k in key %}k.{{ k.name }} = e.{{ k.name }} and {% endfor %}not k._told and k._op <> 'd'
          and (k._seq, k._ord) <= (e._last_seq, e._last_ord)
        order by k._seq desc, k._ord desc limit 1) u on true
{%- endif %}
 where e._op <> 'd'

-- statement: late_note
-- Of the events that came late and of those that had opened a version what its rows do not tell now.
insert into audit.quiet (table_name, key, seq, ord, op, at, row)
select {{ literal }}, {{ event_text() }}, e._seq, e._ord, case when e._op = 'd' then 'd' else 'u' end::"char", e._at,
       case when e._op <> 'd' then {{ image_of("e") }} end
  from late_event e
  left join {{ table }} d on {% for k in key %}d.{{ k.name }} = e.{{ k.name }} and {% endfor %}(d._seq, d._ord) = (e._seq, e._ord)
 where (e._new or not e._told)
   and (e._op = 'd' or d._seq is null or (d.valid_from <> e._at and e._since is null) or {{ image_of("d") }} <> {{ image_of("e") }})
    on conflict (table_name, key, seq, ord) do nothing

-- statement: late_days
-- The days in which versions may end that are yet to be written.
select distinct (e._at at time zone 'utc')::date - date '2000-01-01' from late_event e

-- statement: late_done
drop table late_event

{% endif -%}
-- statement: settle
-- The end of a transaction that came in several batches: where it opened a version that equals the
-- one it closed, the two are one again.
with same as (
    select t.ctid as tid, {% for k in key %}t.{{ k.name }}, {% endfor -%}
           d.valid_from, d.valid_to, d._seq, d._ord
      from {{ current }} t
      join {{ table }} d
        on {% for k in key %}d.{{ k.name }} = t.{{ k.name }} and {% endfor -%}
           d.valid_to = t.valid_from and d._end_seq = $1
     where t._seq = $1
       and {{ tracked_of("t") }} is not distinct from {{ tracked_of("d") }}
),
merged as (
    delete from {{ table }} d
     using same m
     where {% for k in key %}d.{{ k.name }} = m.{{ k.name }} and {% endfor %}d.valid_to = m.valid_to
    returning 1
)
update {{ current }} t
   set valid_from = m.valid_from, _seq = m._seq, _ord = m._ord
  from same m
 where t.ctid = m.tid

-- statement: truncate
-- An emptied source table closes every current version.
with gone as (
    delete from {{ current }} t where {% if topics %}t._last_seq < $1 and $2::int8 is not null{% else %}(t._last_seq, t._last_ord) < ($1, $2){% endif %} returning t.*
)
insert into {{ table }} ({{ names }}, {% for c in unfed %}{{ c }}, {% endfor %}valid_from, valid_to, _seq, _ord, _last_seq, _last_ord, _end_seq, _end_ord, _synced_at)
select {{ names }}, {% for c in unfed %}{{ c }}, {% endfor %}valid_from, greatest($3, valid_from + interval '1 us'), _seq, _ord, _last_seq, _last_ord, $1, $2, now()
  from gone
 -- what the same transaction had opened, nobody could see
 where _seq <> $1

{% if topics -%}
-- statement: read_anew
-- What a first reading had brought before it was broken off and begun again.
delete from {{ current }} t where t._ord < 0 and t._seq < $1

{% endif -%}
-- statement: missing
insert into {{ stage }} ({{ key | map(attribute="stage") | join(", ") }}, _op, _n, _seq, _ord, _at)
select {{ key | map(attribute="back") | join(", ") }}, 'd', 1, $1, 0, $2
  from {{ current }} t
 where not exists (select from {{ stage }} s where {{ same_key("t") }}){{ within }}

-- statement: rebase
-- A table that is read again from a source that counts from lower positions.
update {{ table }} d set _end_seq = $1, _end_ord = 0 where d._end_seq > $1

-- statement: clear
-- A table that is rebuilt from its events.
delete from {{ table }}
