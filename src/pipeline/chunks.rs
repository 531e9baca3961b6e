//! Reads what is to be read, several tables or ranges at once: each under a snapshot whose point is known,
//! into the warehouse in one transaction. Meanwhile the stream's changes of the table are kept.
//!
//! The first reading uses the snapshot that the slot exported; that one dies with its connection, so
//! any later one uses the snapshot of a new temporary slot. Ranges that were in before are not read again.
//! A standby that rows are read from and that fails keeps its tables waiting, not the stream.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::SinkExt;
use tokio::sync::{Mutex, mpsc};
use tokio_postgres::Transaction;
use tokio_postgres::error::SqlState;

use super::cutting::{Job, cut_all};
use super::fit::fit;
use super::held::HeldKeys;
use super::refused::RefusedRows;
use super::shared::{CaughtUp, Shared, Then, writer};
use super::standby::Origin;
use crate::capture::Pace;
use crate::capture::catalog::{self, SourceTable};
use crate::capture::slot::Created;
use crate::capture::snapshot::{self, Part};
use crate::decode::Veil;
use crate::error::{Error, Kind, Result};
use crate::journey::{Applied, Target};
use crate::merge::{Finished, Point, Reading, Straight, Way, emptying, merge_reading, rebase, way};
use crate::names::TableName;
use crate::position::{Lsn, Positions};
use crate::postgres::{Session, Side, connect};
use crate::progress::chunks::{self, Range};
use crate::progress::tables::State;
use crate::relation::Wire;
use crate::value::Row;
use crate::warehouse::{Fenced, ddl};

