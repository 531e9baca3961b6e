//! What people ask of jobs: a run, runs over a range, a run cleared, a pause.

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use tokio_postgres::{GenericClient, Transaction};

use super::books::{self, Queued, There};
use super::calendar::{Calendar, Stretch};
use super::judge::with_downstream;
use crate::error::{Error, Result};
use crate::spec::Job;

/// How many runs a range may ask for.
const RANGE: usize = 5000;

/// What is asked, of which job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// The job.
    pub job: String,
    /// What of it.
    pub verb: JobVerb,
}

/// What is asked of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobVerb {
    /// A run: about a day, or the last interval that is over.
    Run(Option<Date>),
    /// Runs about each interval that begins on these days.
    Backfill {
        /// The first day.
        from: Date,
        /// The last one.
        to: Date,
        /// Whether what went well is run again.
        again: bool,
    },
    /// A run's tasks are waiting again: one and what is behind it, or all.
    Clear {
        /// The run's day.
        date: Date,
        /// The task.
        task: Option<String>,
    },
    /// Its schedule begins nothing.
    Pause,
    /// Its schedule begins runs again.
    Resume,
}

/// What was answered: whether it was done, what is said, and the run that is to be waited for.
pub struct Answer {
    /// Whether it was done.
    pub done: bool,
    /// What is said.
    pub text: String,
    /// The run.
    pub run: Option<i64>,
}

impl Answer {
    fn of(done: bool, text: impl Into<String>) -> Answer {
        Answer { done, text: text.into(), run: None }
    }
}

/// Notes the run that a request has asked for, so that whoever asked can wait for it.
pub async fn note_run(transaction: &Transaction<'_>, request: i64, run: i64) -> Result<()> {
    let update = "update audit.requests set run = $2 where id = $1";
    transaction.execute(update, &[&request, &run]).await.map_err(failed)?;
    Ok(())
}

/// How the run ended that a request has asked for: none before that.
pub async fn run_of(client: &impl GenericClient, request: i64) -> Result<Option<String>> {
    let query = "select r.state from audit.requests q join audit.job_runs r using (run) \
                 where q.id = $1 and r.finished_at is not null";
    let row = client.query_opt(query, &[&request]).await.map_err(failed)?;
    row.map(|row| row.try_get(0)).transpose().map_err(failed)
}

fn failed(error: tokio_postgres::Error) -> Error {
    Error::warehouse("noting what is asked of a job", error)
}

/// Does what is asked.
pub async fn carry_out(
    transaction: &Transaction<'_>,
    jobs: &[Job],
    wish: &Wish,
    (by, now): (&str, Timestamp),
) -> Result<Answer> {
    let Some(job) = jobs.iter().find(|job| job.name == wish.job) else {
        return Ok(Answer::of(
            false,
            format!("there is no job {}; see siltstone job list", wish.job),
        ));
    };
    let calendar = Calendar::of(job);
    match &wish.verb {
        JobVerb::Run(date) => {
            let about = match date {
                Some(day) => calendar.of_day(*day),
                None => Some(calendar.now(now)),
            };
            let Some(about) = about else {
                return Ok(Answer::of(false, "no interval begins on that day"));
            };
            if about.end > now {
                return Ok(Answer::of(false, "the interval that begins on that day is not over"));
            }
            run(transaction, job, about, now).await
        }
        JobVerb::Backfill { from, to, again } => {
            let stretches: Vec<Stretch> = calendar.of_days(*from, *to).take(RANGE + 1).collect();
            if stretches.len() > RANGE {
                return Ok(Answer::of(
                    false,
                    format!("that is more than {RANGE} runs; ask for parts"),
                ));
            }
            let over = stretches.iter().filter(|stretch| stretch.end <= now);
            backfill(transaction, job, over, (*again, now)).await
        }
        JobVerb::Clear { date, task } => {
            clear(transaction, job, (*date, task.as_deref()), now).await
        }
        JobVerb::Pause | JobVerb::Resume => {
            let paused = wish.verb == JobVerb::Pause;
            books::meet(transaction, &job.name, calendar.first(now)).await?;
            let update = "update audit.jobs set paused = $2, paused_by = case when $2 then $3 end \
                          where job = $1";
            transaction.execute(update, &[&job.name, &paused, &by]).await.map_err(failed)?;
            let what = match paused {
                true => "is paused; what has begun goes on",
                false => "goes on",
            };
            Ok(Answer::of(true, format!("{} {what}", job.name)))
        }
    }
}

async fn run(
    transaction: &Transaction<'_>,
    job: &Job,
    about: Stretch,
    now: Timestamp,
) -> Result<Answer> {
    let queued = Queued { job, about, trigger: "asked", now };
    let day = Calendar::of(job).day(about.start);
    let text = format!("{} runs for {day}", job.name);
    if let Some(run) = books::queue(transaction, &queued).await? {
        return Ok(Answer { done: true, text, run: Some(run) });
    }
    match books::of_interval(transaction, &job.name, about.start).await? {
        Some(There { run, state, .. }) if !matches!(state.as_str(), "queued" | "running") => {
            books::again(transaction, run, None, ("asked", now)).await?;
            Ok(Answer { done: true, text, run: Some(run) })
        }
        _ => Ok(Answer::of(false, format!("its run for {day} is not over"))),
    }
}

async fn backfill(
    transaction: &Transaction<'_>,
    job: &Job,
    stretches: impl Iterator<Item = &Stretch>,
    (again, now): (bool, Timestamp),
) -> Result<Answer> {
    let (mut queued, mut left) = (0, 0);
    for about in stretches {
        let one = Queued { job, about: *about, trigger: "backfill", now };
        if books::queue(transaction, &one).await?.is_some() {
            queued += 1;
            continue;
        }
        match books::of_interval(transaction, &job.name, about.start).await? {
            Some(There { run, state, .. })
                if again || matches!(state.as_str(), "failed" | "skipped" | "cancelled") =>
            {
                books::again(transaction, run, None, ("backfill", now)).await?;
                queued += 1;
            }
            _ => left += 1,
        }
    }
    let text = format!("{}: runs queued: {queued}; there already: {left}", job.name);
    Ok(Answer::of(true, text))
}

async fn clear(
    transaction: &Transaction<'_>,
    job: &Job,
    (date, task): (Date, Option<&str>),
    now: Timestamp,
) -> Result<Answer> {
    if let Some(task) = task.filter(|task| job.tasks.iter().all(|of| of.name != **task)) {
        return Ok(Answer::of(false, format!("{} has no task {task}", job.name)));
    }
    let query = "select run, state from audit.job_runs where job = $1 and ds = $2 \
                 order by interval_start for update";
    let rows = transaction.query(query, &[&job.name, &date]).await.map_err(failed)?;
    let tasks = task.map(|task| with_downstream(&job.tasks, task));
    let runs: Vec<(i64, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    // of several on a day all or none
    if runs.iter().any(|(_, state)| matches!(state.as_str(), "queued" | "running")) {
        return Ok(Answer::of(false, format!("its run for {date} is not over")));
    }
    let mut cleared = 0;
    for (run, _) in runs {
        books::again(transaction, run, tasks.as_deref(), ("asked", now)).await?;
        cleared += 1;
    }
    match cleared {
        0 => Ok(Answer::of(false, format!("there is no run of {} for {date}", job.name))),
        _ => Ok(Answer::of(true, format!("{}: runs cleared for {date}: {cleared}", job.name))),
    }
}
