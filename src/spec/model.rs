//! What a warehouse table is, validated: from a file in `schemas/`, or derived from the source for a
//! mirrored one. The rest of the program knows tables only in this form.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::names::TableName;
use crate::postgres::quote;
use crate::relation::Mask;
use crate::types::{civil_from_days, days_from_civil};

/// A source table by its logical source, `shop.public.users`; or what an API has, `products-api.products`, whose
/// table has no schema.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceName {
    /// The connector's `source`.
    pub source: String,
    /// The table there.
    pub table: TableName,
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_endpoint() {
            true => write!(f, "{}.{}", self.source, self.table.name),
            false => write!(f, "{}.{}", self.source, self.table),
        }
    }
}

impl SourceName {
    /// Whether it is an endpoint of an API, and no table of a source.
    pub fn is_endpoint(&self) -> bool {
        self.table.schema.is_empty()
    }
}

impl FromStr for SourceName {
    type Err = String;

    fn from_str(text: &str) -> Result<SourceName, String> {
        let refuse = || format!("{text:?} is not a source table such as shop.public.users");
        let (source, table) = text.split_once('.').ok_or_else(refuse)?;
        if source.is_empty() || table.is_empty() {
            return Err(refuse());
        }
        let table = match table.contains('.') {
            true => table.parse().map_err(|_| refuse())?,
            false => TableName::new("", table),
        };
        Ok(SourceName { source: source.to_owned(), table })
    }
}

/// What happens to a row that changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// The row is overwritten (SCD type 1).
    Overwrite,
    /// Each change opens a version (SCD type 2).
    Versions,
    /// Each change is a row of its own.
    Append,
    /// Each change is a row of its own, as JSON, in the six columns of a raw table.
    Raw,
    /// Rows have no key: they are told apart by their whole content.
    Bag,
}

impl History {
    /// Whether each event is a row of its own.
    pub fn logs_events(self) -> bool {
        matches!(self, History::Append | History::Raw)
    }
}

/// What happens to a row that is deleted at the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletes {
    /// It is deleted.
    Hard,
    /// It stays, with `_deleted_at` set.
    Soft,
    /// Its current version is closed.
    Close,
    /// A row with `_op = 'd'` is appended.
    Row,
    /// Nothing.
    Ignore,
}

/// What happens when the source has a column that the table has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewColumns {
    /// It is added.
    Add,
    /// It is not taken; a warning names it.
    Ignore,
    /// The table stops.
    Stop,
}

/// A warehouse table and where its rows come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// The warehouse table.
    pub table: TableName,
    /// The source table that feeds it.
    pub from: SourceName,
    /// What happens to a row that changes.
    pub history: History,
    /// The key, in warehouse column names; empty where rows have none.
    pub key: Vec<String>,
    /// Columns whose change opens a version.
    pub track: Vec<String>,
    /// The source column from which the first version of a snapshot row is valid.
    pub since: Option<String>,
    /// The columns fed by the source, without ours; empty for a raw table.
    pub columns: Vec<ModelColumn>,
    /// The columns that the warehouse looks up by itself.
    pub lookups: Vec<Lookup>,
    /// How the table is partitioned, beside what its history asks for.
    pub partition: Option<Partition>,
    /// Secondary indexes.
    pub indexes: Vec<Vec<String>>,
    /// What happens to a row that is deleted at the source.
    pub deletes: Deletes,
    /// What happens to a column that is new at the source.
    pub new_columns: NewColumns,
    /// How long a raw table keeps its rows; none for ever.
    pub keep: Option<Duration>,
    /// How late an event of a topic may come; none where its file says nothing.
    pub horizon: Option<Duration>,
    /// Whether there is no file: the table follows the source's schema.
    pub mirrored: bool,
    /// The table's comment.
    pub comment: Option<String>,
    /// Where it is declared, for messages: a file, or the connector that mirrors it.
    pub declared_in: String,
}

/// A column of a warehouse table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelColumn {
    /// Its name in the warehouse.
    pub name: String,
    /// The source column that feeds it.
    pub from: String,
    /// Its type, as written in DDL.
    pub ty: String,
    /// Whether NULL is refused.
    pub required: bool,
    /// What stands in the place of its values, as this file says; another one's mask counts as well.
    pub mask: Option<Mask>,
    /// What rows get that are there when the column is added, in text form.
    pub fill: Option<String>,
    /// Its comment.
    pub comment: Option<String>,
}

impl ModelColumn {
    /// Whether its values are days or moments.
    pub fn tells_time(&self) -> bool {
        self.ty == "date" || self.ty.starts_with("timestamp")
    }
}

/// A column that has the answer of a query over its row and other tables, as these are now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// Its name in the warehouse.
    pub name: String,
    /// Its type, as written in DDL.
    pub ty: String,
    /// The SELECT; `row` is the row.
    pub query: String,
    /// Its comment.
    pub comment: Option<String>,
}

impl Lookup {
    /// The columns of the row by which it is looked up.
    pub fn inputs(&self) -> Vec<String> {
        super::lookup::of_row(&self.query)
    }
}

/// Range partitions on a date or timestamp column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// The column.
    pub by: String,
    /// How long a leaf is.
    pub every: Step,
    /// How many leaves are made ahead of today.
    pub ahead: u32,
    /// The first and last day that rows may have, as days since 2000-01-01.
    pub range: (i64, i64),
}

/// The length of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A day.
    Day,
    /// A calendar month.
    Month,
    /// A calendar year.
    Year,
}

impl Step {
    /// The first day of the leaf that holds `day`, as days since 2000-01-01.
    pub fn start(self, day: i64) -> i64 {
        let (year, month, _) = civil_from_days(day);
        match self {
            Step::Day => day,
            Step::Month => days_from_civil(year, month, 1),
            Step::Year => days_from_civil(year, 1, 1),
        }
    }

