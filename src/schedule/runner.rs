//! The owner of the schedule at work. A look at the clock and the books decides what is due, what begins, what
//! is tried and what is over; every change is a transaction that holds the owner's epoch.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::attempt::{Attempt, Outcome, hand_back, take_up};
use super::books::{self, Run, TaskRun};
use super::changes;
use super::judge::{self, States, TaskState, Verdict};
use super::starts;
use super::tasks::{self, Hands};
use crate::error::{Error, Result};
use crate::postgres::Session;
use crate::spec::{Job, Task, TaskKind};
use crate::warehouse::Fenced;

/// How many tasks of all jobs go on at once: each has a session at the warehouse. Sensors hold none.
const TASKS: usize = 16;

/// So many of them are for jobs of which none goes on: a backfill of long tasks must not hold up what is short.
const SPARE: usize = 4;

/// Told what becomes of runs and attempts.
pub trait Watcher: Send + Sync {
    /// A run has ended: its state, and how long it took.
    fn ended(&self, job: &str, state: &'static str, took: Duration);
    /// An attempt has failed.
    fn failed(&self, job: &str, task: &str);
    /// An attempt has come to its end.
    fn attempted(&self, attempt: &Attempted<'_>);
}

/// An attempt at a task that has come to its end.
#[derive(Clone, Copy, Debug)]
pub struct Attempted<'a> {
    /// The job.
    pub job: &'a str,
    /// The task.
    pub task: &'a str,
    /// The number of the run.
    pub run: i64,
    /// The number of the attempt at the task in it.
    pub number: i32,
    /// How long it took.
    pub took: Duration,
    /// When it came to its end.
    pub at: Timestamp,
    /// Whether it did its work: it has neither failed nor been left out.
    pub done: bool,
    /// Why it failed.
    pub failed: Option<&'a str>,
}

/// The owner's work, as long as its epoch stands.
pub struct Runner {
    pub(super) hands: Arc<Hands>,
    pub(super) watcher: Arc<dyn Watcher>,
    going: JoinSet<(Attempt, Outcome, Duration)>,
    /// the attempts that go on, by run and task, and what gives each up
    pub(super) tokens: HashMap<(i64, String), Going>,
    pub(super) counting: changes::Counting,
}

/// An attempt that has ended, and how.
pub struct Ended((Attempt, Outcome, Duration));

/// An attempt that goes on.
pub(super) struct Going {
    pub(super) job: String,
    sensor: bool,
    abandon: watch::Sender<bool>,
}

impl Runner {
    /// Takes the schedule up: what an owner before has left half done is settled by its rule.
    pub async fn begin(
        hands: Arc<Hands>,
        watcher: Arc<dyn Watcher>,
        session: &mut Session,
        jobs: &[Job],
    ) -> Result<Runner> {
        let now = hands.clock.now();
        let transaction =
            Fenced::begin(session, &hands.fence, "schedule", &hands.durations).await?;
        let lost = take_up(&transaction, |job, task| retries(jobs, job, task), now).await?;
        transaction.commit().await?;
        if lost > 0 {
            tracing::warn!("attempts that an owner before has left half done: {lost}");
        }
        let (going, tokens) = (JoinSet::new(), HashMap::new());
        Ok(Runner { hands, watcher, going, tokens, counting: changes::Counting::default() })
    }

    /// Works with others from now on: the files were read again. What goes on keeps those that it has.
    pub fn take(&mut self, hands: Arc<Hands>) {
        self.hands = hands;
    }

    /// Waits until an attempt ends, or for a while. Nothing is lost where this is given up; what it returns
    /// must be noted.
    pub async fn ended(&mut self, most: Duration) -> Result<Option<Ended>> {
        let ended = tokio::select! {
            Some(ended) = self.going.join_next(), if !self.going.is_empty() => ended,
            () = tokio::time::sleep(most) => return Ok(None),
        };
        let ended =
            ended.map_err(|error| Error::bug("a task of a job broke off").because(error))?;
        Ok(Some(Ended(ended)))
    }

