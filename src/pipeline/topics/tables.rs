//! The tables of a session that reads topics: each joins the routes when its first record comes, or at the
//! start where it has kept changes before it.
//!
//! A table that cannot be made or fed is stopped, and its changes are kept: the offsets go on for the
//! others.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::error::SqlState;

use crate::binding::bind;
use crate::decode::{DeclaredType, Hints};
use crate::error::{Error, Kind, Result};
use crate::journey::{Arrival, Flow, Target};
use crate::merge::{Standing, by_content, conform, evolve, is_ours, made_of, order_index};
use crate::names::TableName;
use crate::postgres::Session;
use crate::progress::feeds::{self, Feeder};
use crate::progress::tables::{State, TableRecord};
use crate::progress::{dead_letters, pending, schemas, tables};
use crate::relation::Relation;
use crate::spec::{History, Model};

use super::super::adopt::made;
use super::super::core::{CaughtUp, Core};
use super::super::follow::tell_feeds;
use super::super::held::HeldKeys;
use super::super::note::Then;
use super::super::resolve::models_of;
use super::super::router::{Entry, Router};
use super::super::untold::refuse_untold;
use super::letters::unbound;
use super::sources::Rival;
use super::unplanned::remedy_of;
use crate::position::Positions;

/// What is known of the connector's tables.
pub(super) struct Tables {
    pub(super) shared: Arc<Core>,
    pub(super) records: HashMap<TableName, TableRecord>,
    /// what feeds each of them
    pub(super) feeders: HashMap<TableName, Feeder>,
    /// source tables that would become what others are, by topic
    pub(super) rivals: HashMap<(String, TableName), Rival>,
    /// the keys that wait in each table
    waiting: HashMap<TableName, Vec<i64>>,
    /// those of them that wait for a delete under a former key
    arriving: HashMap<TableName, Vec<i64>>,
    /// the tables that have kept changes before them
    kept: Vec<TableName>,
}

impl Tables {
    /// Reads what the warehouse knows.
    pub(super) async fn read(shared: &Arc<Core>, warehouse: &Session) -> Result<Tables> {
        let connector = &shared.connector().name;
        let records = tables::read(&**warehouse, connector).await?;
        Ok(Tables {
            records: records.into_iter().map(|record| (record.table.clone(), record)).collect(),
            feeders: feeds::feeders(&**warehouse, connector, None).await?,
            rivals: HashMap::new(),
            waiting: dead_letters::waiting(&**warehouse, connector).await?,
            arriving: pending::arriving(&**warehouse, connector).await?,
            kept: pending::kept(&**warehouse, connector, shared.numbers()).await?,
            shared: shared.clone(),
        })
    }

    /// The states in which the tables were found.
    pub(super) fn states(&self) -> HashMap<TableName, State> {
        self.records.iter().map(|(table, record)| (table.clone(), record.state)).collect()
    }

    /// Opens the tables that have kept changes before them; what is to be drained of them.
    pub(super) async fn open_kept(
        &mut self,
        router: &mut Router,
        (warehouse, ends): (&Session, &Positions),
    ) -> Result<Vec<CaughtUp>> {
        let mut behind: Vec<&TableRecord> = self.records.values().collect();
        behind.sort_by(|a, b| a.table.cmp(&b.table));
        let behind: Vec<(TableName, i32)> = behind
            .into_iter()
            .filter(|record| {
                self.flow(record) == Flow::Hold || self.waiting.contains_key(&record.table)
            })
            .filter_map(|record| Some((record.source.clone()?, record.schema_id?)))
            .collect();
        let numbers: Vec<i32> = behind.iter().map(|(_, number)| *number).collect();
        let shapes = schemas::read(&**warehouse, &numbers).await?;
        for (source, number) in behind {
            let Some(shape) = shapes.get(&number) else { continue };
            if shape.table == source && router.of(shape).is_empty() {
                self.open(router, &Arc::new(shape.clone()), (Arrival::MayBeLate, None)).await?;
            }
        }
        Ok(router.catching_up(|table| {
            let record = self.records.get(table)?;
            let goes_on = matches!(record.state, State::CatchingUp | State::Streaming);
            // what a sifted table refused a moment ago is to be among the kept changes first
            let sifted = record.reason.is_some();
            goes_on.then(|| if sifted { ends.clone() } else { Positions::default() })
        }))
    }

