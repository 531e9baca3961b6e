//! What tasks do, one file a kind, and the limits that all have: time, and being given up.

mod archive;
mod backup;
mod checks;
mod command;
mod drill;
mod extracts;
mod feeds;
mod notices;
mod partitions;
mod programs;
mod report;
mod restored;
mod retention;
mod scratch;
mod segments;
mod sensor;
mod sql;
mod upkeep;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio_postgres::GenericClient;

use super::attempt::{Attempt, Outcome};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::names::TableName;
use crate::postgres::{Canceller, Endpoint, Session, Side, connect};
use crate::spec::{Model, TablePattern, TaskKind};
use crate::warehouse::{Durations, Fence, register};
pub use archive::{WatchesArchives, archives_left, keep_archives};
pub use checks::{Gate, Judged, JudgesChecks, Judging, Restored};
pub use extracts::{About, Bringing, Brings};
pub use feeds::{Asking, Feeds, LogEnd, MartStands};
pub use notices::{Posting, TaskTold, Telling, Tells, Told};
pub(super) use sensor::fresh;

/// What all tasks of the owner work with.
pub struct Hands {
    /// The warehouse.
    pub endpoint: Endpoint,
    /// The right to write.
    pub fence: Fence,
    /// The time.
    pub clock: Clock,
    /// Where the duration of transactions is told.
    pub durations: Durations,
    /// The folder of the files.
    pub root: PathBuf,
    /// The declared tables.
    pub models: Arc<[Model]>,
    /// Makes leaves.
    pub leaves: Arc<dyn MakesLeaves>,
    /// Tells people and programs of runs.
    pub tells: Arc<dyn Tells>,
    /// Knows sources and marts.
    pub feeds: Arc<dyn Feeds>,
    /// Knows sources without a stream.
    pub brings: Arc<dyn Brings>,
    /// Judges checks.
    pub checks: Arc<dyn JudgesChecks>,
}

/// What will have been made, and how much of it.
pub type Making<'m> = Pin<Box<dyn Future<Output = Result<u64>> + Send + 'm>>;

/// Makes the leaves that a declared table should have ahead of today.
pub trait MakesLeaves: Send + Sync {
    /// Makes those of a table that are missing; how many were.
    fn make<'m>(
        &'m self,
        session: &'m mut Session,
        hands: &'m Hands,
        model: &'m Model,
    ) -> Making<'m>;
}

/// An attempt at work: its sessions are known, so that what they do can be given up.
struct Work<'w> {
    hands: &'w Hands,
    attempt: &'w Attempt,
    started: Instant,
    cancellers: Mutex<Vec<Canceller>>,
    /// told when it is to end
    given_up: Notify,
}

impl Work<'_> {
    /// A session that a takeover ends, and whose statements end with the attempt's time.
    async fn session(&self) -> Result<Session> {
        let session = connect(Side::Warehouse, &self.hands.endpoint, "siltstone job").await?;
        register(&session, &self.hands.fence).await?;
        let left = self.attempt.task.timeout.saturating_sub(self.started.elapsed());
        // the last look of what waits is behind its time
        let least = if waits(&self.attempt.task.kind) { LAST_LOOK.as_millis() } else { 1 };
        let limit = left.as_millis().clamp(least, 2_000_000_000);
        session
            .batch_execute(&format!("set statement_timeout to {limit}"))
            .await
            .map_err(|error| Error::warehouse("setting up a session", error))?;
        let mut cancellers = self.cancellers.lock().unwrap_or_else(PoisonError::into_inner);
        cancellers.push(session.canceller());
        Ok(session)
    }

    /// Whether no stream feeds a table, and it is for the task to bring its rows.
    fn brings(&self, table: &TableName) -> bool {
        self.hands.brings.brings(table)
    }

    /// Its sessions are at an end.
    fn forget(&self) {
        self.cancellers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn cancel(&self) {
        self.given_up.notify_one();
        let cancellers =
            std::mem::take(&mut *self.cancellers.lock().unwrap_or_else(PoisonError::into_inner));
        for canceller in &cancellers {
            canceller.cancel().await;
        }
    }

    async fn go(&self) -> Result<Outcome> {
        match &self.attempt.task.kind {
            TaskKind::Sql { path, script } => sql::run(self, path, script).await,
            TaskKind::Sensor { signal, poll, soft_fail } => {
                sensor::run(self, signal, *poll, *soft_fail).await
            }
            TaskKind::Vacuum(tables) => upkeep::vacuum(self, tables).await,
            TaskKind::Analyze(tables) => upkeep::analyze(self, tables).await,
            TaskKind::Reindex(tables) => upkeep::reindex(self, tables).await,
            TaskKind::Partitions(partitions) => partitions::run(self, partitions).await,
            TaskKind::Retention(retention) => retention::run(self, retention).await,
            TaskKind::Backup(backup) => backup::run(self, backup).await,
            TaskKind::RestoreDrill(drill) => drill::run(self, drill).await,
            TaskKind::Command(words) => command::run(self, words).await,
            TaskKind::Refresh(marts) => feeds::refresh(self, marts).await,
            TaskKind::Load(table) if self.brings(table) => extracts::load(self, table).await,
            TaskKind::Load(table) => feeds::load(self, table).await,
            TaskKind::Extract { into, condition, .. } if self.brings(into) => {
                extracts::extract(self, (into, condition.as_ref())).await
            }
            TaskKind::Extract { into, .. } => feeds::extract(self, into).await,
            TaskKind::Notify(channels) => notices::notify(self, channels).await,
            TaskKind::Webhook(webhook) => notices::webhook(self, webhook).await,
            TaskKind::Checks(selection) => checks::run(self, selection).await,
            TaskKind::Report(report) => report::run(self, report).await,
        }
    }
}

