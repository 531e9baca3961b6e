-- For what a table is held that goes on by itself when that is over: nothing feeds it (`unfed`), somebody has a lock
-- on it whose definition is to change (`locked`), or `siltstone apply` changes it (`changing`). None where a person
-- is waited for. `reason` and `remedy` are words for people, and decide nothing.
alter table audit.tables add column hold text check (hold in ('unfed', 'locked', 'changing'));

-- what was told by the reason until now
update audit.tables t
   set hold = case
       when state = 'stopped'
            and starts_with(reason, 'its definition is to change, and a lock is in the way') then 'locked'
       when state = 'stopped' and reason = 'siltstone apply changes it' then 'changing'
       when state = 'paused' and reason is distinct from 'an operator paused it'
            and exists (select from audit.snapshot_chunks c
                         where c.table_name = t.table_name and c.state in ('waiting', 'open')
                           and c.condition is null and c.origin is null) then 'unfed'
       end
 where state in ('stopped', 'paused');

-- Whether the table is there and ours: one that somebody had locked as it was to be made or adopted is so later, and
-- its changes are kept until then.
alter table audit.tables add column made boolean not null default true;
