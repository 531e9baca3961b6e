//! Reads a part of a table again: the rows that meet a condition, at the source as its snapshot shows it or
//! in the warehouse as the table stood when its changes began to be kept. Each of those keys is then as the
//! source has it; every other row stays.
//!
//! What was read becomes kept changes at the place of the snapshot: the table goes on with the stream's
//! changes from before it, then with these, then with those behind it, by the road of all kept changes. A
//! row that meets the condition in the warehouse alone is looked up at the source by its key: it is read,
//! or deleted if it is not there.

use std::sync::Arc;

use tokio_postgres::Transaction;

use super::chunks::{Read, Worker};
use super::cutting::Job;
use super::refused::place;
use super::rows::SourceRows;
use super::shared::{CaughtUp, Shared};
use crate::capture::catalog::SourceTable;
use crate::capture::condition::{self, Column, Condition, Found};
use crate::capture::snapshot;
use crate::decode::{delete_message, insert_message};
use crate::error::{Error, Kind, Result};
use crate::journey::{Held, Mark, Target};
use crate::merge::{Page, Pages};
use crate::position::Order;
use crate::postgres::Session;
use crate::progress::{parts, pending};
use crate::relation::{Column as Known, Relation};
use crate::spec::{Deletes, History};
use crate::value::{Cell, RowWriter};
use crate::warehouse::Fenced;

/// A condition over a table's source, and what its columns are called in the warehouse.
pub(super) struct Part {
    pub(super) condition: Condition,
    /// the names of the columns that a condition may name: at the source, in the warehouse
    names: Vec<(String, String)>,
    /// the key: its columns' places at the source, and their names in the warehouse
    key: Vec<(usize, String)>,
}

impl Part {
    /// Brings the condition's text, the source table and the target of the warehouse table together. A
    /// column that is masked, or that one side lacks, cannot be judged alike.
    pub(super) fn of(target: &Target, now: &SourceTable, text: &str) -> Result<Part> {
        let relation = &now.relation;
        let is_clear = |column: &Known| column.mask.is_none() && !column.hidden;
        let (mut names, mut columns) = (Vec::new(), Vec::new());
        let (mut key, mut key_columns) = (Vec::new(), Vec::new());
        let of_key = |from: usize| target.key.iter().position(|place| *place == from);
        for feed in &target.feeds {
            let (Some(before), Some(stored)) =
                (target.relation.columns.get(feed.from), target.model.columns.get(feed.column))
            else {
                continue;
            };
            let Some((at, column)) = still_there(relation, before) else { continue };
            let judged = Column { name: column.name.clone(), ty: column.ty.name.clone() };
            if is_clear(before) && is_clear(column) {
                names.push((column.name.clone(), stored.name.clone()));
                columns.push(judged.clone());
                if let Some(place) = of_key(feed.from) {
                    key.push((place, (at, stored.name.clone())));
                    key_columns.push((place, judged));
                }
            }
        }
        key.sort_by_key(|(place, _)| *place);
        key_columns.sort_by_key(|(place, _)| *place);
        if key.len() != target.key.len() || key.is_empty() {
            return Err(condition::refused("its rows cannot be found by their key on both sides"));
        }
        let key_columns = key_columns.into_iter().map(|(_, column)| column).collect();
        let from = (&relation.table, now.partitioned);
        let condition = Condition::new(text, from, columns, key_columns)?;
        Ok(Part { condition, names, key: key.into_iter().map(|(_, column)| column).collect() })
    }

    /// The warehouse columns that are judged: first the key, then those that the condition names.
    fn stored_columns(&self) -> Vec<&str> {
        let stored = |column: &Column| {
            let both = self.names.iter().find(|(source, _)| *source == column.name)?;
            Some(both.1.as_str())
        };
        let named = self.condition.named();
        let key = self.key.iter().map(|(_, name)| name.as_str());
        key.chain(named.into_iter().filter_map(stored)).collect()
    }
}

/// The column that the source has now where it had this one: by its number, which survives a rename.
fn still_there<'r>(relation: &'r Relation, before: &Known) -> Option<(usize, &'r Known)> {
    let same = |column: &Known| match (before.attnum, column.attnum) {
        (0, _) | (_, 0) => before.name == column.name,
        (a, b) => a == b,
    };
    relation.columns.iter().enumerate().find(|(_, column)| same(column))
}