/// How long the last look of a task that waits may take.
const LAST_LOOK: Duration = Duration::from_secs(30);

/// Whether a task waits for what others do, and does nothing itself.
fn waits(kind: &TaskKind) -> bool {
    use TaskKind::{Extract, Load, Refresh, Sensor};
    matches!(kind, Sensor { .. } | Refresh(_) | Load(_) | Extract { .. })
}

/// Makes an attempt, until it ends, takes too long or is given up; how it ended, and how long it took.
pub(super) async fn run(
    hands: Arc<Hands>,
    attempt: Attempt,
    abandoned: watch::Receiver<bool>,
) -> (Attempt, Outcome, Duration) {
    let (outcome, took) = limited(&hands, &attempt, abandoned).await;
    (attempt, outcome, took)
}

async fn limited(
    hands: &Hands,
    attempt: &Attempt,
    mut abandoned: watch::Receiver<bool>,
) -> (Outcome, Duration) {
    // what is given up ends soon; another attempt begins behind it
    const LAST_WORDS: Duration = Duration::from_secs(8);
    let started = Instant::now();
    let (cancellers, given_up) = (Mutex::default(), Notify::new());
    let work = Work { hands, attempt, started, cancellers, given_up };
    // a sensor knows itself how long it waits, over all its attempts; what waits for tables says what for
    let limit = match attempt.task.kind {
        TaskKind::Sensor { .. } => Duration::MAX,
        ref kind if waits(kind) => attempt.task.timeout.saturating_add(LAST_LOOK),
        _ => attempt.task.timeout,
    };
    let mut going = Box::pin(work.go());
    let outcome = tokio::select! {
        ended = &mut going => ended.unwrap_or_else(|error| Outcome::Failed(error.advice())),
        () = tokio::time::sleep(limit) => {
            work.cancel().await;
            let ended = tokio::time::timeout(LAST_WORDS, going).await;
            match ended {
                // it came to its end in that moment
                Ok(Ok(outcome)) => outcome,
                _ => Outcome::Failed(format!("it took longer than {} s", limit.as_secs())),
            }
        }
        () = told(&mut abandoned) => {
            work.cancel().await;
            match tokio::time::timeout(LAST_WORDS, going).await {
                // it came to its end in that moment: where the service stops, it is not done again
                Ok(Ok(outcome)) if !matches!(outcome, Outcome::Failed(_)) => outcome,
                _ => Outcome::Failed("given up".to_owned()),
            }
        }
    };
    (outcome, started.elapsed())
}

async fn told(abandoned: &mut watch::Receiver<bool>) {
    if abandoned.wait_for(|abandoned| *abandoned).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The tables of the warehouse that patterns mean, leaves aside.
async fn tables(client: &impl GenericClient, patterns: &[TablePattern]) -> Result<Vec<TableName>> {
    let rows = client
        .query(
            "select n.nspname::text, c.relname::text
               from pg_class c join pg_namespace n on n.oid = c.relnamespace
              where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence <> 't'
                and n.nspname <> 'information_schema' and not starts_with(n.nspname, 'pg_')
              order by 1, 2",
            &[],
        )
        .await
        .map_err(|error| Error::warehouse("listing its tables", error))?;
    let all =
        rows.iter().map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)));
    Ok(all.filter(|table| patterns.iter().any(|pattern| pattern.matches(table))).collect())
}
