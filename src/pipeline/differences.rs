//! What differs between files, warehouse and source, table by table: what `plan` shows and `apply` makes.

use std::sync::Arc;

use super::extracted::Lacks;
use super::follow::apply_line;
use crate::capture::publication::Wanted;
use crate::merge::{Class, Leaf, Lock, Step};
use crate::names::TableName;
use crate::progress::tables::{State, TableRecord};
use crate::relation::Relation;
use crate::spec::{Connector, Model};

/// A difference, for people.
#[derive(Clone, Debug)]
pub struct Difference {
    /// What it is a difference of: a table, a publication, the control tables.
    pub subject: String,
    /// How many rows are there, as the planner knows.
    pub rows: u64,
    /// What mends it.
    pub step: Step,
    /// What of a table's rows no source has, should they be lost.
    pub held_alone: Option<&'static str>,
}

/// Every difference between files, warehouse and source.
pub struct Plan {
    /// the control migrations that are missing
    pub(super) control: Vec<String>,
    pub(super) connectors: Vec<ConnectorPlan>,
    pub(super) calendars: Vec<(TableName, Vec<String>)>,
    pub(super) extracted: Vec<Lacks>,
    pub(super) marts: Vec<(TableName, Step)>,
    pub(super) lookups: Vec<(TableName, Step)>,
    /// What no statement of ours mends, and what only a start does.
    pub notes: Vec<String>,
}

/// The differences of a connector.
pub(super) struct ConnectorPlan {
    pub(super) connector: Connector,
    pub(super) tables: Vec<TablePlan>,
    pub(super) publications: Vec<(Wanted, Vec<String>)>,
    /// the tables that are fed, with what the stream has not told of them so far
    pub(super) untold: Vec<(Arc<Model>, TableRecord)>,
    /// the tables that nothing feeds any more, and whether something is kept for them
    pub(super) unfed: Vec<(TableRecord, bool)>,
    /// the source's version
    pub(super) version: i32,
}

/// The differences of a table.
pub(super) struct TablePlan {
    pub(super) model: Arc<Model>,
    /// what its source is now
    pub(super) relation: Relation,
    /// what is noted of it; nothing of one that is new
    pub(super) record: Option<TableRecord>,
    /// what one that is new does first
    pub(super) first: State,
    pub(super) steps: Vec<Step>,
    /// the raw table that keeps the events of its source, if there is one
    pub(super) raw: Option<TableName>,
    pub(super) leaves: Vec<Leaf>,
    pub(super) rows: u64,
    /// what its rows are that no source has
    pub(super) held_alone: Option<&'static str>,
}

impl Plan {
    /// The differences, in the order in which they are mended.
    pub fn differences(&self) -> Vec<Difference> {
        let mut all = Vec::new();
        let mut add = |subject: String, rows: u64, step: Step| {
            all.push(Difference { subject, rows, step, held_alone: None });
        };
        self.control_steps().for_each(|(subject, step)| add(subject, 0, step));
        for connector in &self.connectors {
            for table in &connector.tables {
                let (name, rows) = (table.model.table.to_string(), table.rows);
                let steps = table.steps.iter().cloned().chain(table.leaf_step());
                steps.for_each(|step| add(name.clone(), rows, step));
            }
            for (wanted, step) in connector.publication_steps() {
                add(format!("publication {}", wanted.name), 0, step);
            }
            for (record, step) in connector.forgotten() {
                add(record.table.to_string(), 0, step);
            }
        }
        self.calendar_steps().for_each(|(table, step)| add(table, 0, step));
        for Lacks { model, rows, steps, leaves } in &self.extracted {
            let steps = steps.iter().cloned().chain(leaf_step(leaves));
            steps.for_each(|step| add(model.table.to_string(), *rows, step));
        }
        let kept = self.lookups.iter().chain(&self.marts).cloned();
        kept.for_each(|(table, step)| add(table.to_string(), 0, step));
        for table in self.connectors.iter().flat_map(|connector| &connector.tables) {
            let name = table.model.table.to_string();
            for difference in all.iter_mut().filter(|difference| difference.subject == name) {
                difference.held_alone = table.held_alone;
            }
        }
        all
    }

    pub(super) fn control_steps(&self) -> impl Iterator<Item = (String, Step)> {
        self.control.iter().map(|name| {
            let statements = vec![format!("-- sql/migrations/{name}.sql")];
            let step = Step::new(format!("migration {name}"), statements, Lock::AccessExclusive);
            ("audit".to_owned(), step)
        })
    }

    pub(super) fn calendar_steps(&self) -> impl Iterator<Item = (String, Step)> {
        self.calendars.iter().map(|(table, statements)| {
            let what = "make and fill the calendar".to_owned();
            (table.to_string(), Step::new(what, statements.clone(), Lock::None))
        })
    }

    /// The command that makes all of them.
    pub fn apply_line(&self) -> String {
        apply_line(self.differences().iter().map(|difference| &difference.step))
    }

    /// Whether the control tables are to be made or changed first.
    pub fn lacks_control_tables(&self) -> bool {
        !self.control.is_empty()
    }
}

impl ConnectorPlan {
    pub(super) fn publication_steps(&self) -> impl Iterator<Item = (&Wanted, Step)> {
        self.publications.iter().map(|(wanted, statements)| {
            let what = format!("publish what {} takes", self.connector.name);
            (wanted, Step::new(what, statements.clone(), Lock::ShareUpdateExclusive))
        })
    }
}

impl ConnectorPlan {
    /// The tables that nothing feeds any more. A removed file never drops a table; what is kept for it goes.
    pub(super) fn forgotten(&self) -> impl Iterator<Item = (&TableRecord, Step)> {
        self.unfed.iter().map(|(record, holds)| {
            let table = &record.table;
            let what = match holds {
                false => "forget it: nothing feeds it any more, and its rows stay",
                true => {
                    "forget it, and the changes and dead letters that are kept for it: nothing feeds it any \
                     more, and its rows stay"
                }
            };
            let statements = vec![format!("-- audit.tables: {table} is nobody's from then on")];
            let class = if *holds { Class::Destructive } else { Class::Safe };
            let step = Step::new(what.to_owned(), statements, Lock::None);
            (record, Step { class, later: true, ..step })
        })
    }
}

impl TablePlan {
    /// Whether its rows are read again for nothing but the columns that it gets.
    pub(super) fn gets_columns_alone(&self) -> bool {
        let reads = self.steps.iter().filter(|step| step.reads);
        reads.clone().count() > 0 && reads.into_iter().all(|step| step.class == Class::Safe)
    }

    pub(super) fn leaf_step(&self) -> Option<Step> {
        leaf_step(&self.leaves)
    }
}

pub(super) fn leaf_step(leaves: &[Leaf]) -> Option<Step> {
    let (first, last) = (leaves.first()?, leaves.last()?);
    let what = match leaves.len() {
        1 => format!("make the leaf {}", first.name),
        many => format!("make {many} leaves, {} to {}", first.name, last.name),
    };
    let statements = leaves.iter().map(Leaf::statement).collect();
    Some(Step::new(what, statements, Lock::ShareUpdateExclusive))
}
