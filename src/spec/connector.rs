//! `connectors/*.yaml`: where data comes from.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::common::{self, Common, RawCommon};
use super::database::{self, Database};
use super::file::{File, Given};
use super::guard::RawGuard;
use super::http::{self, Http};
use super::kafka::{self, Kafka};
use super::pattern::TablePattern;
use super::scalar::{PgName, Scalar, SlotName};
use super::snapshot::{self, RawSnapshot, Snapshot};
use super::units::Span;
use super::wal::{self, RawWal, Wal};
use crate::error::Result;
use crate::names::{TableName, shortened};
use crate::postgres::Endpoint;

/// A Postgres source, read by logical replication.
#[derive(Clone, Debug, PartialEq)]
pub struct Connector {
    /// What every connector has.
    pub common: Arc<Common>,
    /// Where the source is.
    pub endpoint: Endpoint,
    /// Which tables to take.
    pub tables: Vec<TablePattern>,
    /// The replication slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// How rows that were there before are read.
    pub snapshot: Snapshot,
    /// How long ago what the source is told was stored; none for at once.
    pub slot_hold_back: Option<Duration>,
    /// What is done about the log that the slot keeps.
    pub wal: Wal,
}

impl Deref for Connector {
    type Target = Common;

    fn deref(&self) -> &Common {
        &self.common
    }
}

impl Connector {
    /// The source of a connector of topics, where its file says where that is: rows are read there, and nothing is
    /// replicated.
    pub fn of_rows(kafka: &Kafka) -> Option<Connector> {
        Some(Connector {
            common: kafka.common.clone(),
            endpoint: kafka.endpoint.clone()?,
            tables: Vec::new(),
            slot: default_slot(&kafka.name),
            publication: String::new(),
            snapshot: Snapshot::default(),
            slot_hold_back: None,
            wal: Wal::default(),
        })
    }

    /// Whether a source table belongs to this connector.
    pub fn takes(&self, table: &TableName) -> bool {
        self.tables.iter().any(|pattern| pattern.matches(table))
            && !self.exclude.iter().any(|exclusion| exclusion.table(table))
    }

    /// Where rows that were there before are read from.
    pub fn rows_endpoint(&self) -> &Endpoint {
        self.snapshot.standby.as_ref().unwrap_or(&self.endpoint)
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
    source: Option<Given>,
    slot: Option<Given>,
}

/// A connector that is disabled, as it is written: nothing of its file is judged, and no variable asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disabled {
    /// Its name.
    pub name: String,
    /// Its logical source.
    pub source: String,
    /// The slot that it had, if it is one of kind postgres.
    pub slot: String,
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
    dead_letters: Option<common::RawDeadLetters>,
    slot_hold_back: Option<Given>,
}

impl RawPostgres {
    /// The fields of a connector without a stream.
    fn without_stream(&self) -> database::Fields<'_> {
        let snapshot = self.snapshot.as_ref();
        let mut streams = vec![
            ("target_schema", self.target_schema.is_some()),
            ("publication", self.publication.is_some()),
            ("new_tables", self.new_tables.is_some()),
            ("truncate", self.truncate.is_some()),
            ("adopt", self.adopt.is_some()),
            ("guard", self.guard.is_some()),
            ("wal", self.wal.is_some()),
            ("dead_letters", self.dead_letters.is_some()),
            ("slot_hold_back", self.slot_hold_back.is_some()),
        ];
        streams.extend(snapshot.into_iter().flat_map(RawSnapshot::of_streams));
        database::Fields {
            name: &self.name,
            source: self.source.as_ref(),
            url: &self.url,
            tables: &self.tables,
            exclude: &self.exclude,
            snapshot,
            streams,
        }
    }
}

/// What stands in the place of a slot's name where there is to be no stream.
const NO_SLOT: &str = "none";

pub(super) const URL: &str = "write postgres://user:password@host:port/database";

/// A connector's file.
pub(super) enum Read {
    /// It is disabled.
    Disabled(Disabled),
    /// Logical replication.
    Postgres(Box<Connector>),
    /// A Postgres without a stream.
    Database(Box<Database>),
    /// Topics.
    Kafka(Box<Kafka>),
    /// An API.
    Http(Box<Http>),
}

/// Reads a connector's file.
pub(super) fn read(file: &File<'_>) -> Result<Read> {
    let head: Head = file.read_head()?;
    if head.enabled == Some(false) {
        let name = head.name.raw().to_owned();
        // of variables that nobody sets there may be what is written
        let given =
            |given: Given| file.text("slot", &given).unwrap_or_else(|_| given.raw().to_owned());
        let slot = head.slot.map_or_else(|| default_slot(&name), given);
        let source = head.source.as_ref().unwrap_or(&head.name).raw().to_owned();
        return Ok(Read::Disabled(Disabled { name, source, slot }));
    }
    match file.text("kind", &head.kind)?.as_str() {
        "postgres" => read_postgres(file),
        "kafka" => kafka::read(file).map(Box::new).map(Read::Kafka),
        "http" => http::read(file).map(Box::new).map(Read::Http),
        kind => {
            let why = format!("{kind:?} is no kind of connector");
            Err(file.refuse_given("kind", &head.kind, &why, "write postgres, kafka or http"))
        }
    }
}

fn read_postgres(file: &File<'_>) -> Result<Read> {
    let raw: RawPostgres = file.read()?;
    match &raw.slot {
        Some(slot) if file.text("slot", slot)? == NO_SLOT => {
            database::read(file, &raw.without_stream()).map(Box::new).map(Read::Database)
        }
        _ => read_streamed(file, &raw).map(Box::new).map(Read::Postgres),
    }
}

fn read_streamed(file: &File<'_>, raw: &RawPostgres) -> Result<Connector> {
    let shared = RawCommon {
        name: &raw.name,
        source: raw.source.as_ref(),
        target_schema: raw.target_schema.as_ref(),
        new_tables: raw.new_tables.as_ref(),
        exclude: &raw.exclude,
        guard: raw.guard.as_ref(),
        truncate: raw.truncate.as_ref(),
        dead_letters: raw.dead_letters.as_ref(),
        adopt: raw.adopt.as_ref(),
    };
    let common = common::read(file, &shared)?;
    let url = file.text("url", &raw.url)?;
    let endpoint = Endpoint::parse(&url)
        .map_err(|error| file.refuse_given("url", &raw.url, &error.reason(), URL))?;
    let snapshot = snapshot::read(file, raw.snapshot.as_ref())?;
    if raw.tables.is_empty() {
        let remedy = "name the tables to take, such as tables: [\"public.*\"]";
        return Err(file.refuse("tables", "no table is taken", remedy));
    }
    let slot = default_slot(&common.name);
    let publication = PgName(shortened("siltstone_", &common.name));
    Ok(Connector {
        common: Arc::new(common),
        endpoint,
        tables: common::list(file, "tables", &raw.tables)?,
        slot: file.parse_or("slot", raw.slot.as_ref(), SlotName(slot))?.0,
        publication: file.parse_or("publication", raw.publication.as_ref(), publication)?.0,
        snapshot,
        slot_hold_back: file
            .parse_or("slot_hold_back", raw.slot_hold_back.as_ref(), HoldBack(None))?
            .0,
        wal: wal::read(file, raw.wal.as_ref())?,
    })
}

fn default_slot(name: &str) -> String {
    shortened("siltstone_", &name.to_lowercase().replace('-', "_"))
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