    /// The first day of the leaf behind the one that starts at `start`.
    pub fn next(self, start: i64) -> i64 {
        let (year, month, _) = civil_from_days(start);
        match self {
            Step::Day => start + 1,
            Step::Month if month == 12 => days_from_civil(year + 1, 1, 1),
            Step::Month => days_from_civil(year, month + 1, 1),
            Step::Year => days_from_civil(year + 1, 1, 1),
        }
    }

    /// What a leaf's name ends in: `_p20240131`, `_p202401`, `_p2024`.
    pub fn suffix(self, start: i64) -> String {
        let (year, month, day) = civil_from_days(start);
        match self {
            Step::Day => format!("_p{year:04}{month:02}{day:02}"),
            Step::Month => format!("_p{year:04}{month:02}"),
            Step::Year => format!("_p{year:04}"),
        }
    }
}

/// A calendar table: one row a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calendar {
    /// The warehouse table.
    pub table: TableName,
    /// The first day, as days since 2000-01-01.
    pub first: i64,
    /// The last day, likewise.
    pub last: i64,
    /// Holidays: day and name.
    pub holidays: Vec<(String, String)>,
    /// The table's comment.
    pub comment: Option<String>,
    /// The file it is declared in, for messages.
    pub declared_in: String,
}

/// How late an event of a topic may come where no file says it.
pub const HORIZON: Duration = Duration::from_hours(7 * 24);

impl Model {
    /// How late an event of a topic may come, and how long it is remembered.
    pub fn lateness(&self) -> Duration {
        self.horizon.unwrap_or(HORIZON)
    }

    /// Whether nothing but the reading that it is of tells a row that Debezium read from another one like it.
    pub fn is_read_without_key(&self) -> bool {
        matches!(self.history, History::Bag | History::Append) && self.key.is_empty()
    }

    /// A column by its warehouse name.
    pub fn column(&self, name: &str) -> Option<&ModelColumn> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// A digest of what its rows depend on, to tell whether two have read the same file.
    pub fn digest(&self) -> String {
        let by = self.partition.as_ref().map(|partition| (&partition.by, partition.every));
        let kind = (self.history, self.deletes, self.mirrored);
        let mut all = format!("{:?}", (&self.columns, &self.key, kind, by));
        if !self.lookups.is_empty() {
            all.push_str(&self.looks_up());
        }
        format!("{:016x}", crate::names::fingerprint(all.as_bytes()))
    }

    /// A digest of its lookups: another one asks for all of their values anew.
    pub fn looks_up(&self) -> String {
        let lookup =
            |lookup: &Lookup| (lookup.name.clone(), lookup.ty.clone(), lookup.query.clone());
        let all = format!("{:?}", self.lookups.iter().map(lookup).collect::<Vec<_>>());
        format!("{:016x}", crate::names::fingerprint(all.as_bytes()))
    }

    /// Whether the warehouse looks up a column of that name.
    pub fn has_lookup(&self, name: &str) -> bool {
        self.lookups.iter().any(|lookup| lookup.name == name)
    }

    /// Whether rows find their leaf by a locator: the partition column is no part of the key.
    pub fn has_locator(&self) -> bool {
        self.history == History::Overwrite
            && self.partition.as_ref().is_some_and(|p| !self.key.contains(&p.by))
    }

    /// The columns of the warehouse table's primary key: the key, and what partitions by, which
    /// Postgres wants to be part of it. Empty where rows are events or have no key.
    pub fn physical_key(&self) -> Vec<&str> {
        let by = match self.history {
            History::Append | History::Raw | History::Bag => return Vec::new(),
            History::Versions => Some("valid_to"),
            History::Overwrite => self.partition.as_ref().map(|partition| partition.by.as_str()),
        };
        let by = by.filter(|by| !self.key.iter().any(|key| key == by));
        self.key.iter().map(String::as_str).chain(by).collect()
    }

    /// The locator's table, in `audit`.
    pub fn locator(&self) -> TableName {
        let name = format!("locator_{}_{}", self.table.schema, self.table.name);
        TableName::new("audit", crate::names::shortened(&name, ""))
    }

    /// The leaf that holds the current versions.
    pub fn current_leaf(&self) -> TableName {
        self.table.with_suffix("_pcurrent")
    }

    /// The view of current versions.
    pub fn current_view(&self) -> TableName {
        self.table.with_suffix("_current")
    }

    /// The quoted table.
    pub fn quoted(&self) -> String {
        quote::table(&self.table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_follow_the_calendar() {
        let leap_day = days_from_civil(2024, 2, 29);
        assert_eq!(Step::Month.start(leap_day), days_from_civil(2024, 2, 1));
        assert_eq!(Step::Month.next(days_from_civil(2024, 12, 1)), days_from_civil(2025, 1, 1));
        assert_eq!(Step::Day.suffix(leap_day), "_p20240229");
        assert_eq!(Step::Year.suffix(leap_day), "_p2024");
    }

    #[test]
    fn a_source_name_has_three_parts_and_that_of_an_endpoint_two() {
        let name: SourceName = "shop.public.users".parse().unwrap();
        assert_eq!((name.source.as_str(), name.table.name.as_str()), ("shop", "users"));
        let endpoint: SourceName = "products-api.products".parse().unwrap();
        assert!(endpoint.is_endpoint() && !name.is_endpoint());
        for name in [name, endpoint] {
            assert_eq!(name.to_string().parse(), Ok(name));
        }
        for wrong in ["users", "shop.", ".users", "shop..users", "shop.public."] {
            assert!(wrong.parse::<SourceName>().is_err(), "{wrong}");
        }
    }
}
