//! Turns the templates of `sql/merge` into the statements of one table.
//!
//! Pure: text from names and types. Every name reaches a template quoted, so a template never
//! quotes; values never reach it at all, they come by COPY or as parameters.

use std::collections::HashMap;

use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;

use super::looks::{inputs, looked_up, looking};
use super::partitioned::LEAF;
use super::stage::Shape;
use super::stored::StoredColumn;
use crate::error::{Error, Kind, Result};
use crate::journey::{Arrival, Target};
use crate::postgres::quote;
use crate::spec::{Deletes, History, Lookup};

/// The merge templates by name.
#[derive(Clone, Debug)]
pub struct Templates(HashMap<&'static str, String>);

impl Default for Templates {
    fn default() -> Templates {
        Templates(HashMap::from([
            ("overwrite", include_str!("../../sql/merge/overwrite.sql").to_owned()),
            ("partitioned", include_str!("../../sql/merge/partitioned.sql").to_owned()),
            ("versions", include_str!("../../sql/merge/versions.sql").to_owned()),
            ("append", include_str!("../../sql/merge/append.sql").to_owned()),
            ("bag", include_str!("../../sql/merge/bag.sql").to_owned()),
            ("carried", include_str!("../../sql/merge/carried.sql").to_owned()),
            ("quiet", include_str!("../../sql/merge/quiet.sql").to_owned()),
            ("readings", include_str!("../../sql/merge/readings.sql").to_owned()),
            ("collapse", include_str!("../../sql/merge/collapse.sql").to_owned()),
        ]))
    }
}

impl Templates {
    /// The same templates with one passage of one of them replaced. The tests prove by it that they
    /// notice a missing rule; the passage must be there.
    #[must_use]
    pub fn altered(mut self, name: &'static str, passage: &str, by: &str) -> Templates {
        let text = self.0.get(name).cloned().unwrap_or_default();
        assert!(text.contains(passage), "template {name} has no passage {passage:?}");
        self.0.insert(name, text.replace(passage, by));
        self
    }
}

/// The statements of one table, by the name after `-- statement:`.
#[derive(Clone, Debug, Default)]
pub(super) struct Statements(HashMap<String, String>);

impl Statements {
    /// Whether there is such a statement.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A statement's text.
    pub(super) fn get(&self, name: &str) -> Result<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .ok_or_else(|| Error::bug(format!("there is no merge statement {name}")))
    }
}

/// What the statements of a table depend on, beside the table.
#[derive(Clone, Debug)]
pub(super) struct Form {
    /// The quoted staging table.
    pub stage: String,
    /// Whether older changes lose against newer rows; a table that is read again takes every row.
    pub guard: bool,
    /// Whether deletes tell when a row went; a table that is read again only finds that it is gone.
    pub dated: bool,
    /// Whether a key may have several versions in the batch.
    pub chains: bool,
    /// The range of a key that the staged rows are all of; none where they are all of the table's.
    pub range: Option<Within>,
    /// The lookups that are in place.
    pub lookups: Vec<Lookup>,
}

/// A range of a key's column, whose ends are parameters.
#[derive(Clone, Debug)]
pub(super) struct Within {
    /// The model's column.
    pub column: String,
    /// Whether it has a lower end.
    pub lower: bool,
    /// Whether it has an upper end.
    pub upper: bool,
}

#[derive(Serialize)]
struct Context {
    stage: String,
    table: String,
    /// the table's name as a literal, by which control tables know it
    literal: String,
    /// whether its changes may come late or again
    topics: bool,
    current: String,
    leaf: &'static str,
    locator: Option<String>,
    guard: bool,
    dated: bool,
    chains: bool,
    /// what a stored row's key meets if it is of the range
    within: String,
    soft: bool,
    /// whether a newer event of a key takes the place of the older one
    overwrites: bool,
    /// the fed columns by their bits in `_keep`; none where the warehouse computes it
    slots: Vec<Option<Column>>,
    /// whether a stored key may be equal to a staged one and yet be written differently
    loose: bool,
    /// whether a key may have a row for each transaction
    chained: bool,
    since: Option<String>,
    key: Vec<Column>,
    physical_key: Vec<String>,
    columns: Vec<Column>,
    /// these and those that are looked up
    all: Vec<Column>,
    /// the columns by which rows are looked up
    inputs: Vec<Column>,
    /// columns that the source no longer feeds
    unfed: Vec<String>,
    partition: Option<Column>,
}

