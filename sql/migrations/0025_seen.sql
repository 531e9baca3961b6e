-- What the snapshot had seen under which a table of topics was read again from its source: where the log was before,
-- its point there, the first transaction that was not known, and those below it that were open; when it was taken, and
-- the columns that no topic had told by then. Changes that it has seen are in the rows, however late or often a topic
-- tells them: it is kept until the table is read once more, or comes from elsewhere.
alter table audit.tables add column seen jsonb;

-- What was lost of a table's topics that its being read again makes good: a gap, should it not be read.
alter table audit.snapshot_chunks add column lost text;
