//! The leaves of partitioned tables: which of them a batch needs, and how one is made.
//!
//! A leaf is made before the batch that needs it, in a short transaction of its own: CREATE TABLE
//! LIKE and ATTACH take no lock that a reader of the table would wait for. There is no default
//! partition: it would forbid DETACH CONCURRENTLY and stand in the way of ATTACH.

use std::collections::{HashMap, HashSet};

use tokio_postgres::GenericClient;
use tokio_postgres::error::SqlState;

use super::stored::is_there;
use crate::error::{Error, Kind, Result};
use crate::names::TableName;
use crate::postgres::quote;
use crate::spec::{History, Model, Step};
use crate::types::civil_from_days;

/// A leaf to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The partitioned table.
    pub parent: TableName,
    /// The leaf.
    pub name: TableName,
    /// The partition column.
    by: String,
    /// The first day, as days since 2000-01-01.
    from: i64,
    /// The first day behind it.
    until: i64,
}

impl Leaf {
    /// The statement that makes it.
    pub fn statement(&self) -> String {
        statements(self)
    }

    /// Its first day, since 2000-01-01.
    pub fn first_day(&self) -> i64 {
        self.from
    }
}

/// What the leaves of a table are cut by, and how long they are.
pub(super) fn partitioning(model: &Model) -> Option<(String, Step)> {
    match model.history {
        History::Raw => Some(("loaded_at".to_owned(), Step::Month)),
        History::Versions => Some(("valid_to".to_owned(), Step::Year)),
        _ => model.partition.as_ref().map(|partition| (partition.by.clone(), partition.every)),
    }
}

/// The leaves known to be there.
#[derive(Default)]
pub struct Leaves {
    known: HashMap<TableName, HashSet<i64>>,
}

impl Leaves {
    /// Which of the leaves that hold `days` are not known to be there. Refuses days outside the range
    /// that the table's file declares.
    pub fn missing(&self, model: &Model, days: impl IntoIterator<Item = i64>) -> Result<Vec<Leaf>> {
        let Some((by, step)) = partitioning(model) else { return Ok(Vec::new()) };
        let known = self.known.get(&model.table);
        let mut starts = HashSet::new();
        let mut missing = Vec::new();
        for day in days {
            let start = step.start(day);
            if known.is_some_and(|known| known.contains(&start)) || !starts.insert(start) {
                continue;
            }
            if let Some(range) = model.partition.as_ref().map(|partition| partition.range)
                && !(range.0..=range.1).contains(&day)
            {
                return Err(outside(model, day, range));
            }
            missing.push(Leaf {
                parent: model.table.clone(),
                name: model.table.with_suffix(&step.suffix(start)),
                by: by.clone(),
                from: start,
                until: step.next(start),
            });
        }
        Ok(missing)
    }

    /// Notes that leaves are there.
    pub fn note(&mut self, leaves: &[Leaf]) {
        for leaf in leaves {
            self.known.entry(leaf.parent.clone()).or_default().insert(leaf.from);
        }
    }
}

/// The days whose leaves a table should have before anything asks for them; `today` is the warehouse's.
pub fn ahead(model: &Model, today: i64) -> Vec<i64> {
    const MONTH: i64 = 31;
    const YEAR: i64 = 366;
    let Some(partition) = &model.partition else {
        return match model.history {
            History::Raw => vec![today, today + MONTH],
            // a version ends when it is closed, or a little behind
            History::Versions => vec![today, today + YEAR],
            _ => Vec::new(),
        };
    };
    let mut days = Vec::new();
    let mut day = partition.every.start(today);
    for _ in 0..partition.ahead {
        days.push(day);
        day = partition.every.next(day);
    }
    days.retain(|day| (partition.range.0..=partition.range.1).contains(day));
    days
}

/// Those of the leaves that are not there.
pub async fn absent(client: &impl GenericClient, leaves: Vec<Leaf>) -> Result<Vec<Leaf>> {
    let mut absent = Vec::new();
    for leaf in leaves {
        if !is_there(client, &leaf.name).await? {
            absent.push(leaf);
        }
    }
    Ok(absent)
}

