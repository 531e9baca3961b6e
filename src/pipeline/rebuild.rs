//! Rebuilds a table from the events that a raw table of the same source table keeps, without reading the
//! source. Both are written in one transaction, so that the stored position at the moment of reading is
//! exactly where the kept changes go on.
//!
//! All of it is one transaction: whoever reads the table sees it as it was until it is as raw tells it. What
//! raw cannot tell leaves it as it was; where nobody asked for raw, the source is read instead.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_postgres::{IsolationLevel, Transaction};

use super::chunks::stops_a_table;
use super::cutting::Job;
use super::drain::DAY;
use super::fit::behind_rows;
use super::guard::ignores_truncate;
use super::lane::PLANS;
use super::parts::give_up;
use super::recall::{Recall, Rows, raw_of, read_the_source};
use super::session::limits;
use super::shared::{CaughtUp, Shared, writer};
use crate::binding::bind;
use crate::error::{Error, Kind, Result};
use crate::fold::Window;
use crate::journey::{Before, ChangeEvent, Flow, Op, Route, Target};
use crate::merge::{Apply, Events, Overrules, Rebuilding, encode_batch};
use crate::postgres::{Session, Side, connect};
use crate::progress::chunks::{self, Chunk};
use crate::progress::{Checkpoint, parts, requests};
use crate::spec::{History, Model};
use crate::value::Row;
use crate::warehouse::{Fenced, ddl};

/// Rebuilds tables, one after the other; returns those whose source is to be read instead.
pub(super) async fn rebuild_all(
    shared: &Shared,
    jobs: Vec<Job>,
    done: &mpsc::Sender<CaughtUp>,
) -> Result<Vec<Job>> {
    let mut left = Vec::new();
    if jobs.is_empty() {
        return Ok(left);
    }
    let mut warehouse = writer(&shared.setup, &shared.fence, "rebuild").await?;
    let failed = |error| Error::warehouse("setting up a session", error);
    warehouse.batch_execute(PLANS).await.map_err(failed)?;
    for job in jobs {
        let rebuilt = match rebuild(shared, &mut warehouse, &job).await {
            Err(error) if stops_a_table(&error) && job.chunk.request.is_none() => {
                left.push(turn_to_source(shared, &mut warehouse, job, &error).await?);
                continue;
            }
            Err(error) if stops_a_table(&error) => {
                give_up(shared, &mut warehouse, &job, &error).await?
            }
            rebuilt => rebuilt?,
        };
        if let Some(table) = rebuilt
            && done.send(table).await.is_err()
        {
            return Ok(Vec::new());
        }
    }
    Ok(left)
}

/// Lets the source be read in raw's place.
async fn turn_to_source(
    shared: &Shared,
    warehouse: &mut Session,
    job: Job,
    error: &Error,
) -> Result<Job> {
    let (table, reason) = (&job.chunk.table, error.reason());
    let transaction =
        Fenced::begin(warehouse, &shared.fence, "rebuild", &shared.setup.durations).await?;
    parts::turn_to_source(&transaction, &job.chunk).await?;
    transaction.commit().await?;
    tracing::info!(%table, reason, "the source is read for the new columns");
    Ok(Job { chunk: Chunk { origin: None, ..job.chunk.clone() }, ..job })
}

