//! A load: the rows that raw keeps of a stretch of time are merged into a declared table, by the merge that every
//! table is written by, in one transaction. Rows that an extract does not tell stay, for it tells no deletes; but what
//! the newest whole reading of a table lacks is gone.
//!
//! A row that does not fit the table fails all of it, with the column's name: raw keeps it, and nothing is lost by
//! waiting for a person.

use std::sync::Arc;

use serde_json::{Map, Value};
use tokio_postgres::Transaction;

use super::drain::DAY;
use super::extracted::make_leaves;
use super::extracts::endpoint_of;
use super::lane::PLANS;
use super::recall::raw_of;
use super::session::limits;
use crate::binding::bind;
use crate::clock::postgres_micros;
use crate::decode::{Extracted, Image, Layout};
use crate::error::{Error, Kind, Result};
use crate::fold::Window;
use crate::journey::{Arrival, ChangeEvent, Flow, Mark, OldRow, Op, Route, Target};
use crate::merge::{
    Apply, Gone, Kept, Leaves, Portioned, Standing, Templates, absent, encode_batch,
};
use crate::position::Order;
use crate::postgres::Session;
use crate::progress::extracts::{self, Brought, Portion};
use crate::progress::{partitions, schemas};
use crate::relation::Relation;
use crate::schedule::Hands;
use crate::spec::{Asked, History, Model, Spec};
use crate::value::{Cell, Row, RowWriter};
use crate::warehouse::Fenced;

/// What is loaded.
pub(super) struct Load<'l> {
    pub(super) spec: &'l Spec,
    pub(super) model: &'l Model,
    pub(super) asked: Asked<'l>,
    pub(super) templates: &'l Templates,
    pub(super) no_ddl: bool,
}

impl Load<'_> {
    /// Merges what raw has of a portion; how many rows that are.
    pub(super) async fn run(
        &self,
        session: &mut Session,
        hands: &Hands,
        portion: &Portion,
    ) -> Result<u64> {
        let model = self.model;
        let raw = raw_of(&self.spec.models, model)
            .ok_or_else(|| Error::bug("a table is loaded from no raw table"))?;
        let failed = |error| Error::warehouse("setting up a session", error);
        session.batch_execute(PLANS).await.map_err(failed)?;
        let transaction = Fenced::begin(session, &hands.fence, "load", &hands.durations).await?;
        extracts::lock_table(&transaction, &model.table).await?;
        let brought = extracts::brought(&*transaction, &raw.table, &portion.load_id).await?;
        let brought = brought.ok_or_else(|| {
            let what =
                format!("{} has nothing of {}: it was not extracted", raw.table, portion.load_id);
            Error::new(Kind::Config, what).remedy("run the job's extract of that time before")
        })?;
        let rows = match self.is_overtaken(&transaction, portion, &brought).await? {
            true => 0,
            false => self.merge(&transaction, hands, (raw, portion), &brought).await?,
        };
        let counted = i64::try_from(rows).unwrap_or(i64::MAX);
        extracts::note_load(&transaction, &model.table, portion, (brought, counted)).await?;
        let (table, horizon) = (model.table.to_string(), model.lateness().as_secs_f64());
        partitions::forget_quiet(&transaction, &table, horizon).await?;
        transaction.commit().await?;
        tracing::info!(table, load_id = portion.load_id, rows, "loaded");
        Ok(rows)
    }

    /// Whether all rows of a later interval are in a table that keeps the last ones only: nothing of these is newer,
    /// and of what is gone nobody would know any more.
    async fn is_overtaken(
        &self,
        transaction: &Transaction<'_>,
        portion: &Portion,
        brought: &Brought,
    ) -> Result<bool> {
        let table = &self.model.table;
        Ok(brought.whole
            && self.model.history == History::Overwrite
            && extracts::is_whole_behind(transaction, table, portion).await?)
    }

    /// Merges the rows of a portion, and what its source has no more; how many rows there were.
    async fn merge(
        &self,
        transaction: &Transaction<'_>,
        hands: &Hands,
        (raw, portion): (&Model, &Portion),
        brought: &Brought,
    ) -> Result<u64> {
        let (reader, target) = self.target(transaction, brought).await?;
        let mut merging = Merging::new(self, transaction, &reader, target, hands);
        let kept = Portioned::of(transaction, raw, &portion.load_id).await?;
        loop {
            let page = kept.next(transaction).await?;
            if page.is_empty() {
                break;
            }
            for kept in &page {
                merging.take(kept).await?;
            }
        }
        let rows = merging.rows;
        merging.settle(raw).await?;
        let table = &self.model.table;
        if brought.whole && !extracts::is_whole_behind(transaction, table, portion).await? {
            if i64::try_from(rows).ok() != Some(brought.rows) {
                let what = format!(
                    "{} has {rows} of the {} rows of {}: what the others are is not known",
                    raw.table, brought.rows, portion.load_id
                );
                let error = Error::new(Kind::TableStops, what).on_table(table.to_string());
                return Err(error.remedy("run the job's extract of that time again"));
            }
            merging.take_gone((raw, portion), brought.revision).await?;
        }
        Ok(rows)
    }

    /// How its rows are read, and what takes them.
    async fn target(
        &self,
        transaction: &Transaction<'_>,
        brought: &Brought,
    ) -> Result<(Reader, Arc<Target>)> {
        let model = self.model;
        let (reader, schema_id) = match (self.asked, brought.schema) {
            (Asked::Http(http), _) => {
                let key = &endpoint_of(http, model)?.key;
                let extracted = Extracted::of(model, key).map_err(|why| {
                    let remedy = format!("see {}", model.declared_in);
                    let error = Error::new(Kind::TableStops, why);
                    error.on_table(model.table.to_string()).remedy(remedy)
                })?;
                (Reader::Told(extracted), 0)
            }
            (Asked::Database(_), Some(id)) => {
                let mut shapes = schemas::read(transaction, &[id]).await?;
                let shape = shapes.remove(&id);
                let shape =
                    shape.ok_or_else(|| Error::bug("the shape of raw rows is not known"))?;
                (Reader::Read(Layout::between(&shape, &shape), Arc::new(shape)), id)
            }
            (Asked::Database(database), None) => {
                let what =
                    format!("its rows of that time came before {} had its table", database.file);
                let error = Error::new(Kind::Config, what).on_table(model.table.to_string());
                return Err(error.remedy("run the job's extract of that time again"));
            }
        };
        let (relation, binary) = (reader.relation(), matches!(reader, Reader::Told(_)));
        let standing = Standing::of(transaction, &model.table).await?;
        let bound = bind(0, &Arc::new(model.clone()), relation, schema_id, binary)?.target;
        let (arrival, limits) = (Arrival::MayBeLate, standing.limits(model));
        let target = Target { arrival, ..bound };
        let target = match self.asked {
            Asked::Http(_) => Target { limits, ..target },
            // what its source has too is kept there
            Asked::Database(_) => target.with_limits(limits),
        };
        Ok((reader, Arc::new(target)))
    }
}

