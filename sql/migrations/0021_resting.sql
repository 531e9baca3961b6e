-- Topics that rest: nothing more of them is read, and their records stay in Kafka, while the others of their connector
-- are. For people who ask without the service; and a topic that rests already does so longer than one begins to, so that
-- it does not go to and fro.
create table audit.resting (
    connector  text not null,
    topic      text not null,
    tables     text[] not null,           -- what its records feed, as schema.table
    reason     text not null,
    remedy     text not null,
    kept_until timestamptz,               -- its retention may take the next record from then on; none where nobody knows
    since      timestamptz not null default now(),
    primary key (connector, topic)
);
