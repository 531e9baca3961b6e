-- What tables with a key share where an event that leaves out what did not change may overtake one that set it: when
-- each value was told. Of two values of one column of a row the one that was told later counts. A row whose values are
-- all its own needs no note; of others `audit.carried` has the columns that are older, each with the place of the event
-- that told it. Staged is `s`, a note is `n`. A note counts for the row of its own place only: another row has come in
-- the place of that one since.
{%- macro key_text() -%}
jsonb_build_array({% for k in key %}{{ ", " if not loop.first }}({{ k.value }})::text{% endfor %})::text
{%- endmacro -%}
{%- macro key_of(alias) -%}
jsonb_build_array({% for k in key %}{{ ", " if not loop.first }}({{ alias }}.{{ k.name }})::text{% endfor %})::text
{%- endmacro -%}
{%- set never = "array[(-9223372036854775807 - 1), 0]::int8[]" -%}
{%- macro is_kept(c) -%}
(s._keep is not null and get_bit(s._keep, {{ c.bit }}) = 1)
{%- endmacro -%}
{#- When a staged value was told. -#}
{%- macro staged_at(c) -%}
case when s._told is null then array[s._seq, s._ord] else array[s._told[{{ c.bit + 1 }}][1], s._told[{{ c.bit + 1 }}][2]] end
{%- endmacro -%}
{#- When a value was told of which a note may say it; `own` is the place of its row. -#}
{%- macro noted_at(told, c, own) -%}
case when {{ told }} ? {{ c.literal }} then array[({{ told }} -> {{ c.literal }} ->> 0)::int8, ({{ told }} -> {{ c.literal }} ->> 1)::int8] else array[{{ own }}] end
{%- endmacro -%}
{#- Whether the value stays that is stored, or noted, at `own`. -#}
{%- macro stays(c, told, own, compare) -%}
({{ is_kept(c) }} or {{ staged_at(c) }} {{ compare }} {{ noted_at(told, c, own) }})
{%- endmacro -%}
{#- When the values were told that are left of both, in the form of the staging table. -#}
{%- macro told_of_both(told, own, compare) -%}
array[{% for c in slots %}{{ ", " if not loop.first }}{% if c %}case when {{ stays(c, told, own, compare) }} then {{ noted_at(told, c, own) }} else {{ staged_at(c) }} end{% else %}array[s._seq, s._ord]{% endif %}{% endfor %}]
{%- endmacro -%}
{#- The columns that stay, as `_keep` has them; NULL where none does. -#}
{%- macro kept_of_both(told, own, compare) -%}
nullif({% for c in columns %}set_bit({% endfor %}{{ no_bits }}{% for c in columns %}, {{ c.bit }}, {{ stays(c, told, own, compare) }}::int){% endfor %}, {{ no_bits }})
{%- endmacro -%}
{#- The values that are older than their staged row, as a note has them; NULL where none is. -#}
{%- macro older_of_staged() -%}
(select jsonb_object_agg(c.name, jsonb_build_array(s._told[c.at][1], s._told[c.at][2]))
   from (values {% for c in columns %}{{ ", " if not loop.first }}({{ c.literal }}::text, {{ c.bit + 1 }}){% endfor %}) c (name, at)
  where (s._told[c.at][1], s._told[c.at][2]) <> (s._seq, s._ord))
{%- endmacro -%}
{%- set no_bits = "decode(repeat('00', " ~ ((slots | length + 7) // 8) ~ "), 'hex')" %}
{% if topics %}
-- statement: has_carried
select from audit.carried n where n.table_name = {{ literal }} limit 1

-- statement: carried_note
-- Rows that are stored now and have values that are older.
insert into audit.carried as n (table_name, key, seq, ord, told)
select {{ literal }}, {{ key_text() }}, s._seq, s._ord, o.told
  from {{ stage }} s
 -- worked out once: without the offset the condition and the value would do so each for itself
 cross join lateral (select {{ older_of_staged() }} as told offset 0) o
 where s._op not in ('d', 'l') and s._told is not null and o.told is not null
{%- if overwrites and not partition %}
   and exists (select from {{ table }} t
                where {% for k in key %}t.{{ k.name }} = {{ k.value }} and {% endfor %}(t._seq, t._ord) = (s._seq, s._ord))
{%- else %}
   and s._keep is null
{%- endif %}
    on conflict (table_name, key, seq, ord) do {% if overwrites %}update set told = excluded.told{% else %}nothing{% endif %}

{% if overwrites -%}
-- statement: carried_forget
-- The notes of rows in the place of which others have come.
delete from audit.carried n
 using {{ stage }} s
 where s._op not in ('d', 'l') and s._told is not null
   and n.table_name = {{ literal }} and n.key = {{ key_text() }} and (n.seq, n.ord) < (s._seq, s._ord)

-- statement: overtaken
-- Events that came behind a later one of their row which left out what they tell: of that one they are made the rest,
-- of its place and with the columns that it left out. `_n` says so.
update {{ stage }} g
   set _seq = o.seq, _ord = o.ord, _n = -1, o0 = null, _keep = o.keep, _told = o.told
       {%- if locator %}, {{ partition.stage }} = o.place{% endif %}
  from (select s.ctid as sid, n.seq, n.ord,
               {{ kept_of_both("n.told", "n.seq, n.ord", "<=") }} as keep,
               {{ told_of_both("n.told", "n.seq, n.ord", "<=") }} as told
               {%- if locator %}, {{ partition.back }} as place{% endif %}
          from {{ stage }} s
         cross join lateral (
               select n.seq, n.ord, n.told
                 from audit.carried n
                where n.table_name = {{ literal }} and n.key = {{ key_text() }}
                order by n.seq desc, n.ord desc
                limit 1) n
{%- if locator %}
          join {{ locator }} t on {% for k in key %}{{ " and " if not loop.first }}t.{{ k.name }} = {{ k.value }}{% endfor %}
{%- endif %}
         where s._op not in ('d', 'l') and (n.seq, n.ord) > (s._seq, s._ord)
           and not ({% for c in columns %}{{ " and " if not loop.first }}{{ stays(c, "n.told", "n.seq, n.ord", "<=") }}{% endfor %})) o
 where g.ctid = o.sid

{% endif -%}
-- statement: only_overtaken
delete from {{ stage }} s where s._n <> -1

{% endif -%}
