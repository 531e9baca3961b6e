//! `connectors/*.yaml`: where data comes from.

use std::str::FromStr;

use serde::Deserialize;

use super::file::{File, Given, NotYet};
use super::pattern::{Exclusion, TablePattern};
use crate::error::Result;
use crate::names::{TableName, shortened};
use crate::postgres::Endpoint;

/// A Postgres source, read by logical replication.
#[derive(Clone, Debug)]
pub struct Connector {
    /// The connector's name, in commands, metrics and control tables.
    pub name: String,
    /// The logical source: the first part of a table's `from`.
    pub source: String,
    /// Where the source is.
    pub endpoint: Endpoint,
    /// Which tables to take.
    pub tables: Vec<TablePattern>,
    /// Which of them, or of their columns, to leave.
    pub exclude: Vec<Exclusion>,
    /// The warehouse schema for tables without a file of their own.
    pub target_schema: Option<String>,
    /// The replication slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// Whether tables without a file are mirrored.
    pub mirror: bool,
    /// Whether rows that were there before are read first.
    pub snapshot: bool,
    /// How many tables are read at once.
    pub snapshot_workers: usize,
    /// The file it stands in, for messages.
    pub file: String,
}

impl Connector {
    /// Whether a source table belongs to this connector.
    pub fn takes(&self, table: &TableName) -> bool {
        self.tables.iter().any(|pattern| pattern.matches(table))
            && !self.exclude.iter().any(|exclusion| exclusion.table(table))
    }

    /// Whether a column never leaves the source.
    pub fn excludes(&self, table: &TableName, column: &str) -> bool {
        self.exclude.iter().any(|exclusion| exclusion.column(table, column))
    }

    /// The second publication, of inserts and truncates only, for append tables without a replica
    /// identity.
    pub fn append_publication(&self) -> String {
        shortened(&self.publication, "_append")
    }
}

