//! `connectors/*.yaml` of kind `postgres` with `slot: none`: a Postgres without a stream. Jobs read its tables, each
//! whole or by a condition, and nothing is made at the source for it.

use super::common::list;
use super::connector::URL;
use super::file::{File, Given};
use super::pattern::{Exclusion, TablePattern};
use super::scalar::Identifier;
use super::snapshot::{self, RawSnapshot};
use crate::error::Result;
use crate::names::TableName;
use crate::postgres::Endpoint;

/// A Postgres whose tables jobs read.
#[derive(Clone, Debug, PartialEq)]
pub struct Database {
    /// Its name, in messages.
    pub name: String,
    /// The logical source: the first part of a table's `from`.
    pub source: String,
    /// Where it is.
    pub endpoint: Endpoint,
    /// Which tables may be read.
    pub tables: Vec<TablePattern>,
    /// Which tables, or which of their columns, are left.
    pub exclude: Vec<Exclusion>,
    /// How many bytes of rows a second, all its extracts together; none for as many as there are.
    pub max_rate: Option<u64>,
    /// The physical standby that rows are read from; none for the source itself.
    pub standby: Option<Endpoint>,
    /// The file it stands in, for messages.
    pub file: String,
}

impl Database {
    /// Whether a table of it may be read.
    pub fn takes(&self, table: &TableName) -> bool {
        self.tables.iter().any(|pattern| pattern.matches(table))
            && !self.exclude.iter().any(|exclusion| exclusion.table(table))
    }

    /// Whether a column never leaves the source.
    pub fn excludes(&self, table: &TableName, column: &str) -> bool {
        self.exclude.iter().any(|exclusion| exclusion.column(table, column))
    }

    /// Where rows are read from.
    pub fn rows_endpoint(&self) -> &Endpoint {
        self.standby.as_ref().unwrap_or(&self.endpoint)
    }
}

/// The fields that it is read from.
pub(super) struct Fields<'r> {
    pub(super) name: &'r Given,
    pub(super) source: Option<&'r Given>,
    pub(super) url: &'r Given,
    pub(super) tables: &'r [Given],
    pub(super) exclude: &'r [Given],
    pub(super) snapshot: Option<&'r RawSnapshot>,
    /// fields of a stream, and whether each is there
    pub(super) streams: Vec<(&'static str, bool)>,
}

/// Reads the fields of a connector without a stream.
pub(super) fn read(file: &File<'_>, raw: &Fields<'_>) -> Result<Database> {
    if let Some((field, _)) = raw.streams.iter().find(|(_, given)| *given) {
        let why = "with slot: none there is no stream, and it says how one is taken";
        return Err(file.refuse(field, why, "remove the field, or name a slot"));
    }
    let name = file.parse::<Identifier>("name", raw.name)?.0;
    let source = match raw.source {
        Some(given) => file.parse::<Identifier>("source", given)?.0,
        None => name.clone(),
    };
    let url = file.text("url", raw.url)?;
    let endpoint = Endpoint::parse(&url)
        .map_err(|error| file.refuse_given("url", raw.url, &error.reason(), URL))?;
    if raw.tables.is_empty() {
        let remedy = "name the tables that jobs may read, such as tables: [\"public.*\"]";
        return Err(file.refuse("tables", "no table is taken", remedy));
    }
    let snapshot = snapshot::read(file, raw.snapshot)?;
    Ok(Database {
        name,
        source,
        endpoint,
        tables: list(file, "tables", raw.tables)?,
        exclude: list(file, "exclude", raw.exclude)?,
        max_rate: snapshot.max_rate,
        standby: snapshot.standby,
        file: file.path.clone(),
    })
}