#[derive(Clone, Serialize)]
struct Column {
    /// quoted
    name: String,
    /// the staging column
    stage: String,
    /// the staged value in the target's type
    value: String,
    /// the value of the origin's key in the target's type
    origin: String,
    /// the stored value in the staged type
    back: String,
    /// the name as a literal
    literal: String,
    /// the value in the staged type as `q.row` has it as text
    recalled: String,
    /// the same in the column's own type
    kept: String,
    /// of a key's column: the former value of a kept row, in the column's own type
    arriving: String,
    /// the name behind the alias `e`
    qualified: String,
    /// its bit in `_keep`
    bit: usize,
    key: bool,
    physical_key: bool,
    tracked: bool,
    /// whether it is looked up, and not told by an event
    looked: bool,
    /// what makes values of a type without `=` comparable
    compare: &'static str,
}

/// Renders the statements of a target.
pub(super) fn render(
    templates: &Templates,
    target: &Target,
    stored: &[StoredColumn],
    form: &Form,
) -> Result<Statements> {
    let name = match target.model.history {
        History::Overwrite if target.model.partition.is_some() => "partitioned",
        History::Overwrite => "overwrite",
        History::Versions => "versions",
        History::Append => "append",
        History::Bag => "bag",
        History::Raw => return Ok(Statements::default()),
    };
    let template = |name: &str| templates.0.get(name).map_or("", String::as_str);
    let merges = matches!(target.model.history, History::Overwrite | History::Versions);
    let collapse = if merges && target.has_loose_key() { template("collapse") } else { "" };
    let quiet = template(if merges { "quiet" } else { "readings" });
    let keyed = target.model.history != History::Bag && !target.key.is_empty();
    let carried = template(if keyed { "carried" } else { "" });
    let text = format!("{carried}{quiet}{collapse}{}", template(name));
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let context = context(target, stored, form)?;
    let broken = |error: minijinja::Error| {
        Error::bug(format!("the merge template {name} does not render")).because(error)
    };
    let rendered =
        environment.render_str(&text, minijinja::value::Serde(context)).map_err(broken)?;
    let mut statements = split(&rendered);
    statements.extend(looking(target, stored, (&form.stage, &form.lookups)));
    Ok(Statements(statements))
}

/// A statement begins behind a line `-- statement: name`.
fn split(text: &str) -> HashMap<String, String> {
    let parts = text.split("-- statement: ").skip(1);
    let statement = |part: &str| {
        let (name, body) = part.split_once('\n')?;
        Some((name.trim().to_owned(), body.trim().to_owned()))
    };
    parts.filter_map(statement).collect()
}

fn context(target: &Target, stored: &[StoredColumn], form: &Form) -> Result<Context> {
    let model = &target.model;
    let columns = columns(target, stored)?;
    let lookups = looked_up(target, stored, &form.lookups);
    let known = inputs(target, stored, &lookups);
    let by = known.iter().flatten().map(|input| quote::ident(&input.name)).collect::<Vec<_>>();
    let filled = lookups.iter().filter(|_| known.is_some());
    let mut all = columns.clone();
    all.extend(filled.filter_map(|(n, lookup)| looked(*n, lookup, stored)));
    // what nothing fills now goes on as it is stored
    let rests = |name: &&String| {
        let takes = |stored: &StoredColumn| stored.name == **name && !stored.generated;
        stored.iter().any(takes) && !all.iter().any(|column| column.name == quote::ident(name))
    };
    let resting = model.lookups.iter().map(|lookup| &lookup.name).filter(rests);
    let resting: Vec<String> = resting.map(|name| quote::ident(name)).collect();
    let by_name = |name: &String| {
        let quoted = quote::ident(name);
        columns.iter().find(|column| column.name == quoted).cloned()
    };
    let fed = |n: usize| target.feeds.iter().any(|feed| feed.column == n);
    let unfed = model.columns.iter().enumerate().filter(|(n, _)| !fed(*n));
    let partition = model.partition.as_ref().map(|partition| &partition.by);
    Ok(Context {
        stage: form.stage.clone(),
        table: model.quoted(),
        literal: quote::literal(&model.table.to_string()),
        topics: match model.history {
            History::Bag => target.arrival != Arrival::InOrder,
            _ => target.arrival == Arrival::MayBeLate,
        },
        current: quote::table(&model.current_leaf()),
        leaf: LEAF,
        locator: model.has_locator().then(|| quote::table(&model.locator())),
        guard: form.guard && target.arrival != Arrival::Untold,
        dated: form.dated,
        chains: form.chains,
        within: form.range.as_ref().map_or(String::new(), |range| within(range, stored)),
        soft: model.deletes == Deletes::Soft,
        overwrites: model.history == History::Overwrite,
        slots: {
            let of_bit = |bit| columns.iter().find(|column| column.bit == bit).cloned();
            (0..target.feeds.len()).map(of_bit).collect()
        },
        loose: target.has_loose_key(),
        chained: model.history == History::Versions,
        since: model.since.as_ref().and_then(by_name).map(|column| column.value),
        key: model.key.iter().filter_map(by_name).collect(),
        physical_key: model.physical_key().into_iter().map(quote::ident).collect(),
        unfed: unfed.map(|(_, column)| quote::ident(&column.name)).chain(resting).collect(),
        partition: partition.and_then(by_name),
        inputs: columns.iter().filter(|column| by.contains(&column.name)).cloned().collect(),
        all,
        columns,
    })
}

