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
         where s._keep is not null and t._op <> 'd') f
 where s.ctid = f._row

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
 where s._op <> 'r'
{%- if key %}
    -- a first reading that is begun again at the same place reads the same rows
    or not exists (select from {{ table }} t
                    where {{ same_row("t") }} and t._op = 'r' and t._seq = s._seq and t._ord < 0
                      and row({% for c in columns %}{{ ", " if not loop.first }}t.{{ c.name }}{% endfor %})::text
                        = row({{ columns | map(attribute="value") | join(", ") }})::text)
{%- else %}
    -- rows that a snapshot read have no key that would tell them apart
    or not exists (select from {{ table }} t
                    where t._op = 'r' and (t._seq, t._ord) = (s._seq, s._ord))
{%- endif %}
{%- endif %}
 order by s._seq, s._ord
{%- if topics %}
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
