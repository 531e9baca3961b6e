-- The positions that were stored within `slot_hold_back`, so that a service that lives for less than that, or began
-- anew, still knows what was stored that long ago and may be confirmed.
create table audit.held_back (
    connector text not null,
    position bigint not null,
    stored_at timestamptz not null default now(),
    primary key (connector, position)
);