/// A column's value as `q.row` keeps it.
fn kept(stored: &StoredColumn) -> String {
    stored.cast(&format!("(q.row ->> {})", quote::literal(&stored.name)), "text")
}

/// The condition that a row is of a range: its ends are the third parameter of a statement and the next.
fn within(range: &Within, stored: &[StoredColumn]) -> String {
    let column = quote::ident(&range.column);
    let found = stored.iter().find(|stored| stored.name == range.column);
    let end = |parameter: usize| {
        let text = format!("${parameter}::text");
        found.map_or(text.clone(), |stored| stored.cast(&text, "text"))
    };
    let lower = range.lower.then(|| format!(" and t.{column} >= {}", end(3)));
    let behind = if range.lower { 4 } else { 3 };
    let upper = range.upper.then(|| format!(" and t.{column} < {}", end(behind)));
    lower.into_iter().chain(upper).collect()
}

/// A column that is looked up: in the staging table like any other, and in no event.
fn looked(n: usize, lookup: &Lookup, stored: &[StoredColumn]) -> Option<Column> {
    let stored = stored.iter().find(|stored| stored.name == lookup.name)?;
    let name = quote::ident(&lookup.name);
    let nothing = || "null".to_owned();
    Some(Column {
        stage: format!("l{n}"),
        value: stored.cast(&format!("s.l{n}"), ""),
        origin: nothing(),
        back: nothing(),
        literal: quote::literal(&lookup.name),
        recalled: nothing(),
        kept: nothing(),
        arriving: nothing(),
        qualified: format!("e.{name}"),
        bit: 0,
        key: false,
        physical_key: false,
        tracked: false,
        looked: true,
        compare: "",
        name,
    })
}

fn columns(target: &Target, stored: &[StoredColumn]) -> Result<Vec<Column>> {
    let model = &target.model;
    let shape = Shape::of(target);
    let mut columns = Vec::new();
    for (n, feed) in target.feeds.iter().enumerate() {
        let Some(column) = model.columns.get(feed.column) else { continue };
        let found = stored.iter().find(|stored| stored.name == column.name);
        let stored = found.ok_or_else(|| {
            Error::new(Kind::TableStops, format!("the table has no column {}", column.name))
                .on_table(model.table.to_string())
                .remedy(format!(
                    "alter table {} add column {} {}; then siltstone table resync {:#}",
                    model.quoted(),
                    quote::ident(&column.name),
                    column.ty,
                    model.table
                ))
        })?;
        // the warehouse computes it
        if stored.generated {
            continue;
        }
        let key = model.key.contains(&column.name);
        let partitions = model.partition.as_ref().is_some_and(|p| p.by == column.name);
        let place = target.key.iter().position(|from| *from == feed.from);
        let staged = shape.columns.get(n).copied().unwrap_or("text");
        let origin = place.and_then(|at| shape.origin.get(at)).copied().unwrap_or("text");
        let name = quote::ident(&column.name);
        columns.push(Column {
            stage: format!("c{n}"),
            value: stored.cast(&format!("s.c{n}"), staged),
            origin: stored.cast(&format!("s.o{}", place.unwrap_or(0)), origin),
            back: format!("t.{name}::pg_catalog.{}", quote::ident(staged)),
            literal: quote::literal(&column.name),
            recalled: format!("({})::pg_catalog.{}", kept(stored), quote::ident(staged)),
            kept: kept(stored),
            arriving: {
                let place = model.key.iter().position(|key| *key == column.name).unwrap_or(0);
                stored.cast(&format!("(p.comes_from::jsonb ->> {place})"), "text")
            },
            qualified: format!("e.{name}"),
            bit: n,
            key,
            physical_key: key || partitions,
            tracked: model.track.contains(&column.name),
            looked: false,
            compare: if stored.has_equality { "" } else { "::text" },
            name,
        });
    }
    Ok(columns)
}
