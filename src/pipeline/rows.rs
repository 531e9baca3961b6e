//! Reads the rows of a table, or of a range of it, and merges them in the same transaction.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::SinkExt;
use tokio_postgres::Transaction;

use super::chunks::{Read, Worker, gone};
use super::cutting::Job;
use super::fit::fit;
use super::refused::RefusedRows;
use super::shared::{CaughtUp, Shared, writer};
use crate::capture::catalog::{self, SourceTable};
use crate::capture::snapshot::{self, Part};
use crate::decode::Veil;
use crate::error::{Error, Result};
use crate::journey::{Applied, Target};
use crate::merge::{
    Asker, Finished, Point, Reading, Straight, Way, emptying, merge_reading, rebase, way,
};
use crate::names::TableName;
use crate::position::Order;
use crate::postgres::Session;
use crate::progress::chunks::{self, Range};
use crate::relation::{Relation, Wire};
use crate::value::Row;
use crate::warehouse::{Fenced, PATIENT, ddl, reshape};

/// Progress is reported after so many rows.
const REPORT_EVERY: u64 = 5_000;

impl Worker {
    /// The source table as the snapshot shows it; none where the snapshot cannot show its rows.
    pub(super) async fn shape(
        &self,
        under: &Transaction<'_>,
        job: &Job,
    ) -> Result<Option<SourceTable>> {
        let (shared, known) = (&*self.shared, &job.source.relation);
        let now = shared.of_rows(catalog::table(under, known.oid).await)?;
        let Some(mut now) = now else {
            return Err(gone(&job.target.model.table, &known.table));
        };
        shared.connector().shape(&known.table, &mut now.relation);
        let readable = shared.of_rows(snapshot::is_readable(under, &now.relation).await)?;
        Ok(readable.then_some(now))
    }

    /// Reads a table or a range of it and merges it.
    pub(super) async fn read(
        &self,
        under: &Transaction<'_>,
        warehouse: &mut Session,
        job: &Job,
    ) -> Result<Read> {
        let (shared, chunk) = (&*self.shared, &job.chunk);
        let name = &job.target.model.table;
        let Some(now) = self.shape(under, job).await? else { return Ok(Read::Later) };
        let order = Order::of_snapshot(self.as_of);
        let point = Point { as_of: self.as_of, taken_at: self.taken_at, order };
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
        let statements = (&fitted.statements[..], PATIENT);
        reshape(&transaction, &name.to_string(), statements).await.map_err(failed)?;
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
                rebase(&transaction, templates, &target, point).await?;
            }
            let floor = chunks::close(&transaction, name, target.schema_id).await?.as_i64();
            read = Read::All(CaughtUp::at(target.clone(), floor));
        }
        transaction.commit().await?;
        self.tell(job, &applied, last);
        Ok(read)
    }

    pub(super) fn tell(&self, job: &Job, applied: &Applied, last: bool) {
        let (board, table) = (&self.shared.setup.board, &job.chunk.table);
        let rows = job.rows.load(Ordering::Relaxed);
        board.rows_read(table, rows, if last { rows } else { job.source.estimated_rows });
        board.applied(job.target.index, applied);
        if last {
            tracing::info!(%table, rows, as_of = %self.as_of, "the table is read");
        }
    }

    /// Brings the rows over, to the staging table or straight into their own.
    pub(super) async fn copy(
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
        if condition.is_some() {
            shared.of_rows(snapshot::by_index(under).await)?;
        }
        let part = Part { partitioned: source.partitioned, condition: condition.as_deref() };
        let mut rows = SourceRows::of(shared, under, &target.relation, part).await?;
        let mut reading = Reading::new(target, point, way)?;
        let mut asker = self.asker(target, way).await?;
        let mut refused = RefusedRows::new(&job.chunk, point, shared.connector().held_keys);
        let (mut told, mut unpaced) = (0, 0);
        while let Some((row, length)) = rows.next(shared).await? {
            unpaced += length;
            if refused.takes(target, shared.binary, row)? {
                continue;
            }
            reading.push(row)?;
            if let Some(asker) = asker.as_mut().filter(|_| reading.waits()) {
                reading.look_up(asker).await?;
            }
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
        if let Some(asker) = &mut asker {
            reading.look_up(asker).await?;
        }
        let mut finished = reading.finish();
        for chunk in finished.take() {
            sink.feed(chunk).await.map_err(failed)?;
        }
        sink.finish().await.map_err(failed)?;
        Ok((finished, refused))
    }

    /// What asks for what the rows are looked up by as they go straight into their table.
    async fn asker(&self, target: &Target, way: &Way) -> Result<Option<Asker>> {
        if !way.looks_up() {
            return Ok(None);
        }
        let setup = &self.shared.setup;
        let session = writer(setup, &self.shared.fence, "looking up").await?;
        Ok(Some(way.asker(session, target).await?))
    }

    fn report(&self, (table, job): (&TableName, &Job), more: u64, estimated: u64) {
        let rows = job.rows.fetch_add(more, Ordering::Relaxed) + more;
        self.shared.setup.board.rows_read(table, rows, estimated);
    }
}

/// Rows of a source table, as the wall lets them through.
pub(super) struct SourceRows {
    rows: snapshot::Rows,
    veil: Option<Veil>,
    masked: Vec<u8>,
}

impl SourceRows {
    /// Starts to read.
    pub(super) async fn of(
        shared: &Shared,
        under: &Transaction<'_>,
        relation: &Relation,
        part: Part<'_>,
    ) -> Result<SourceRows> {
        let wires = relation.columns.iter().map(|column| column.source_wire(shared.binary));
        let wires: Vec<Wire> = wires.collect();
        let rows = shared.of_rows(snapshot::read(under, relation, &wires, part).await)?;
        let veil = Veil::of(relation, shared.connector().masks.key());
        Ok(SourceRows { rows, veil, masked: Vec::new() })
    }

    /// The next row, and how many bytes it had at the source.
    pub(super) async fn next(&mut self, shared: &Shared) -> Result<Option<(Row<'_>, usize)>> {
        let Some(cells) = shared.of_rows(self.rows.next().await)? else { return Ok(None) };
        let Some(veil) = &mut self.veil else {
            return Ok(Some((Row::from_bytes(cells), cells.len())));
        };
        self.masked.clear();
        veil.row(Row::from_bytes(cells), &mut self.masked)?;
        Ok(Some((Row::from_bytes(&self.masked), cells.len())))
    }
}

/// Whether rows may go straight into a table that nobody has written to.
fn straight(untouched: bool, in_ranges: bool, has_key_to_come: bool) -> Straight {
    match (untouched, in_ranges) {
        (true, false) => Straight::IfEmpty,
        (true, true) if has_key_to_come => Straight::Beside,
        _ => Straight::No,
    }
}
