//! Reads what is to be read, several tables or ranges at once: each under a snapshot whose point is known,
//! into the warehouse in one transaction. Meanwhile the stream's changes of the table are kept.
//!
//! The first reading uses the snapshot that the slot exported; that one dies with its connection, so
//! any later one uses the snapshot of a new temporary slot. Ranges that were in before are not read again.
//! A standby that rows are read from and that fails keeps its tables waiting, not the stream; so does a source
//! that has no slot to spare.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{Mutex, mpsc};
use tokio_postgres::error::SqlState;

use super::core::Core;
use super::cutting::{Job, cut_all};
use super::note::Then;
use super::parts::give_up;
use super::placing::await_placed;
use super::rebuild::rebuild_all;
use super::shared::{CaughtUp, Shared, writer};
use super::standby::Origin;
use crate::capture::slot::Created;
use crate::capture::snapshot;
use crate::error::{Error, Kind, Result};
use crate::names::TableName;
use crate::position::Lsn;
use crate::postgres::{Pace, Session, Side, connect};
use crate::progress::tables::State;

pub(super) const APPLICATION: &str = "siltstone snapshot";

pub(super) type Jobs = Arc<Mutex<VecDeque<Job>>>;

/// What the standby that they are read from failed with.
pub(super) type Failed = Arc<Mutex<Option<Error>>>;

/// Reads all jobs; `exported` is the snapshot of a slot that was just made.
pub(super) async fn run(
    shared: Arc<Shared>,
    jobs: Vec<Job>,
    exported: Option<Created>,
    done: mpsc::Sender<CaughtUp>,
) -> Result<()> {
    let (rebuilt, read): (Vec<_>, Vec<_>) =
        jobs.into_iter().partition(|job| job.chunk.origin.is_some());
    let reading = Box::pin(read_all(&shared, read, exported, &done));
    let rebuilding = Box::pin(rebuild_all(&shared, rebuilt, &done));
    let ((), unsaid) = tokio::try_join!(reading, rebuilding)?;
    Box::pin(read_all(&shared, unsaid, None, &done)).await
}

/// Reads all jobs from the source, or its standby.
async fn read_all(
    shared: &Arc<Shared>,
    jobs: Vec<Job>,
    exported: Option<Created>,
    done: &mpsc::Sender<CaughtUp>,
) -> Result<()> {
    let mut left = jobs;
    let mut origin = Origin::new(shared);
    let mut exported = exported.filter(|_| !origin.is_standby());
    while !left.is_empty() {
        let created = match exported.take() {
            Some(created) => Ok(created),
            None => origin.snapshot(&left).await,
        };
        let failed = match created {
            Ok(created) => {
                origin.answers(&left).await?;
                round(shared, &mut left, created, done).await?
            }
            Err(error) => Some(error),
        };
        if let Some(error) = failed {
            origin.wait(&left, error).await?;
        }
    }
    Ok(())
}

/// Reads what is `left` under a snapshot; what then is left, and what the standby failed with.
async fn round(
    shared: &Arc<Shared>,
    left: &mut Vec<Job>,
    created: Created,
    done: &mpsc::Sender<CaughtUp>,
) -> Result<Option<Error>> {
    let (again, failed) = (Jobs::default(), Arc::new(Mutex::new(None)));
    let jobs = cut_all(shared, std::mem::take(left), (&again, &failed)).await?;
    let jobs: Jobs = Arc::new(Mutex::new(jobs));
    let pace = Arc::new(Pace::new(shared.connector().snapshot.max_rate));
    let workers = shared.connector().snapshot.workers;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..workers {
        let worker = Worker {
            shared: shared.clone(),
            jobs: jobs.clone(),
            again: again.clone(),
            failed: failed.clone(),
            done: done.clone(),
            begun: created.begun,
            as_of: created.consistent_point,
            taken_at: created.taken_at,
            snapshot: created.snapshot.clone(),
            pace: pace.clone(),
            number,
        };
        tasks.spawn(worker.run());
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|error| Error::bug("a snapshot worker broke off").because(error))??;
    }
    left.extend(again.lock().await.drain(..));
    left.extend(jobs.lock().await.drain(..));
    let failed = failed.lock().await.take();
    Ok(failed)
}

/// What became of a job.
pub(super) enum Read {
    /// Its rows are in, those of other ranges are not; or somebody asked for all to be read anew.
    InPart,
    /// All rows of its table are in.
    All(CaughtUp),
    /// The snapshot cannot show it.
    Later,
    /// Its ranges are void.
    Anew,
}

pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    jobs: Jobs,
    /// tables that this snapshot cannot show
    again: Jobs,
    failed: Failed,
    done: mpsc::Sender<CaughtUp>,
    /// where the log was before the snapshot was taken
    pub(super) begun: Lsn,
    pub(super) as_of: Lsn,
    pub(super) taken_at: i64,
    snapshot: String,
    pub(super) pace: Arc<Pace>,
    number: usize,
}

