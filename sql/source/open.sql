-- The oldest transaction that is open since before transaction $1 began, and what ends it.
select case when p.gid is not null
            then format('prepared transaction %L of %s, prepared %s', p.gid, p.owner, p.prepared)
            else format('the transaction of session %s (%s), open since %s', h.pid,
                        coalesce(nullif(a.application_name, ''), 'no name'),
                        coalesce(a.xact_start::text, 'nobody knows when')) end                as what,
       case when p.gid is not null
            then format('commit prepared %L, or rollback prepared %L', p.gid, p.gid)
            else format('let it end, or select pg_terminate_backend(%s)', h.pid) end         as remedy
  from pg_locks h
  left join pg_prepared_xacts p on p.transaction = h.transactionid
  left join pg_stat_activity a on a.pid = h.pid
 where h.locktype = 'transactionid' and h.mode = 'ExclusiveLock' and h.granted
   and age(h.transactionid) > age($1::int8::text::xid8::xid)
 order by age(h.transactionid) desc
 limit 1