    /// Lets every table that a relation feeds join the routes.
    pub(super) async fn open(
        &mut self,
        router: &mut Router,
        relation: &Arc<Relation>,
        (arrival, by): (Arrival, Option<&Feeder>),
    ) -> Result<()> {
        let shared = self.shared.clone();
        let (connector, models) = (shared.connector(), &shared.setup.models);
        for model in models_of(connector, models, relation, &shared.extensions) {
            let opened = match self.record(&model.table).await? {
                Some(record) => self.known(router.next(), &model, relation, record).await,
                None => match self.fresh(router.next(), (&model, relation), by).await {
                    Ok(opened) => Ok(opened),
                    // another member of the group may have made it just now, also of another source
                    Err(error) => match self.record(&model.table).await? {
                        Some(record) if self.is_fed_by(&model.table, by) => {
                            self.known(router.next(), &model, relation, record).await
                        }
                        Some(_) => return Err(error.with_kind(Kind::Busy)),
                        None => Err(error),
                    },
                },
            };
            let (target, state) = match opened {
                Ok(opened) => opened,
                Err(error) if stops(&error) => {
                    self.stop(router.next(), (&model, relation, by), &error).await?
                }
                Err(error) => return Err(error),
            };
            let table = &model.table;
            if state == State::Streaming {
                refuse_untold(&self.shared, &target, relation)?;
            }
            let keys = |of: &HashMap<TableName, Vec<i64>>| {
                HeldKeys::new(of.get(table).cloned().unwrap_or_default())
            };
            let record = self.records.get(table);
            let flow = match state {
                State::Streaming if record.is_none_or(|record| self.flow(record) == Flow::Live) => {
                    Flow::Live
                }
                _ => Flow::Hold,
            };
            self.show(target.index, table, state);
            router.add(Entry {
                target: Arc::new(Target { arrival, ..target }),
                flow,
                floor: record.map_or(0, |record| record.floor),
                held: keys(&self.waiting),
                arriving: keys(&self.arriving),
            });
        }
        Ok(())
    }

    /// What is known of a table; other members of the group make tables too.
    pub(super) async fn record(&mut self, table: &TableName) -> Result<Option<TableRecord>> {
        if !self.records.contains_key(table) {
            let side = self.shared.side_session().await;
            let connector = &self.shared.connector().name;
            if let Some(record) = tables::read_one(&**side.session(), connector, table).await? {
                self.feeders
                    .extend(feeds::feeders(&**side.session(), connector, Some(table)).await?);
                self.records.insert(table.clone(), record);
            }
        }
        Ok(self.records.get(table).cloned())
    }

    /// The shape that records of a source table had last.
    pub(super) async fn shape(&self, source: &TableName) -> Result<Option<Arc<Relation>>> {
        let of = |record: &&TableRecord| record.source.as_ref() == Some(source);
        let Some(number) = self.records.values().find(of).and_then(|record| record.schema_id)
        else {
            return Ok(None);
        };
        let side = self.shared.side_session().await;
        let shapes = schemas::read(&**side.session(), &[number]).await?;
        Ok(shapes.into_values().next().filter(|shape| shape.table == *source).map(Arc::new))
    }

