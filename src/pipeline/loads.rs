//! A load: the rows that raw keeps of a stretch of time are merged into a declared table, by the merge that every
//! table is written by, in one transaction. Rows that an extract does not tell stay: it tells no deletes.
//!
//! A row that does not fit the table fails all of it, with the column's name: raw keeps it, and nothing is lost by
//! waiting for a person.

use std::sync::Arc;

use tokio_postgres::Transaction;

use super::drain::DAY;
use super::extracted::make_leaves;
use super::lane::PLANS;
use super::recall::raw_of;
use super::session::limits;
use crate::binding::bind;
use crate::decode::Extracted;
use crate::error::{Error, Kind, Result};
use crate::fold::Window;
use crate::journey::{Arrival, ChangeEvent, Flow, Op, Route, Target};
use crate::merge::{Apply, Kept, Leaves, Portioned, Standing, Templates, absent, encode_batch};
use crate::postgres::Session;
use crate::progress::extracts::{self, Portion};
use crate::progress::partitions;
use crate::schedule::Hands;
use crate::spec::{HttpEndpoint, Model, Spec};
use crate::value::Row;
use crate::warehouse::Fenced;

/// What is loaded.
pub(super) struct Load<'l> {
    pub(super) spec: &'l Spec,
    pub(super) model: &'l Model,
    pub(super) endpoint: &'l HttpEndpoint,
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
        let (extracted, target) = self.target(&transaction).await?;
        let mut merging = Merging::new(self, &transaction, &extracted, target, hands);
        let kept = Portioned::of(&transaction, raw, &portion.load_id).await?;
        loop {
            let page = kept.next(&transaction).await?;
            if page.is_empty() {
                break;
            }
            for kept in &page {
                merging.take(kept).await?;
            }
        }
        let rows = merging.end(raw).await?;
        let counted = i64::try_from(rows).unwrap_or(i64::MAX);
        extracts::note_load(&transaction, &model.table, portion, (brought.revision, counted))
            .await?;
        let (table, horizon) = (model.table.to_string(), model.lateness().as_secs_f64());
        partitions::forget_quiet(&transaction, &table, horizon).await?;
        transaction.commit().await?;
        tracing::info!(table, load_id = portion.load_id, rows, "loaded");
        Ok(rows)
    }

    /// How its rows are read, and what takes them.
    async fn target(&self, transaction: &Transaction<'_>) -> Result<(Extracted, Arc<Target>)> {
        let model = self.model;
        let stops = |why: String| {
            let remedy = format!("see {}", model.declared_in);
            Error::new(Kind::TableStops, why).on_table(model.table.to_string()).remedy(remedy)
        };
        let extracted = Extracted::of(model, &self.endpoint.key).map_err(stops)?;
        let standing = Standing::of(transaction, &model.table).await?;
        let bound = bind(0, &Arc::new(model.clone()), &extracted.relation, 0, true)?.target;
        let (arrival, limits) = (Arrival::MayBeLate, standing.limits(model));
        Ok((extracted, Arc::new(Target { arrival, limits, ..bound })))
    }
}

/// Rows on their way into a table.
struct Merging<'m> {
    load: &'m Load<'m>,
    transaction: &'m Transaction<'m>,
    extracted: &'m Extracted,
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
        extracted: &'m Extracted,
        target: Arc<Target>,
        hands: &Hands,
    ) -> Merging<'m> {
        Merging {
            load,
            transaction,
            extracted,
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
        let read = self.extracted.write(&kept.after, &mut self.cells).map_err(|poison| poison.0);
        let row = Row::from_bytes(&self.cells);
        let why = read.err().or_else(|| self.route.target.refuses(row));
        if let Some(why) = why {
            self.unfit.note(kept.id, why);
            return Ok(());
        }
        if self.unfit.rows > 0 {
            // what is to be named is looked for, and no more is written
            return Ok(());
        }
        let event = ChangeEvent {
            relation: self.extracted.relation.clone(),
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

    /// Merges the rest; how many rows there were.
    async fn end(mut self, raw: &Model) -> Result<u64> {
        if self.unfit.rows > 0 {
            return Err(self.unfit.error(self.rows, (self.load.model, raw)));
        }
        if !self.window.is_empty() {
            self.merge().await?;
        }
        Ok(self.rows)
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
