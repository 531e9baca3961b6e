//! An attempt at a task: a row of `audit.etl_logs` from its first moment on, and one end.
//!
//! An attempt that another one has taken the place of cannot end any more: its end names its number and that
//! it goes on, and changes nothing where that is no longer so.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use tokio_postgres::{GenericClient, Transaction};

use super::books::Run;
use super::calendar::Stretch;
use crate::error::{Error, Result};
use crate::spec::{Job, Task, Variable};

/// An attempt at a task of a run.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    /// The run.
    pub run: i64,
    /// The job.
    pub job: String,
    /// The task.
    pub task: Task,
    /// What of time the run is about.
    pub about: Stretch,
    /// Its number.
    pub number: i32,
    /// How many there were in this round, with this one.
    pub tries: i32,
    /// When the first one of this round began.
    pub began_at: Timestamp,
    /// The zone whose days the job counts.
    pub timezone: TimeZone,
    variables: [String; 4],
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It went well, and its end is written already.
    Written,
    /// It went well, with so many rows where that can be told.
    Done(Option<u64>),
    /// It was left out.
    Skipped(String),
    /// It has failed. Another attempt may go better.
    Failed(String),
    /// It has failed, and another attempt would as well.
    FailedForGood(String),
}

/// The longest pause before another attempt where pauses grow.
const LONGEST_PAUSE: Duration = Duration::from_hours(1);

/// Longer messages are cut.
const MESSAGE: usize = 8000;

fn failed(error: tokio_postgres::Error) -> Error {
    Error::warehouse("noting what becomes of a task", error)
}

impl Attempt {
    /// Notes that an attempt begins; none where the task is not waiting any more.
    pub(super) async fn begin(
        transaction: &Transaction<'_>,
        (job, run, task): (&Job, &Run, &Task),
        (now, epoch): (Timestamp, i64),
    ) -> Result<Option<Attempt>> {
        let row = transaction
            .query_opt(
                "update audit.task_runs
                    set state = 'running', attempt = attempt + 1, tries = tries + 1,
                        began_at = coalesce(began_at, $3), not_before = null, reason = null
                  where run = $1 and task = $2 and state in ('waiting', 'retrying')
              returning attempt, tries, began_at",
                &[&run.id, &task.name, &now],
            )
            .await
            .map_err(failed)?;
        let Some(row) = row else { return Ok(None) };
        let number: i32 = row.try_get(0).map_err(failed)?;
        transaction
            .execute(
                "insert into audit.etl_logs (dag_id, task_id, execution_date, status, created_at,
                                             run, attempt, epoch)
                 values ($1, $2, $3, 'running', $4, $5, $6, $7)",
                &[&job.name, &task.name, &run.about.start, &now, &run.id, &number, &epoch],
            )
            .await
            .map_err(failed)?;
        let time = |at: Timestamp| {
            at.to_zoned(job.timezone.clone()).strftime("%Y-%m-%d %H:%M:%S%.f%:z").to_string()
        };
        Ok(Some(Attempt {
            run: run.id,
            job: job.name.clone(),
            task: task.clone(),
            about: run.about,
            number,
            tries: row.try_get(1).map_err(failed)?,
            began_at: row.try_get(2).map_err(failed)?,
            timezone: job.timezone.clone(),
            variables: [
                run.days.0.to_string(),
                run.days.1.to_string(),
                time(run.about.start),
                time(run.about.end),
            ],
        }))
    }

    /// What its SQL is told.
    pub(super) fn variable(&self, variable: Variable) -> &str {
        let [ds, prev_ds, start, end] = &self.variables;
        match variable {
            Variable::Ds => ds,
            Variable::PrevDs => prev_ds,
            Variable::IntervalStart => start,
            Variable::IntervalEnd => end,
        }
    }

    /// A text with `{ds}`, `{prev_ds}`, `{interval_start}` and `{interval_end}` filled in.
    pub(super) fn filled(&self, text: &str) -> String {
        let [ds, prev_ds, start, end] = &self.variables;
        text.replace("{ds}", ds)
            .replace("{prev_ds}", prev_ds)
            .replace("{interval_start}", start)
            .replace("{interval_end}", end)
    }

    /// Notes that it went well, in the transaction that did its work; whether it still was to be done.
    pub(super) async fn succeed(
        &self,
        transaction: &Transaction<'_>,
        rows: Option<u64>,
        (now, took): (Timestamp, Duration),
    ) -> Result<bool> {
        if !self.settle(transaction, ("success", None), now).await? {
            return Ok(false);
        }
        self.log(transaction, ("success", None), rows, took).await?;
        Ok(true)
    }

    async fn settle(
        &self,
        transaction: &Transaction<'_>,
        (state, reason): (&str, Option<&str>),
        now: Timestamp,
    ) -> Result<bool> {
        let update = "update audit.task_runs set state = $4, reason = $5, finished_at = $6 \
                      where run = $1 and task = $2 and attempt = $3 and state = 'running'";
        let settled = transaction
            .execute(update, &[&self.run, &self.task.name, &self.number, &state, &reason, &now])
            .await
            .map_err(failed)?;
        Ok(settled == 1)
    }

    async fn log(
        &self,
        client: &impl GenericClient,
        (status, message): (&str, Option<&str>),
        rows: Option<u64>,
        took: Duration,
    ) -> Result<()> {
        let rows = rows.map(|rows| i64::try_from(rows).unwrap_or(i64::MAX));
        client
            .execute(
                "update audit.etl_logs
                    set status = $4, error_message = $5, records_processed = $6,
                        duration_seconds = $7::float8::numeric(12,3)
                  where run = $1 and task_id = $2 and attempt = $3 and status = 'running'",
                &[
                    &self.run,
                    &self.task.name,
                    &self.number,
                    &status,
                    &message,
                    &rows,
                    &took.as_secs_f64(),
                ],
            )
            .await
            .map_err(failed)?;
        Ok(())
    }

    /// Notes how it ended. Whether it has failed, this time or for good.
    pub(super) async fn end(
        &self,
        transaction: &Transaction<'_>,
        outcome: &Outcome,
        (now, took): (Timestamp, Duration),
    ) -> Result<bool> {
        let (why, retried) = match outcome {
            Outcome::Written => return Ok(false),
            Outcome::Done(rows) => {
                self.succeed(transaction, *rows, (now, took)).await?;
                return Ok(false);
            }
            Outcome::Skipped(why) => {
                if self.settle(transaction, ("skipped", Some(why)), now).await? {
                    self.log(transaction, ("skipped", Some(why)), None, took).await?;
                }
                return Ok(false);
            }
            Outcome::Failed(why) => (why, true),
            Outcome::FailedForGood(why) => (why, false),
        };
        let why = cut(why);
        let again = retried && self.tries <= i32::try_from(self.task.retries).unwrap_or(i32::MAX);
        let moved = match again {
            true => {
                let not_before = now.checked_add(pause(&self.task, self.tries));
                self.retry(transaction, &why, not_before.unwrap_or(Timestamp::MAX)).await?
            }
            false => self.settle(transaction, ("failed", Some(&why)), now).await?,
        };
        if moved {
            self.log(transaction, ("failed", Some(&why)), None, took).await?;
        }
        Ok(moved)
    }

    async fn retry(
        &self,
        transaction: &Transaction<'_>,
        why: &str,
        not_before: Timestamp,
    ) -> Result<bool> {
        let update = "update audit.task_runs set state = 'retrying', reason = $4, not_before = $5 \
                      where run = $1 and task = $2 and attempt = $3 and state = 'running'";
        let moved = transaction
            .execute(update, &[&self.run, &self.task.name, &self.number, &why, &not_before])
            .await
            .map_err(failed)?;
        Ok(moved == 1)
    }
}

