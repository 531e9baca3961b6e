//! Runs and tasks as rows of the control tables. Whoever changes one names the state that it was in, so that
//! what has moved on meanwhile stays as it is.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use jiff::civil::Date;
use tokio_postgres::{GenericClient, Row, Transaction};

use super::calendar::{Calendar, Stretch};
use super::judge::TaskState;
use crate::error::{Error, Result};
use crate::spec::Job;

/// What is known of a job.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// What is due up to here has been decided.
    pub decided_to: Timestamp,
    /// Nothing is begun by its schedule.
    pub paused: bool,
    /// How many changes of its tables were counted.
    pub counted: serde_json::Value,
}

/// A run that is not over.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its number.
    pub id: i64,
    /// The job.
    pub job: String,
    /// What of time it is about.
    pub about: Stretch,
    /// The day of its logical date, and of the one before.
    pub days: (Date, Date),
    /// Whether its own schedule queued it, and nobody who asked.
    pub scheduled: bool,
    /// Whether it has begun.
    pub running: bool,
    /// Why it waits.
    pub reason: Option<String>,
    /// When it was queued.
    pub queued_at: Timestamp,
    /// When it began.
    pub started_at: Option<Timestamp>,
}

/// A task of a run.
#[derive(Clone, Debug)]
pub(super) struct TaskRun {
    /// What it is doing.
    pub state: TaskState,
    /// When it may be tried again.
    pub not_before: Option<Timestamp>,
}

fn failed(error: tokio_postgres::Error) -> Error {
    Error::warehouse("reading the jobs' runs", error)
}

fn not_written(error: tokio_postgres::Error) -> Error {
    Error::warehouse("noting what becomes of a run", error)
}

/// What is known of each job.
pub(super) async fn known(client: &impl GenericClient) -> Result<HashMap<String, Known>> {
    let query = "select job, decided_to, paused, counted from audit.jobs";
    let rows = client.query(query, &[]).await.map_err(failed)?;
    let known = |row: &Row| {
        let (decided_to, paused, counted) = (row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
        Ok((row.try_get(0)?, Known { decided_to, paused, counted }))
    };
    rows.iter().map(known).collect::<Result<_, tokio_postgres::Error>>().map_err(failed)
}

/// The runs that are not over, the oldest first, but those of a backfill behind all others: it may take days.
pub(super) async fn open(client: &impl GenericClient) -> Result<Vec<Run>> {
    let query = "select run, job, interval_start, interval_end, ds, prev_ds, state = 'running', \
                        reason, started_at, \"trigger\" = 'schedule', queued_at
                   from audit.job_runs where finished_at is null
                  order by \"trigger\" = 'backfill', queued_at, interval_start, run";
    let rows = client.query(query, &[]).await.map_err(failed)?;
    let run = |row: &Row| {
        Ok(Run {
            id: row.try_get(0)?,
            job: row.try_get(1)?,
            about: Stretch { start: row.try_get(2)?, end: row.try_get(3)? },
            days: (row.try_get(4)?, row.try_get(5)?),
            running: row.try_get(6)?,
            reason: row.try_get(7)?,
            started_at: row.try_get(8)?,
            scheduled: row.try_get(9)?,
            queued_at: row.try_get(10)?,
        })
    };
    rows.iter().map(run).collect::<Result<_, tokio_postgres::Error>>().map_err(failed)
}

/// The tasks of the runs that have begun and are not over, by run and name.
pub(super) async fn tasks(
    client: &impl GenericClient,
) -> Result<HashMap<i64, BTreeMap<String, TaskRun>>> {
    let query = "select t.run, t.task, t.state, t.not_before
                   from audit.task_runs t join audit.job_runs r using (run)
                  where r.state = 'running'";
    let mut found: HashMap<i64, BTreeMap<String, TaskRun>> = HashMap::new();
    for row in client.query(query, &[]).await.map_err(failed)? {
        let read = || {
            let state: String = row.try_get(2)?;
            let task = TaskRun {
                state: TaskState::of(&state).unwrap_or(TaskState::Failed),
                not_before: row.try_get(3)?,
            };
            Ok((row.try_get(0)?, row.try_get(1)?, task))
        };
        let (run, name, task) = read().map_err(failed)?;
        found.entry(run).or_default().insert(name, task);
    }
    Ok(found)
}

/// Notes a job that is seen for the first time.
pub(super) async fn meet(
    transaction: &Transaction<'_>,
    job: &str,
    decided_to: Timestamp,
) -> Result<()> {
    let insert = "insert into audit.jobs (job, decided_to) values ($1, $2) on conflict do nothing";
    transaction.execute(insert, &[&job, &decided_to]).await.map_err(not_written)?;
    Ok(())
}

/// Notes up to where a job's schedule has been decided.
pub(super) async fn decided(transaction: &Transaction<'_>, job: &str, to: Timestamp) -> Result<()> {
    let update = "update audit.jobs set decided_to = greatest(decided_to, $2) where job = $1";
    transaction.execute(update, &[&job, &to]).await.map_err(not_written)?;
    Ok(())
}

/// Takes back what was decided of the time behind a moment.
pub(super) async fn undecided(
    transaction: &Transaction<'_>,
    job: &str,
    behind: Timestamp,
) -> Result<()> {
    let update = "update audit.jobs set decided_to = least(decided_to, $2) where job = $1";
    transaction.execute(update, &[&job, &behind]).await.map_err(not_written)?;
    Ok(())
}

/// Notes how many changes of its tables a job has seen.
pub(super) async fn counted(
    transaction: &Transaction<'_>,
    job: &str,
    counted: &serde_json::Value,
) -> Result<()> {
    let update = "update audit.jobs set counted = $2 where job = $1";
    transaction.execute(update, &[&job, counted]).await.map_err(not_written)?;
    Ok(())
}

/// What is queued: a run's job, what it is about, and what has asked for it.
pub(super) struct Queued<'q> {
    /// The job.
    pub job: &'q Job,
    /// What of time it is about.
    pub about: Stretch,
    /// schedule, after, changes, asked, backfill.
    pub trigger: &'static str,
    /// Now.
    pub now: Timestamp,
}

