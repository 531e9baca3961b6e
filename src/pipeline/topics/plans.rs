//! How the records of each topic are read: a plan for each table and shape, made once.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;

use super::super::core::Core;
use super::super::router::Router;
use super::letters;
use super::places::Place;
use super::sources::feeder;
use super::tables::Tables;
use crate::decode::{Origin, Plan, RowChange, Shapes, Topic, Veil};
use crate::error::{Error, Kind, Result};
use crate::journey::{Arrival, Op};
use crate::names::TableName;
use crate::relation::Relation;
use crate::spec::{Format, Kafka};

/// The topics that are read.
pub(super) struct Topics {
    pub(super) form: Format,
    pub(super) topics: Vec<(Arc<str>, Topic, Option<Fed>)>,
    /// every plan that was made, by topic, table and shapes
    pub(super) plans: HashMap<(usize, Arc<TableName>, Shapes), Fed>,
    /// where the first change stood that has followed what Debezium read at first
    pub(super) streamed: Option<i64>,
    /// beside each topic how many of its records cannot be read, and how many may be
    unread: Vec<u64>,
    unread_at_most: u64,
}

/// Plans that are kept: a topic has few tables, and each few shapes.
const PLANS_KEPT: usize = 4_096;

/// How the records of a table are read, and where they go.
#[derive(Clone)]
pub(super) struct Fed {
    pub(super) table: Arc<TableName>,
    pub(super) shapes: Shapes,
    pub(super) plan: Arc<Plan>,
    pub(super) masked: bool,
}

impl Topics {
    pub(super) fn new(connector: &Kafka, places: &[Place]) -> Topics {
        Topics {
            form: connector.format,
            topics: Vec::new(),
            plans: HashMap::new(),
            streamed: places.iter().filter_map(|place| place.memory.first_streamed()).min(),
            unread: Vec::new(),
            unread_at_most: u64::try_from(connector.held_keys).unwrap_or(u64::MAX),
        }
    }

    /// Counts records of a topic that cannot be read.
    pub(super) fn count_unread(&mut self, topic: usize, more: u64) {
        self.unread.resize(self.topics.len(), 0);
        if let Some(known) = self.unread.get_mut(topic) {
            *known += more;
        }
    }

    /// Counts those that could not be read before, of the topics that are read.
    pub(super) fn know_unread(&mut self, counts: &BTreeMap<String, u64>) {
        let places: Vec<_> = self.topics.iter().map(|(name, _, _)| counts.get(&**name)).collect();
        for (topic, count) in places.into_iter().enumerate() {
            self.count_unread(topic, count.copied().unwrap_or(0));
        }
    }

    /// Whether a topic has as many of them as there may be: nothing more of it is read before it is known how many
    /// were committed.
    pub(super) fn is_unreadable(&self, topic: usize) -> bool {
        self.unread.get(topic).is_some_and(|count| *count > 0 && *count >= self.unread_at_most)
    }

    /// The same of any topic.
    pub(super) fn is_any_unreadable(&self) -> bool {
        (0..self.unread.len()).any(|topic| self.is_unreadable(topic))
    }

    pub(super) fn place(&mut self, name: &Arc<str>) -> usize {
        if let Some(at) = self.topics.iter().position(|(known, _, _)| known == name) {
            return at;
        }
        let form = match self.form {
            Format::DebeziumJson => crate::decode::Form::Envelope,
            Format::FlatJson => crate::decode::Form::Flat,
        };
        self.topics.push((name.clone(), Topic::new(name, form), None));
        self.topics.len() - 1
    }

    /// The plan for a change, if there is one.
    pub(super) fn plan(&mut self, topic: usize, change: &RowChange<'_>) -> Option<Fed> {
        let (_, _, last) = self.topics.get_mut(topic)?;
        // a tombstone has the key alone, which is read as with the rows of its table
        let same = |fed: &&Fed| fed.shapes == change.shapes || change.is_tombstone();
        let is = |fed: &&Fed| fed.table == change.table && same(fed);
        if let Some(fed) = last.as_ref().filter(is) {
            return Some(fed.clone());
        }
        let found = self.plans.get(&(topic, change.table.clone(), change.shapes)).cloned();
        if found.is_some() {
            last.clone_from(&found);
        }
        found
    }

    pub(super) fn keep(&mut self, topic: usize, fed: Fed) {
        if let Some((_, _, last)) = self.topics.get_mut(topic) {
            *last = Some(fed.clone());
        }
        if self.plans.len() >= PLANS_KEPT {
            self.plans.clear();
        }
        self.plans.insert((topic, fed.table.clone(), fed.shapes), fed);
    }
}

