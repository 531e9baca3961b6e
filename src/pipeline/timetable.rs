//! The schedule's place in the service: one instance owns it, the others stand by. Whatever goes wrong here
//! stops no connector: it is said, and tried again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::checks::Checker;
use super::databases::Rates;
use super::extracts::Bringer;
use super::feeds::ByFiles;
use super::leased::{Place, become_owner, keep_lease};
use super::messenger::Messenger;
use super::told::Events;
use crate::alerts::Sender;
use crate::capture::api::Paces;
use crate::clock::Clock;
use crate::error::{Error, Kind, Policy, Result};
use crate::merge::{Leaves, Templates, absent, ahead, create_leaves};
use crate::postgres::{Endpoint, Session, Side, connect};
use crate::progress::requests::{self, JOBS, Request, Verb};
use crate::schedule::{
    Attempted, Hands, MakesLeaves, Making, Runner, Watcher, WatchesArchives, Wish, archives_left,
    carry_out, keep_archives, note_run,
};
use crate::serve::Board;
use crate::spec::{Model, Spec};
use crate::warehouse::{Durations, Fence, Fenced, migrate, refuse_outstanding, register};

/// Who owns this owns the schedule.
const RESOURCE: &str = "scheduler";

/// How often the clock is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The first and the longest pause behind a failure.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The schedule of the files.
pub(super) struct Timetable {
    pub(super) files: watch::Receiver<Arc<Spec>>,
    pub(super) clock: Clock,
    pub(super) board: Board,
    pub(super) durations: Durations,
    /// where ends of tasks are told
    pub(super) events: Events,
    /// names this run of this process
    pub(super) owner: Arc<str>,
    pub(super) no_ddl: bool,
    /// the merge's statements
    pub(super) templates: Templates,
    /// when each API may be asked again
    pub(super) paces: Paces,
    /// how fast tables are read
    pub(super) rates: Rates,
}

