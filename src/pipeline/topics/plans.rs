//! How the records of each topic are read: a plan for each table and shape, made once.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::decode::{Plan, RowChange, Shapes, Topic};
use crate::names::TableName;
use crate::spec::Format;

/// The topics that are read.
pub(super) struct Topics {
    pub(super) form: Format,
    pub(super) topics: Vec<(Arc<str>, Topic, Option<Fed>)>,
    /// every plan that was made, by topic, table and shapes
    pub(super) plans: HashMap<(usize, Arc<TableName>, Shapes), Fed>,
}

/// How the records of a table are read, and where they go.
#[derive(Clone)]
pub(super) struct Fed {
    pub(super) table: Arc<TableName>,
    pub(super) shapes: Shapes,
    pub(super) plan: Arc<Plan>,
    pub(super) masked: bool,
}

impl Topics {
    pub(super) fn new(form: Format) -> Topics {
        Topics { form, topics: Vec::new(), plans: HashMap::new() }
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
        let is = |fed: &&Fed| fed.shapes == change.shapes && fed.table == change.table;
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
        self.plans.insert((topic, fed.table.clone(), fed.shapes), fed);
    }
}
