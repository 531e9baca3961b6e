//! `connectors/*.yaml`: where data comes from.

use std::time::Duration;

use serde::Deserialize;

use super::file::{File, Given};
use super::guard::{self, DeleteGuard, RawGuard};
use super::mask::Masks;
use super::pattern::{Exclusion, TablePattern};
use super::scalar::{Identifier, OpenSchema, PgName, Scalar, SlotName};
use super::snapshot::{self, RawSnapshot, Snapshot};
use super::units::Span;
use super::wal::{self, RawWal, Wal};
use crate::error::Result;
use crate::names::{TableName, shortened};
use crate::postgres::Endpoint;
use crate::relation::Relation;

/// A Postgres source, read by logical replication.
#[derive(Clone, Debug, PartialEq)]
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
    /// How rows that were there before are read.
    pub snapshot: Snapshot,
    /// How long ago what the source is told was stored; none for at once.
    pub slot_hold_back: Option<Duration>,
    /// How much one transaction may delete before a human is asked.
    pub guard: DeleteGuard,
    /// What a TRUNCATE at the source does.
    pub truncate: Truncates,
    /// What is done about the log that the slot keeps.
    pub wal: Wal,
    /// How many keys of a table may wait behind dead letters before the table stops.
    pub held_keys: usize,
    /// Whether rows of a warehouse table that is there are the source's.
    pub trusts_rows: bool,
    /// The columns that nobody may see, as the files of its tables say.
    pub masks: Masks,
    /// The file it stands in, for messages.
    pub file: String,
}

/// What a TRUNCATE at the source does to a table. Tables of events record it, whatever is said here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truncates {
    /// It empties the table.
    Apply,
    /// The table stops in front of it and waits for a human.
    Stop,
    /// Nothing.
    Ignore,
}

impl Connector {
    /// Whether a source table belongs to this connector.
    pub fn takes(&self, table: &TableName) -> bool {
        self.tables.iter().any(|pattern| pattern.matches(table))
            && !self.exclude.iter().any(|exclusion| exclusion.table(table))
    }

    /// Where rows that were there before are read from.
    pub fn rows_endpoint(&self) -> &Endpoint {
        self.snapshot.standby.as_ref().unwrap_or(&self.endpoint)
    }

    /// Whether a column never leaves the source.
    pub fn excludes(&self, table: &TableName, column: &str) -> bool {
        self.exclude.iter().any(|exclusion| exclusion.column(table, column))
    }

    /// Makes a shape of a source table what we take of it: without the columns that never leave the
    /// source, and with masks. `known_as` is the name under which files know the table, should it have
    /// another one by now.
    pub fn shape(&self, known_as: &TableName, relation: &mut Relation) {
        let now = relation.table.clone();
        let excludes = |name: &str| self.excludes(&now, name) || self.excludes(known_as, name);
        relation.columns.retain(|column| !excludes(&column.name));
        let name = if self.masks.covers(known_as) { known_as } else { &now };
        self.masks.dress(name, relation);
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
    guard: Option<RawGuard>,
    wal: Option<RawWal>,
    dead_letters: Option<RawDeadLetters>,
    slot_hold_back: Option<Given>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDeadLetters {
    max_keys: Option<Given>,
}

pub(super) const URL: &str = "write postgres://user:password@host:port/database";

/// The kinds that other versions run.
const KINDS_TO_COME: [&str; 2] = ["kafka", "http"];

/// Reads a connector's file; `None` where it is disabled.
pub(super) fn read(file: &File<'_>) -> Result<Option<Connector>> {
    let head: Head = file.read_head()?;
    if head.enabled == Some(false) {
        return Ok(None);
    }
    match file.text("kind", &head.kind)?.as_str() {
        "postgres" => read_postgres(file).map(Some),
        kind if KINDS_TO_COME.contains(&kind) => {
            let why = format!("this version does not run connectors of kind {kind} yet");
            let remedy = format!("set enabled: false for {}", head.name.raw());
            Err(file.refuse_given("kind", &head.kind, &why, &remedy))
        }
        kind => {
            let why = format!("{kind:?} is no kind of connector");
            Err(file.refuse_given("kind", &head.kind, &why, "write postgres"))
        }
    }
}

fn read_postgres(file: &File<'_>) -> Result<Connector> {
    let raw: RawPostgres = file.read()?;
    let name: String = file.parse::<Identifier>("name", &raw.name)?.0;
    let url = file.text("url", &raw.url)?;
    let endpoint = Endpoint::parse(&url)
        .map_err(|error| file.refuse_given("url", &raw.url, &error.reason(), URL))?;
    let snapshot = snapshot::read(file, raw.snapshot.as_ref())?;
    let source = match &raw.source {
        Some(given) => file.parse::<Identifier>("source", given)?.0,
        None => name.clone(),
    };
    if raw.tables.is_empty() {
        let remedy = "name the tables to take, such as tables: [\"public.*\"]";
        return Err(file.refuse("tables", "no table is taken", remedy));
    }
    let target_schema = raw.target_schema.as_ref();
    let target_schema =
        target_schema.map(|given| file.parse::<OpenSchema>("target_schema", given)).transpose()?;
    const DEFAULT_HELD_KEYS: usize = 10_000;
    let max_keys = raw.dead_letters.as_ref().and_then(|raw| raw.max_keys.as_ref());
    let slot = shortened("siltstone_", &name.to_lowercase().replace('-', "_"));
    let publication = PgName(shortened("siltstone_", &name));
    Ok(Connector {
        source,
        endpoint,
        tables: list(file, "tables", &raw.tables)?,
        exclude: list(file, "exclude", &raw.exclude)?,
        target_schema: target_schema.map(|schema| schema.0),
        slot: file.parse_or("slot", raw.slot.as_ref(), SlotName(slot))?.0,
        publication: file.parse_or("publication", raw.publication.as_ref(), publication)?.0,
        mirror: file.choice("new_tables", raw.new_tables.as_ref(), &["add", "ignore"])? == "add",
        snapshot,
        slot_hold_back: file
            .parse_or("slot_hold_back", raw.slot_hold_back.as_ref(), HoldBack(None))?
            .0,
        guard: guard::read(file, raw.guard.as_ref())?,
        truncate: match file.choice(
            "truncate",
            raw.truncate.as_ref(),
            &["apply", "stop", "ignore"],
        )? {
            "stop" => Truncates::Stop,
            "ignore" => Truncates::Ignore,
            _ => Truncates::Apply,
        },
        wal: wal::read(file, raw.wal.as_ref())?,
        trusts_rows: file.choice("adopt", raw.adopt.as_ref(), &["refuse", "trust"])? == "trust",
        held_keys: file.parse_or("dead_letters.max_keys", max_keys, DEFAULT_HELD_KEYS)?,
        name,
        masks: Masks::default(),
        file: file.path.clone(),
    })
}

/// A duration, or `none`.
struct HoldBack(Option<Duration>);

impl Scalar for HoldBack {
    const REMEDY: &'static str = "write none, or a duration such as 1h";

    fn read(text: &str) -> Result<HoldBack, String> {
        match text {
            "none" => Ok(HoldBack(None)),
            span => span.parse::<Span>().map(|span| HoldBack(Some(span.0))),
        }
    }
}

fn list<T: Scalar>(file: &File<'_>, field: &str, given: &[Given]) -> Result<Vec<T>> {
    given.iter().map(|given| file.parse(field, given)).collect()
}
