-- A table of history: overwrite, not partitioned. One staged row a key, `s`; the target is `t`.
{%- macro same_key() -%}
{% for k in key %}{{ " and " if not loop.first }}t.{{ k.name }} = {{ k.value }}{% endfor %}
{%- endmacro -%}
{%- macro not_older() -%}
{% if guard %} and (t._seq, t._ord) <= (s._seq, s._ord){% endif %}
{%- endmacro %}

{% if topics -%}
-- statement: fill_left
-- A row that goes on under another key: its values, as far as no event of the batch told them.
update {{ stage }} s
   set {% for c in columns if not c.key -%}
       {{ c.stage }} = case when get_bit(s._keep, {{ c.bit }}) = 1 then {{ c.back }} else s.{{ c.stage }} end,
       {% endfor -%}
       _keep = null
  from {{ table }} t
 where s._op = 'l' and s._keep is not null{{ not_older() }}
   and {% for k in key %}{{ " and " if not loop.first }}t.{{ k.name }} = case when s.o0 is null then {{ k.value }} else {{ k.origin }} end{% endfor %}

-- statement: fill_left_own
-- The same of one that came from another key in the batch, where records come again: it is stored where it came to.
update {{ stage }} s
   set {% for c in columns if not c.key -%}
       {{ c.stage }} = case when get_bit(s._keep, {{ c.bit }}) = 1 then {{ c.back }} else s.{{ c.stage }} end,
       {% endfor -%}
       _keep = null
  from {{ table }} t
 where s._op = 'l' and s._keep is not null and s.o0 is not null{{ not_older() }}
   and {{ same_key() }}

{% endif -%}
-- statement: fill
-- A row that moved from another key takes its unchanged columns from there, before anything is
-- deleted: in a permutation of keys the other row is about to go.
update {{ stage }} s
   set {% for c in columns if not c.key -%}
       {{ c.stage }} = case when get_bit(s._keep, {{ c.bit }}) = 1 then {{ c.back }} else s.{{ c.stage }} end,
       {% endfor -%}
       _keep = null
  from {{ table }} t
 where s._keep is not null and s.o0 is not null{{ not_older() }}
   and {% for k in key %}{{ " and " if not loop.first }}t.{{ k.name }} = {{ k.origin }}{% endfor %}

-- statement: delete
{% if soft -%}
-- whoever reads the table again only finds that the row is gone, not when it went
update {{ table }} t
   set _deleted_at = {{ "s._at" if dated else "coalesce(t._deleted_at, s._at)" }}, _seq = s._seq, _ord = s._ord, _synced_at = now()
  from {{ stage }} s
 where s._op = 'd' and {{ same_key() }}{{ not_older() }}
{%- else -%}
delete from {{ table }} t
 using {{ stage }} s
 where s._op = 'd' and {{ same_key() }}{{ not_older() }}
{%- endif %}

{% if topics -%}
-- statement: carry_lock
-- Another member may just be writing an older event of the same row.
select from {{ table }} t
  join {{ stage }} s on {{ same_key() }}
 where s._op <> 'd' and s._told is not null
   for no key update of t

-- statement: carry
-- Of rows with values that are older than they are: what is stored and was told later stays.
update {{ stage }} s
   set _keep = {{ kept_of_both("n.told", "t._seq, t._ord", "<") }},
       _told = {{ told_of_both("n.told", "t._seq, t._ord", "<") }}
  from {{ table }} t
  left join audit.carried n
    on n.table_name = {{ literal }} and n.key = {{ key_of("t") }} and (n.seq, n.ord) = (t._seq, t._ord)
 where s._op <> 'd' and s._told is not null and {{ same_key() }}{{ not_older() }}

