//! How a warehouse table differs from its model, step by step: the statements that make it follow, what
//! they lock and what goes with them. The one list of rules: a start makes the steps it may, `plan` prints
//! all of them, `apply` makes the others.
//!
//! Pure but for [`differences`]. Columns that the model does not list are no difference.

use tokio_postgres::GenericClient;

use super::conform::{conform, left, nullable};
use super::define::{
    add_column, add_lookup, comments, current_leaf_statement, define, grants, view_statement,
};
use super::standing::Standing;
use super::stored::{canonical, columns, is_there, missing_indexes, strangers};
use super::wider::is_wider;
use crate::error::{Error, Result};
use crate::names::TableName;
use crate::postgres::quote;
use crate::spec::{Deletes, History, Model, ModelColumn};

/// What a step does to the rows that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Nothing.
    Safe,
    /// All of them are gone through, or written again.
    Rewrite,
    /// They are lost, and read again.
    Destructive,
}

impl Class {
    /// The word that people read and type.
    pub fn word(self) -> &'static str {
        match self {
            Class::Safe => "safe",
            Class::Rewrite => "rewrite",
            Class::Destructive => "destructive",
        }
    }
}

/// What a step locks the table in, in the words of Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Nothing that was there before.
    None,
    /// Readers and writers go on.
    ShareUpdateExclusive,
    /// Readers go on.
    Share,
    /// Nobody goes on.
    AccessExclusive,
}

impl Lock {
    /// The mode's name.
    pub fn word(self) -> &'static str {
        match self {
            Lock::None => "none",
            Lock::ShareUpdateExclusive => "share update exclusive",
            Lock::Share => "share",
            Lock::AccessExclusive => "access exclusive",
        }
    }
}

/// One difference, and what mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is done.
    pub what: String,
    /// By which statements, in their order.
    pub statements: Vec<String>,
    /// What that does to the rows.
    pub class: Class,
    /// What it locks.
    pub lock: Lock,
    /// Whether it lasts as long as the table is large.
    pub long: bool,
    /// Whether the rows are to be read again behind it.
    pub reads: bool,
    /// Whether the table is another one behind it.
    pub remakes: bool,
    /// Whether the service does without it: a start leaves it alone.
    pub later: bool,
}

impl Step {
    /// A safe step that is soon done.
    pub fn new(what: String, statements: Vec<String>, lock: Lock) -> Step {
        let class = Class::Safe;
        let (long, reads, remakes, later) = (false, false, false, false);
        Step { what, statements, class, lock, long, reads, remakes, later }
    }
}

/// What belongs to a table beside its columns and key.
#[derive(Debug, Default)]
struct Beside {
    /// what Postgres calls the model's types, in the order of its columns, and behind them of its lookups
    types: Vec<String>,
    /// statements for the indexes it lacks
    indexes: Vec<String>,
    /// the readers that may not read it, of its view as well
    strangers: Vec<String>,
    /// statements for what people hung on its view of current versions
    hung: Vec<String>,
    /// and on the table itself, where another one takes its place
    kept: Vec<String>,
    /// whether its view of current versions shows all columns
    has_view: bool,
    has_current_leaf: bool,
    has_locator: bool,
}

/// The differences of a table that is there. `unfed` are the model's columns that the source does not have
/// (any more). Changes nothing.
pub async fn differences(
    client: &impl GenericClient,
    (model, standing): (&Model, &Standing),
    unfed: &[String],
    readers: &[String],
) -> Result<Vec<Step>> {
    let types: Vec<&str> = columns_with_types(model).map(|(_, ty)| ty).collect();
    let mut beside = Beside {
        types: canonical(client, &types).await?,
        indexes: missing_indexes(client, model).await?,
        strangers: strangers(client, &model.table, readers).await?,
        hung: Vec::new(),
        kept: Vec::new(),
        has_view: true,
        has_current_leaf: true,
        has_locator: !model.has_locator() || is_there(client, &model.locator()).await?,
    };
    if model.history == History::Versions {
        beside.has_current_leaf = is_there(client, &model.current_leaf()).await?;
        let shown = columns(client, &model.current_view()).await?;
        beside.has_view = columns_with_types(model)
            .all(|(known, _)| shown.iter().any(|column| column.name == known));
        if beside.strangers.is_empty() && beside.has_view {
            beside.strangers = strangers(client, &model.current_view(), readers).await?;
        }
        grants(&model.current_view(), readers, &mut beside.hung);
        beside.hung.extend(hung(client, &model.current_view(), model).await?);
    }
    if other_kind(model, standing, &beside).is_some() {
        beside.kept = hung(client, &model.table, model).await?;
    }
    Ok(differ(model, standing, &beside, unfed, readers))
}

/// The statements that hang on a view or table again what people hung on it and on its model's columns.
async fn hung(client: &impl GenericClient, name: &TableName, model: &Model) -> Result<Vec<String>> {
    let query = include_str!("../../sql/merge/hung.sql");
    let columns: Vec<&str> = columns_with_types(model).map(|(name, _)| name).collect();
    let rows = client.query(query, &[&quote::table(name), &columns]).await;
    let rows = rows.and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect());
    rows.map_err(|error| Error::warehouse(format!("reading what hangs on {name}"), error))
}