impl Timetable {
    /// Runs the jobs of the files until `stop` turns true.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut pause = PAUSES.0;
        loop {
            let endpoint = self.files.borrow().settings.warehouse.clone();
            tokio::select! {
                biased;
                // without jobs there is nothing to own
                there = self.files.wait_for(|spec| !spec.jobs.is_empty()) => {
                    if there.is_err() { return }
                }
                _ = stop.wait_for(|stop| *stop) => return,
                // what archives of before have left goes with the place
                () = archives_left(&endpoint) => {}
            }
            match self.session(stop.clone()).await {
                Ok(()) if *stop.borrow() => return,
                Ok(()) => pause = PAUSES.0,
                Err(error) if error.kind() == Kind::Fenced => {
                    tracing::warn!("another instance runs the jobs: standing by");
                    pause = PAUSES.0;
                }
                Err(error) if error.kind().policy() == Policy::Retry => {
                    tracing::warn!("jobs: {}; trying again", error.reason());
                }
                Err(error) => tracing::error!("jobs: {error}"),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Becomes the owner and works until something fails or it is told to stop.
    async fn session(&mut self, mut stop: watch::Receiver<bool>) -> Result<()> {
        let endpoint = self.files.borrow().settings.warehouse.clone();
        let mut session = connect(Side::Warehouse, &endpoint, "siltstone scheduler").await?;
        match self.no_ddl {
            true => refuse_outstanding(&*session).await?,
            false => migrate(&mut session).await?,
        }
        let place = Place { resource: RESOURCE, what: "jobs", owner: &self.owner };
        let Some(fence) = become_owner(&mut session, &place, stop.clone()).await? else {
            return Ok(());
        };
        let lease = connect(Side::Warehouse, &endpoint, "siltstone scheduler").await?;
        register(&lease, &fence).await?;
        tracing::info!("runs the jobs");
        let watcher = Arc::new(OnBoard(self.board.clone(), self.events.clone()));
        let archives = keep_archives(self.files.clone(), (endpoint, fence.clone()), watcher);
        let worked = tokio::select! {
            worked = self.work(&mut session, &fence, &mut stop) => worked,
            lost = keep_lease(&lease, &fence) => lost,
            () = archives => Ok(()),
        };
        if worked.is_ok() {
            fence.release(&lease, false).await?;
        }
        worked
    }

    async fn work(
        &mut self,
        session: &mut Session,
        fence: &Fence,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<()> {
        let mut spec = self.files.borrow_and_update().clone();
        // a session's warehouse stays the one that it began with
        let endpoint = spec.settings.warehouse.clone();
        let watcher = Arc::new(OnBoard(self.board.clone(), self.events.clone()));
        let tells = Arc::new(Messenger {
            files: self.files.clone(),
            sender: Sender::new()?,
            board: self.board.clone(),
            clock: self.clock.clone(),
        });
        let hands = self.hands(&spec, fence, &endpoint, &tells);
        let mut runner = Runner::begin(hands, watcher, session, &spec.jobs).await?;
        loop {
            // runs of before go on by the files as they are now
            if self.files.has_changed().unwrap_or(false) {
                spec = self.files.borrow_and_update().clone();
                runner.take(self.hands(&spec, fence, &endpoint, &tells));
            }
            for request in requests::open(&**session, JOBS).await? {
                if let Err(error) = self.carry_out(session, fence, (&spec, &request)).await {
                    // what cannot be done must not bar the way to everything behind it
                    self.refuse(session, fence, (&request, &error)).await?;
                }
            }
            runner.look(session, &spec.jobs).await?;
            if *stop.borrow() {
                return runner.stop(session).await;
            }
            // only the waiting is given up for a stop: what has ended is noted
            let ended = tokio::select! {
                ended = runner.ended(LOOK_EVERY) => ended?,
                _ = stop.wait_for(|stop| *stop) => None,
            };
            if let Some(ended) = ended {
                runner.note(session, ended).await?;
            }
        }
    }

    /// What tasks work with, by the files as they are.
    fn hands(
        &self,
        spec: &Spec,
        fence: &Fence,
        endpoint: &Endpoint,
        tells: &Arc<Messenger>,
    ) -> Arc<Hands> {
        Arc::new(Hands {
            endpoint: endpoint.clone(),
            fence: fence.clone(),
            clock: self.clock.clone(),
            durations: self.durations.clone(),
            root: spec.root.clone(),
            models: spec.models.clone().into(),
            leaves: Arc::new(MergeLeaves { no_ddl: self.no_ddl }),
            tells: tells.clone(),
            feeds: Arc::new(ByFiles(self.files.clone())),
            brings: Arc::new(Bringer {
                files: self.files.clone(),
                paces: self.paces.clone(),
                rates: self.rates.clone(),
                board: self.board.clone(),
                templates: self.templates.clone(),
                no_ddl: self.no_ddl,
            }),
            checks: Arc::new(Checker::of(spec, &self.board)),
        })
    }

    /// Answers a request that failed. Where the session or the lease is gone this fails as well.
    async fn refuse(
        &self,
        session: &mut Session,
        fence: &Fence,
        (request, error): (&Request, &Error),
    ) -> Result<()> {
        let transaction = Fenced::begin(session, fence, "request", &self.durations).await?;
        if requests::claim(&*transaction, request.id).await? {
            let why = error.reason().replace('\0', "");
            requests::answer(&*transaction, request.id, false, &why).await?;
        }
        transaction.commit().await
    }

    async fn carry_out(
        &self,
        session: &mut Session,
        fence: &Fence,
        (spec, request): (&Spec, &Request),
    ) -> Result<()> {
        let transaction = Fenced::begin(session, fence, "request", &self.durations).await?;
        if !requests::claim(&*transaction, request.id).await? {
            return Ok(());
        }
        let wish = request.argument.as_deref().filter(|_| request.verb == Verb::Job);
        let wish = wish.and_then(|wish| serde_json::from_str::<Wish>(wish).ok());
        let (done, text) = match wish {
            None => (false, "this version does not know the request".to_owned()),
            Some(wish) => {
                let by = ("an operator", self.clock.now());
                let answer = carry_out(&transaction, &spec.jobs, &wish, by).await?;
                if let Some(run) = answer.run {
                    note_run(&transaction, request.id, run).await?;
                }
                (answer.done, answer.text)
            }
        };
        requests::answer(&*transaction, request.id, done, &text.replace('\0', "")).await?;
        transaction.commit().await?;
        tracing::info!("{text}");
        Ok(())
    }
}

/// Tells the board what becomes of jobs, and who follows lineage.
struct OnBoard(Board, Events);

impl Watcher for OnBoard {
    fn ended(&self, job: &str, state: &'static str, took: Duration) {
        self.0.run_ended(job, state, took);
    }

    fn failed(&self, job: &str, task: &str) {
        self.0.task_failed(job, task);
    }

    fn attempted(&self, attempt: &Attempted<'_>) {
        let Attempted { job, task, number, run, took, at, done, failed } = *attempt;
        if done {
            self.0.task_done(job, task, (at, took));
        }
        self.1.task(job, task, (&format!("{run} {number}"), took, failed));
    }
}

impl WatchesArchives for OnBoard {
    fn behind(&self, folder: &str, bytes: i64) {
        self.0.archive_behind(folder, bytes);
    }
}

/// Leaves as batches make them.
struct MergeLeaves {
    no_ddl: bool,
}

impl MakesLeaves for MergeLeaves {
    fn make<'m>(
        &'m self,
        session: &'m mut Session,
        hands: &'m Hands,
        model: &'m Model,
    ) -> Making<'m> {
        Box::pin(async move {
            const DAY: i64 = 86_400_000_000;
            let today = hands.clock.now_postgres().div_euclid(DAY);
            let wanted = Leaves::default().missing(model, ahead(model, today))?;
            let missing = absent(&**session, wanted).await?;
            if missing.is_empty() || self.no_ddl {
                return Ok(0);
            }
            let made = u64::try_from(missing.len()).unwrap_or(u64::MAX);
            // each for itself: a transaction must not hold the locks of many
            for leaf in missing {
                let transaction =
                    Fenced::begin(session, &hands.fence, "leaves", &hands.durations).await?;
                transaction
                    .batch_execute("set local lock_timeout to '1s'")
                    .await
                    .map_err(|error| crate::error::Error::warehouse("making leaves", error))?;
                create_leaves(&*transaction, std::slice::from_ref(&leaf)).await?;
                transaction.commit().await?;
            }
            Ok(made)
        })
    }
}
