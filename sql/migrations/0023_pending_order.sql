-- Kept changes are gone through and looked up by their table and place: with the connector in front every look-up of
-- one went through all of the index.
alter table audit.pending
    drop constraint pending_pkey,
    add primary key (table_name, seq, ord, connector);
