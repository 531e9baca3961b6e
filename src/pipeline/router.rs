//! Where each source table's changes go, and what happens when its shape changes in the stream.

use std::sync::Arc;

use hashbrown::HashMap;

use super::arriving::Arriving;
use super::core::{CaughtUp, Core};
use super::follow::permitted;
use super::held::{HeldKeys, comes_unfinished, refuse_truncate};
use super::reshape::{held_key, reshape};
use super::tables::Planned;
use crate::decode::RelationMessage;
use crate::error::{Error, Kind, Result};
use crate::fold::{Window, digests, key_texts, refusal};
use crate::journey::{Arrival, ChangeEvent, Digests, Flow, Route, Target};
use crate::names::TableName;
use crate::position::{Order, Positions};
use crate::progress::tables::State;
use crate::relation::Relation;

/// The routes of a session.
pub(super) struct Router {
    routes: Vec<Route>,
    /// beside each route
    sources: Vec<Source>,
    /// beside each route the keys whose changes wait
    held: Vec<HeldKeys>,
    /// beside each route those of them that wait for a delete under a former key
    arriving: Vec<Arriving>,
    /// how many keys of a table may wait
    held_at_most: usize,
    /// the number of the piece that what is pushed leaves with
    pub(super) piece: u64,
    /// by the source table's OID, as far as the stream has shown it
    by_oid: HashMap<u32, Arc<[usize]>>,
    none: Arc<[usize]>,
}

/// The source table of a route, as the session began.
struct Source {
    oid: u32,
    name: TableName,
    /// it is held, and goes on by being read: what comes until then need not be kept
    waits: bool,
}

