-- A part of a table may be read again: the rows that meet a condition over the source's columns. Or all of it
-- is rebuilt from what a raw table keeps.
alter table audit.snapshot_chunks
    add condition text,                         -- none for the whole table, or a range of it
    add origin text,                            -- the raw table; none where the source is read
    add request bigint;                         -- the one of audit.requests that asked for it

-- A request that takes its time is `taken` until it is done, and answered then.
alter table audit.requests
    drop constraint requests_state_check,
    add constraint requests_state_check check (state in ('open', 'taken', 'done', 'failed'));
