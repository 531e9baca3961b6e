-- A table of history: append. Every event is a row.
{%- macro same_row(a) -%}
{% for k in key %}{{ " and " if not loop.first }}{{ a }}.{{ k.name }} = {{ k.value }}{% endfor %}
{%- endmacro %}

-- statement: fill
-- What an update left out is in the newest row of its key, of those before it.
update {{ stage }} s
   set {% for c in columns if not c.key -%}
       {{ c.stage }} = case when get_bit(s._keep, {{ c.bit }}) = 1 then f.{{ c.stage }} else s.{{ c.stage }} end,
       {% endfor -%}
       _keep = null
  from (select s.ctid as _row{% for c in columns %}, t.{{ c.stage }}{% endfor %}
          from {{ stage }} s
         cross join lateral (
               select {% for c in columns %}{{ c.back }} as {{ c.stage }}, {% endfor %}t._op
                 from {{ table }} t
                where {% for k in key %}{{ " and " if not loop.first }}t.{{ k.name }} = case when s.o0 is null then {{ k.value }} else {{ k.origin }} end{% endfor %}
                  {%- if topics %}
                  -- one that came again is filled from itself
                  and (t._seq, t._ord) <= (s._seq, s._ord){% endif %}
                order by t._seq desc, t._ord desc
                limit 1) t
         where s._keep is not null{{ " and s.o0 is not null" if topics }} and t._op <> 'd') f
 where s.ctid = f._row

{% if topics and key -%}
-- statement: carry
-- Values that are older than their event are those of the newest row of its key, of those before it, where that has
-- them from a later one. One that came again is filled from itself.
update {{ stage }} g
   set {% for c in columns if not c.key -%}
       {{ c.stage }} = f.{{ c.stage }},
       {% endfor -%}
       _told = f._both, _keep = null
  from (select s.ctid as _row, {{ told_of_both("n.told", "t._seq, t._ord", "<") }} as _both
               {%- for c in columns if not c.key %},
               case when {{ stays(c, "n.told", "t._seq, t._ord", "<") }} then {{ c.back }} else s.{{ c.stage }} end as {{ c.stage }}
               {%- endfor %}
          from {{ stage }} s
         cross join lateral (
               select t.*
                 from {{ table }} t
                where {{ same_row("t") }} and (t._seq, t._ord) <= (s._seq, s._ord)
                order by t._seq desc, t._ord desc
                limit 1) t
          left join audit.carried n
            on n.table_name = {{ literal }} and n.key = {{ key_of("t") }} and (n.seq, n.ord) = (t._seq, t._ord)
         where s._told is not null and (s.o0 is null or s._keep is null) and t._op <> 'd') f
 where g.ctid = f._row

-- statement: overtaken
-- The rows of events which had left out what events tell that came behind them are staged anew with it. `_n` says so,
-- `_keep` which columns stay.
with mended as (
    select {% for k in key %}{{ k.value }} as {{ k.name }}, {% endfor %}n.seq, n.ord, n.told
           {%- for c in columns if not c.key %},
           (array_agg(s.ctid order by {{ staged_at(c) }} desc) filter (where not {{ stays(c, "n.told", "n.seq, n.ord", "<=") }}))[1] as _s{{ c.bit }}
           {%- endfor %}
      from {{ stage }} s
      join audit.carried n
        on n.table_name = {{ literal }} and n.key = {{ key_text() }} and (n.seq, n.ord) > (s._seq, s._ord)
     where s._op <> 'd'
       and not ({% for c in columns %}{{ " and " if not loop.first }}{{ stays(c, "n.told", "n.seq, n.ord", "<=") }}{% endfor %})
     group by {% for k in key %}{{ k.value }}, {% endfor %}n.seq, n.ord, n.told
)
insert into {{ stage }} ({{ columns | map(attribute="stage") | join(", ") }}, _op, _n, _seq, _ord, _told, _keep)
select {% for c in columns %}{% if c.key %}{{ c.back }}{% else %}case when m._s{{ c.bit }} is null then {{ c.back }} else (select s.{{ c.stage }} from {{ stage }} s where s.ctid = m._s{{ c.bit }}) end{% endif %}, {% endfor -%}
       t._op, -1, t._seq, t._ord,
       array[{% for c in slots %}{{ ", " if not loop.first }}{% if c and not c.key %}case when m._s{{ c.bit }} is null then {{ noted_at("m.told", c, "m.seq, m.ord") }} else (select {{ staged_at(c) }} from {{ stage }} s where s.ctid = m._s{{ c.bit }}) end{% else %}array[m.seq, m.ord]{% endif %}{% endfor %}],
       {% for c in columns %}set_bit({% endfor %}{{ no_bits }}{% for c in columns %}, {{ c.bit }}, {% if c.key %}1{% else %}(m._s{{ c.bit }} is null)::int{% endif %}){% endfor %}
  from mended m
  join {{ table }} t on {% for k in key %}t.{{ k.name }} = m.{{ k.name }} and {% endfor %}(t._seq, t._ord) = (m.seq, m.ord)