    /// Notes how an attempt ended.
    pub async fn note(&mut self, session: &mut Session, ended: Ended) -> Result<()> {
        let Ended((attempt, outcome, took)) = ended;
        self.tokens.remove(&(attempt.run, attempt.task.name.clone()));
        let now = self.hands.clock.now();
        let transaction = self.transaction(session).await?;
        let failed = attempt.end(&transaction, &outcome, (now, took)).await?;
        transaction.commit().await?;
        let (job, task) = (attempt.job.as_str(), attempt.task.name.as_str());
        if failed {
            self.watcher.failed(job, task);
        }
        let why = match &outcome {
            Outcome::Failed(why) | Outcome::FailedForGood(why) => Some(why.as_str()),
            Outcome::Written | Outcome::Done(_) | Outcome::Skipped(_) => None,
        };
        let done = matches!(outcome, Outcome::Written | Outcome::Done(_));
        let (run, number) = (attempt.run, attempt.number);
        let attempted = Attempted { job, task, run, number, took, at: now, done, failed: why };
        self.watcher.attempted(&attempted);
        match &outcome {
            Outcome::Failed(why) | Outcome::FailedForGood(why) => {
                tracing::warn!(job, task, attempt = attempt.number, "{why}");
            }
            _ => tracing::info!(job, task, attempt = attempt.number, "done"),
        }
        Ok(())
    }

    /// One look: what is due, what begins, what is tried, what is over.
    pub async fn look(&mut self, session: &mut Session, jobs: &[Job]) -> Result<()> {
        let now = self.hands.clock.now();
        self.plan(session, jobs, now).await?;
        let runs = books::open(&**session).await?;
        self.start_runs(session, jobs, &runs, now).await?;
        let runs = books::open(&**session).await?;
        let tasks = books::tasks(&**session).await?;
        for run in runs.into_iter().filter(|run| run.running) {
            let Some(tasks) = tasks.get(&run.id) else { continue };
            match jobs.iter().find(|job| job.name == run.job) {
                Some(job) => self.advance(session, (jobs, job), &run, tasks).await?,
                None => self.give_up(session, &run, "its file is gone").await?,
            }
        }
        Ok(())
    }

