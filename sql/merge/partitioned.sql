-- A table of history: overwrite, partitioned on a column of its own. `l` is the locator: one row a
-- key, with the partition value under which the row is stored. Statements over old rows name the
-- leaf: on the parent they would lock every leaf.
{%- macro same_key(a) -%}
{% for k in key %}{{ " and " if not loop.first }}{{ a }}.{{ k.name }} = {{ k.value }}{% endfor %}
{%- endmacro -%}
{%- macro not_older(a) -%}
{% if guard %} and ({{ a }}._seq, {{ a }}._ord) <= (s._seq, s._ord){% endif %}
{%- endmacro -%}
{%- macro take_out(which) -%}
{% if locator -%}
with gone as (
    delete from {{ table }} t where {{ which }} returning {% for k in key %}{{ ", " if not loop.first }}t.{{ k.name }}{% endfor %}
)
delete from {{ locator }} l
 using gone g
 where {% for k in key %}{{ " and " if not loop.first }}l.{{ k.name }} = g.{{ k.name }}{% endfor %}
{%- else -%}
delete from {{ table }} t where {{ which }}
{%- endif %}
{%- endmacro -%}
{%- macro day(value) -%}
(({{ value }})::date - date '2000-01-01')
{%- endmacro %}

{% if topics -%}
-- statement: locate_left
select s.ctid::text, {% if locator %}{{ day("l." ~ partition.name) }}{% else %}{{ day("case when s.o0 is null then " ~ partition.value ~ " else " ~ partition.origin ~ " end") }}{% endif %}, 'kept'
  from {{ stage }} s
{%- if locator %}
  join {{ locator }} l on {% for k in key %}{{ " and " if not loop.first }}l.{{ k.name }} = case when s.o0 is null then {{ k.value }} else {{ k.origin }} end{% endfor %}
{%- endif %}
 where s._op = 'l' and s._keep is not null

-- statement: locate_left_own
-- The same of rows that came from another key in the batch, where records come again: they are stored where they came
-- to.
select s.ctid::text, {% if locator %}{{ day("l." ~ partition.name) }}{% else %}{{ day(partition.value) }}{% endif %}, 'kept'
  from {{ stage }} s
{%- if locator %}
  join {{ locator }} l on {{ same_key("l") }}
{%- endif %}
 where s._op = 'l' and s._keep is not null and s.o0 is not null

{% endif -%}
-- statement: locate
-- The staged rows that need something done in the leaf where their old row is: `stale` (a newer row
-- is stored), `gone` (deleted), `moved` (to another leaf), `kept` (some columns did not change).
{% if locator -%}
select s.ctid::text, {{ day("l." ~ partition.name) }},
       case {% if guard %}when (l._seq, l._ord) > (s._seq, s._ord) then 'stale'
            {% endif %}when s._op = 'd' then 'gone'
            when l.{{ partition.name }} is distinct from {{ partition.value }} then
                 case when s._keep is null{{ " and s._told is null" if topics }} then 'moved' else 'moved and kept' end
            else 'kept' end
  from {{ stage }} s
  join {{ locator }} l on {{ same_key("l") }}
 where s._op = 'd' or s._keep is not null{{ " or s._told is not null" if topics }}
    or l.{{ partition.name }} is distinct from {{ partition.value }}
    {{- " or (l._seq, l._ord) > (s._seq, s._ord)" if guard }}
{%- else -%}
select s.ctid::text, {{ day(partition.value) }}, case when s._op = 'd' then 'gone' else 'kept' end
  from {{ stage }} s
 where s._op = 'd' or s._keep is not null{{ " or s._told is not null" if topics }}
{%- endif %}

