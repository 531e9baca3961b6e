//! Where each source table's changes go, and what happens when its shape changes in the stream.

use std::sync::Arc;

use hashbrown::HashMap;
use tokio_postgres::GenericClient;

use super::follow::permitted;
use super::held::{HeldKeys, refuse_truncate};
use super::shared::{CaughtUp, Shared};
use super::tables::Planned;
use crate::binding::bind;
use crate::capture::catalog;
use crate::decode::RelationMessage;
use crate::error::{Error, Kind, Result};
use crate::fold::{Window, digests, refusal};
use crate::journey::{ChangeEvent, Flow, Route, Target};
use crate::merge::{compare, follow};
use crate::names::TableName;
use crate::position::Order;
use crate::progress::tables::State;
use crate::relation::{Column, Fill, Identity, Relation};

/// The routes of a session.
pub(super) struct Router {
    routes: Vec<Route>,
    /// beside each route
    sources: Vec<Source>,
    /// beside each route the keys whose changes wait
    held: Vec<HeldKeys>,
    /// how many keys of a table may wait
    held_at_most: usize,
    /// by the source table's OID, as far as the stream has shown it
    by_oid: HashMap<u32, Arc<[usize]>>,
    none: Arc<[usize]>,
}

/// The source table of a route, as the session began.
struct Source {
    oid: u32,
    name: TableName,
    /// it is stopped, and goes on by being read: what comes until then need not be kept
    waits: bool,
}

/// What a change of shape asks of a table whose changes are merged.
pub(super) struct Reshape {
    pub(super) target: Arc<Target>,
    pub(super) statements: Vec<String>,
}

impl Router {
    pub(super) fn new(
        planned: &[Planned],
        mut waiting: std::collections::HashMap<TableName, Vec<i64>>,
        held_at_most: usize,
    ) -> Router {
        let route = |table: &Planned| Route {
            target: table.target.clone(),
            flow: match (table.record.state, table.record.chunk_open) {
                (State::Streaming, false) => Flow::Live,
                _ => Flow::Hold,
            },
            floor: table.record.floor,
        };
        let source = |table: &Planned| {
            let relation = &table.source.relation;
            let waits = table.record.state == State::Stopped && table.record.chunk_open;
            Source { oid: relation.oid, name: relation.table.clone(), waits }
        };
        let held = |table: &Planned| {
            HeldKeys::new(waiting.remove(&table.record.table).unwrap_or_default())
        };
        Router {
            held: planned.iter().map(held).collect(),
            held_at_most,
            routes: planned.iter().map(route).collect(),
            sources: planned.iter().map(source).collect(),
            by_oid: HashMap::new(),
            none: Arc::from([]),
        }
    }

    /// The routes of a source table: by its OID, for the stream may still tell it by a name it had
    /// before; by its name where it was made after the session began, or is gone since.
    pub(super) fn of(&mut self, relation: &Relation) -> Arc<[usize]> {
        if let Some(routes) = self.by_oid.get(&relation.oid) {
            return routes.clone();
        }
        let fed = |is: &dyn Fn(&Source) -> bool| -> Vec<usize> {
            let sources = self.sources.iter().enumerate();
            sources.filter(|(_, source)| is(source)).map(|(at, _)| at).collect()
        };
        let mut routes = fed(&|source| source.oid == relation.oid);
        if routes.is_empty() {
            routes = fed(&|source| source.name == relation.table);
        }
        let routes = if routes.is_empty() { self.none.clone() } else { Arc::from(routes) };
        self.by_oid.insert(relation.oid, routes.clone());
        routes
    }

    /// A table whose changes are merged has another name at the source: a new session finds out which
    /// table has its name now.
    fn refuse_renamed(&self, at: usize, relation: &Relation) -> Result<()> {
        let (Some(route), Some(source)) = (self.routes.get(at), self.sources.get(at)) else {
            return Ok(());
        };
        if source.name == relation.table {
            return Ok(());
        }
        let what = format!("its source table is named {} now", relation.table);
        let table = route.target.model.table.to_string();
        let kind = match route.target.model.history.logs_events() {
            true => Kind::TableStops,
            false => Kind::Reread,
        };
        let remedy = format!("siltstone table resync {table}");
        Err(Error::new(kind, what).remedy(remedy).on_table(table))
    }