/// A table that joins the routes.
pub(super) struct Entry {
    pub(super) target: Arc<Target>,
    pub(super) flow: Flow,
    pub(super) floor: i64,
    /// the keys whose changes wait
    pub(super) held: HeldKeys,
    /// those of them that wait for a delete under a former key
    pub(super) arriving: HeldKeys,
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
            let waits = table.record.is_held() && table.record.chunk_open;
            Source { oid: relation.oid, name: relation.table.clone(), waits }
        };
        let held = |table: &Planned| {
            HeldKeys::new(waiting.remove(&table.record.table).unwrap_or_default())
        };
        Router {
            held: planned.iter().map(held).collect(),
            arriving: planned.iter().map(|_| Arriving::default()).collect(),
            held_at_most,
            piece: 1,
            routes: planned.iter().map(route).collect(),
            sources: planned.iter().map(source).collect(),
            by_oid: HashMap::new(),
            none: Arc::from([]),
        }
    }

    /// No routes yet.
    pub(super) fn empty(held_at_most: usize) -> Router {
        Router::new(&[], std::collections::HashMap::new(), held_at_most)
    }

    /// The place that the next table gets.
    pub(super) fn next(&self) -> usize {
        self.routes.len()
    }

    /// Adds a table; its target has the place that it gets.
    pub(super) fn add(&mut self, entry: Entry) {
        let Entry { target, flow, floor, held, arriving } = entry;
        let relation = &target.relation;
        self.by_oid.remove(&relation.oid);
        self.sources.push(Source { oid: relation.oid, name: relation.table.clone(), waits: false });
        self.routes.push(Route { target, flow, floor });
        self.arriving.push(Arriving::new(arriving, !held.is_empty()));
        self.held.push(held);
    }

    /// The tables in which rows wait for the delete under their former key, and whose kept changes nobody
    /// looks through: from now on somebody does. Pieces up to `done` are in the warehouse, and `settled` says that
    /// of no table it was told, as they were not yet, that it goes on.
    pub(super) fn ask_for_arrivals(&mut self, done: u64, settled: bool) -> Vec<CaughtUp> {
        let mut asked = Vec::new();
        let waiting = self.arriving.iter_mut().zip(&self.held);
        for (route, (arriving, held)) in self.routes.iter().zip(waiting) {
            if route.flow == Flow::Hold {
                if settled {
                    arriving.settle(done);
                }
                continue;
            }
            if !arriving.asks(done) {
                continue;
            }
            let table = CaughtUp::at(route.target.clone(), route.floor);
            asked.push(CaughtUp { flows: true, held: held.clone(), ..table });
        }
        asked
    }

    /// Lets keys wait.
    pub(super) fn hold_keys(&mut self, at: usize, digests: Digests) {
        if let Some(held) = self.held.get_mut(at) {
            held.add(digests);
        }
    }

    /// What is to be drained of the tables that hold their changes back, as far as they may go on.
    pub(super) fn catching_up(
        &self,
        may: impl Fn(&TableName) -> Option<Positions>,
    ) -> Vec<CaughtUp> {
        let held = self.routes.iter().filter(|route| route.flow == Flow::Hold);
        let drained = held.filter_map(|route| {
            let not_before = may(&route.target.model.table)?;
            Some(CaughtUp { not_before, ..CaughtUp::at(route.target.clone(), route.floor) })
        });
        drained.collect()
    }

    /// Changes with a lower `seq` are no more for a table.
    pub(super) fn raise_floor(&mut self, at: usize, seq: i64) {
        if let Some(route) = self.routes.get_mut(at) {
            route.floor = route.floor.max(seq);
        }
    }

    /// Changes how the changes of a table arrive.
    pub(super) fn set_arrival(&mut self, at: usize, arrival: Arrival) {
        if let Some(route) = self.routes.get_mut(at)
            && route.target.arrival != arrival
        {
            route.target = Arc::new(Target { arrival, ..(*route.target).clone() });
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
        let table = &route.target.model.table;
        let kind = match route.target.model.history.logs_events() {
            true => Kind::TableStops,
            false => Kind::Reread,
        };
        let remedy = format!("siltstone table resync {table:#}");
        Err(Error::new(kind, what).remedy(remedy).on_table(table.to_string()))
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
            let table = &route.target.model.table;
            let what = format!("a change of {length} bytes is longer than max_row_bytes");
            return Err(Error::new(Kind::Skipped, what)
                .remedy(format!(
                    "raise max_row_bytes (and memory) in siltstone.yaml and restart, then siltstone \
                     table resync {table:#}"
                ))
                .on_table(table.to_string()));
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

    /// Whether the rows of a route's table have a change already. Of a table on hold that is seen when its kept
    /// changes are applied.
    pub(super) fn has(&self, at: usize, event: &ChangeEvent<'_>) -> Result<bool> {
        let live = self.routes.get(at).filter(|route| route.flow == Flow::Live);
        live.map_or(Ok(false), |route| route.target.has(event.order, event.mark, event.op))
    }

    /// The target of a table.
    pub(super) fn target(&self, table: &TableName) -> Option<Arc<Target>> {
        let mut targets = self.routes.iter().map(|route| &route.target);
        targets.find(|target| target.model.table == *table).cloned()
    }

    /// Takes a change to where its route leads; or among the kept ones, where its key waits.
    pub(super) fn push(
        &mut self,
        at: usize,
        event: &ChangeEvent<'_>,
        message: &[u8],
        window: &mut Window,
    ) -> Result<()> {
        let (Some(route), Some(held), Some(arriving)) =
            (self.routes.get(at), self.held.get_mut(at), self.arriving.get_mut(at))
        else {
            return Ok(());
        };
        let in_rows = event.order.seq < route.floor;
        let target = &route.target;
        let comes_from = event.old.filter(|_| !in_rows && comes_unfinished(target, event));
        if route.flow == Flow::Hold || in_rows {
            window.push(route, event, message)?;
            if let Some(old) = comes_from {
                // the delete there may be of another partition, and is behind it then
                window.note_origin(key_texts(target, old.row));
                arriving.note_kept(digests(target, event).alone(), self.piece);
            }
            return Ok(());
        }
        let refused = refusal(target, event);
        if held.is_empty() && refused.is_none() && comes_from.is_none() {
            return window.push(route, event, message);
        }
        if let Some(old) = comes_from {
            // what came to its former key since is not before it
            let alone = digests(target, event).alone();
            if window.has_left(target, event) && refused.is_none() && !held.catches(alone) {
                return window.push(route, event, message);
            }
            held.add(alone);
            arriving.note(alone, self.piece);
            window.await_delete(target, event, message, (alone, key_texts(target, old.row)));
            return held.refuse_too_many(&target.model.table, self.held_at_most);
        }
        let keys = digests(target, event);
        let aside = held.wait_under((target.arrival, keys), arriving.keys());
        match (refused, aside) {
            (_, Some(keys)) => window.set_aside(target, event, message, keys),
            (None, None) => return window.push(route, event, message),
            (Some(refused), None) => {
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
        let CaughtUp { target, floor, held, arriving, .. } = table;
        if let Some(keys) = self.held.get_mut(target.index) {
            keys.clone_from(held);
            if let Some(known) = self.arriving.get_mut(target.index) {
                known.go_on(arriving, keys);
            }
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
        shared: &Core,
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
        let (target, statements) = reshape(&old, relation, schema_id, (shared, None)).await?;
        let statements = permitted(shared, &target, statements).await?;
        route.target = Arc::new(target);
        Ok(Some(Reshape { target: route.target.clone(), statements }))
    }
}
