-- Pauses replay until whoever holds the lock has taken a snapshot or is gone, and no longer than
-- lock_timeout. One statement of the standby's own, so that it resumes also where we are killed meanwhile.
do $$
begin
    perform pg_wal_replay_pause();
    perform pg_advisory_lock({class}, {reader});
    perform pg_wal_replay_resume();
exception when others or query_canceled then
    perform pg_wal_replay_resume();
    raise;
end
$$