    /// A change that was too long to be taken stops its tables, unless it is in their rows already or
    /// will be.
    pub(super) fn refuse_oversized(
        &mut self,
        (relation, order): (&Relation, Order),
        length: usize,
    ) -> Result<()> {
        for at in self.of(relation).iter() {
            let (Some(route), Some(source)) = (self.routes.get(*at), self.sources.get(*at)) else {
                continue;
            };
            if source.waits || order.seq < route.floor {
                continue;
            }
            let table = route.target.model.table.to_string();
            let what = format!("a change of {length} bytes is longer than max_row_bytes");
            return Err(Error::new(Kind::Skipped, what)
                .remedy(format!(
                    "raise max_row_bytes (and memory) in siltstone.yaml and restart, then siltstone \
                     table resync {table}"
                ))
                .on_table(table));
        }
        Ok(())
    }

    /// Forgets what tables a relation feeds, as it may have another name now.
    pub(super) fn forget(&mut self, oid: u32) {
        self.by_oid.remove(&oid);
    }

    /// The name under which files know the table that a message describes: the source may have given it
    /// another one since the session began.
    pub(super) fn known_as(&self, message: &RelationMessage) -> TableName {
        let known = self.sources.iter().find(|source| source.oid == message.oid);
        known.map_or_else(
            || TableName::new(message.schema.clone(), message.name.clone()),
            |source| source.name.clone(),
        )
    }

    /// The shape that was applied last of the table that a message describes.
    pub(super) fn applied(&self, message: &RelationMessage) -> Option<Arc<Relation>> {
        let mut relations = self.routes.iter().map(|route| &route.target.relation);
        relations.find(|relation| relation.oid == message.oid).cloned()
    }

    pub(super) fn route(&self, at: usize) -> Option<&Route> {
        self.routes.get(at)
    }

    /// Takes a change to where its route leads; or among the kept ones, where its key waits.
    pub(super) fn push(
        &mut self,
        at: usize,
        event: &ChangeEvent<'_>,
        message: &[u8],
        window: &mut Window,
    ) -> Result<()> {
        let (Some(route), Some(held)) = (self.routes.get(at), self.held.get_mut(at)) else {
            return Ok(());
        };
        let in_rows = event.order.seq < route.floor;
        let target = &route.target;
        if route.flow == Flow::Hold || in_rows {
            return window.push(route, event, message);
        }
        let refused = refusal(target, event);
        if held.is_empty() && refused.is_none() {
            return window.push(route, event, message);
        }
        let keys = digests(target, event);
        match refused {
            _ if held.catches(keys) => window.set_aside(target, event, message, keys),
            None => return window.push(route, event, message),
            Some(refused) => {
                let (table, reason) = (&target.model.table, &refused.reason);
                tracing::warn!(%table, reason, "a change is refused: it becomes a dead letter, and its key waits");
                held.add(keys);
                window.bury(target, event, message, (keys, refused));
            }
        }
        held.refuse_too_many(&target.model.table, self.held_at_most)
    }

    /// A TRUNCATE of a table some of whose keys wait stops it.
    pub(super) fn refuse_truncate(&self, at: usize) -> Result<()> {
        match (self.routes.get(at), self.held.get(at)) {
            (Some(route), Some(held)) => refuse_truncate(held, &route.target.model.table),
            _ => Ok(()),
        }
    }

    /// Lets a table that has caught up go on as it stands in the warehouse.
    pub(super) fn go_live(&mut self, table: &CaughtUp) {
        let CaughtUp { target, floor, held, .. } = table;
        if let Some(keys) = self.held.get_mut(target.index) {
            keys.clone_from(held);
        }
        if let Some(route) = self.routes.get_mut(target.index) {
            *route = Route { target: target.clone(), flow: Flow::Live, floor: *floor };
        }
    }

    /// Makes a route follow a relation of another shape. None where the table itself needs nothing;
    /// the caller puts the statements in front of the rows that follow.
    pub(super) async fn reshape(
        &mut self,
        at: usize,
        relation: &Arc<Relation>,
        shared: &Shared,
    ) -> Result<Option<Reshape>> {
        if self.routes.get(at).is_some_and(|route| route.flow == Flow::Live) {
            self.refuse_renamed(at, relation)?;
        }
        let Some(route) = self.routes.get_mut(at) else { return Ok(None) };
        let old = route.target.clone();
        if *old.relation == **relation {
            route.target = Arc::new(Target { relation: relation.clone(), ..(*old).clone() });
            return Ok(None);
        }
        let schema_id = shared.number_shape(relation).await?;
        if route.flow == Flow::Hold {
            // kept changes say which shape they have; the table follows when they are applied
            route.target = Arc::new(Target {
                relation: relation.clone(),
                schema_id,
                key: held_key(&old, relation),
                ..(*old).clone()
            });
            return Ok(None);
        }
        let (target, statements) = reshape(&old, relation, schema_id, shared)?;
        let statements = permitted(shared, &target, statements).await?;
        route.target = Arc::new(target);
        Ok(Some(Reshape { target: route.target.clone(), statements }))
    }
}

