-- Checks: what became of each, the rows that have failed, and marts that wait for them.

-- A result. `failing` of `checked` rows; `error`: why it could not be judged, which counts as not holding.
alter table audit.data_quality
    add table_name   text,
    add kind         text,
    add severity     text,
    add tag          text,
    add run          bigint references audit.job_runs on delete set null,
    add failing      bigint,
    add checked      bigint,
    add completeness double precision,      -- percent of the rows that have all that not_null asks for
    add error        text,
    add took         double precision;      -- seconds
create index data_quality_latest on audit.data_quality (table_name, check_name, check_id desc);

-- Rows that have failed, of the last result of each check alone: as the warehouse has them, masked ones masked.
create table audit.data_quality_rows (
    table_name text not null,
    check_name text not null,
    nr         integer not null,
    check_id   bigint not null,
    row        jsonb not null,
    primary key (table_name, check_name, nr)
);

-- `held`: a check that the mart waits for fails.
alter table audit.marts
    drop constraint marts_state_check,
    add constraint marts_state_check
        check (state in ('waiting', 'building', 'fresh', 'stale', 'stopped', 'held'));