-- statement: locate_origin
-- Rows that came from another key and left columns out there.
{% if locator -%}
select s.ctid::text, {{ day("l." ~ partition.name) }}, 'origin'
  from {{ stage }} s
  join {{ locator }} l on {% for k in key %}{{ " and " if not loop.first }}l.{{ k.name }} = {{ k.origin }}{% endfor %}
 where s._keep is not null and s.o0 is not null
{%- else -%}
select s.ctid::text, {{ day(partition.origin) }}, 'origin'
  from {{ stage }} s
 where s._keep is not null and s.o0 is not null
{%- endif %}

{% if topics -%}
-- statement: stale
-- Rows whose own row there is newer: a place is told by the event that brought the row there, not by the last.
select s.ctid::text
  from {{ stage }} s
  join {{ leaf }} t on {{ same_key("t") }}
 where s.ctid = any ($1::text[]::tid[]){% if guard %} and (t._seq, t._ord) > (s._seq, s._ord){% else %} and false{% endif %}

{% endif -%}
-- statement: drop_stale
delete from {{ stage }} s where s.ctid = any ($1::text[]::tid[])

-- statement: fill
{% if topics -%}
-- What is stored and was told later stays; of a row that came from another key what it left out is what that one had.
update {{ stage }} s
   set {% for c in columns if not c.key or loose -%}
       {{ c.stage }} = case when case when s.o0 is null then {{ stays(c, "n.told", "t._seq, t._ord", "<") }} else {{ is_kept(c) }} end then {{ c.back }} else s.{{ c.stage }} end,
       {% endfor -%}
       _told = case when s.o0 is null and s._told is not null then {{ told_of_both("n.told", "t._seq, t._ord", "<") }} else s._told end,
       _keep = null
  from {{ leaf }} t
  left join audit.carried n
    on n.table_name = {{ literal }} and n.key = {{ key_of("t") }} and (n.seq, n.ord) = (t._seq, t._ord)
{%- else -%}
update {{ stage }} s
   set {% for c in columns if not c.key -%}
       {{ c.stage }} = case when get_bit(s._keep, {{ c.bit }}) = 1 then {{ c.back }} else s.{{ c.stage }} end,
       {% endfor -%}
       _keep = null
  from {{ leaf }} t
{%- endif %}
 where s.ctid = any ($1::text[]::tid[]){{ not_older("t") }}
   and {% for k in key %}{{ " and " if not loop.first }}t.{{ k.name }} = case when s.o0 is null then {{ k.value }} else {{ k.origin }} end{% endfor %}

{% if topics -%}
-- statement: fill_left_own
update {{ stage }} s
   set {% for c in columns if not c.key -%}
       {{ c.stage }} = case when get_bit(s._keep, {{ c.bit }}) = 1 then {{ c.back }} else s.{{ c.stage }} end,
       {% endfor -%}
       _keep = null
  from {{ leaf }} t
 where s.ctid = any ($1::text[]::tid[]){{ not_older("t") }} and {{ same_key("t") }}

{% endif -%}
-- statement: delete
{% if soft -%}
-- whoever reads the table again only finds that the row is gone, not when it went
update {{ leaf }} t
   set _deleted_at = {{ "s._at" if dated else "coalesce(t._deleted_at, s._at)" }}, _seq = s._seq, _ord = s._ord, _synced_at = now()
  from {{ stage }} s
 where s.ctid = any ($1::text[]::tid[]) and s._op = 'd' and {{ same_key("t") }}{{ not_older("t") }}
{%- else -%}
delete from {{ leaf }} t
 using {{ stage }} s
 where s.ctid = any ($1::text[]::tid[]) and {{ same_key("t") }}{{ not_older("t") }}
{%- endif %}

-- statement: delete_moved
delete from {{ leaf }} t
 using {{ stage }} s
 where s.ctid = any ($1::text[]::tid[]) and {{ same_key("t") }}{{ not_older("t") }}

{% if topics -%}
-- statement: carry_lock
-- Another member may just be writing an older event of the same row.
select from {{ leaf }} t
  join {{ stage }} s on {{ same_key("t") }}
 where s.ctid = any ($1::text[]::tid[])
   for no key update of t