/// Rebuilds a table; none where it is not asked for any more.
async fn rebuild(shared: &Shared, warehouse: &mut Session, job: &Job) -> Result<Option<CaughtUp>> {
    let Target { index, model, relation, schema_id, .. } = &*job.target;
    // raw keeps every value as its text
    let target = Arc::new(bind(*index, model, relation, *schema_id, false)?.target);
    let table = &model.table;
    let raw = raw_of(&shared.setup.models, model).ok_or_else(|| no_raw(model))?;
    let name = format!("siltstone {} raw", shared.connector().name);
    let mut reader = connect(Side::Warehouse, &shared.setup.settings.warehouse, &name).await?;
    let reading = reader
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await
        .map_err(|error| Error::warehouse("taking a snapshot of it", error))?;
    let connector = shared.connector();
    let stored = Checkpoint::read(&reading, &connector.name, &connector.slot).await?;
    let stored =
        stored.ok_or_else(|| Error::bug("a table is rebuilt, and no position is stored"))?;
    let recall = Recall::of(shared, &reading, raw, &target).await?;
    let transaction =
        Fenced::begin(warehouse, &shared.fence, "rebuild", &shared.setup.durations).await?;
    let templates = &shared.setup.templates;
    let mut frame = Rebuilding::of(&transaction, templates, target.clone()).await?;
    frame.begin(&transaction).await?;
    let mut rebuild = Rebuild::new(shared, &transaction, target);
    let events = Events::of(&reading, raw, recall.after).await?;
    let mut rows = Rows::default();
    loop {
        let page = events.next(&reading).await?;
        if page.is_empty() {
            break;
        }
        for recalled in &page {
            if let Some(event) = recall.event(recalled, &mut rows)? {
                rebuild.take(&event).await?;
            }
        }
        shared.setup.board.rows_read(table, rebuild.events, job.source.estimated_rows);
    }
    let events = rebuild.end().await?;
    let strays = frame.end(&transaction).await?;
    let last = behind_rows(shared, &transaction, &job.target).await?;
    ddl(&transaction, &last)
        .await
        .map_err(|error| Error::warehouse("changing it", error).on_table(table.to_string()))?;
    let at = stored.lsn();
    if chunks::load(&transaction, &job.chunk, at, events).await?.is_none() {
        return Ok(None);
    }
    let floor = chunks::close(&transaction, table, *schema_id).await?.as_i64();
    let answer = format!("{table} is rebuilt from {events} events of {}", raw.table);
    if let Some(request) = job.chunk.request {
        requests::answer(&*transaction, request, true, &answer).await?;
    }
    transaction.commit().await?;
    tracing::info!(%table, events, strays, %at, "the table is rebuilt from {}", raw.table);
    Ok(Some(CaughtUp::at(job.target.clone(), floor)))
}

/// There is no raw table to rebuild from.
pub(super) fn no_raw(model: &Model) -> Error {
    let what = format!("no raw table keeps the events of {}", model.from);
    Error::new(Kind::TableStops, what).remedy(read_the_source(model))
}

/// Events on their way into a table.
struct Rebuild<'w> {
    shared: &'w Shared,
    transaction: &'w Transaction<'w>,
    apply: Apply,
    route: Route,
    window: Window,
    /// the `seq` of the transaction that goes on
    open: Option<i64>,
    events: u64,
}

impl<'w> Rebuild<'w> {
    fn new(
        shared: &'w Shared,
        transaction: &'w Transaction<'w>,
        target: Arc<Target>,
    ) -> Rebuild<'w> {
        let window = Window::new(limits(&shared.setup.settings));
        let apply = Apply::new(shared.setup.templates.clone());
        let route = Route { target, flow: Flow::Live, floor: 0 };
        Rebuild { shared, transaction, apply, route, window, open: None, events: 0 }
    }

    async fn take(&mut self, event: &ChangeEvent<'_>) -> Result<()> {
        let seq = event.mark.seq;
        if self.open != Some(seq) {
            self.commit();
            if self.window.is_full() {
                self.merge().await?;
            }
            self.window.begin(seq);
            self.open = Some(seq);
        }
        self.events += 1;
        let target = &self.route.target;
        if event.op == Op::Truncate && !target.model.history.logs_events() {
            return self.truncate(event).await;
        }
        // what weighs is what is kept of it
        let weight = event.new.or(event.old.map(|old| old.row)).map_or(&[][..], Row::bytes);
        self.window.push(&self.route, event, weight)?;
        if self.window.is_full() { self.merge().await } else { Ok(()) }
    }

    async fn truncate(&mut self, event: &ChangeEvent<'_>) -> Result<()> {
        let target = self.route.target.clone();
        if ignores_truncate(self.shared, &target) {
            return Ok(());
        }
        if self.window.has_rows() {
            self.merge().await?;
        }
        self.window.first(Before::Truncate { target, order: event.order, mark: event.mark });
        Ok(())
    }

    fn commit(&mut self) {
        if self.open.take().is_some() {
            self.window.commit(0);
        }
    }

    /// Merges what was taken so far.
    async fn merge(&mut self) -> Result<()> {
        let mut piece = encode_batch(self.window.close((Vec::new(), String::new()), 0))?;
        // its rows lie where they lay, and were younger than what is told of them first
        if self.route.target.model.history == History::Overwrite {
            piece.overrules = Overrules::AllForTold;
        }
        let today = self.shared.setup.clock.now_postgres().div_euclid(DAY);
        let days = piece.tables.iter().map(|table| (table.target.model.clone(), table.days(today)));
        let wanted: Vec<_> = days.collect();
        self.shared.ensure_leaves(&wanted, None).await?;
        self.apply.piece(self.transaction, piece).await?;
        Ok(())
    }

    /// Merges the rest; how many events there were.
    async fn end(mut self) -> Result<u64> {
        self.commit();
        if !self.window.is_empty() {
            self.merge().await?;
        }
        Ok(self.events)
    }
}
