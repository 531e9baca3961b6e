-- What is done about the log that a connector's slot keeps at the source, and how much that was when the step
-- changed last: for people who ask without the service.
alter table audit.slots
    add column wal_step   text,
    add column retained   bigint,
    add column stepped_at timestamptz;