{% endif -%}
{% if inputs -%}
-- statement: fill_inputs
-- Rows with unchanged columns are looked up by what is stored of these; they stay unchanged all the same.
update {{ stage }} s
   set {% for c in inputs %}{{ ", " if not loop.first }}{{ c.stage }} = case when get_bit(s._keep, {{ c.bit }}) = 1 then {{ c.back }} else s.{{ c.stage }} end{% endfor %}
  from {{ table }} t
 where s._op <> 'd' and s._keep is not null and {{ same_key() }}
   and ({% for c in inputs %}{{ " or " if not loop.first }}get_bit(s._keep, {{ c.bit }}) = 1{% endfor %})

{% endif -%}
-- statement: update
-- Rows with unchanged columns: those stay as they are stored. An upsert would fail on NOT NULL.
update {{ table }} t
   set {% for c in all if not c.key or loose -%}
       {{ c.name }} = {% if c.looked %}{{ c.value }}{% else %}case when get_bit(s._keep, {{ c.bit }}) = 1 then t.{{ c.name }} else {{ c.value }} end{% endif %},
       {% endfor -%}
       {{ "_deleted_at = null, " if soft }}_seq = s._seq, _ord = s._ord, _synced_at = now()
  from {{ stage }} s
 where s._op <> 'd' and s._keep is not null and {{ same_key() }}{{ not_older() }}

-- statement: orphan
-- A row with unchanged columns whose stored row is not there: its values are lost.
select
  from {{ stage }} s
 where s._op <> 'd' and s._keep is not null
   and not exists (select from {{ table }} t where {{ same_key() }})
 limit 1

-- statement: upsert
insert into {{ table }} as t ({{ all | map(attribute="name") | join(", ") }}, _seq, _ord, _synced_at)
overriding system value
select {{ all | map(attribute="value") | join(", ") }}, s._seq, s._ord, now()
  from {{ stage }} s
 where s._op <> 'd' and s._keep is null
    on conflict ({{ key | map(attribute="name") | join(", ") }}) do update
   set {% for c in all if not c.key or loose %}{{ c.name }} = excluded.{{ c.name }}, {% endfor -%}
       {{ "_deleted_at = null, " if soft }}_seq = excluded._seq, _ord = excluded._ord, _synced_at = excluded._synced_at
{%- if guard %}
 where (t._seq, t._ord) <= (excluded._seq, excluded._ord)
{%- endif %}

-- statement: missing
-- A table that is read again: rows that the source no longer has become deletes.
insert into {{ stage }} ({{ key | map(attribute="stage") | join(", ") }}, _op, _n, _seq, _ord, _at)
select {{ key | map(attribute="back") | join(", ") }}, 'd', 1, $1, 0, $2
  from {{ table }} t
 where not exists (select from {{ stage }} s where {{ same_key() }})
{{ within }}{%- if soft %} and t._deleted_at is null{% endif %}

-- statement: untouched
-- A table that is rebuilt from its events: rows that none of them spoke of.
delete from {{ table }} t where t._synced_at <> now()

-- statement: many
-- Whether there are more rows than a DELETE is meant for; TRUNCATE is not safe for older snapshots.
select count(*) > 100000 from (select from {{ table }} limit 100001) t

-- statement: truncate
-- The source table was emptied.
{% if soft -%}
update {{ table }} t
   set _deleted_at = $3, _seq = $1, _ord = $2, _synced_at = now()
 where (t._seq, t._ord) < ($1, $2) and t._deleted_at is null and $3::timestamptz is not null
{%- else -%}
delete from {{ table }} t where (t._seq, t._ord) < ($1, $2) and $3::timestamptz is not null
{%- endif %}

{% if topics -%}
-- statement: read_anew
-- What a first reading had brought before it was broken off and begun again.
delete from {{ table }} t where t._ord < 0 and t._seq < $1

{% endif -%}
-- statement: empty
truncate {{ table }}

-- statement: rebase_rows
-- A table that is read again from a source that counts from lower positions: the rows that stay though
-- the source lacks them must not outrank what comes.
update {{ table }} t set _seq = $1, _ord = 0 where t._seq > $1
