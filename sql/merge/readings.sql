-- What tables without key of topics share: Debezium may begin its first reading again, and a row that it read has
-- no key by which the one of the reading before is found, only the reading that it is of. `audit.quiet` has the
-- readings under no key and the lowest `ord`: `seq` is the place, `at` when its transaction began.
{%- set reading = "(-9223372036854775807 - 1)" -%}
{% if topics and not key %}
-- statement: alone
-- Rows that cannot be told apart by a key are counted by one process at a time.
select pg_advisory_xact_lock(hashtextextended({{ literal }}, 0))

-- statement: drop_void
-- Rows of a reading that was broken off, which come behind the one that was begun after it.
delete from {{ stage }} s
 using (select q.seq, q.at
          from audit.quiet q
         where q.table_name = {{ literal }} and q.key = '' and q.ord = {{ reading }}
         order by q.seq desc
         limit 1) last
 where s._ord < 0 and s._n > 0 and (s._seq, s._at) < (last.seq, last.at)

-- statement: begin_reading
-- Takes out what readings before this one had brought, and notes it. Where none is noted, what stands at its place
-- may be its own.
with last as (
    select q.seq, q.at
      from audit.quiet q
     where q.table_name = {{ literal }} and q.key = '' and q.ord = {{ reading }}
     order by q.seq desc
     limit 1
),
gone as (
    delete from {{ table }} t
     where t._ord < 0
       and t._seq < $1::int8 + (exists (select from last where seq = $1::int8 and at < $2::timestamptz))::int
       and not exists (select from last where (seq, at) >= ($1::int8, $2::timestamptz))
)
insert into audit.quiet (table_name, key, seq, ord, op, at) values ({{ literal }}, '', $1::int8, {{ reading }}, 'd', $2::timestamptz)
    on conflict (table_name, key, seq, ord) do update set at = greatest(quiet.at, excluded.at)

{% endif -%}
