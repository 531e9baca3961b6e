//! `schemas/**/*.yaml`: what shape a warehouse table has.

use std::time::Duration;

use indexmap::IndexMap;
use serde::Deserialize;

use super::calendar;
use super::checks::{self, RawChecks, Subject};
use super::columns::{RawColumn, known_column, known_columns, read_columns};
use super::file::{File, Given, listed};
use super::lookup;
use super::model::{Calendar, Deletes, History, Model, ModelColumn, NewColumns, SourceName};
use super::partition::{self, RawPartition};
use super::quality::Check;
use super::scalar::Keep;
use super::tasks::Open;
use super::units::Span;
use crate::error::Result;
use crate::names::TableName;

/// What a file in `schemas/` declares.
pub(super) enum Declared {
    Model(Box<Model>),
    Calendar(Calendar),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTable {
    pub(super) table: Given,
    pub(super) from: Option<Given>,
    layout: Option<Given>,
    pub(super) history: Option<Given>,
    #[serde(default)]
    key: Vec<Given>,
    track: Option<Vec<Given>>,
    since: Option<Given>,
    pub(super) columns: Option<IndexMap<String, RawColumn>>,
    partition: Option<RawPartition>,
    #[serde(default)]
    indexes: Vec<Vec<Given>>,
    delete: Option<Given>,
    new_columns: Option<Given>,
    keep: Option<Given>,
    pub(super) comment: Option<Given>,
    pub(super) range: Option<(Given, Given)>,
    pub(super) holidays: Option<Given>,
    pub(super) checks: Option<RawChecks>,
    horizon: Option<Given>,
}

impl RawTable {
    /// The first of these fields that is given.
    pub(super) fn given(&self, fields: &[&'static str]) -> Option<&'static str> {
        let is_given = |field: &&&str| match **field {
            "from" => self.from.is_some(),
            "history" => self.history.is_some(),
            "key" => !self.key.is_empty(),
            "track" => self.track.is_some(),
            "since" => self.since.is_some(),
            "columns" => self.columns.is_some(),
            "partition" => self.partition.is_some(),
            "indexes" => !self.indexes.is_empty(),
            "delete" => self.delete.is_some(),
            "new_columns" => self.new_columns.is_some(),
            "keep" => self.keep.is_some(),
            "range" => self.range.is_some(),
            "holidays" => self.holidays.is_some(),
            "checks" => self.checks.is_some(),
            _ => false,
        };
        fields.iter().find(is_given).copied()
    }

    /// The places of columns that the source feeds.
    fn of_source(&self) -> impl Iterator<Item = (&'static str, &Given)> {
        let key = self.key.iter().map(|given| ("key", given));
        let track = self.track.iter().flatten().map(|given| ("track", given));
        let since = self.since.iter().map(|given| ("since", given));
        let by = self.partition.iter().map(|raw| ("partition.by", &raw.by));
        key.chain(track).chain(since).chain(by)
    }

    /// The first field that says what rows look like, which only a table with columns has.
    pub(super) fn shaped(&self) -> Option<&'static str> {
        self.given(&[
            "history",
            "key",
            "track",
            "since",
            "columns",
            "partition",
            "indexes",
            "delete",
        ])
    }
}

/// All that can happen to a deleted row, whatever the history.
const ALL_DELETES: [&str; 5] = ["hard", "soft", "close", "row", "ignore"];

/// Reads a file of `schemas/`, and what must hold of its table's rows; `holidays` reads a file beside it, `open`
/// one below the root.
pub(super) fn read(
    file: &File<'_>,
    holidays: Open<'_>,
    open: Open<'_>,
) -> Result<(Declared, Vec<Check>)> {
    let raw: RawTable = file.read()?;
    let table: TableName = file.parse("table", &raw.table)?;
    let model = match file.choice("layout", raw.layout.as_ref(), &["columns", "raw", "calendar"])? {
        "calendar" => {
            let calendar = calendar::read(file, &raw, table, holidays)?;
            return Ok((Declared::Calendar(calendar), Vec::new()));
        }
        "raw" => read_raw(file, &raw, table)?,
        _ => read_model(file, &raw, table)?,
    };
    let checks = checks::read(file, raw.checks.as_ref(), &Subject::table(&model), open)?;
    Ok((Declared::Model(Box::new(model)), checks))
}

fn source(file: &File<'_>, raw: &RawTable) -> Result<SourceName> {
    let Some(given) = &raw.from else {
        let remedy = "add it, such as from: shop.public.users";
        return Err(file.refuse("from", "the field is missing", remedy));
    };
    file.parse("from", given)
}

pub(super) fn comment(file: &File<'_>, given: Option<&Given>) -> Result<Option<String>> {
    given.map(|given| file.text("comment", given)).transpose()
}

/// A raw table keeps everything for good unless `keep` says otherwise, and has its own columns.
fn read_raw(file: &File<'_>, raw: &RawTable, table: TableName) -> Result<Model> {
    if let Some(field) = raw.shaped().or(raw.given(&["new_columns", "range", "holidays"])) {
        let why = "a raw table has its own six columns";
        return Err(file.refuse(field, why, "remove the field"));
    }
    let Keep(keep) = file.parse_or("keep", raw.keep.as_ref(), Keep(None))?;
    Ok(Model {
        keep,
        table,
        from: source(file, raw)?,
        history: History::Raw,
        key: Vec::new(),
        track: Vec::new(),
        since: None,
        columns: Vec::new(),
        lookups: Vec::new(),
        partition: None,
        indexes: Vec::new(),
        deletes: Deletes::Row,
        new_columns: NewColumns::Ignore,
        horizon: None,
        mirrored: false,
        comment: comment(file, raw.comment.as_ref())?,
        declared_in: file.path.clone(),
    })
}

fn read_model(file: &File<'_>, raw: &RawTable, table: TableName) -> Result<Model> {
    let history = read_history(file, raw.history.as_ref())?;
    refuse_contradictions(file, raw, history)?;
    let from = source(file, raw)?;
    let (columns, lookups) = read_columns(file, raw.columns.as_ref())?;
    lookup::refuse_named(file, &lookups, raw.of_source())?;
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    let key = known_columns(file, "key", &raw.key, &names)?;
    if key.is_empty() && history != History::Append {
        let remedy = "name the columns that tell rows apart, such as key: [user_id]";
        return Err(file.refuse("key", "the table has no key", remedy));
    }
    let track = match &raw.track {
        Some(given) => read_track(file, given, &key, &names)?,
        None => {
            names.iter().filter(|n| !key.iter().any(|k| k == *n)).map(|n| (*n).to_owned()).collect()
        }
    };
    let since = raw.since.as_ref().map(|given| read_since(file, given, &columns)).transpose()?;
    let partition = raw.partition.as_ref().map(|raw| partition::read(file, raw, &columns));
    let mut indexes = Vec::new();
    for index in &raw.indexes {
        if index.is_empty() {
            let remedy = "name its columns, such as indexes: [[user_id, order_date]]";
            return Err(file.refuse("indexes", "an index has no columns", remedy));
        }
        let looked_up = lookups.iter().map(|lookup| lookup.name.as_str());
        let names: Vec<&str> = names.iter().copied().chain(looked_up).collect();
        indexes.push(known_columns(file, "indexes", index, &names)?);
    }
    Ok(Model {
        keep: None,
        from,
        deletes: read_deletes(file, raw.delete.as_ref(), history)?,
        new_columns: read_new_columns(file, raw.new_columns.as_ref())?,
        table,
        history,
        key,
        track,
        since,
        partition: partition.transpose()?,
        columns,
        lookups,
        indexes,
        horizon: raw.horizon.as_ref().map(|given| span(file, given)).transpose()?,
        mirrored: false,
        comment: comment(file, raw.comment.as_ref())?,
        declared_in: file.path.clone(),
    })
}

/// How late an event may come.
fn span(file: &File<'_>, given: &Given) -> Result<Duration> {
    file.parse::<Span>("horizon", given).map(|span| span.0)
}

/// Refuses fields that belong to tables of another layout or history.
fn refuse_contradictions(file: &File<'_>, raw: &RawTable, history: History) -> Result<()> {
    if let Some(field) = raw.given(&["range", "holidays"]) {
        let remedy = "remove the field, or write layout: calendar";
        return Err(file.refuse(field, "only a calendar has it", remedy));
    }
    if raw.keep.is_some() {
        let why = "only raw tables and partitions have it";
        return Err(file.refuse("keep", why, "remove the field, or write it below partition"));
    }
    if let Some(field) = raw.given(&["track", "since"])
        && history != History::Versions
    {
        let remedy = "remove the field, or write history: versions";
        return Err(file.refuse(field, "only a table with history: versions has it", remedy));
    }
    if raw.partition.is_some() && history == History::Versions {
        let why = "a table with history: versions is partitioned on its validity by itself";
        return Err(file.refuse("partition", why, "remove the field"));
    }
    Ok(())
}

fn read_track(
    file: &File<'_>,
    given: &[Given],
    key: &[String],
    names: &[&str],
) -> Result<Vec<String>> {
    let track = known_columns(file, "track", given, names)?;
    if track.is_empty() {
        let remedy = "name the columns whose change opens a version, or remove the field for all";
        return Err(file.refuse("track", "no column is tracked", remedy));
    }
    let of_key = given.iter().zip(&track).find(|(_, column)| key.contains(column));
    if let Some((given, column)) = of_key {
        let why = format!("{column} belongs to the key, and a row of another key is another row");
        return Err(file.refuse_given("track", given, &why, "remove it from track"));
    }
    Ok(track)
}

fn read_since(file: &File<'_>, given: &Given, columns: &[ModelColumn]) -> Result<String> {
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    let since = known_column(file, "since", given, &names)?;
    if columns.iter().any(|column| column.name == since && !column.tells_time()) {
        let why = format!("{since} is not a date or timestamp");
        let remedy = "name a column of type date, timestamp or timestamptz, or remove the field";
        return Err(file.refuse_given("since", given, &why, remedy));
    }
    Ok(since)
}

fn read_history(file: &File<'_>, given: Option<&Given>) -> Result<History> {
    Ok(match file.choice("history", given, &["overwrite", "versions", "append"])? {
        "versions" => History::Versions,
        "append" => History::Append,
        _ => History::Overwrite,
    })
}

fn read_new_columns(file: &File<'_>, given: Option<&Given>) -> Result<NewColumns> {
    Ok(match file.choice("new_columns", given, &["ignore", "stop"])? {
        "stop" => NewColumns::Stop,
        _ => NewColumns::Ignore,
    })
}

fn read_deletes(file: &File<'_>, given: Option<&Given>, history: History) -> Result<Deletes> {
    let choices: &[&'static str] = match history {
        History::Versions => &["close", "ignore"],
        History::Append => &["row", "ignore"],
        _ => &["hard", "soft", "ignore"],
    };
    if let Some(given) = given {
        let text = file.text("delete", given)?;
        if ALL_DELETES.contains(&text.as_str()) && !choices.contains(&text.as_str()) {
            let why = format!("{text} does not go with this table's history");
            let remedy = format!("write {}, or another history", listed(choices));
            return Err(file.refuse_given("delete", given, &why, &remedy));
        }
    }
    Ok(match file.choice("delete", given, choices)? {
        "close" => Deletes::Close,
        "row" => Deletes::Row,
        "soft" => Deletes::Soft,
        "ignore" => Deletes::Ignore,
        _ => Deletes::Hard,
    })
}
