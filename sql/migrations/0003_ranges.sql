-- Large tables are read in ranges of their key, each committed by itself: what is in is not read again
-- after a crash. A chunk without a key column is the whole table.
alter table audit.snapshot_chunks
    add key_column text,                        -- of the source; lower is in the range, upper is not
    add schema_id integer,                      -- the shape in which the ranges were cut
    add fresh boolean not null default false,   -- the first rows of its table
    add empties boolean not null default false; -- a first reading broke off: its rows have to go first
update audit.snapshot_chunks c set fresh = true
  from audit.tables t
 where t.table_name = c.table_name and c.state <> 'done' and t.state = 'snapshotting';
drop index audit.snapshot_chunks_at_work;
create unique index snapshot_chunks_at_work on audit.snapshot_chunks (table_name, (coalesce(lower, '')))
 where state <> 'done';
