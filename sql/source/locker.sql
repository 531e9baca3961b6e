-- Whose lock keeps table $1 from being published, and what ends it. One that waits itself bars the way as well.
select case when p.gid is not null
            then format('prepared transaction %L of %s, prepared %s', p.gid, p.owner, p.prepared)
            else format('session %s (%s)', l.pid, coalesce(nullif(a.application_name, ''), 'no name'))
            end || format(', which has locked %s', $1::text)                                 as what,
       case when p.gid is not null
            then format('commit prepared %L, or rollback prepared %L', p.gid, p.gid)
            else format('let it end, or select pg_terminate_backend(%s)', l.pid) end         as remedy
  from pg_locks l
  left join pg_locks t on l.pid is null and t.pid is null and t.locktype = 'transactionid'
                      and t.virtualtransaction = l.virtualtransaction
  left join pg_prepared_xacts p on p.transaction = t.transactionid
  left join pg_stat_activity a on a.pid = l.pid
 where l.locktype = 'relation' and l.relation = to_regclass($1::text)
   and l.database = (select oid from pg_database where datname = current_database())
   and l.mode in ('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock',
                  'AccessExclusiveLock')
   and l.pid is distinct from pg_backend_pid()
 order by l.granted desc
 limit 1