/// Queues a run; none where there is one of the same interval already.
pub(super) async fn queue(
    transaction: &Transaction<'_>,
    queued: &Queued<'_>,
) -> Result<Option<i64>> {
    insert(transaction, queued, None).await
}

/// Notes a run that is left out, and why.
pub(super) async fn leave_out(
    transaction: &Transaction<'_>,
    queued: &Queued<'_>,
    why: &str,
) -> Result<Option<i64>> {
    insert(transaction, queued, Some(why)).await
}

async fn insert(
    transaction: &Transaction<'_>,
    queued: &Queued<'_>,
    left_out: Option<&str>,
) -> Result<Option<i64>> {
    let Queued { job, about, trigger, now } = queued;
    let calendar = Calendar::of(job);
    let (ds, prev_ds) = (calendar.day(about.start), calendar.day_before(about));
    let row = transaction
        .query_opt(
            "insert into audit.job_runs (job, interval_start, interval_end, ds, prev_ds, \"trigger\",
                                         queued_at, state, reason, finished_at)
             values ($1, $2, $3, $4, $5, $6, $7,
                     case when $8::text is null then 'queued' else 'skipped' end, $8,
                     case when $8::text is not null then $7::timestamptz end)
             on conflict (job, interval_start) do nothing returning run",
            &[&job.name, &about.start, &about.end, &ds, &prev_ds, trigger, now, &left_out],
        )
        .await
        .map_err(not_written)?;
    row.map(|row| row.try_get(0)).transpose().map_err(failed)
}

/// A run of an interval.
pub(super) struct There {
    /// Its number.
    pub run: i64,
    /// Its state.
    pub state: String,
    /// When it was queued last.
    pub queued_at: Timestamp,
}

impl There {
    /// Whether it is over and yet stands for no run of an interval that ended at `end`: it has not gone well,
    /// or it was queued before all of the interval was there, or by a clock that was ahead.
    pub(super) fn is_none(&self, end: Timestamp, now: Timestamp) -> bool {
        let early = self.queued_at < end || self.queued_at > now;
        match self.state.as_str() {
            "queued" | "running" => false,
            "success" => early,
            _ => true,
        }
    }
}

/// The run of an interval.
pub(super) async fn of_interval(
    client: &impl GenericClient,
    job: &str,
    start: Timestamp,
) -> Result<Option<There>> {
    let query =
        "select run, state, queued_at from audit.job_runs where job = $1 and interval_start = $2";
    let row = client.query_opt(query, &[&job, &start]).await.map_err(failed)?;
    let there = |row: Row| {
        Ok(There { run: row.try_get(0)?, state: row.try_get(1)?, queued_at: row.try_get(2)? })
    };
    row.map(there).transpose().map_err(failed)
}

/// Whether the run of an interval has gone well, and came to its end behind a moment.
pub(super) async fn went_well_since(
    client: &impl GenericClient,
    job: &str,
    start: Timestamp,
    since: Timestamp,
) -> Result<bool> {
    let query = "select exists (select from audit.job_runs where job = $1 and interval_start = $2
                                   and state = 'success' and finished_at > $3)";
    let row = client.query_one(query, &[&job, &start, &since]).await.map_err(failed)?;
    row.try_get(0).map_err(failed)
}