    /// What is known of a source table beside its records.
    pub(super) async fn hints(&self, table: &TableName) -> Result<Hints> {
        let (connector, models) = (self.shared.connector(), &self.shared.setup.models);
        let mut hints = Hints::default();
        let of_table = models
            .iter()
            .filter(|model| model.from.source == connector.source && model.from.table == *table);
        let mut declared = false;
        for model in of_table {
            declared = true;
            for column in &model.columns {
                if !hints.columns.iter().any(|(name, _)| *name == column.from) {
                    hints.columns.push((column.from.clone(), column.ty.clone()));
                }
            }
            if hints.key.is_empty() && model.history != History::Append {
                let from = |name: &String| model.column(name).map(|column| column.from.clone());
                hints.key = model.key.iter().filter_map(from).collect();
            }
        }
        let side = self.shared.side_session().await;
        if let Some(schema) = connector.target_schema.as_ref().filter(|_| !declared) {
            let target = TableName::new(schema.clone(), table.name.clone());
            let standing = Standing::of(&**side.session(), &target).await?;
            hints.columns = standing.declared().collect();
            hints.key = standing.key().to_vec();
        }
        let types: Vec<&str> = hints.columns.iter().map(|(_, ty)| ty.as_str()).collect();
        let made_of = made_of(&**side.session(), &types).await?.into_iter();
        let types =
            made_of.map(|(ty, base, unknown)| (ty.clone(), DeclaredType { ty, base, unknown }));
        hints.types = types.collect();
        Ok(hints)
    }

    /// A table that we know: it takes the shape of what comes.
    async fn known(
        &self,
        index: usize,
        model: &Arc<Model>,
        relation: &Arc<Relation>,
        record: TableRecord,
    ) -> Result<(Target, State)> {
        let shared = &self.shared;
        let standing = {
            let side = shared.side_session().await;
            Standing::of(&**side.session(), &model.table).await?
        };
        if !standing.is_there() {
            return match record.state {
                // its making failed, or somebody dropped it
                State::Stopped => {
                    let what = record.reason.as_deref().unwrap_or("it is not there");
                    let remedy = record.remedy.as_deref().unwrap_or_default();
                    Err(Error::new(Kind::TableStops, what).remedy(remedy))
                }
                _ => self.fresh(index, (model, relation), None).await,
            };
        }
        let schema_id = shared.number_shape(relation).await?;
        // what nobody has asked the warehouse for yet is added to it
        let mut there = (**model).clone();
        if model.mirrored {
            there.columns.retain(|column| standing.has(&column.name));
        }
        let evolution = evolve(&Arc::new(there), &standing, relation, &shared.extensions);
        if let Some((why, remedy)) = evolution.stop {
            return Err(Error::new(Kind::TableStops, why).remedy(remedy));
        }
        let mut statements = evolution.statements;
        if !model.mirrored {
            tell_feeds(shared, (model, &standing), &record).await?;
            // what its file has got since
            let fit = conform(model, &standing, &[])?;
            statements.extend(fit.statements.into_iter().filter(|_| !fit.empties));
        }
        if !statements.is_empty() || record.schema_id.is_none() {
            let defined = shared.define(&statements, &model.table, Then::Shape(schema_id)).await;
            defined.map_err(|error| match error.code() {
                // another member of the group has added it just now
                Some(&SqlState::DUPLICATE_COLUMN) => error.with_kind(Kind::Busy),
                _ => error,
            })?;
        }
        let bound = bind(index, &evolution.model, relation, schema_id, shared.binary)?;
        let target = Target { seen: record.seen, ..bound.target };
        Ok((target.with_limits(standing.limits(&evolution.model)), record.state))
    }

