-- What a standby is able and allowed to do, in one row.
select pg_is_in_recovery()                                               as recovers,
       current_setting('server_version_num')::int4 >= 160000
           and current_setting('wal_level') = 'logical'                  as decodes,
       has_function_privilege('pg_wal_replay_pause()', 'execute')
           and has_function_privilege('pg_wal_replay_resume()', 'execute') as pauses,
       current_setting('hot_standby_feedback')::bool                     as feeds_back,
       current_user::text                                                as role,
       case when pg_is_in_recovery()
            then (pg_last_wal_replay_lsn() - '0/0')::int8 end            as replayed
