//! Reads the tables whose chunks are open, several at once: each under a snapshot whose point is known,
//! into the warehouse in one transaction. Meanwhile the stream's changes of the table are kept.
//!
//! The first reading uses the snapshot that the slot exported; that one dies with its connection, so
//! any later one uses the snapshot of a new temporary slot.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::SinkExt;
use tokio::sync::{Mutex, mpsc};
use tokio_postgres::Transaction;
use tokio_postgres::error::SqlState;

use super::fit::fit;
use super::held::HeldKeys;
use super::shared::{CaughtUp, Shared, Then, writer};
use super::tables::Planned;
use crate::capture::catalog::{self, SourceTable};
use crate::capture::slot::{self, Created};
use crate::capture::snapshot;
use crate::capture::walsender::Walsender;
use crate::error::{Error, Kind, Result};
use crate::journey::Target;
use crate::merge::{Finished, Point, Reading, Way, merge_reading, way};
use crate::names::{TableName, shortened};
use crate::position::Lsn;
use crate::postgres::{Session, Side, connect};
use crate::progress::tables::{self, State};
use crate::warehouse::{Fenced, ddl};

/// Progress is reported after so many rows.
const REPORT_EVERY: u64 = 5_000;

/// A table that is to be read.
pub(super) struct Job {
    target: Arc<Target>,
    source: SourceTable,
    /// nothing of it was ever in the warehouse
    fresh: bool,
}

impl Job {
    pub(super) fn of(planned: &Planned) -> Option<Job> {
        let record = &planned.record;
        let open =
            record.chunk_open && matches!(record.state, State::Snapshotting | State::Resyncing);
        open.then(|| Job {
            target: planned.target.clone(),
            source: planned.source.clone(),
            fresh: record.state == State::Snapshotting,
        })
    }
}

type Jobs = Arc<Mutex<VecDeque<Job>>>;

/// Reads all jobs; `exported` is the snapshot of a slot that was just made.
pub(super) async fn run(
    shared: Arc<Shared>,
    jobs: Vec<Job>,
    exported: Option<Created>,
    done: mpsc::Sender<CaughtUp>,
) -> Result<()> {
    let mut left = VecDeque::from(jobs);
    let mut exported = exported;
    let mut attempt = 0;
    while !left.is_empty() {
        let created = match exported.take() {
            Some(created) => created,
            None => temporary(&shared, attempt).await?,
        };
        attempt += 1;
        let jobs: Jobs = Arc::new(Mutex::new(left));
        let again: Jobs = Jobs::default();
        let workers = shared.connector().snapshot_workers;
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..workers {
            let worker = Worker {
                shared: shared.clone(),
                jobs: jobs.clone(),
                again: again.clone(),
                done: done.clone(),
                as_of: created.consistent_point,
                taken_at: created.taken_at,
                snapshot: created.snapshot.clone(),
                number,
            };
            tasks.spawn(worker.run());
        }
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|error| Error::bug("a snapshot worker broke off").because(error))??;
        }
        left = std::mem::take(&mut *again.lock().await);
    }
    Ok(())
}

/// A slot that lives as long as its connection, for the point and the snapshot that come with it.
async fn temporary(shared: &Shared, attempt: u32) -> Result<Created> {
    let connector = shared.connector();
    let connection = Walsender::connect(&connector.endpoint, "siltstone snapshot").await?;
    let suffix = format!("_read_{}_{attempt}", shared.fence.epoch());
    let source = connect(Side::Source, &connector.endpoint, "siltstone snapshot").await?;
    slot::create(connection, &source, &shortened(&connector.slot, &suffix), true).await
}

struct Worker {
    shared: Arc<Shared>,
    jobs: Jobs,
    /// tables that this snapshot cannot show
    again: Jobs,
    done: mpsc::Sender<CaughtUp>,
    as_of: Lsn,
    taken_at: i64,
    snapshot: String,
    number: usize,
}