fn outside(model: &Model, day: i64, range: (i64, i64)) -> Error {
    let by = model.partition.as_ref().map_or("", |partition| partition.by.as_str());
    let what = format!(
        "a row's {by} is {}, outside the range {} to {} of {}",
        date(day),
        date(range.0),
        date(range.1),
        model.declared_in
    );
    Error::new(Kind::Poison, what).on_table(model.table.to_string()).remedy(format!(
        "widen partition.range in {}, then siltstone table resume {:#}",
        model.declared_in, model.table
    ))
}

fn date(day: i64) -> String {
    let (year, month, day) = civil_from_days(day);
    format!("{year:04}-{month:02}-{day:02}")
}

/// What Postgres says where somebody else has made the same table since it was looked for.
const MADE_TWICE: [SqlState; 3] =
    [SqlState::DUPLICATE_TABLE, SqlState::DUPLICATE_OBJECT, SqlState::UNIQUE_VIOLATION];

/// Makes the leaves that are not there yet. The transaction has a short lock_timeout: whoever holds
/// the table against us is not queued behind.
pub async fn create(transaction: &impl GenericClient, leaves: &[Leaf]) -> Result<()> {
    for leaf in leaves {
        let failed = |error: tokio_postgres::Error| {
            let twice = error.code().is_some_and(|code| MADE_TWICE.contains(code));
            let error = Error::warehouse(format!("making the leaf {}", leaf.name), error)
                .on_table(leaf.parent.to_string());
            // it is there the next time
            if twice { error.with_kind(Kind::Busy) } else { error }
        };
        let found = transaction
            .query_opt(
                "select exists (select from pg_inherits i where i.inhrelid = c.oid) \
                 from pg_class c join pg_namespace n on n.oid = c.relnamespace \
                 where n.nspname = $1 and c.relname = $2",
                &[&leaf.name.schema, &leaf.name.name],
            )
            .await
            .map_err(failed)?;
        match found.map(|row| row.try_get(0)).transpose().map_err(failed)? {
            Some(true) => continue,
            Some(false) => return Err(detached(leaf)),
            None => {}
        }
        transaction.batch_execute(&statements(leaf)).await.map_err(failed)?;
        // a statement that names the leaf fires the leaf's triggers alone
        let watch = "select audit.watch_leaf(to_regclass($1), to_regclass($2))";
        let (parent, name) = (quote::table(&leaf.parent), quote::table(&leaf.name));
        transaction.execute(watch, &[&parent, &name]).await.map_err(failed)?;
    }
    Ok(())
}

/// A leaf that was detached holds rows; a new one in its place would hide them.
fn detached(leaf: &Leaf) -> Error {
    let what = format!("{} is there, but is no partition of {}", leaf.name, leaf.parent);
    let attach = format!(
        "alter table {} attach partition {} for values from ({}) to ({})",
        quote::table(&leaf.parent),
        quote::table(&leaf.name),
        bound(leaf.from),
        bound(leaf.until)
    );
    Error::new(Kind::TableStops, what)
        .on_table(leaf.parent.to_string())
        .remedy(format!("{attach}; then siltstone table resume {:#}", leaf.parent))
}

/// A bound that reads as a date, a timestamp and a timestamptz alike.
fn bound(day: i64) -> String {
    quote::literal(&format!("{} 00:00+00", date(day)))
}

fn statements(leaf: &Leaf) -> String {
    let (parent, name, by) =
        (quote::table(&leaf.parent), quote::table(&leaf.name), quote::ident(&leaf.by));
    let (from, until) = (bound(leaf.from), bound(leaf.until));
    format!(
        "create table {name} (like {parent} including defaults including generated \
             including constraints including storage, \
             constraint siltstone_bounds check ({by} >= {from} and {by} < {until})) \
             with (fillfactor = 90); \
         alter table {parent} attach partition {name} for values from ({from}) to ({until}); \
         alter table {name} drop constraint siltstone_bounds"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_the_first_instant_of_its_day() {
        assert_eq!(bound(8825), "'2024-02-29 00:00+00'");
    }
}
