-- What operators want of connectors, beyond what their files say; a connector without a row is to run.
create table audit.connectors (
    connector  text primary key,
    wanted     text not null check (wanted in ('running', 'paused', 'stopped')),
    by         text not null,
    since      timestamptz not null default now()
);