impl Worker {
    async fn run(self) -> Result<()> {
        let Some(mut source) = self.source().await? else { return Ok(()) };
        let mut warehouse =
            writer(&self.shared.setup, &self.shared.fence, &format!("snapshot {}", self.number))
                .await?;
        loop {
            let Some(job) = self.jobs.lock().await.pop_front() else { return Ok(()) };
            if job.chunk.fresh {
                await_placed(&warehouse, &job.target.model).await?;
            }
            // a transaction a table: the source's own DDL waits for one table at most
            let read = match snapshot::under(&mut source, &self.snapshot).await {
                Ok(under) if self.shared.topics => self.refill(&under, &mut warehouse, &job).await,
                Ok(under) => match &job.chunk.condition {
                    None => self.read(&under, &mut warehouse, &job).await,
                    Some(text) => self.read_part(&under, &mut warehouse, (&job, text)).await,
                },
                Err(error) => Err(error),
            };
            let failed = read.is_err();
            if !self.settle(&mut warehouse, job, read).await? {
                return Ok(());
            }
            if failed {
                // the rows that nobody wants any more would come over the old one, unpaced
                let Some(another) = self.source().await? else { return Ok(()) };
                source = another;
            }
        }
    }

    /// A session to read rows with; none where a standby fails, which is waited for.
    async fn source(&self) -> Result<Option<Session>> {
        let endpoint = self.shared.connector().rows_endpoint();
        match connect(Side::Source, endpoint, APPLICATION).await {
            Err(error) if self.shared.waits_for(&error) => {
                *self.failed.lock().await = Some(error);
                Ok(None)
            }
            source => source.map(Some),
        }
    }

    /// Does what comes of a job; false where there is no point in going on.
    async fn settle(&self, warehouse: &mut Session, job: Job, read: Result<Read>) -> Result<bool> {
        match read {
            Ok(Read::InPart) => {}
            Ok(Read::All(table)) => return Ok(self.done.send(table).await.is_ok()),
            Ok(Read::Later) => self.again.lock().await.push_back(job),
            Ok(Read::Anew) => self.anew(&job).await?,
            Err(error) if job.chunk.condition.is_some() && stops_a_table(&error) => {
                if let Some(table) = give_up(&self.shared, warehouse, &job, &error).await? {
                    return Ok(self.done.send(table).await.is_ok());
                }
            }
            // dropped or renamed since the snapshot: a newer one shows what is there now
            Err(error)
                if matches!(
                    error.code(),
                    Some(&SqlState::UNDEFINED_TABLE | &SqlState::UNDEFINED_COLUMN)
                ) =>
            {
                self.again.lock().await.push_back(job);
            }
            Err(error) if stops_a_table(&error) => {
                stop(&self.shared, &job.target.model.table, &error).await?;
            }
            Err(error) if self.shared.waits_for(&error) => {
                self.again.lock().await.push_back(job);
                *self.failed.lock().await = Some(error);
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// The table was rewritten or got another shape since its ranges were cut: all of it is read anew.
    async fn anew(&self, job: &Job) -> Result<()> {
        let table = &job.chunk.table;
        let mut again = self.again.lock().await;
        // another range of it has come to the same end
        if again.iter().any(|job| job.chunk.table == *table && job.chunk.range.is_none()) {
            return Ok(());
        }
        self.jobs.lock().await.retain(|job| job.chunk.table != *table);
        tracing::warn!(%table, "it was rewritten while it was read: it is read anew");
        self.shared.define(&[], table, Then::ReadAnew).await?;
        let chunks = self.shared.open_chunks().await?;
        let whole = chunks.into_iter().find(|chunk| chunk.table == *table);
        let chunk = whole.ok_or_else(|| Error::bug("a table that is read anew has no chunk"))?;
        job.rows.store(0, Ordering::Relaxed);
        again.retain(|job| job.chunk.table != *table);
        again.push_back(Job { chunk, ..job.clone() });
        Ok(())
    }
}

pub(super) fn stops_a_table(error: &Error) -> bool {
    matches!(error.kind(), Kind::TableStops | Kind::Poison | Kind::Rights)
}

/// The table stops and its changes are kept, and the others are read. Its chunk stays open, but of topics: there it
/// misses nothing of what was, and whoever lets it go on would have it refused again.
pub(super) async fn stop(shared: &Core, table: &TableName, error: &Error) -> Result<()> {
    let reason = error.reason();
    let resync = format!("siltstone table resync {table:#}");
    let mut remedy = error.remedy_text().unwrap_or(&resync).to_owned();
    let rows = shared.reads_rows();
    if !rows && !remedy.contains("table resume") {
        remedy += &format!("; siltstone table resume {table:#} goes on without its being read");
    }
    tracing::error!(%table, reason, remedy, "the table stops");
    let then = match rows {
        true => Then::Stop { reason: &reason, remedy: &remedy, unread: false },
        false => Then::Refuse { reason: &reason, remedy: &remedy },
    };
    shared.define(&[], table, then).await?;
    let board = &shared.setup.board;
    board.table_state(table, State::Stopped.word(), Some(&reason), Some(&remedy));
    Ok(())
}

pub(super) fn gone(table: &TableName, source: &TableName) -> Error {
    Error::new(Kind::TableStops, format!("the source has no table {source} any more"))
        .on_table(table.to_string())
        .remedy(format!("exclude {source}, or make it and siltstone table resync {table:#}"))
}
