-- Alerts: what instances see of their connectors, what people have been told of, and messages on their way.

-- How a connector stands, as each instance that has it sees it. An instance writes its own rows alone; what it has
-- not written anew for a while tells nothing any more.
create table audit.alert_signs (
    owner     text not null,                -- one run of one process
    connector text not null,
    phase     text not null,
    reason    text,
    remedy    text,
    backlog   boolean not null,
    moved_at  timestamptz not null,         -- when its position last moved, or nothing was there to move it
    retained  bigint not null,              -- bytes of log that its slot keeps
    seen_at   timestamptz not null default clock_timestamp(),
    primary key (owner, connector)
);

-- What is so, and what was told of it. `pending`: not for as long as its rule asks; `ended`: kept so that nobody is
-- told of the same again too soon.
create table audit.alerts (
    rule      text not null,
    subject   text not null,
    state     text not null check (state in ('pending', 'firing', 'ended')),
    since     timestamptz not null,
    text      text not null,
    remedy    text,
    told      boolean not null default false,   -- people know of this time, and are told when it ends
    told_at   timestamptz,                      -- when a message last left, of this time or one before
    told_mark text,                             -- what that was about, where every time has a name of its own
    told_to   text[] not null default '{}',
    ended_at  timestamptz,
    primary key (rule, subject),
    check ((state = 'ended') = (ended_at is not null))
);

-- Messages: each is sent once, in the order of its channel, and tried again for a while.
create table audit.alert_messages (
    id         bigint generated always as identity primary key,
    channel    text not null,
    message    jsonb not null,
    state      text not null default 'open' check (state in ('open', 'sent', 'failed')),
    attempts   integer not null default 0,
    queued_at  timestamptz not null,
    not_before timestamptz not null,
    reason     text,
    ended_at   timestamptz,
    check ((state = 'open') = (ended_at is null))
);
create index alert_messages_open on audit.alert_messages (channel, id) where state = 'open';
create index alert_messages_ended on audit.alert_messages (ended_at) where state <> 'open';

-- How the last run of a job ended, and the last attempt at a task.
create index job_runs_ended on audit.job_runs (job, finished_at) where state in ('success', 'failed');
create index etl_logs_of_task on audit.etl_logs (dag_id, task_id, created_at);
