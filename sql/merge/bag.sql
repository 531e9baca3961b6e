-- A table without key. Rows are told apart by their whole content, of which `_row` is the digest;
-- staged is how many rows of a content came (`_n` above 0) or went (below).
{%- macro content() -%}
md5(row({{ columns | map(attribute="value") | join(", ") }})::text)::uuid
{%- endmacro %}

-- statement: delete
-- Of equal rows just as many go as went at the source.
delete from {{ table }}
 where ctid in (
       select v.tid
         from (select t.ctid as tid, row_number() over (partition by t._row) as nth, -s._n as gone
                 from (select {{ content() }} as _row, s._n from {{ stage }} s where s._n < 0) s
                 join {{ table }} t on t._row = s._row) v
        where v.nth <= v.gone)

-- statement: insert
insert into {{ table }} ({{ columns | map(attribute="name") | join(", ") }}, _row, _seq, _ord, _synced_at)
overriding system value
select {{ columns | map(attribute="value") | join(", ") }}, {{ content() }}, s._seq, s._ord, now()
  from {{ stage }} s
 cross join generate_series(1, s._n)
 where s._n > 0

-- statement: many
-- Whether there are more rows than a DELETE is meant for; TRUNCATE is not safe for older snapshots.
select count(*) > 100000 from (select from {{ table }} limit 100001) t

-- statement: truncate
-- The source table was emptied.
delete from {{ table }} t where (t._seq, t._ord) < ($1, $2) and $3::timestamptz is not null

-- statement: empty
truncate {{ table }}

-- statement: clear
-- A table that is read again.
delete from {{ table }}