/// Progress is reported after so many rows.
const REPORT_EVERY: u64 = 5_000;

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
    let mut left = jobs;
    let mut origin = Origin::new(&shared);
    let mut exported = exported.filter(|_| !origin.is_standby());
    while !left.is_empty() {
        let created = match exported.take() {
            Some(created) => Ok(created),
            None => origin.snapshot().await,
        };
        let failed = match created {
            Ok(created) => {
                origin.answers(&left).await?;
                round(&shared, &mut left, created, &done).await?
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
enum Read {
    /// Its rows are in, those of other ranges are not; or somebody asked for all to be read anew.
    InPart,
    /// All rows of its table are in.
    All(CaughtUp),
    /// The snapshot cannot show it.
    Later,
    /// Its ranges are void.
    Anew,
}

struct Worker {
    shared: Arc<Shared>,
    jobs: Jobs,
    /// tables that this snapshot cannot show
    again: Jobs,
    failed: Failed,
    done: mpsc::Sender<CaughtUp>,
    as_of: Lsn,
    taken_at: i64,
    snapshot: String,
    pace: Arc<Pace>,
    number: usize,
}

impl Worker {
    async fn run(self) -> Result<()> {
        let endpoint = self.shared.connector().rows_endpoint();
        let mut source = match connect(Side::Source, endpoint, APPLICATION).await {
            Err(error) if self.shared.waits_for(&error) => {
                *self.failed.lock().await = Some(error);
                return Ok(());
            }
            source => source?,
        };
        let mut warehouse =
            writer(&self.shared.setup, &self.shared.fence, &format!("snapshot {}", self.number))
                .await?;
        loop {
            let Some(job) = self.jobs.lock().await.pop_front() else { return Ok(()) };
            // a transaction a table: the source's own DDL waits for one table at most
            let read = match snapshot::under(&mut source, &self.snapshot).await {
                Ok(under) => self.read(&under, &mut warehouse, &job).await,
                Err(error) => Err(error),
            };
            match read {
                Ok(Read::InPart) => {}
                Ok(Read::All(table)) => {
                    if self.done.send(table).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(Read::Later) => self.again.lock().await.push_back(job),
                Ok(Read::Anew) => self.anew(&job).await?,
                // dropped or renamed since the snapshot: a newer one shows what is there now
                Err(error)
                    if matches!(
                        error.code(),
                        Some(&SqlState::UNDEFINED_TABLE | &SqlState::UNDEFINED_COLUMN)
                    ) =>
                {
                    self.again.lock().await.push_back(job);
                }
                Err(error) if stops_a_table(&error) => stop(&self.shared, &job, &error).await?,
                Err(error) if self.shared.waits_for(&error) => {
                    self.again.lock().await.push_back(job);
                    *self.failed.lock().await = Some(error);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
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

    /// Reads a table or a range of it and merges it.
    async fn read(
        &self,
        under: &Transaction<'_>,
        warehouse: &mut Session,
        job: &Job,
    ) -> Result<Read> {
        let (shared, chunk) = (&*self.shared, &job.chunk);
        let name = &job.target.model.table;
        let now = catalog::table(under, job.source.relation.oid).await;
        let Some(mut now) = shared.of_rows(now)? else {
            return Err(gone(name, &job.source.relation.table));
        };
        shared.connector().shape(&job.source.relation.table, &mut now.relation);
        if !shared.of_rows(snapshot::is_readable(under, &now.relation).await)? {
            return Ok(Read::Later);
        }
        let point = Point { as_of: self.as_of, taken_at: self.taken_at };
        let transaction =
            Fenced::begin(warehouse, &shared.fence, "snapshot", &shared.setup.durations).await?;
        let relation = Arc::new(now.relation.clone());
        let mut fitted = fit(shared, &transaction, (&job.target, chunk.fresh), &relation).await?;
        let target = fitted.target;
        if chunk.range.is_some()
            && (chunk.schema_id != Some(target.schema_id) || !fitted.statements.is_empty())
        {
            return Ok(Read::Anew);
        }
        let failed =
            |error| Error::warehouse("making it fit the source", error).on_table(name.to_string());
        if chunk.empties && chunk.range.is_none() {
            ddl(&transaction, &[emptying(&target.model)]).await.map_err(failed)?;
        }
        let untouched = chunk.fresh && fitted.statements.is_empty();
        let straight = straight(untouched, chunk.range.is_some(), fitted.key.is_some());
        let way = way(&transaction, &target, straight).await?;
        let (finished, refused) =
            self.copy(under, &transaction, (&target, &now), (point, job), &way).await?;
        shared.ensure_leaves(&[(target.model.clone(), finished.days(&target))], None).await?;
        let fresh = chunk.fresh || fitted.empties;
        // behind the copy, so that nobody waits for its locks longer than the merge takes
        ddl(&transaction, &fitted.statements).await.map_err(failed)?;
        if chunk.range.is_none() {
            ddl(&transaction, fitted.key.take().as_slice()).await.map_err(failed)?;
        }
        let stretch = job.stretch(&target);
        let how = (point, fresh, stretch.as_ref());
        let templates = &shared.setup.templates;
        let applied = merge_reading(&transaction, templates, &target, &finished, how).await?;
        let mut read = Read::InPart;
        refused.write(&transaction, &shared.connector().name, &target).await?;
        let loaded = chunks::load(&transaction, chunk, self.as_of, applied.events).await?;
        let Some(last) = loaded else { return Ok(read) };
        if last {
            let statements = [fitted.key.as_slice(), &fitted.last].concat();
            ddl(&transaction, &statements).await.map_err(failed)?;
            if !fresh {
                rebase(&transaction, templates, &target, self.as_of).await?;
            }
            let floor = chunks::close(&transaction, name, target.schema_id).await?.as_i64();
            let (held, not_before) = (HeldKeys::default(), Positions::default());
            let (arriving, target) = (HeldKeys::default(), target.clone());
            read = Read::All(CaughtUp { target, floor, held, arriving, not_before });
        }
        transaction.commit().await?;
        self.tell(job, &applied, last);
        Ok(read)
    }

    fn tell(&self, job: &Job, applied: &Applied, last: bool) {
        let (board, table) = (&self.shared.setup.board, &job.chunk.table);
        let rows = job.rows.load(Ordering::Relaxed);
        board.rows_read(table, rows, if last { rows } else { job.source.estimated_rows });
        board.applied(job.target.index, applied);
        if last {
            tracing::info!(%table, rows, as_of = %self.as_of, "the table is read");
        }
    }

    /// Brings the rows over, to the staging table or straight into their own.
    async fn copy(
        &self,
        under: &Transaction<'_>,
        transaction: &Transaction<'_>,
        (target, source): (&Target, &SourceTable),
        (point, job): (Point, &Job),
        way: &Way,
    ) -> Result<(Finished, RefusedRows)> {
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
        let range = job.chunk.range.as_ref();
        let condition = range.map(|Range { column, lower, upper }| {
            snapshot::range(column, lower.as_deref(), upper.as_deref())
        });
        let part = Part { partitioned: source.partitioned, condition: condition.as_deref() };
        let relation = &target.relation;
        let wires = relation.columns.iter().map(|column| column.source_wire(shared.binary));
        let wires: Vec<Wire> = wires.collect();
        let mut veil = Veil::of(relation, shared.connector().masks.key());
        let mut masked = Vec::new();
        let rows = snapshot::read(under, relation, &wires, part).await;
        let mut rows = shared.of_rows(rows)?;
        let mut reading = Reading::new(target, point, way);
        let mut refused = RefusedRows::new(&job.chunk, point, shared.connector().held_keys);
        let (mut told, mut unpaced) = (0, 0);
        while let Some(cells) = shared.of_rows(rows.next().await)? {
            unpaced += cells.len();
            let mut row = Row::from_bytes(cells);
            if let Some(veil) = &mut veil {
                masked.clear();
                veil.row(row, &mut masked)?;
                row = Row::from_bytes(&masked);
            }
            if refused.takes(target, shared.binary, row)? {
                continue;
            }
            reading.push(row)?;
            for chunk in reading.take() {
                self.pace.keep(std::mem::take(&mut unpaced)).await;
                sink.feed(chunk).await.map_err(failed)?;
            }
            if reading.count() - told >= REPORT_EVERY {
                self.report((name, job), reading.count() - told, source.estimated_rows);
                told = reading.count();
            }
        }
        self.report((name, job), reading.count() - told, source.estimated_rows);
        let mut finished = reading.finish();
        for chunk in finished.take() {
            sink.feed(chunk).await.map_err(failed)?;
        }
        sink.finish().await.map_err(failed)?;
        Ok((finished, refused))
    }

    fn report(&self, (table, job): (&TableName, &Job), more: u64, estimated: u64) {
        let rows = job.rows.fetch_add(more, Ordering::Relaxed) + more;
        self.shared.setup.board.rows_read(table, rows, estimated);
    }
}

pub(super) fn stops_a_table(error: &Error) -> bool {
    matches!(error.kind(), Kind::TableStops | Kind::Poison | Kind::Rights)
}

/// The table stops; its chunk stays open and its changes are kept, and the others are read.
pub(super) async fn stop(shared: &Shared, job: &Job, error: &Error) -> Result<()> {
    let table = &job.target.model.table;
    let reason = error.reason();
    let resync = format!("siltstone table resync {table}");
    let remedy = error.remedy_text().unwrap_or(&resync);
    tracing::error!(%table, reason, remedy, "the table stops");
    shared.define(&[], table, Then::Stop { reason: &reason, remedy, unread: false }).await?;
    let board = &shared.setup.board;
    board.table_state(table, State::Stopped.word(), Some(&reason), Some(remedy));
    Ok(())
}

fn gone(table: &TableName, source: &TableName) -> Error {
    Error::new(Kind::TableStops, format!("the source has no table {source} any more"))
        .on_table(table.to_string())
        .remedy(format!("exclude {source}, or make it and siltstone table resync {table}"))
}

/// Whether rows may go straight into a table that nobody has written to.
fn straight(untouched: bool, in_ranges: bool, has_key_to_come: bool) -> Straight {
    match (untouched, in_ranges) {
        (true, false) => Straight::IfEmpty,
        (true, true) if has_key_to_come => Straight::Beside,
        _ => Straight::No,
    }
}