/// What every connector file says, whatever its kind.
#[derive(Deserialize)]
struct Head {
    name: Given,
    kind: Given,
    enabled: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPostgres {
    name: Given,
    #[allow(dead_code, reason = "read by Head; named here so that it is a known field")]
    kind: Given,
    #[allow(dead_code, reason = "read by Head; named here so that it is a known field")]
    enabled: Option<bool>,
    source: Option<Given>,
    url: Given,
    #[serde(default)]
    tables: Vec<Given>,
    #[serde(default)]
    exclude: Vec<Given>,
    target_schema: Option<Given>,
    slot: Option<Given>,
    publication: Option<Given>,
    new_tables: Option<Given>,
    truncate: Option<Given>,
    snapshot: Option<RawSnapshot>,
    adopt: Option<Given>,
    guard: Option<NotYet>,
    wal: Option<NotYet>,
    dead_letters: Option<NotYet>,
    slot_hold_back: Option<NotYet>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSnapshot {
    mode: Option<Given>,
    workers: Option<Given>,
    max_rate: Option<NotYet>,
    max_size: Option<NotYet>,
    url: Option<NotYet>,
}

/// The kinds that other versions run.
const KINDS_TO_COME: [&str; 2] = ["kafka", "http"];

/// Reads a connector's file; `None` where it is disabled.
pub(super) fn read(file: &File<'_>) -> Result<Option<Connector>> {
    let head: Head = file.read()?;
    if head.enabled == Some(false) {
        return Ok(None);
    }
    match file.text("kind", &head.kind)?.as_str() {
        "postgres" => read_postgres(file).map(Some),
        kind if KINDS_TO_COME.contains(&kind) => {
            let why = format!("this version does not run connectors of kind {kind} yet");
            let remedy = format!("set enabled: false for {}", head.name.raw());
            Err(file.refuse_given("kind", &head.kind, &why).remedy(remedy))
        }
        kind => {
            let why = format!("{kind:?} is no kind of connector, expected postgres");
            Err(file.refuse_given("kind", &head.kind, &why))
        }
    }
}

fn read_postgres(file: &File<'_>) -> Result<Connector> {
    let raw: RawPostgres = file.read()?;
    file.not_yet("guard", raw.guard.as_ref())?;
    file.not_yet("wal", raw.wal.as_ref())?;
    file.not_yet("dead_letters", raw.dead_letters.as_ref())?;
    file.not_yet("slot_hold_back", raw.slot_hold_back.as_ref())?;
    only(file, "truncate", raw.truncate.as_ref(), "apply")?;
    only(file, "adopt", raw.adopt.as_ref(), "refuse")?;
    let name: String = file.parse::<Identifier>("name", &raw.name)?.0;
    let url = file.text("url", &raw.url)?;
    let endpoint = Endpoint::parse(&url)
        .map_err(|error| file.refuse_given("url", &raw.url, &error.reason()))?;
    let (snapshot, snapshot_workers) = read_snapshot(file, raw.snapshot.as_ref())?;
    let source = match &raw.source {
        Some(given) => file.parse::<Identifier>("source", given)?.0,
        None => name.clone(),
    };
    if raw.tables.is_empty() {
        return Err(file.refuse(1, "tables", "name at least one table or pattern"));
    }
    Ok(Connector {
        source,
        endpoint,
        tables: list(file, "tables", &raw.tables)?,
        exclude: list(file, "exclude", &raw.exclude)?,
        target_schema: raw
            .target_schema
            .as_ref()
            .map(|given| file.text("target_schema", given))
            .transpose()?,
        slot: slot_name(file, raw.slot.as_ref(), &name)?,
        publication: file.parse_or(
            "publication",
            raw.publication.as_ref(),
            shortened("siltstone_", &name),
        )?,
        mirror: choice(file, "new_tables", raw.new_tables.as_ref(), &["add", "ignore"])? == "add",
        snapshot,
        snapshot_workers,
        name,
        file: file.path.clone(),
    })
}

fn read_snapshot(file: &File<'_>, raw: Option<&RawSnapshot>) -> Result<(bool, usize)> {
    const DEFAULT_WORKERS: usize = 2;
    let Some(raw) = raw else { return Ok((true, DEFAULT_WORKERS)) };
    file.not_yet("snapshot.max_rate", raw.max_rate.as_ref())?;
    file.not_yet("snapshot.max_size", raw.max_size.as_ref())?;
    file.not_yet("snapshot.url", raw.url.as_ref())?;
    let mode = choice(file, "snapshot.mode", raw.mode.as_ref(), &["initial", "none"])?;
    let workers = file.parse_or("snapshot.workers", raw.workers.as_ref(), DEFAULT_WORKERS)?;
    if let Some(given) = raw.workers.as_ref().filter(|_| !(1..=16).contains(&workers)) {
        return Err(file.refuse_given("snapshot.workers", given, "1 to 16"));
    }
    Ok((mode == "initial", workers))
}

/// Postgres allows lower-case letters, digits and underscores in a slot's name.
fn slot_name(file: &File<'_>, given: Option<&Given>, connector: &str) -> Result<String> {
    let Some(given) = given else {
        let tidy = connector.to_lowercase().replace('-', "_");
        return Ok(shortened("siltstone_", &tidy));
    };
    let name = file.text("slot", given)?;
    let legal =
        |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
    if name.is_empty() || name.len() > 63 || !name.chars().all(legal) {
        let why = "a slot's name is made of lower-case letters, digits and underscores, at most 63";
        return Err(file.refuse_given("slot", given, why));
    }
    Ok(name)
}

fn list<T: FromStr<Err = String>>(file: &File<'_>, field: &str, given: &[Given]) -> Result<Vec<T>> {
    given.iter().map(|given| file.parse(field, given)).collect()
}

/// One of a field's values; the first is the default.
pub(super) fn choice(
    file: &File<'_>,
    field: &str,
    given: Option<&Given>,
    choices: &[&'static str],
) -> Result<&'static str> {
    let Some(given) = given else { return Ok(choices.first().copied().unwrap_or_default()) };
    let text = file.text(field, given)?;
    choices.iter().copied().find(|choice| *choice == text).ok_or_else(|| {
        let why = format!("{text:?} is none of {}", choices.join(", "));
        file.refuse_given(field, given, &why)
    })
}

/// A field of which this version runs one value only.
fn only(file: &File<'_>, field: &str, given: Option<&Given>, value: &str) -> Result<()> {
    let Some(given) = given else { return Ok(()) };
    if file.text(field, given)? == value {
        return Ok(());
    }
    let why = format!("this version runs {value:?} only");
    Err(file.refuse_given(field, given, &why))
}

/// A name of ours: letters, digits, `_` and `-`.
struct Identifier(String);

impl FromStr for Identifier {
    type Err = String;

    fn from_str(text: &str) -> Result<Identifier, String> {
        let legal = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
        if text.is_empty() || text.len() > 40 || !text.chars().all(legal) {
            return Err(format!("{text:?} is not a name: letters, digits, _ and -, at most 40"));
        }
        Ok(Identifier(text.to_owned()))
    }
}
