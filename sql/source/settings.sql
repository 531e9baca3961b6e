-- What the source is able and allowed to do, in one row.
select current_setting('server_version_num')::int4                       as version,
       current_setting('wal_level')                                      as wal_level,
       current_setting('max_replication_slots')::int8                    as max_slots,
       (select count(*) from pg_replication_slots)                       as slots,
       current_setting('max_wal_senders')::int8                          as max_senders,
       (select count(*) from pg_stat_replication)                        as senders,
       (select setting::int8 from pg_settings
         where name = 'wal_sender_timeout')                              as timeout,
       (select setting::int8 from pg_settings
         where name = 'max_slot_wal_keep_size')                          as keep,
       (select rolreplication or rolsuper from pg_roles
         where rolname = current_user)                                   as replicates,
       has_database_privilege(current_database(), 'CREATE')              as creates,
       current_user::text                                                as role,
       current_database()::text                                          as database,
       pg_is_in_recovery()                                               as standby,
       coalesce(current_setting('synchronized_standby_slots', true), '') as waits_for,
       (select string_agg(slot_name, ',' order by slot_name) from pg_replication_slots
         where slot_type = 'physical' and not temporary)                 as standbys