    /// A table that is new: it is made, or one of its name is taken.
    async fn fresh(
        &self,
        index: usize,
        (model, relation): (&Arc<Model>, &Arc<Relation>),
        by: Option<&Feeder>,
    ) -> Result<(Target, State)> {
        let shared = &self.shared;
        if let Some(column) = model.columns.iter().find(|column| is_ours(model, &column.name)) {
            let what = format!("its column {} has a name that we need ourselves", column.name);
            let remedy = "declare the table in schemas/ with another name for it";
            return Err(Error::new(Kind::TableStops, what).remedy(remedy));
        }
        let schema_id = shared.number_shape(relation).await?;
        let standing = {
            let side = shared.side_session().await;
            Standing::of(&**side.session(), &model.table).await?
        };
        let (model, wider) = match standing.is_there() && model.mirrored {
            true => {
                // what it has counts: a schema does not say how long a text may be
                let evolution = evolve(model, &standing, relation, &shared.extensions);
                if let Some((why, remedy)) = evolution.stop {
                    return Err(Error::new(Kind::TableStops, why).remedy(remedy));
                }
                (evolution.model, evolution.statements)
            }
            false => (model.clone(), Vec::new()),
        };
        let model = &model;
        let binding = bind(index, model, relation, schema_id, shared.binary)?;
        for column in &binding.unfed {
            let table = &model.table;
            tracing::warn!(%table, column, "the source has no such column (yet): it is NULL");
        }
        let readers = &shared.setup.settings.readers;
        let (making, _) = {
            let side = shared.side_session().await;
            made(side.session(), (shared.connector(), false), &binding.target, (readers, true))
                .await?
        };
        let state = State::Streaming;
        let then = added((model, schema_id), state, by);
        let statements = [wider, by_content(model, making), order_index(model)].concat();
        shared.define(&statements, &model.table, then).await?;
        let side = shared.side_session().await;
        let standing = Standing::of(&**side.session(), &model.table).await?;
        Ok((binding.target.with_limits(standing.limits(model)), state))
    }

    /// A table that cannot go on: its changes are kept.
    async fn stop(
        &self,
        index: usize,
        (model, relation, by): (&Arc<Model>, &Arc<Relation>, Option<&Feeder>),
        error: &Error,
    ) -> Result<(Target, State)> {
        let (shared, table) = (&self.shared, &model.table);
        let schema_id = shared.number_shape(relation).await?;
        let (reason, resume) = (error.reason(), format!("siltstone table resume {table:#}"));
        let remedy = &remedy_of(table, error.remedy_text().unwrap_or(&resume));
        if !self.records.contains_key(table) {
            let state = State::Stopped;
            let then = added((model, schema_id), state, by);
            shared.define(&[], table, then).await?;
        }
        shared.define(&[], table, Then::Stop { reason: &reason, remedy, unread: false }).await?;
        tracing::error!(%table, reason, remedy, "the table stops, its changes are kept");
        shared.setup.board.table_named(index, table);
        let stopped = State::Stopped.word();
        shared.setup.board.table_state(table, stopped, Some(&reason), Some(remedy));
        Ok((unbound(index, model, relation, schema_id), State::Stopped))
    }

    /// Whether a table takes its changes one by one, as it has refused some.
    pub(super) fn is_sifted(&self, table: &TableName) -> bool {
        let record = self.records.get(table);
        record.is_some_and(|of| of.state == State::CatchingUp && of.reason.is_some())
    }

    fn flow(&self, record: &TableRecord) -> Flow {
        let clear = !self.kept.contains(&record.table);
        if record.state == State::Streaming && clear { Flow::Live } else { Flow::Hold }
    }

    fn show(&self, index: usize, table: &TableName, state: State) {
        let board = &self.shared.setup.board;
        board.table_named(index, table);
        if state == State::Stopped {
            return;
        }
        let record = self.records.get(table);
        let reason = record.and_then(|record| record.reason.as_deref());
        let remedy = record.and_then(|record| record.remedy.as_deref());
        board.table_state(table, state.word(), reason, remedy);
    }

    /// Shows the tables that wait for a human before any record of them has come.
    pub(super) fn show_stopped(&self) {
        let board = &self.shared.setup.board;
        for record in self.records.values() {
            let (reason, remedy) = (record.reason.as_deref(), record.remedy.as_deref());
            board.table_state(&record.table, record.state.word(), reason, remedy);
        }
    }
}

/// What is noted of a table that is new.
fn added<'a>(
    (model, schema_id): (&'a Model, i32),
    state: State,
    by: Option<&'a Feeder>,
) -> Then<'a> {
    match by {
        Some(by) => Then::AddFed { model, schema_id, state, by },
        None => Then::Add { model, schema_id, state },
    }
}

fn stops(error: &Error) -> bool {
    matches!(error.kind(), Kind::TableStops | Kind::Poison | Kind::Rights)
}
