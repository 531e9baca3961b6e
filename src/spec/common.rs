//! What a connector's file says whatever its kind.

use serde::Deserialize;

use super::file::{File, Given};
use super::guard::{self, DeleteGuard, RawGuard};
use super::mask::Masks;
use super::pattern::Exclusion;
use super::scalar::{Identifier, OpenSchema, Scalar};
use crate::error::Result;
use crate::names::TableName;
use crate::relation::Relation;

/// What every connector has, whatever it reads from.
#[derive(Clone, Debug, PartialEq)]
pub struct Common {
    /// The connector's name, in commands, metrics and control tables.
    pub name: String,
    /// The logical source: the first part of a table's `from`.
    pub source: String,
    /// The warehouse schema for tables without a file of their own.
    pub target_schema: Option<String>,
    /// Whether tables without a file are mirrored.
    pub mirror: bool,
    /// Which tables, or which of their columns, to leave.
    pub exclude: Vec<Exclusion>,
    /// How much one transaction may delete before a human is asked.
    pub guard: DeleteGuard,
    /// What a TRUNCATE at the source does.
    pub truncate: Truncates,
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

impl Common {
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
}

/// The fields of a file that every kind has.
pub(super) struct RawCommon<'r> {
    pub(super) name: &'r Given,
    pub(super) source: Option<&'r Given>,
    pub(super) target_schema: Option<&'r Given>,
    pub(super) new_tables: Option<&'r Given>,
    pub(super) exclude: &'r [Given],
    pub(super) guard: Option<&'r RawGuard>,
    pub(super) truncate: Option<&'r Given>,
    pub(super) dead_letters: Option<&'r RawDeadLetters>,
    pub(super) adopt: Option<&'r Given>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDeadLetters {
    max_keys: Option<Given>,
}

/// Reads what every kind has.
pub(super) fn read(file: &File<'_>, raw: &RawCommon<'_>) -> Result<Common> {
    const DEFAULT_HELD_KEYS: usize = 10_000;
    let name: String = file.parse::<Identifier>("name", raw.name)?.0;
    let source = match raw.source {
        Some(given) => file.parse::<Identifier>("source", given)?.0,
        None => name.clone(),
    };
    let schema = raw.target_schema.map(|given| file.parse::<OpenSchema>("target_schema", given));
    let truncates = ["apply", "stop", "ignore"];
    let max_keys = raw.dead_letters.and_then(|raw| raw.max_keys.as_ref());
    Ok(Common {
        source,
        target_schema: schema.transpose()?.map(|schema| schema.0),
        mirror: file.choice("new_tables", raw.new_tables, &["add", "ignore"])? == "add",
        exclude: list(file, "exclude", raw.exclude)?,
        guard: guard::read(file, raw.guard)?,
        truncate: match file.choice("truncate", raw.truncate, &truncates)? {
            "stop" => Truncates::Stop,
            "ignore" => Truncates::Ignore,
            _ => Truncates::Apply,
        },
        held_keys: file.parse_or("dead_letters.max_keys", max_keys, DEFAULT_HELD_KEYS)?,
        trusts_rows: file.choice("adopt", raw.adopt, &["refuse", "trust"])? == "trust",
        name,
        masks: Masks::default(),
        file: file.path.clone(),
    })
}

/// Reads each value of a list.
pub(super) fn list<T: Scalar>(file: &File<'_>, field: &str, given: &[Given]) -> Result<Vec<T>> {
    given.iter().map(|given| file.parse(field, given)).collect()
}
