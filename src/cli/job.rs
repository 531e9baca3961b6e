//! `siltstone job`: how jobs stand, and what an operator asks of them. Asking writes a row of
//! `audit.requests`, which the owner of the schedule carries out.

use std::process::ExitCode;
use std::time::Duration;

use jiff::civil::Date;

use super::table::wait_for;
use super::{Files, ready};
use crate::error::{Error, Kind, Result};
use crate::postgres::{Session, Side, connect};
use crate::progress::requests::{self, About, Argument, Verb};
use crate::schedule::{JobVerb, Wish, jobs_as_json, run_of, runs_as_json};
use crate::spec::Spec;

/// How jobs stand, and what to do with them.
#[derive(clap::Subcommand)]
pub(super) enum Job {
    /// Lists the jobs: the last run of each, and when it is due next; of one job, its runs.
    List {
        /// The job whose runs are listed.
        job: Option<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Runs a job, also one that is paused: for a day, or the last interval that is over.
    Run {
        /// The job.
        job: String,
        /// The day, as 2024-03-10; a run for it that is over is run again.
        #[arg(long)]
        date: Option<Date>,
        /// Waits until the run has ended; exits with 65 where it failed.
        #[arg(long)]
        wait: bool,
    },
    /// Runs a job for each interval that begins on these days, one after the other.
    Backfill {
        /// The job.
        job: String,
        /// The first day.
        #[arg(long)]
        from: Date,
        /// The last day.
        #[arg(long)]
        to: Date,
        /// Also those whose run went well.
        #[arg(long)]
        again: bool,
        /// Waits until the runs are queued.
        #[arg(long)]
        wait: bool,
    },
    /// Runs the tasks of a run again: all of them, or one and what is behind it.
    Clear {
        /// The job.
        job: String,
        /// The day of the run.
        #[arg(long)]
        date: Date,
        /// The task.
        #[arg(long)]
        task: Option<String>,
        /// Waits until the service has answered.
        #[arg(long)]
        wait: bool,
    },
    /// Lets a job's schedule begin nothing until it is resumed.
    Pause {
        /// The job.
        job: String,
        /// Waits until the service has answered.
        #[arg(long)]
        wait: bool,
    },
    /// Lets a job's schedule begin runs again.
    Resume {
        /// The job.
        job: String,
        /// Waits until the service has answered.
        #[arg(long)]
        wait: bool,
    },
}

impl Job {
    pub(super) async fn run(self, files: &Files) -> Result<ExitCode> {
        let spec = files.load()?;
        let mut warehouse =
            connect(Side::Warehouse, &spec.settings.warehouse, "siltstone job").await?;
        let looks = matches!(self, Job::List { .. });
        ready(&mut warehouse, looks).await?;
        let (job, verb, wait) = match self {
            Job::List { job, json } => return list(files, &spec, &warehouse, (job, json)).await,
            Job::Run { job, date, wait } => (job, JobVerb::Run(date), wait),
            Job::Backfill { job, from, to, again, wait } => {
                (job, JobVerb::Backfill { from, to, again }, wait)
            }
            Job::Clear { job, date, task, wait } => (job, JobVerb::Clear { date, task }, wait),
            Job::Pause { job, wait } => (job, JobVerb::Pause, wait),
            Job::Resume { job, wait } => (job, JobVerb::Resume, wait),
        };
        known(&spec, &job)?;
        let runs = matches!(verb, JobVerb::Run(_));
        let id = ask(&warehouse, Wish { job, verb }).await?;
        let answered = wait_for(&warehouse, &[id], wait).await?;
        if !(runs && wait && answered == ExitCode::SUCCESS) {
            return Ok(answered);
        }
        loop {
            if let Some(state) = run_of(&*warehouse, id).await? {
                println!("{state}");
                return Ok(ExitCode::from(if state == "success" { 0 } else { 65 }));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Writes down what is asked; the request's number.
pub(super) async fn ask(warehouse: &Session, wish: Wish) -> Result<i64> {
    let wish = serde_json::to_string(&wish)
        .map_err(|error| Error::bug("a wish is no JSON").because(error))?;
    let about = About { argument: Argument::Job(&wish), ..About::default() };
    requests::ask(&**warehouse, Verb::Job, requests::JOBS, &about).await
}

fn known(spec: &Spec, job: &str) -> Result<()> {
    if spec.jobs.iter().any(|of| of.name == job) {
        return Ok(());
    }
    let what = format!("there is no job {job}");
    Err(Error::new(Kind::Usage, what).remedy("see siltstone job list"))
}

async fn list(
    files: &Files,
    spec: &Spec,
    warehouse: &Session,
    (job, json): (Option<String>, bool),
) -> Result<ExitCode> {
    let shown = match &job {
        Some(job) => {
            known(spec, job)?;
            runs_as_json(&**warehouse, job).await?
        }
        None => jobs_as_json(&**warehouse, &spec.jobs, files.clock.now()).await?,
    };
    for one in shown {
        if json {
            println!("{one}");
            continue;
        }
        let text = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
        match &job {
            Some(_) => println!(
                "{:<12} {:<10} {:<10} {}",
                text("ds"),
                text("state"),
                text("trigger"),
                text("reason")
            ),
            None => {
                let state = if one["paused"] == true { "paused".to_owned() } else { text("state") };
                println!(
                    "{:<30} {state:<10} {:<12} next {}",
                    text("name"),
                    text("ds"),
                    text("next")
                );
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