/// The key under which a kept change is hashed: the relation's own, whatever the model says.
fn held_key(old: &Target, relation: &Relation) -> Vec<usize> {
    let columns = relation.columns.iter().enumerate();
    match old.key.is_empty() {
        true => Vec::new(),
        false => columns.filter(|(_, column)| column.in_key).map(|(at, _)| at).collect(),
    }
}

/// The target in a relation's new shape, and the statements that make its table follow. An error of
/// kind Reread or TableStops where it cannot follow by itself.
pub(super) fn reshape(
    old: &Target,
    relation: &Arc<Relation>,
    schema_id: i32,
    shared: &Shared,
) -> Result<(Target, Vec<String>)> {
    let table = old.model.table.to_string();
    let changes = compare(&old.relation, relation);
    let effect = follow(&old.model, &changes, relation, &shared.extensions);
    if let Some(why) = effect.stop {
        return Err(Error::new(Kind::TableStops, why)
            .remedy(format!("siltstone table resync {table}"))
            .on_table(table));
    }
    if let Some(why) = effect.reread {
        return Err(Error::new(Kind::Reread, why).on_table(table));
    }
    for note in &effect.notes {
        tracing::warn!(table, "{note}");
    }
    let binding = bind(old.index, &effect.model, relation, schema_id, shared.binary)?;
    Ok((binding.target.with_limits(old.limits.clone()), effect.statements))
}

/// The relation behind a Relation message. The catalogue tells what the message does not: attnums,
/// what rows of an added column hold. It may be ahead of the stream: where it does not fit, the message
/// wins, with what the known shape lends.
pub(super) async fn resolve(
    source: &impl GenericClient,
    shared: &Shared,
    (message, known_as): (&RelationMessage, &TableName),
    known: Option<&Arc<Relation>>,
) -> Result<Arc<Relation>> {
    let table = TableName::new(message.schema.clone(), message.name.clone());
    let catalogued = catalog::table(source, message.oid).await?.map(|found| found.relation);
    let catalogued = catalogued.map(|mut relation| {
        shared.connector().shape(known_as, &mut relation);
        relation
    });
    if let Some(relation) = catalogued.as_ref().filter(|relation| fits(relation, message)) {
        return Ok(Arc::new(relation.clone()));
    }
    if let Some(known) = known.filter(|known| fits(known, message)) {
        return Ok(known.clone());
    }
    let wanted: Vec<(u32, i32)> =
        message.columns.iter().map(|column| (column.type_oid, column.typmod)).collect();
    let types = catalog::types(source, &wanted).await?;
    let lent = |name: &str| {
        let of = |relation: &Relation| relation.columns.iter().find(|c| c.name == name).cloned();
        known.and_then(|known| of(known)).or_else(|| catalogued.as_ref().and_then(of))
    };
    let identity = identity(message.identity);
    let columns = message.columns.iter().zip(types).map(|(column, ty)| {
        let lent = lent(&column.name);
        Column {
            name: column.name.clone(),
            attnum: lent.as_ref().map_or(0, |lent| lent.attnum),
            ty,
            in_key: match identity {
                Identity::Full => lent.as_ref().is_some_and(|lent| lent.in_key),
                _ => column.in_identity,
            },
            fill: lent.as_ref().map_or(Fill::Unknown, |lent| lent.fill.clone()),
            mask: None,
            hidden: shared.connector().excludes(&table, &column.name),
            comment: lent.and_then(|lent| lent.comment),
        }
    });
    let mut relation = Relation {
        oid: message.oid,
        identity,
        columns: columns.collect(),
        attnums: catalogued.as_ref().map_or(0, |relation| relation.attnums),
        filenode: catalogued.as_ref().map_or(0, |relation| relation.filenode),
        comment: catalogued.and_then(|relation| relation.comment),
        table,
    };
    shared.connector().masks.dress(known_as, &mut relation);
    Ok(Arc::new(relation))
}

fn identity(relreplident: u8) -> Identity {
    match relreplident {
        b'f' => Identity::Full,
        b'n' => Identity::Nothing,
        _ => Identity::Key,
    }
}

/// Whether a relation is the one that a message describes.
fn fits(relation: &Relation, message: &RelationMessage) -> bool {
    let column = |(known, told): (&Column, &crate::decode::RelationColumn)| {
        known.name == told.name
            && known.source_type().oid == told.type_oid
            && known.source_type().typmod == told.typmod
            && (relation.identity != Identity::Key || known.in_key == told.in_identity)
    };
    relation.oid == message.oid
        && relation.table.schema == message.schema
        && relation.table.name == message.name
        && relation.identity == identity(message.identity)
        && relation.columns.len() == message.columns.len()
        && relation.columns.iter().zip(&message.columns).all(column)
}