/// Attempts that were given up because the service stops: they do not count, and come first at the next start.
pub(super) async fn hand_back(transaction: &Transaction<'_>, now: Timestamp) -> Result<()> {
    let tasks = "update audit.task_runs set state = 'retrying', tries = greatest(tries - 1, 0), \
                        not_before = $1 where state = 'running'";
    transaction.execute(tasks, &[&now]).await.map_err(failed)?;
    let attempts = "update audit.etl_logs set status = 'lost', \
                           error_message = 'given up: the service stopped' \
                     where status = 'running' and run is not null";
    transaction.execute(attempts, &[]).await.map_err(failed)?;
    Ok(())
}

/// What is kept of what a task says of itself: a program may say anything, and Postgres keeps no NUL.
fn cut(message: &str) -> String {
    message.chars().filter(|character| *character != '\0').take(MESSAGE).collect()
}

/// How long a task waits after so many attempts.
fn pause(task: &Task, tries: i32) -> SignedDuration {
    let mut pause = task.retry_delay;
    if task.backoff {
        let doublings = u32::try_from(tries.saturating_sub(1)).unwrap_or(0).min(16);
        pause = pause.saturating_mul(2_u32.pow(doublings)).min(LONGEST_PAUSE.max(task.retry_delay));
    }
    SignedDuration::try_from(pause).unwrap_or(SignedDuration::MAX)
}

/// What an owner before has left half done is tried again, or has failed, as the task's rule says; a sensor
/// goes on waiting. `retries` tells a task's number of retries; how many were left.
pub(super) async fn take_up(
    transaction: &Transaction<'_>,
    retries: impl Fn(&str, &str) -> Option<u32>,
    now: Timestamp,
) -> Result<usize> {
    const LOST: &str = "lost: the service that ran it went away";
    let rows = transaction
        .query(
            "select r.run, r.job, t.task, t.tries from audit.task_runs t
               join audit.job_runs r using (run) where t.state = 'running' for update of t",
            &[],
        )
        .await
        .map_err(failed)?;
    for row in &rows {
        let (run, job, task, tries): (i64, String, String, i32) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        // one that is in no file any more is settled by the run
        let most =
            retries(&job, &task).map_or(0, |retries| i32::try_from(retries).unwrap_or(i32::MAX));
        let again = tries <= most;
        let update = match again {
            true => {
                "update audit.task_runs set state = 'retrying', not_before = $3, reason = $4 \
                     where run = $1 and task = $2"
            }
            false => {
                "update audit.task_runs set state = 'failed', finished_at = $3, reason = $4 \
                      where run = $1 and task = $2"
            }
        };
        transaction.execute(update, &[&run, &task, &now, &LOST]).await.map_err(failed)?;
    }
    let update = "update audit.etl_logs set status = 'lost', error_message = $1 \
                  where status = 'running' and run is not null";
    transaction.execute(update, &[&LOST]).await.map_err(failed)?;
    Ok(rows.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{TaskKind, TriggerRule};

    #[test]
    fn pauses_grow_where_that_is_asked_for() {
        let mut task = Task {
            name: "t".to_owned(),
            kind: TaskKind::Command(Vec::new()),
            depends_on: Vec::new(),
            rule: TriggerRule::AllSuccess,
            retries: 3,
            retry_delay: Duration::from_mins(5),
            backoff: false,
            timeout: Duration::ZERO,
            allow_failure: false,
        };
        assert_eq!(pause(&task, 3), SignedDuration::from_mins(5));
        task.backoff = true;
        let pauses = [1, 2, 3, 4, 5, 90].map(|tries| pause(&task, tries).as_mins());
        assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
        task.retry_delay = Duration::MAX;
        assert_eq!(pause(&task, 90), SignedDuration::MAX);
    }
}