    pub(super) async fn transaction<'s>(&self, session: &'s mut Session) -> Result<Fenced<'s>> {
        Fenced::begin(session, &self.hands.fence, "schedule", &self.hands.durations).await
    }

    /// Moves a run on: tasks that begin, that never will, and its end.
    async fn advance(
        &mut self,
        session: &mut Session,
        (jobs, job): (&[Job], &Job),
        run: &Run,
        tasks: &BTreeMap<String, TaskRun>,
    ) -> Result<()> {
        let now = self.hands.clock.now();
        // a task that its file has had since the run began is one of it: those behind it wait for it
        if job.tasks.iter().any(|task| !tasks.contains_key(&task.name)) {
            let names: Vec<&str> = job.tasks.iter().map(|task| task.name.as_str()).collect();
            let transaction = self.transaction(session).await?;
            books::begin(&transaction, run.id, &names, now).await?;
            return transaction.commit().await;
        }
        let mut states: States<'_> =
            tasks.iter().map(|(name, task)| (name.as_str(), task.state)).collect();
        let mut settled: Vec<(&str, TaskState, &str)> = Vec::new();
        // its file may have changed
        for (name, task) in tasks {
            if !job.tasks.iter().any(|of| of.name == *name) && !task.state.is_final() {
                settled.push((name, TaskState::Skipped, "it is in its file no more"));
            }
        }
        let mut begin = Vec::new();
        for task in &job.tasks {
            let Some(known) = tasks.get(&task.name) else { continue };
            match known.state {
                TaskState::Waiting => {}
                TaskState::Retrying if known.not_before.is_none_or(|at| at <= now) => {
                    begin.push(task);
                    continue;
                }
                _ => continue,
            }
            let (state, why) = match judge::judge(&job.tasks, &states, task) {
                Verdict::Wait => continue,
                Verdict::Begin => {
                    begin.push(task);
                    continue;
                }
                Verdict::Skip => (TaskState::Skipped, "its trigger rule"),
                Verdict::UpstreamFailed => (TaskState::UpstreamFailed, "one before it has failed"),
            };
            settled.push((&task.name, state, why));
            // those behind it are judged with that
            states.insert(&task.name, state);
        }
        if !settled.is_empty() {
            let transaction = self.transaction(session).await?;
            for (name, state, why) in settled {
                books::settle(&transaction, (run.id, name), (state, Some(why)), now).await?;
            }
            transaction.commit().await?;
        }
        for task in begin {
            self.attempt(session, job, run, task).await?;
        }
        match judge::ended(&job.tasks, &states) {
            Some(well) => self.finish(session, (jobs, job), run, well).await,
            None => Ok(()),
        }
    }

    /// Begins an attempt at a task, where there is room.
    async fn attempt(
        &mut self,
        session: &mut Session,
        job: &Job,
        run: &Run,
        task: &Task,
    ) -> Result<()> {
        let sensor = matches!(task.kind, TaskKind::Sensor { .. });
        let at_work = self.tokens.iter().filter(|(_, going)| !going.sensor);
        let of_run = at_work.clone().filter(|((of, _), _)| *of == run.id).count();
        let key = (run.id, task.name.clone());
        let idle = !at_work.clone().any(|(_, going)| going.job == job.name);
        let room = if idle { TASKS } else { TASKS - SPARE };
        let full = !sensor && (of_run >= job.parallel || at_work.count() >= room);
        // one that was given up has not ended yet
        if full || self.tokens.contains_key(&key) {
            return Ok(());
        }
        let now = self.hands.clock.now();
        let epoch = self.hands.fence.epoch();
        let transaction = self.transaction(session).await?;
        let begun = Attempt::begin(&transaction, (job, run, task), (now, epoch)).await?;
        transaction.commit().await?;
        let Some(attempt) = begun else { return Ok(()) };
        let (abandon, abandoned) = watch::channel(false);
        self.tokens.insert(key, Going { job: job.name.clone(), sensor, abandon });
        self.going.spawn(tasks::run(self.hands.clone(), attempt, abandoned));
        Ok(())
    }

    /// Ends a run, and queues what comes after it.
    async fn finish(
        &mut self,
        session: &mut Session,
        (jobs, job): (&[Job], &Job),
        run: &Run,
        well: bool,
    ) -> Result<()> {
        let now = self.hands.clock.now();
        let state = if well { "success" } else { "failed" };
        let transaction = self.transaction(session).await?;
        if !books::finish(&transaction, run.id, (state, None), now).await? {
            return Ok(());
        }
        starts::queue_what_follows(&transaction, (jobs, job), run, (well, now)).await?;
        transaction.commit().await?;
        let took = run.started_at.map_or(SignedDuration::ZERO, |from| now.duration_since(from));
        self.watcher.ended(&job.name, state, took.unsigned_abs());
        tracing::info!(job = job.name, run = run.id, "{state} for {}", run.days.0);
        Ok(())
    }

    /// Gives a run up, with its attempts.
    pub async fn give_up(&mut self, session: &mut Session, run: &Run, why: &str) -> Result<()> {
        let now = self.hands.clock.now();
        let transaction = self.transaction(session).await?;
        books::give_up(&transaction, run.id, why, now).await?;
        transaction.commit().await?;
        tracing::warn!(job = run.job, run = run.id, "given up: {why}");
        self.abandon(&[run.id]);
        Ok(())
    }

    pub(super) fn abandon(&self, runs: &[i64]) {
        for (_, going) in self.tokens.iter().filter(|((run, _), _)| runs.contains(run)) {
            going.abandon.send_replace(true);
        }
    }

    /// Gives up all that goes on, waits until it has, and hands it back: it goes on with the next owner.
    pub async fn stop(mut self, session: &mut Session) -> Result<()> {
        for going in self.tokens.values() {
            going.abandon.send_replace(true);
        }
        while let Some(ended) = self.going.join_next().await {
            // what came to its end before it was told is not done again
            use Outcome::{Done, FailedForGood, Skipped};
            if let Ok(ended @ (_, Done(_) | Skipped(_) | FailedForGood(_), _)) = ended {
                self.note(session, Ended(ended)).await?;
            }
        }
        let now = self.hands.clock.now();
        let transaction = self.transaction(session).await?;
        hand_back(&transaction, now).await?;
        transaction.commit().await
    }
}

fn retries(jobs: &[Job], job: &str, task: &str) -> Option<u32> {
    let job = jobs.iter().find(|of| of.name == job)?;
    let task = job.tasks.iter().find(|of| of.name == task)?;
    // a sensor's time counts, not its attempts
    Some(if matches!(task.kind, TaskKind::Sensor { .. }) { u32::MAX } else { task.retries })
}