/// Finds out how the records of a table are read.
pub(super) struct Planner<'p> {
    pub(super) shared: &'p Core,
    pub(super) connector: &'p Kafka,
    pub(super) tables: &'p mut Tables,
    pub(super) topics: &'p mut Topics,
    pub(super) router: &'p mut Router,
}

impl Planner<'_> {
    /// Makes the plan for a change; its table joins the routes if it is new to them.
    pub(super) async fn plan(
        self,
        topic: usize,
        change: &RowChange<'_>,
        arrival: Arrival,
    ) -> Result<Fed> {
        let Some((name, state, _)) = self.topics.topics.get(topic) else {
            return Err(Error::bug("a partition of a topic that is not read"));
        };
        // a tombstone says nothing of its source
        let tells = !change.is_tombstone();
        let by = feeder(name, &change.table, change.origin.source());
        self.tables.admit(self.connector, &change.table, (&by, tells)).await?;
        let hints = self.tables.hints(&change.table).await?;
        let masks = &self.shared.connector().masks;
        let dress = |relation: &mut Relation| {
            let table = relation.table.clone();
            masks.dress(&table, relation);
        };
        let plan = Plan::new(state, change, (&hints, &self.connector.types), dress)?;
        if let Some(row) = change.after.filter(|_| change.shapes.value == 0) {
            for column in plan.unknown(row) {
                let table = &change.table;
                tracing::warn!(%table, column, "a field that no file or table names is not taken");
            }
        }
        let masked = plan.relation.masked().next().is_some();
        let fed = Fed {
            table: change.table.clone(),
            shapes: change.shapes,
            masked,
            plan: Arc::new(plan),
        };
        if self.router.of(&fed.plan.relation).is_empty() {
            let by = Some(&by).filter(|_| tells);
            self.tables.open(self.router, &fed.plan.relation, (arrival, by)).await?;
        }
        let routes = self.router.of(&fed.plan.relation);
        if routes.is_empty() {
            let table = &change.table;
            tracing::info!(%table, "no file takes this table, and the connector has no target_schema");
        }
        for route in routes.iter() {
            self.router.set_arrival(*route, arrival);
        }
        self.topics.keep(topic, fed.clone());
        Ok(fed)
    }
}

impl Planner<'_> {
    /// The routes of a topic of which no record was read in this session, by what its table was when one was
    /// read last; and how its keys are read, where that can be known without a record's schema.
    pub(super) async fn recall(
        self,
        topic: usize,
        key: Option<&[u8]>,
    ) -> Result<(Option<Fed>, Arc<[usize]>)> {
        let Some((name, state, _)) = self.topics.topics.get(topic) else {
            return Err(Error::bug("a partition of a topic that is not read"));
        };
        let table = state.table().clone();
        let by = feeder(name, &table, None);
        match self.tables.admit(self.connector, &table, (&by, false)).await {
            Err(error) if error.kind() == Kind::TableStops => return Ok((None, Arc::from([]))),
            admitted => admitted?,
        }
        let Some(shape) = self.tables.shape(&table).await? else {
            return Ok((None, Arc::from([])));
        };
        let key = key.map(letters::bare);
        let change = RowChange {
            table: table.clone(),
            op: Op::Delete,
            shapes: Shapes::default(),
            before: None,
            after: None,
            key: key.and_then(|key| serde_json::from_slice(key).ok()),
            origin: Origin::default(),
            number: None,
            leaves: false,
            comes_from: None,
        };
        let hints = self.tables.hints(&table).await?;
        let masks = &self.shared.connector().masks;
        let dress = |relation: &mut Relation| masks.dress(&table, relation);
        let plan = Plan::new(state, &change, (&hints, &self.connector.types), dress);
        if self.router.of(&shape).is_empty() {
            self.tables.open(self.router, &shape, (Arrival::MayBeLate, None)).await?;
        }
        let routes = self.router.of(&shape);
        let plan = plan.ok().filter(|plan| *plan.relation == *shape);
        let fed = plan.map(|plan| {
            let masked = plan.relation.masked().next().is_some();
            Fed { masked, table, shapes: change.shapes, plan: Arc::new(plan) }
        });
        Ok((fed, routes))
    }
}

impl Fed {
    /// Masks what nobody may see of a message.
    pub(super) fn mask(&self, shared: &Core, message: &mut Vec<u8>) -> Result<()> {
        if !self.masked {
            return Ok(());
        }
        let masks = &shared.connector().masks;
        let Some(mut veil) = Veil::of(&self.plan.relation, masks.key()) else { return Ok(()) };
        let Some((tag, body)) = message.split_first() else { return Ok(()) };
        let mut masked = vec![*tag];
        veil.body(*tag, body, &mut masked)?;
        *message = masked;
        Ok(())
    }
}
