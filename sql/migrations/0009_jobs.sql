-- Jobs: what is due, runs, their tasks, and one row of audit.etl_logs an attempt.

-- What is known of a job. What is due up to `decided_to` has been decided: run, queued or left out.
create table audit.jobs (
    job        text primary key,
    decided_to timestamptz not null,
    paused     boolean not null default false,
    paused_by  text,
    -- how many changes of its tables were counted when it last ran by them
    counted    jsonb not null default '{}'
);

-- One run a job and interval: a run for a date that was run before is another round of the same.
create table audit.job_runs (
    run            bigint generated always as identity primary key,
    job            text not null,
    interval_start timestamptz not null,            -- the logical date
    interval_end   timestamptz not null check (interval_end >= interval_start),
    ds             date not null,
    prev_ds        date not null,
    "trigger"      text not null check ("trigger" in
                   ('schedule', 'after', 'changes', 'asked', 'backfill')),
    state          text not null check (state in
                   ('queued', 'running', 'success', 'failed', 'skipped', 'cancelled')),
    reason         text,
    round          integer not null default 1,
    queued_at      timestamptz not null,
    started_at     timestamptz,
    finished_at    timestamptz,
    unique (job, interval_start),
    check ((state in ('queued', 'running')) = (finished_at is null))
);
create index job_runs_open on audit.job_runs (job, run) where finished_at is null;

-- A task of a run. `attempt` counts on over all rounds, `tries` in this one.
create table audit.task_runs (
    run         bigint not null references audit.job_runs on delete cascade,
    task        text not null,
    state       text not null default 'waiting' check (state in
                ('waiting', 'running', 'retrying', 'success', 'failed', 'skipped', 'upstream_failed')),
    attempt     integer not null default 0,
    tries       integer not null default 0,
    not_before  timestamptz,
    began_at    timestamptz,
    finished_at timestamptz,
    reason      text,
    primary key (run, task),
    check ((state in ('success', 'failed', 'skipped', 'upstream_failed')) = (finished_at is not null)),
    check (state <> 'retrying' or not_before is not null)
);

-- An attempt: its row is written when it begins. Two at once there are never.
alter table audit.etl_logs
    add run bigint references audit.job_runs on delete set null,
    add attempt integer,
    add epoch bigint;
create unique index etl_logs_at_work on audit.etl_logs (run, task_id) where status = 'running';
create unique index etl_logs_attempts on audit.etl_logs (run, task_id, attempt);

-- To when the tables of a connector were fresh when its owner last said so.
create table audit.freshness (
    connector text primary key,
    fresh_to  timestamptz not null
);

-- The run that a request has asked for.
alter table audit.requests add run bigint;