/// The columns that the source feeds, and behind them those that are looked up.
fn columns_with_types(model: &Model) -> impl Iterator<Item = (&str, &str)> {
    let fed = model.columns.iter().map(|column| (column.name.as_str(), column.ty.as_str()));
    let looked_up = model.lookups.iter().map(|lookup| (lookup.name.as_str(), lookup.ty.as_str()));
    fed.chain(looked_up)
}

fn differ(
    model: &Model,
    standing: &Standing,
    beside: &Beside,
    unfed: &[String],
    readers: &[String],
) -> Vec<Step> {
    if let Some(why) = other_kind(model, standing, beside) {
        return vec![remake(model, standing, why, (readers, beside))];
    }
    let mut steps = Vec::new();
    let rekeys = model.history != History::Raw && !standing.has_key_of(model);
    match conform(model, standing, unfed).ok().filter(|_| rekeys) {
        Some(fit) => {
            let what = format!(
                "empty it and tell its rows apart by ({}), not by ({})",
                model.key.join(", "),
                standing.shown_key()
            );
            let step = Step::new(what, fit.statements, Lock::AccessExclusive);
            steps.push(Step { class: Class::Destructive, reads: true, ..step });
        }
        None => columns_of(model, standing, unfed, &mut steps),
    }
    for ((name, _), ty) in columns_with_types(model).zip(&beside.types) {
        let stored = standing.column(name);
        let other = stored.filter(|stored| !same_type(&stored.declared, ty));
        steps.extend(other.map(|stored| retype(model, name, (&stored.declared, ty), &beside.hung)));
    }
    steps.extend(beside_it(model, beside, readers, steps.iter().any(|step| step.reads)));
    steps
}

/// Columns that come, that may be empty from now on, or may not.
fn columns_of(model: &Model, standing: &Standing, unfed: &[String], steps: &mut Vec<Step>) {
    if model.history == History::Raw {
        return;
    }
    let table = model.quoted();
    let soft = model.history == History::Overwrite && model.deletes == Deletes::Soft;
    if soft && !standing.has("_deleted_at") {
        let add = vec![format!("alter table {table} add column _deleted_at timestamptz")];
        let what = "add column _deleted_at, for delete: soft".to_owned();
        steps.push(Step::new(what, add, Lock::AccessExclusive));
    }
    for column in model.columns.iter().filter(|column| !standing.has(&column.name)) {
        let what = format!("add column {} {}", column.name, column.ty);
        let step = Step::new(what, add_column(model, column), Lock::AccessExclusive);
        steps.push(Step { reads: !model.history.logs_events(), ..step });
    }
    for lookup in model.lookups.iter().filter(|lookup| !standing.has(&lookup.name)) {
        let what = format!("add column {} {}, which is looked up", lookup.name, lookup.ty);
        let mut statements = add_lookup(model, lookup);
        if model.history == History::Versions {
            statements.push(view_statement(model));
        }
        steps.push(Step::new(what, statements, Lock::AccessExclusive));
    }
    for column in left(model, standing, unfed) {
        let what = format!("let {} be NULL", column.name);
        let statements = vec![nullable(model, &column.name)];
        steps.push(Step::new(what, statements, Lock::AccessExclusive));
    }
    for column in unrequired(model, standing, unfed) {
        let what = format!("refuse NULL in {}", column.name);
        let step = Step::new(what, vec![require(model, column)], Lock::AccessExclusive);
        steps.push(Step { class: Class::Rewrite, long: true, ..step });
    }
}

/// The columns that a file requires and that are there, and take NULL all the same. The versions that ended
/// before a column came never had it.
fn unrequired<'a>(
    model: &'a Model,
    standing: &'a Standing,
    unfed: &'a [String],
) -> impl Iterator<Item = &'a ModelColumn> {
    let concerns = model.history == History::Overwrite && !model.mirrored;
    let required = model.columns.iter().filter(move |column| concerns && column.required);
    required.filter(|column| {
        let stored = standing.column(&column.name);
        stored.is_some_and(|stored| !stored.required) && !unfed.contains(&column.name)
    })
}

fn require(model: &Model, column: &ModelColumn) -> String {
    let name = quote::ident(&column.name);
    format!("alter table {} alter column {name} set not null", model.quoted())
}

/// The statements by which the columns that a reading filled refuse NULL from then on, as their file says:
/// of those that are there, and of those that come with it.
pub fn requirements(model: &Model, standing: &Standing, unfed: &[String]) -> Vec<String> {
    let come = model.columns.iter().filter(|column| {
        column.required
            && model.history == History::Overwrite
            && !model.mirrored
            && !standing.has(&column.name)
            && !unfed.contains(&column.name)
    });
    unrequired(model, standing, unfed).chain(come).map(|column| require(model, column)).collect()
}