/// How rows of raw become rows of a table.
enum Reader {
    /// An API told them: what a text means its column's type says.
    Told(Extracted),
    /// They were read of a Postgres: a text is what it prints.
    Read(Layout, Arc<Relation>),
}

impl Reader {
    fn relation(&self) -> &Arc<Relation> {
        match self {
            Reader::Told(extracted) => &extracted.relation,
            Reader::Read(_, relation) => relation,
        }
    }

    /// Appends the cells of a row; or why it does not fit.
    fn write(&self, row: &Map<String, Value>, out: &mut Vec<u8>) -> Result<Option<String>> {
        match self {
            Reader::Told(extracted) => Ok(extracted.write(row, out).err().map(|poison| poison.0)),
            Reader::Read(layout, _) => {
                layout.write(&Image { values: row, unchanged: &[] }, false, out).map(|()| None)
            }
        }
    }
}

/// Rows on their way into a table.
struct Merging<'m> {
    load: &'m Load<'m>,
    transaction: &'m Transaction<'m>,
    reader: &'m Reader,
    today: i64,
    apply: Apply,
    route: Route,
    window: Window,
    cells: Vec<u8>,
    rows: u64,
    unfit: Unfit,
}

/// Rows that do not fit.
#[derive(Default)]
struct Unfit {
    rows: u64,
    /// why the first ones do not, with their numbers in raw
    first: Vec<(i64, String)>,
}

/// So many rows are named that do not fit.
const NAMED: usize = 3;

