-- Of rows and events of topics the values that they left out: when each of them was told. An event that comes late and
-- lies between the two tells what the value really was. Kept for a table's horizon, as `audit.quiet`.
create table audit.carried (
    table_name text collate "C" not null,   -- schema.table
    key        text collate "C" not null,   -- the key's values as text, as a JSON array
    seq        bigint not null,             -- the place of the row or event
    ord        bigint not null,
    told       jsonb not null,              -- column: [seq, ord] of the event that told its value
    noted_at   timestamptz not null default now(),
    primary key (table_name, key, seq, ord)
);
create index carried_oldest on audit.carried using brin (noted_at);
