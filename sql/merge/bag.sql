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

{% if topics -%}
-- statement: drop_seen
-- Comings and goings that came again: those of rows that are here, and those that went or are owed.
delete from {{ stage }} s
 where exists (
       select from audit.quiet q
        where q.table_name = {{ literal }} and (q.seq, q.ord) = (s._seq, s._ord)
          and q.key = case when s._n > 0 then '+' else '-' end || {{ content() }})
    -- behind the emptying of the table
    or exists (
       select from audit.quiet q
        where q.table_name = {{ literal }} and q.key = '' and q.ord <> {{ reading }}
          and (q.seq, q.ord) > (s._seq, s._ord))
    or (s._n > 0 and exists (
       select from {{ table }} t where (t._seq, t._ord) = (s._seq, s._ord) and t._row = {{ content() }}))

-- statement: owes
select from audit.quiet q where q.table_name = {{ literal }} and q.op = 'o' limit 1

-- statement: pay
-- Rows that were told to go before they came.
with came as (
    select s.ctid as sid, c._row, s._seq, s._ord,
           row_number() over (partition by c._row order by s._seq, s._ord) as nth
      from {{ stage }} s cross join lateral (select {{ content() }} as _row) c
     where s._n > 0
),
owed as (
    select q.ctid as qid, q.key, row_number() over (partition by q.key order by q.seq, q.ord) as nth
      from audit.quiet q
     where q.table_name = {{ literal }} and q.op = 'o'
),
pairs as (
    select c.sid, c._row, c._seq, c._ord, o.qid
      from owed o join came c on o.key = '-' || c._row and o.nth = c.nth
),
settled as (update audit.quiet q set op = 'd' from pairs p where q.ctid = p.qid),
gone as (delete from {{ stage }} s using pairs p where s.ctid = p.sid)
insert into audit.quiet (table_name, key, seq, ord, op, at)
select {{ literal }}, '+' || p._row, p._seq, p._ord, 'c', now() from pairs p
    on conflict (table_name, key, seq, ord) do nothing

-- statement: take
-- Of equal rows just as many go as went at the source; what is not here yet is owed.
with went as (
    select c._row, s._seq, s._ord,
           row_number() over (partition by c._row order by s._seq, s._ord) as nth
      from {{ stage }} s cross join lateral (select {{ content() }} as _row) c
     where s._n < 0
),
here as (
    select t.ctid as tid, t._row, t._seq, t._ord,
           row_number() over (partition by t._row order by t._seq, t._ord) as nth
      from (select distinct _row from went) w join {{ table }} t on t._row = w._row
),
pairs as (
    select w._row, w._seq, w._ord, h.tid, h._seq as came_seq, h._ord as came_ord
      from went w left join here h on h._row = w._row and h.nth = w.nth
),
gone as (delete from {{ table }} t using pairs p where t.ctid = p.tid returning 1),
noted as (
    insert into audit.quiet (table_name, key, seq, ord, op, at)
    select {{ literal }}, '-' || p._row, p._seq, p._ord,
           case when p.tid is null then 'o' else 'd' end::"char", now()
      from pairs p
     union all
    select {{ literal }}, '+' || p._row, p.came_seq, p.came_ord, 'c', now()
      from pairs p where p.tid is not null
        on conflict (table_name, key, seq, ord) do nothing
)
select count(*) as gone from gone

-- statement: remember_empty
-- The source table was emptied.
insert into audit.quiet (table_name, key, seq, ord, op, at) values ({{ literal }}, '', $1, $2, 'd', $3)
    on conflict (table_name, key, seq, ord) do nothing

-- statement: void
-- What went before the table was emptied is owed no more.
update audit.quiet set op = 'd'
 where table_name = {{ literal }} and op = 'o' and (seq, ord) < ($1, $2)

{% endif -%}
-- statement: insert
insert into {{ table }} ({{ columns | map(attribute="name") | join(", ") }}, _row, _seq, _ord, _synced_at)
overriding system value
select {{ columns | map(attribute="value") | join(", ") }}, {{ content() }}, s._seq, s._ord, now()
  from {{ stage }} s
 cross join generate_series(1, s._n)
 where s._n > 0

{% if topics -%}
-- statement: read_anew
-- What a first reading had brought before it was broken off and begun again.
delete from {{ table }} t where t._ord < 0 and t._seq < $1

{% endif -%}
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
