//! Runs that are queued: which of them begins, what the others wait for, and what follows a run that is over.

use std::collections::HashMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio_postgres::Transaction;

use super::books::{self, Queued, Run};
use super::calendar::Stretch;
use super::runner::Runner;
use super::tasks;
use crate::error::Result;
use crate::postgres::Session;
use crate::spec::{Job, JobRequires, Overlap, Schedule};

/// How many runs of a job go on at once where they may.
const RUNS: usize = 8;

impl Runner {
    /// Begins runs that are queued, where nothing is in their way.
    pub(super) async fn start_runs(
        &mut self,
        session: &mut Session,
        jobs: &[Job],
        runs: &[Run],
        now: Timestamp,
    ) -> Result<()> {
        let mut running: HashMap<&str, usize> = HashMap::new();
        let mut waiting: HashMap<&str, Stretch> = HashMap::new();
        for run in runs.iter().filter(|run| run.running) {
            *running.entry(&run.job).or_default() += 1;
        }
        for run in runs.iter().filter(|run| !run.running) {
            let Some(job) = jobs.iter().find(|job| job.name == run.job) else {
                self.give_up(session, run, "its file is gone").await?;
                continue;
            };
            let at_work = running.entry(&run.job).or_default();
            // also what was given up a moment ago must have ended
            let lingers = self.tokens.values().any(|going| going.job == run.job);
            let full = match job.overlap {
                Overlap::Allow => *at_work >= RUNS,
                _ => *at_work > 0 || lingers,
            };
            // of thousands that wait for the same table one asks
            let later =
                |first: &Stretch| run.about.start >= first.start && run.about.end >= first.end;
            if full || waiting.get(run.job.as_str()).is_some_and(later) {
                continue;
            }
            let why = match &job.requires {
                None => None,
                Some(requires) => tasks::fresh(&**session, &requires.data, run.about).await?,
            };
            let late = |requires: &&JobRequires| waited_out(run, requires.timeout, now);
            match (why, job.requires.as_ref().filter(late)) {
                (None, _) => {
                    self.begin_run(session, job, run, now).await?;
                    *at_work += 1;
                }
                (Some(why), Some(requires)) => {
                    let limit = requires.timeout.as_secs();
                    let why = format!("{why}; it has waited for that longer than {limit} s");
                    self.fail_unbegun(session, run, &why, now).await?;
                }
                (Some(why), None) => {
                    waiting.insert(&run.job, run.about);
                    if run.reason.as_ref() == Some(&why) {
                        continue;
                    }
                    let transaction = self.transaction(session).await?;
                    books::waits(&transaction, run.id, &why).await?;
                    transaction.commit().await?;
                }
            }
        }
        Ok(())
    }

    async fn begin_run(
        &self,
        session: &mut Session,
        job: &Job,
        run: &Run,
        now: Timestamp,
    ) -> Result<()> {
        let tasks: Vec<&str> = job.tasks.iter().map(|task| task.name.as_str()).collect();
        let transaction = self.transaction(session).await?;
        books::begin(&transaction, run.id, &tasks, now).await?;
        transaction.commit().await?;
        tracing::info!(job = job.name, run = run.id, "begins for {}", run.days.0);
        Ok(())
    }

    /// Ends a run that never began, for what it waits for does not come. Its job goes on with the next one, and
    /// `job clear` has it wait once more.
    async fn fail_unbegun(
        &self,
        session: &mut Session,
        run: &Run,
        why: &str,
        now: Timestamp,
    ) -> Result<()> {
        let transaction = self.transaction(session).await?;
        if books::finish(&transaction, run.id, ("failed", Some(why)), now).await? {
            transaction.commit().await?;
            self.watcher.ended(&run.job, "failed", Duration::ZERO);
            tracing::warn!(job = run.job, run = run.id, "failed for {}: {why}", run.days.0);
        }
        Ok(())
    }
}

fn waited_out(run: &Run, timeout: Duration, now: Timestamp) -> bool {
    now.duration_since(run.queued_at)
        > SignedDuration::try_from(timeout).unwrap_or(SignedDuration::MAX)
}

/// Queues what comes after a run that is over: the runs of jobs that go by it, and another round of the run itself
/// where the one that it goes by has been run again meanwhile: it has not seen all of what that brought.
pub(super) async fn queue_what_follows(
    transaction: &Transaction<'_>,
    (jobs, job): (&[Job], &Job),
    run: &Run,
    (well, now): (bool, Timestamp),
) -> Result<()> {
    let known = books::known(transaction).await?;
    let paused = |job: &Job| known.get(&job.name).is_some_and(|known| known.paused);
    let after = |next: &&Job| matches!(&next.schedule, Schedule::After(of) if *of == job.name);
    for next in jobs.iter().filter(after).filter(|next| well && !paused(next)) {
        let queued = Queued { job: next, about: run.about, trigger: "after", now };
        match books::of_interval(transaction, &next.name, run.about.start).await? {
            None => drop(books::queue(transaction, &queued).await?),
            Some(there) => books::again(transaction, there.run, None, ("after", now)).await?,
        }
    }
    let Schedule::After(before) = &job.schedule else { return Ok(()) };
    let begun = run.started_at.unwrap_or(Timestamp::MIN);
    if !paused(job) && books::went_well_since(transaction, before, run.about.start, begun).await? {
        books::again(transaction, run.id, None, ("after", now)).await?;
    }
    Ok(())
}