impl<'m> Merging<'m> {
    fn new(
        load: &'m Load<'m>,
        transaction: &'m Transaction<'m>,
        reader: &'m Reader,
        target: Arc<Target>,
        hands: &Hands,
    ) -> Merging<'m> {
        Merging {
            load,
            transaction,
            reader,
            today: hands.clock.now_postgres().div_euclid(DAY),
            apply: Apply::new(load.templates.clone()),
            route: Route { target, flow: Flow::Live, floor: 0 },
            window: Window::new(limits(&load.spec.settings)),
            cells: Vec::new(),
            rows: 0,
            unfit: Unfit::default(),
        }
    }

    async fn take(&mut self, kept: &Kept) -> Result<()> {
        self.rows += 1;
        self.cells.clear();
        let unfit = self.reader.write(&kept.after, &mut self.cells)?;
        let row = Row::from_bytes(&self.cells);
        let why = unfit.or_else(|| self.route.target.refuses(row));
        if let Some(why) = why {
            self.unfit.note(kept.id, why);
            return Ok(());
        }
        if self.unfit.rows > 0 {
            // what is to be named is looked for, and no more is written
            return Ok(());
        }
        let event = ChangeEvent {
            relation: self.reader.relation().clone(),
            op: Op::Read,
            old: None,
            new: Some(row),
            order: kept.order,
            mark: kept.mark,
            leaves: false,
            place: kept.order,
        };
        self.window.begin(kept.mark.seq);
        self.window.push(&self.route, &event, row.bytes())?;
        self.window.commit(kept.mark.committed_at);
        if self.window.is_full() { self.merge().await } else { Ok(()) }
    }

    /// Merges what was taken so far.
    async fn merge(&mut self) -> Result<()> {
        let piece = encode_batch(self.window.close((Vec::new(), String::new()), 0))?;
        let model = self.load.model;
        let days = piece.tables.iter().flat_map(|table| table.days(self.today));
        let missing = Leaves::default().missing(model, days)?;
        let missing = absent(self.transaction, missing).await?;
        if self.load.no_ddl && !missing.is_empty() {
            let what = "leaves are missing, and --no-ddl makes none";
            let error = Error::new(Kind::TableStops, what).on_table(model.table.to_string());
            return Err(error.remedy("siltstone apply"));
        }
        make_leaves(self.transaction, &model.table, &missing).await?;
        self.apply.piece(self.transaction, piece).await?;
        Ok(())
    }

    /// Merges the rest.
    async fn settle(&mut self, raw: &Model) -> Result<()> {
        if self.unfit.rows > 0 {
            return Err(self.unfit.error(self.rows, (self.load.model, raw)));
        }
        if self.window.is_empty() { Ok(()) } else { self.merge().await }
    }

    /// Takes out what is current in the table and older than the portion, which does not have it.
    async fn take_gone(&mut self, (raw, portion): (&Model, &Portion), revision: i64) -> Result<()> {
        let order = Order { seq: portion.end.as_microsecond(), ord: revision };
        let mark = Mark { seq: order.seq, committed_at: postgres_micros(portion.end), xid: 0 };
        let of = (self.load.model, raw);
        let found = Gone::of(self.transaction, of, (&portion.load_id, order)).await?;
        let Some(found) = found else { return Ok(()) };
        let mut gone = 0_u64;
        loop {
            let keys = found.next(self.transaction).await?;
            if keys.is_empty() {
                break;
            }
            for key in &keys {
                gone += 1;
                self.delete(key, (order, mark)).await?;
            }
        }
        if !self.window.is_empty() {
            self.merge().await?;
        }
        if gone > 0 {
            let (table, load_id) = (&self.load.model.table, &portion.load_id);
            tracing::info!(%table, load_id, gone, "rows that the source has no more");
        }
        Ok(())
    }

    /// Takes a delete by the key's values.
    async fn delete(&mut self, key: &[Option<String>], (order, mark): (Order, Mark)) -> Result<()> {
        let target = self.route.target.clone();
        self.cells.clear();
        let mut writer = RowWriter::new(&mut self.cells);
        for column in 0..target.relation.columns.len() {
            let at = target.key.iter().position(|of| *of == column);
            let value = at.and_then(|at| key.get(at)).and_then(Option::as_deref);
            writer.push(value.map_or(Cell::Null, |value| Cell::Text(value.as_bytes())));
        }
        let row = Row::from_bytes(&self.cells);
        let event = ChangeEvent {
            relation: target.relation.clone(),
            op: Op::Delete,
            old: Some(OldRow { row, whole: false }),
            new: None,
            order,
            mark,
            leaves: false,
            place: order,
        };
        self.window.begin(mark.seq);
        self.window.push(&self.route, &event, row.bytes())?;
        self.window.commit(mark.committed_at);
        if self.window.is_full() { self.merge().await } else { Ok(()) }
    }
}

impl Unfit {
    fn note(&mut self, id: i64, why: String) {
        self.rows += 1;
        if self.first.len() < NAMED {
            self.first.push((id, why));
        }
    }

    fn error(&self, rows: u64, (model, raw): (&Model, &Model)) -> Error {
        let first = self.first.iter().map(|(id, why)| format!("row {id} of {}: {why}", raw.table));
        let first: Vec<String> = first.collect();
        let what = format!("{} of {rows} rows do not fit: {}", self.rows, first.join("; "));
        Error::new(Kind::TableStops, what).on_table(model.table.to_string()).remedy(format!(
            "mend {} or the source, then run the job again for that time; raw_data of these rows shows their values",
            model.declared_in
        ))
    }
}
