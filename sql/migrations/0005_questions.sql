-- A table that stops for a human: the transaction it asks about, and the last one that was answered for by
-- resuming it. The same transaction is not asked about twice.
alter table audit.tables
    add asked_seq bigint,
    add answered_seq bigint not null default -1;
