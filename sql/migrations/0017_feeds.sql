-- From which source column each column of a table takes its values, and what becomes of rows that go, as JSON: the
-- warehouse's catalogue knows nothing of it, and a file that says otherwise has the table read again. None where
-- an older service made the table, until the next start.
alter table audit.tables add feeds text;