-- statement: amend
update {{ table }} t
   set {% for c in all if not c.key -%}
       {{ c.name }} = {% if c.looked %}{{ c.value }}{% else %}case when get_bit(s._keep, {{ c.bit }}) = 1 then t.{{ c.name }} else {{ c.value }} end{% endif %},
       {% endfor -%}
       _synced_at = now()
  from {{ stage }} s
 where {{ same_row("t") }} and (t._seq, t._ord) = (s._seq, s._ord)

-- statement: renote
update audit.carried n
   set told = {{ older_of_staged() }}
  from {{ stage }} s
 where n.table_name = {{ literal }} and n.key = {{ key_text() }} and (n.seq, n.ord) = (s._seq, s._ord)

{% endif -%}

-- statement: orphan
select
  from {{ stage }} s
 where s._keep is not null
 limit 1

-- statement: insert
insert into {{ table }} ({{ all | map(attribute="name") | join(", ") }}, _op, _seq, _ord, _synced_at)
overriding system value
select {{ all | map(attribute="value") | join(", ") }}, s._op, s._seq, s._ord, now()
  from {{ stage }} s
{%- if topics %}
{%- if key %}
 where s._op <> 'r'
    -- a first reading that is begun again at the same place reads the same rows
    or not exists (select from {{ table }} t
                    where {{ same_row("t") }} and t._op = 'r' and t._seq = s._seq and t._ord < 0
                      and row({% for c in columns %}{{ ", " if not loop.first }}t.{{ c.name }}{% endfor %})::text
                        = row({{ columns | map(attribute="value") | join(", ") }})::text)
{%- else %}
    -- the rows of a page that COPY filled share one place of the log: only equal ones are the same event
 where (s._op <> 'r' and not exists (
       select from {{ table }} t
        where t._op <> 'r' and (t._seq, t._ord) = (s._seq, s._ord) and t._op = s._op::text
          and row({% for c in columns %}{{ ", " if not loop.first }}t.{{ c.name }}{% endfor %})::text
            = row({{ columns | map(attribute="value") | join(", ") }})::text))
    -- rows that a snapshot read have no key that would tell them apart
    or (s._op = 'r' and not exists (select from {{ table }} t
                    where t._op = 'r' and (t._seq, t._ord) = (s._seq, s._ord)))
{%- endif %}
{%- endif %}
 order by s._seq, s._ord
{%- if topics and key %}
    on conflict do nothing
{%- endif %}

{% if topics -%}
-- statement: read_anew
-- What a first reading had brought before it was broken off and begun again.
delete from {{ table }} t where t._ord < 0 and t._seq < $1

{% endif -%}
-- statement: clear
-- A table that is rebuilt from its events.
delete from {{ table }}