/// View, leaf, indexes and grants.
fn beside_it(model: &Model, beside: &Beside, readers: &[String], reads: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    if !beside.has_current_leaf {
        let what = "make the leaf of its current versions".to_owned();
        let statements = vec![current_leaf_statement(model)];
        steps.push(Step::new(what, statements, Lock::AccessExclusive));
    }
    if !beside.has_view {
        let mut statements = vec![view_statement(model)];
        grants(&model.current_view(), readers, &mut statements);
        let what = format!("let {} show all of its columns", model.current_view());
        // behind a column that comes it is made at once
        steps.push(Step { later: !reads, ..Step::new(what, statements, Lock::None) });
    }
    for statement in &beside.indexes {
        let step = Step::new("make an index".to_owned(), vec![statement.clone()], Lock::Share);
        steps.push(Step { long: true, later: true, ..step });
    }
    if !beside.strangers.is_empty() {
        let mut statements = Vec::new();
        grants(&model.table, &beside.strangers, &mut statements);
        if model.history == History::Versions {
            grants(&model.current_view(), &beside.strangers, &mut statements);
        }
        let what = format!("let {} read it", beside.strangers.join(", "));
        steps.push(Step { later: true, ..Step::new(what, statements, Lock::None) });
    }
    steps
}

/// Why nothing but making it anew gives the table what its model says; none where statements do.
fn other_kind(model: &Model, standing: &Standing, beside: &Beside) -> Option<String> {
    let there = standing.history();
    let plain = |history| matches!(history, History::Overwrite | History::Bag);
    let both_plain = plain(there) && plain(model.history);
    if there != model.history && !both_plain {
        return Some(format!("as {}, not {}", word(model.history), word(there)));
    }
    let by = match model.history {
        History::Raw | History::Versions => standing.by.as_deref(),
        _ => model.partition.as_ref().map(|partition| partition.by.as_str()),
    };
    if by != standing.by.as_deref() {
        let cut = |by: Option<&str>| by.map_or("in one piece".to_owned(), |by| format!("by {by}"));
        return Some(format!("cut {}, not {}", cut(by), cut(standing.by.as_deref())));
    }
    let unpartitioned = standing.by.is_none();
    if model.history != History::Raw
        && !standing.has_key_of(model)
        && !(both_plain && unpartitioned)
    {
        let key = model.physical_key().join(", ");
        return Some(format!("with the key ({key}), not ({})", standing.shown_key()));
    }
    if !beside.has_locator {
        return Some(format!("for {} is gone, which knows its rows' leaves", model.locator()));
    }
    let cuts = |(column, _): &(&ModelColumn, &String)| by == Some(column.name.as_str());
    let (column, ty) = model.columns.iter().zip(&beside.types).find(cuts)?;
    let stored = standing.column(&column.name)?;
    let other = !same_type(&stored.declared, ty);
    other.then(|| format!("cut by a {ty}, not a {}", stored.declared))
}

fn word(history: History) -> &'static str {
    match history {
        History::Overwrite => "history: overwrite",
        History::Versions => "history: versions",
        History::Append => "history: append",
        History::Raw => "layout: raw",
        History::Bag => "a table without key",
    }
}

fn remake(
    model: &Model,
    standing: &Standing,
    why: String,
    (readers, beside): (&[String], &Beside),
) -> Step {
    let mut statements = Vec::new();
    if standing.history() == History::Versions {
        let view = quote::table(&model.current_view());
        statements.push(format!("drop view if exists {view}"));
    }
    statements.push(format!("drop table {}", model.quoted()));
    let locator = quote::table(&model.locator());
    statements.push(format!("drop table if exists {locator}"));
    statements.extend(define(model, readers));
    statements.extend_from_slice(&beside.kept);
    statements.extend_from_slice(&beside.hung);
    // what the file says of it counts
    comments(model, &mut statements);
    let step = Step::new(format!("make it anew, {why}"), statements, Lock::AccessExclusive);
    Step { class: Class::Destructive, reads: true, remakes: true, ..step }
}

fn same_type(stored: &str, wanted: &str) -> bool {
    stored.trim_matches('"') == wanted.trim_matches('"')
}

/// Another type for a column, with the table that knows its rows' leaves where it stands there too.
fn retype(model: &Model, column: &str, (from, to): (&str, &str), hung: &[String]) -> Step {
    let name = quote::ident(column);
    let alter = |table: &str| {
        format!("alter table {table} alter column {name} type {to} using {name}::{to}")
    };
    let mut statements = vec![alter(&model.quoted())];
    if model.has_locator() && model.key.iter().any(|key| key == column) {
        statements.push(alter(&quote::table(&model.locator())));
    }
    if model.history == History::Versions {
        // a column that a view shows keeps its type
        let view = model.current_view();
        statements.insert(0, format!("drop view if exists {}", quote::table(&view)));
        statements.push(view_statement(model));
        statements.extend_from_slice(hung);
    }
    let what = format!("make {column} a {to}, not a {from}");
    let step = Step::new(what, statements, Lock::AccessExclusive);
    if is_wider(from, to) {
        return step;
    }
    // what the old type had rounded or cut is at the source still, or is looked up anew
    let reads = !model.history.logs_events() && !model.has_lookup(column);
    Step { class: Class::Rewrite, long: true, reads, ..step }
}