/// Why no part of a table can be read again; none where one can.
pub(super) fn unfit(target: &Target) -> Option<&'static str> {
    match target.model.history {
        History::Overwrite | History::Versions if !target.key.is_empty() => None,
        History::Append | History::Raw => {
            Some("its rows are events, which no row of the source has")
        }
        _ => Some("its rows have no key by which the source's could be found"),
    }
}

impl Worker {
    /// Reads a part of a table again.
    pub(super) async fn read_part(
        &self,
        under: &Transaction<'_>,
        warehouse: &mut Session,
        (job, text): (&Job, &str),
    ) -> Result<Read> {
        let shared = &*self.shared;
        let Some(now) = self.shape(under, job).await? else { return Ok(Read::Later) };
        let part = Part::of(&job.target, &now, text)?;
        shared.of_rows(part.condition.check(under).await)?;
        let relation = Arc::new(now.relation.clone());
        let schema_id = shared.number_shape(&relation).await?;
        let durations = &shared.setup.durations;
        let transaction = Fenced::begin(warehouse, &shared.fence, "part", durations).await?;
        let target = Arc::new(Target { relation, schema_id, ..(*job.target).clone() });
        let mut kept = KeptRows::new(self, &transaction, job, target);
        self.take(under, (&now, &part.condition.of_rows()), &mut kept).await?;
        let pages = Pages::of(&transaction, &job.target.model, &part.stored_columns()).await?;
        loop {
            let page = pages.next(&transaction).await?;
            if page.deleted.is_empty() {
                break;
            }
            self.page(under, (&now, &part), page, &mut kept).await?;
        }
        kept.write().await?;
        let (rows, gone) = (kept.count - kept.deletes, kept.deletes);
        let table = &job.chunk.table;
        let answer = format!("{table}: {rows} rows are read again, {gone} are gone at the source");
        let (as_of, count) = (self.as_of, u64::try_from(kept.count).unwrap_or(u64::MAX));
        let loaded = parts::load(&transaction, &job.chunk, (as_of, count), &answer).await?;
        // somebody asked for the whole table meanwhile
        let Some(floor) = loaded else { return Ok(Read::InPart) };
        transaction.commit().await?;
        tracing::info!(%table, rows, gone, %as_of, "a part of the table is read again");
        let table = CaughtUp::at(job.target.clone(), floor);
        Ok(Read::All(CaughtUp { joins: as_of, ..table }))
    }

    /// Takes the source's rows that meet a condition.
    async fn take(
        &self,
        under: &Transaction<'_>,
        (now, condition): (&SourceTable, &str),
        kept: &mut KeptRows<'_>,
    ) -> Result<()> {
        let shared = &*self.shared;
        let part = snapshot::Part { partitioned: now.partitioned, condition: Some(condition) };
        let mut rows = SourceRows::of(shared, under, &now.relation, part).await?;
        while let Some((row, length)) = rows.next(shared).await? {
            self.pace.keep(length).await;
            let message = insert_message(now.relation.oid, row)?;
            kept.push(message, shared.binary).await?;
        }
        Ok(())
    }

    /// Takes what the source has in the place of the rows of a page that meet the condition.
    async fn page(
        &self,
        under: &Transaction<'_>,
        (now, part): (&SourceTable, &Part),
        page: Page,
        kept: &mut KeptRows<'_>,
    ) -> Result<()> {
        let shared = &*self.shared;
        let Page { columns: mut keys, deleted } = page;
        let named = keys.split_off(part.key.len());
        let meets = shared.of_rows(part.condition.judge(under, &named).await)?;
        let keys = picked(&keys, &meets);
        if meets.is_empty() {
            return Ok(());
        }
        let found = shared.of_rows(part.condition.look_up(under, &keys).await)?;
        let mut others = Vec::new();
        for (at, (found, row)) in found.into_iter().zip(meets).enumerate() {
            match found {
                Found::Meets => {}
                Found::Other => others.push(at),
                Found::Gone if deleted.get(row) == Some(&true) => {}
                Found::Gone => kept.delete(&now.relation, (part, &keys, at)).await?,
            }
        }
        if others.is_empty() {
            return Ok(());
        }
        let keys = part.condition.of_keys(&picked(&keys, &others));
        self.take(under, (now, &keys), kept).await
    }
}

/// The rows of these places.
fn picked(columns: &[Vec<Option<String>>], places: &[usize]) -> Vec<Vec<Option<String>>> {
    let of = |values: &Vec<Option<String>>| {
        places.iter().map(|at| values.get(*at).cloned().flatten()).collect()
    };
    columns.iter().map(of).collect()
}