impl Worker {
    async fn run(self) -> Result<()> {
        let connector = self.shared.connector();
        let mut source = connect(Side::Source, &connector.endpoint, "siltstone snapshot").await?;
        let mut warehouse =
            writer(&self.shared.setup, &self.shared.fence, &format!("snapshot {}", self.number))
                .await?;
        loop {
            let Some(job) = self.jobs.lock().await.pop_front() else { return Ok(()) };
            // a transaction a table: the source's own DDL waits for one table at most
            let under = snapshot::under(&mut source, &self.snapshot).await?;
            let read = self.read(&under, &mut warehouse, &job).await;
            drop(under);
            match read {
                Ok(Some(target)) => {
                    let floor = self.as_of.as_i64();
                    if self
                        .done
                        .send(CaughtUp {
                            target,
                            floor,
                            held: HeldKeys::default(),
                            not_before: Lsn(0),
                        })
                        .await
                        .is_err()
                    {
                        return Ok(());
                    }
                }
                Ok(None) => self.again.lock().await.push_back(job),
                // dropped or renamed since the snapshot: a newer one shows what is there now
                Err(error)
                    if matches!(
                        error.code(),
                        Some(&SqlState::UNDEFINED_TABLE | &SqlState::UNDEFINED_COLUMN)
                    ) =>
                {
                    self.again.lock().await.push_back(job);
                }
                Err(error)
                    if matches!(error.kind(), Kind::TableStops | Kind::Poison | Kind::Rights) =>
                {
                    self.stop(&job, &error).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The table stops; its chunk stays open and its changes are kept, and the others are read.
    async fn stop(&self, job: &Job, error: &Error) -> Result<()> {
        let table = &job.target.model.table;
        let reason = error.reason();
        let resync = format!("siltstone table resync {table}");
        let remedy = error.remedy_text().unwrap_or(&resync);
        tracing::error!(%table, reason, remedy, "the table stops");
        self.shared
            .define(&[], table, Then::Stop { reason: &reason, remedy, unread: false })
            .await?;
        let board = &self.shared.setup.board;
        board.table_state(table, State::Stopped.word(), Some(&reason), Some(remedy));
        Ok(())
    }

    /// Reads a table and merges it; none where the snapshot cannot show it.
    async fn read(
        &self,
        under: &Transaction<'_>,
        warehouse: &mut Session,
        job: &Job,
    ) -> Result<Option<Arc<Target>>> {
        let shared = &*self.shared;
        let name = &job.target.model.table;
        let Some(mut now) = catalog::table(under, job.source.relation.oid).await? else {
            return Err(gone(name, &job.source.relation.table));
        };
        let connector = shared.connector();
        let source_name = now.relation.table.clone();
        now.relation.columns.retain(|column| !connector.excludes(&source_name, &column.name));
        if !snapshot::is_readable(under, &now.relation).await? {
            return Ok(None);
        }
        let point = Point { as_of: self.as_of, taken_at: self.taken_at };
        let transaction =
            Fenced::begin(warehouse, &shared.fence, "snapshot", &shared.setup.durations).await?;
        let relation = Arc::new(now.relation.clone());
        let fitted = fit(shared, &transaction, (&job.target, job.fresh), &relation).await?;
        let target = fitted.target;
        let straight = job.fresh && fitted.statements.is_empty();
        let way = way(&transaction, &target, straight).await?;
        let finished = self.copy(under, &transaction, (&target, &now), point, &way).await?;
        shared.ensure_leaves(&[(target.model.clone(), finished.days(&target))], None).await?;
        // behind the copy, so that nobody waits for its locks longer than the merge takes
        let statements = [fitted.statements, fitted.finish].concat();
        ddl(&transaction, &statements).await.map_err(|error| {
            Error::warehouse("making it fit the source", error).on_table(name.to_string())
        })?;
        let fresh = job.fresh || fitted.empties;
        let templates = &shared.setup.templates;
        let applied =
            merge_reading(&transaction, templates, &target, &finished, (point, fresh)).await?;
        tables::close_chunk(&transaction, name, self.as_of, target.schema_id, applied.events)
            .await?;
        transaction.commit().await?;
        self.report(name, applied.events, applied.events);
        shared.setup.board.applied(target.index, &applied);
        tracing::info!(table = %name, rows = applied.events, as_of = %self.as_of, "the table is read");
        Ok(Some(target))
    }

    /// Brings the rows over, to the staging table or straight into their own.
    async fn copy(
        &self,
        under: &Transaction<'_>,
        transaction: &Transaction<'_>,
        (target, source): (&Target, &SourceTable),
        point: Point,
        way: &Way,
    ) -> Result<Finished> {
        let (shared, name) = (&*self.shared, &target.model.table);
        let failed = |error| {
            Error::warehouse("taking the rows of a snapshot", error).on_table(name.to_string())
        };
        if target.model.history == crate::spec::History::Raw {
            let today = shared.setup.clock.now_postgres().div_euclid(super::drain::DAY);
            let days = vec![today, today + 1];
            shared.ensure_leaves(&[(target.model.clone(), days)], None).await?;
        }
        let mut sink = pin!(transaction.copy_in::<_, Bytes>(&way.statement).await.map_err(failed)?);
        let mut rows =
            snapshot::read(under, &target.relation, &target.wires, source.partitioned).await?;
        let mut reading = Reading::new(target, point, way);
        while let Some(cells) = rows.next().await? {
            reading.push(crate::value::Row::from_bytes(cells))?;
            for chunk in reading.take() {
                sink.feed(chunk).await.map_err(failed)?;
            }
            if reading.count().is_multiple_of(REPORT_EVERY) {
                self.report(name, reading.count(), source.estimated_rows);
            }
        }
        let mut finished = reading.finish();
        for chunk in finished.take() {
            sink.feed(chunk).await.map_err(failed)?;
        }
        sink.finish().await.map_err(failed)?;
        Ok(finished)
    }

    fn report(&self, table: &TableName, rows: u64, estimated: u64) {
        self.shared.setup.board.rows_read(table, rows, estimated);
    }
}

fn gone(table: &TableName, source: &TableName) -> Error {
    Error::new(Kind::TableStops, format!("the source has no table {source} any more"))
        .on_table(table.to_string())
        .remedy(format!("exclude {source}, or make it and siltstone table resync {table}"))
}