/// Queues a run that is over for another round: of these tasks, or of all. Of a run that was given up those that had not
/// been done then are among them: the ones behind them would be left out. One that goes on is left alone.
pub(super) async fn again(
    transaction: &Transaction<'_>,
    run: i64,
    tasks: Option<&[String]>,
    (trigger, now): (&str, Timestamp),
) -> Result<()> {
    let given_up = "select reason from audit.job_runs where run = $1 and state = 'cancelled'";
    let given_up = transaction.query_opt(given_up, &[&run]).await.map_err(failed)?;
    let given_up: Option<String> = given_up.and_then(|row| row.get(0));
    let over = transaction
        .execute(
            "update audit.job_runs set state = 'queued', reason = null, round = round + 1,
                    \"trigger\" = $3, queued_at = $2, started_at = null, finished_at = null
              where run = $1 and finished_at is not null",
            &[&run, &now, &trigger],
        )
        .await
        .map_err(not_written)?;
    if over == 0 {
        return Ok(());
    }
    transaction
        .execute(
            "update audit.task_runs set state = 'waiting', tries = 0, not_before = null,
                    began_at = null, finished_at = null, reason = null
              where run = $1 and ($2::text[] is null or task = any($2)
                                 or (state = 'skipped' and reason = $3))",
            &[&run, &tasks, &given_up],
        )
        .await
        .map_err(not_written)?;
    Ok(())
}

/// Says why a run has not begun yet.
pub(super) async fn waits(transaction: &Transaction<'_>, run: i64, why: &str) -> Result<()> {
    let update = "update audit.job_runs set reason = $2 where run = $1 and state = 'queued'";
    transaction.execute(update, &[&run, &why]).await.map_err(not_written)?;
    Ok(())
}

/// Begins a run.
pub(super) async fn begin(
    transaction: &Transaction<'_>,
    run: i64,
    tasks: &[&str],
    now: Timestamp,
) -> Result<()> {
    let update = "update audit.job_runs set state = 'running', started_at = $2, reason = null \
                  where run = $1 and state = 'queued'";
    transaction.execute(update, &[&run, &now]).await.map_err(not_written)?;
    let insert = "insert into audit.task_runs (run, task) select $1, unnest($2::text[]) \
                  on conflict do nothing";
    transaction.execute(insert, &[&run, &tasks]).await.map_err(not_written)?;
    Ok(())
}

/// Ends a run.
pub(super) async fn finish(
    transaction: &Transaction<'_>,
    run: i64,
    (state, reason): (&str, Option<&str>),
    now: Timestamp,
) -> Result<bool> {
    let update = "update audit.job_runs set state = $2, reason = $3, finished_at = $4 \
                  where run = $1 and finished_at is null";
    let ended = transaction.execute(update, &[&run, &state, &reason, &now]).await;
    Ok(ended.map_err(not_written)? == 1)
}

/// Gives a run up, with the attempts that go on.
pub(super) async fn give_up(
    transaction: &Transaction<'_>,
    run: i64,
    why: &str,
    now: Timestamp,
) -> Result<()> {
    let tasks = "update audit.task_runs set state = 'skipped', reason = $2, finished_at = $3 \
                 where run = $1 and state in ('waiting', 'running', 'retrying')";
    transaction.execute(tasks, &[&run, &why, &now]).await.map_err(not_written)?;
    let attempts = "update audit.etl_logs set status = 'cancelled', error_message = $2 \
                    where run = $1 and status = 'running'";
    transaction.execute(attempts, &[&run, &why]).await.map_err(not_written)?;
    finish(transaction, run, ("cancelled", Some(why)), now).await?;
    Ok(())
}

/// A task that never begins: it is left out, or one before it has failed.
pub(super) async fn settle(
    transaction: &Transaction<'_>,
    (run, task): (i64, &str),
    (state, reason): (TaskState, Option<&str>),
    now: Timestamp,
) -> Result<()> {
    let update = "update audit.task_runs set state = $3, reason = $4, finished_at = $5 \
                  where run = $1 and task = $2 and state in ('waiting', 'retrying')";
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
        [&run, &task, &state.word(), &reason, &now];
    transaction.execute(update, &parameters).await.map_err(not_written)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_stands_for_the_schedules_run_where_it_went_well_and_was_not_early() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (end, now) = (at("2024-03-02T00:00:00Z"), at("2024-03-02T02:00:00Z"));
        for (state, queued_at, none) in [
            ("success", "2024-03-02T01:00:00Z", false),
            ("success", "2024-03-01T23:59:59Z", true),
            ("success", "2025-03-02T00:00:00Z", true),
            ("failed", "2024-03-02T01:00:00Z", true),
            ("cancelled", "2024-03-02T01:00:00Z", true),
            ("skipped", "2024-03-02T01:00:00Z", true),
            ("queued", "2024-03-01T01:00:00Z", false),
            ("running", "2024-03-02T01:00:00Z", false),
        ] {
            let there = There { run: 1, state: state.to_owned(), queued_at: at(queued_at) };
            assert_eq!(there.is_none(end, now), none, "{state} {queued_at}");
        }
    }
}