/// Gives up what cannot be read: the table goes on as if nobody had asked, and who asked is told.
pub(super) async fn give_up(
    shared: &Shared,
    warehouse: &mut Session,
    job: &Job,
    error: &Error,
) -> Result<Option<CaughtUp>> {
    let (table, reason) = (&job.chunk.table, error.advice());
    let transaction =
        Fenced::begin(warehouse, &shared.fence, "part", &shared.setup.durations).await?;
    let floor = parts::give_up(&transaction, &job.chunk, &reason).await?;
    transaction.commit().await?;
    tracing::warn!(%table, reason, "nothing of the table is read again");
    Ok(floor.map(|floor| CaughtUp::at(job.target.clone(), floor)))
}

/// Rows that become kept changes at the place of a snapshot.
struct KeptRows<'w> {
    transaction: &'w Transaction<'w>,
    connector: &'w str,
    target: Arc<Target>,
    chunk: i64,
    mark: Mark,
    binary: bool,
    rows: Vec<Held>,
    /// of `rows`
    held: usize,
    count: usize,
    deletes: usize,
    bytes: u64,
    at_most: u64,
}

impl<'w> KeptRows<'w> {
    fn new(
        worker: &'w Worker,
        transaction: &'w Transaction<'w>,
        job: &Job,
        target: Arc<Target>,
    ) -> KeptRows<'w> {
        let seq = Order::of_snapshot(worker.as_of).seq;
        let setup = &worker.shared.setup;
        KeptRows {
            transaction,
            connector: &setup.connector.name,
            target,
            chunk: job.chunk.id,
            mark: Mark { seq, committed_at: worker.taken_at, xid: 0 },
            binary: worker.shared.binary,
            rows: Vec::new(),
            held: 0,
            count: 0,
            deletes: 0,
            bytes: 0,
            at_most: setup.settings.pending_bytes / 2,
        }
    }

    /// Takes a row's message, whose values are in this form.
    async fn push(&mut self, message: Vec<u8>, binary: bool) -> Result<()> {
        const BYTES: usize = 1 << 20;
        if self.held >= BYTES || binary != self.binary {
            self.write().await?;
            self.binary = binary;
        }
        let place = place(self.chunk, self.count);
        self.bytes += u64::try_from(message.len()).unwrap_or(u64::MAX);
        let Some(ord) = place.filter(|_| self.bytes <= self.at_most) else {
            return Err(too_many(&self.target));
        };
        self.count += 1;
        self.held += message.len() + size_of::<Held>();
        let order = Order { seq: self.mark.seq, ord };
        self.rows.push(Held {
            target: self.target.clone(),
            order,
            place: order,
            mark: self.mark,
            comes_from: None,
            digests: Default::default(),
            waits: false,
            message,
            refused: None,
            letter: None,
            readable: true,
        });
        Ok(())
    }

    /// Takes the delete of a row that the source does not have, by the text of its key.
    async fn delete(
        &mut self,
        relation: &Relation,
        (part, keys, at): (&Part, &[Vec<Option<String>>], usize),
    ) -> Result<()> {
        if self.target.model.deletes == Deletes::Ignore {
            return Ok(());
        }
        let mut row = Vec::new();
        let mut writer = RowWriter::new(&mut row);
        for column in 0..relation.columns.len() {
            let place = part.key.iter().position(|(place, _)| *place == column);
            let value = place.and_then(|place| keys.get(place)?.get(at)?.as_ref());
            writer.push(value.map_or(Cell::Null, |value| Cell::Text(value.as_bytes())));
        }
        let message = delete_message(relation.oid, crate::value::Row::from_bytes(&row))?;
        self.deletes += 1;
        self.push(message, false).await
    }

    async fn write(&mut self) -> Result<()> {
        let rows = std::mem::take(&mut self.rows);
        self.held = 0;
        if rows.is_empty() {
            return Ok(());
        }
        pending::keep(self.transaction, self.connector, &rows, self.binary).await
    }
}

fn too_many(target: &Target) -> Error {
    let table = &target.model.table;
    let what = "so many rows meet the condition that keeping them would take half of \
                pending.max_bytes";
    Error::new(
        Kind::TableStops,
        format!("{what}: siltstone table resync {table:#} reads all of it"),
    )
}