-- statement: unfilled
-- What came behind a row that is not there any more.
delete from {{ stage }} s where s._n = -1 and s._keep is not null

{% endif -%}
-- statement: orphan
select
  from {{ stage }} s
 where s._op <> 'd' and s._keep is not null
 limit 1

-- statement: forget
-- What is gone has no place; a softly deleted row keeps it.
delete from {{ locator }} l
 using {{ stage }} s
 where s._op = 'd' and {{ same_key("l") }}{{ not_older("l") }}

-- statement: remember
insert into {{ locator }} as l ({{ key | map(attribute="name") | join(", ") }}, {{ partition.name }}, _seq, _ord)
select {{ key | map(attribute="value") | join(", ") }}, {{ partition.value }}, s._seq, s._ord
  from {{ stage }} s
 where s._op <> 'd'
   and not exists (select from {{ locator }} l
                    where {{ same_key("l") }} and l.{{ partition.name }} = {{ partition.value }})
    on conflict ({{ key | map(attribute="name") | join(", ") }}) do update
   set {{ partition.name }} = excluded.{{ partition.name }}, _seq = excluded._seq, _ord = excluded._ord

-- statement: upsert
insert into {{ table }} as t ({{ all | map(attribute="name") | join(", ") }}, _seq, _ord, _synced_at)
overriding system value
select {{ all | map(attribute="value") | join(", ") }}, s._seq, s._ord, now()
  from {{ stage }} s
 where s._op <> 'd' and s._keep is null
    on conflict ({{ physical_key | join(", ") }}) do update
   set {% for c in all if not c.physical_key or (loose and c.key) %}{{ c.name }} = excluded.{{ c.name }}, {% endfor -%}
       {{ "_deleted_at = null, " if soft }}_seq = excluded._seq, _ord = excluded._ord, _synced_at = excluded._synced_at
{%- if guard %}
 where (t._seq, t._ord) <= (excluded._seq, excluded._ord)
{%- endif %}

-- statement: missing
insert into {{ stage }} ({{ key | map(attribute="stage") | join(", ") }}, _op, _n, _seq, _ord, _at)
select {{ key | map(attribute="back") | join(", ") }}, 'd', 1, $1, 0, $2
  from {{ locator or table }} t
 where not exists (select from {{ stage }} s where {{ same_key("t") }}){{ within }}

-- statement: untouched
-- A table that is rebuilt from its events: rows that none of them spoke of.
delete from {{ table }} t where t._synced_at <> now()

{% if locator %}
-- statement: astray
-- Rows that no place leads to: each key stands once, where its place says.
delete from {{ table }} t
 where not exists (
       select from {{ locator }} l
        where {% for k in key %}l.{{ k.name }} = t.{{ k.name }} and {% endfor %}l.{{ partition.name }} = t.{{ partition.name }})
   and $1::int8 is not null and $2::timestamptz is not null{{ within }}

-- statement: clear
-- The same where a row may stand in another leaf than its events first say.
with places as (delete from {{ locator }})
delete from {{ table }}
{% endif %}

-- statement: truncate
-- The source table was emptied.
{% if soft -%}
update {{ table }} t
   set _deleted_at = $3, _seq = $1, _ord = $2, _synced_at = now()
 where (t._seq, t._ord) < ($1, $2) and t._deleted_at is null and $3::timestamptz is not null
{%- else -%}
{{ take_out("(t._seq, t._ord) < ($1, $2) and $3::timestamptz is not null") }}
{%- endif %}

{% if topics -%}
-- statement: read_anew
-- What a first reading had brought before it was broken off and begun again.
{{ take_out("t._ord < 0 and t._seq < $1") }}
{% endif %}

{% if locator %}
-- statement: rebase
-- A table that is read again from a source that counts from lower positions.
update {{ locator }} l set _seq = $1, _ord = 0 where l._seq > $1
{% endif %}

-- statement: rebase_rows
update {{ table }} t set _seq = $1, _ord = 0 where t._seq > $1
