-- The transaction that the making of a slot of ours waits for, and what ends it.
select case when p.gid is not null
            then format('prepared transaction %L of %s, prepared %s', p.gid, p.owner, p.prepared)
            else format('the transaction of session %s (%s), open since %s', h.pid,
                        coalesce(nullif(a.application_name, ''), 'no name'),
                        coalesce(a.xact_start::text, 'nobody knows when')) end                as what,
       case when p.gid is not null
            then format('commit prepared %L, or rollback prepared %L', p.gid, p.gid)
            else format('let it end, or select pg_terminate_backend(%s)', h.pid) end         as remedy
  from pg_locks w
  join pg_stat_activity s on s.pid = w.pid and s.backend_type = 'walsender' and s.usename = current_user
  join pg_locks h on h.locktype = 'transactionid' and h.transactionid = w.transactionid and h.granted
  left join pg_prepared_xacts p on p.transaction = w.transactionid
  left join pg_stat_activity a on a.pid = h.pid
 where w.locktype = 'transactionid' and not w.granted
 limit 1
