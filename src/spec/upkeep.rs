//! Tasks of upkeep and programs: `partitions` and `command`.

use std::time::Duration;

use super::common::list;
use super::file::{File, Given};
use super::pattern::TablePattern;
use super::scalar::Scalar;
use super::tasks::TaskKind;
use super::units::Span;
use crate::error::Result;
use crate::names::TableName;

/// Whose leaves are looked after, and what becomes of old ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Partitions {
    /// The tables.
    pub tables: Vec<TablePattern>,
    /// How long before the end of a run's interval a leaf must have ended to be old; none for never.
    pub keep: Option<Duration>,
    /// Whether an old leaf is dropped, and not only detached.
    pub drops: bool,
}

/// What is kept no longer.
#[derive(Clone, Debug, PartialEq)]
pub struct Retention {
    /// The raw tables whose `keep` counts.
    pub tables: Vec<TablePattern>,
    /// How long the rows of our own books are kept: attempts, results of checks, runs, answered requests.
    pub audit: Duration,
}

impl Retention {
    /// Whether a table is one of those whose `keep` counts.
    pub fn means(&self, table: &TableName) -> bool {
        self.tables.iter().any(|pattern| pattern.matches(table))
    }
}

/// A word or a line of a program's arguments.
struct Text(String);

impl Scalar for Text {
    const REMEDY: &'static str = "write a text";

    fn read(text: &str) -> Result<Text, String> {
        Ok(Text(text.to_owned()))
    }
}

/// Reads whose leaves a task looks after: the tables, how long they are kept, what becomes of old ones.
pub(super) fn partitions(
    file: &File<'_>,
    field: &str,
    (tables, keep, old): (&[Given], Option<&Given>, Option<&Given>),
) -> Result<TaskKind> {
    let at = |below: &str| format!("{field}.{below}");
    let keep = keep.map(|given| file.parse::<Span>(&at("keep"), given));
    Ok(TaskKind::Partitions(Partitions {
        tables: list(file, &at("partitions"), tables)?,
        keep: keep.transpose()?.map(|span| span.0),
        drops: file.choice(&at("old"), old, &["drop", "detach"])? == "drop",
    }))
}

/// Reads what a task drops. Our own books are kept for a year where nothing else is said.
pub(super) fn retention(
    file: &File<'_>,
    field: &str,
    (tables, audit): (&[Given], Option<&Given>),
) -> Result<TaskKind> {
    const YEAR: Span = Span(Duration::from_hours(365 * 24));
    let at = |below: &str| format!("{field}.{below}");
    let Span(kept) = file.parse_or(&at("audit"), audit, YEAR)?;
    if let Some(given) = audit.filter(|_| kept < Duration::from_hours(24)) {
        let why = "runs that people may ask for would be gone";
        return Err(file.refuse_given(&at("audit"), given, why, "write at least 1d"));
    }
    Ok(TaskKind::Retention(Retention {
        tables: list(file, &at("retention"), tables)?,
        audit: kept,
    }))
}

/// Reads the program of a task.
pub(super) fn command(file: &File<'_>, field: &str, given: Option<&[Given]>) -> Result<TaskKind> {
    let words: Vec<Text> = list(file, field, given.unwrap_or_default())?;
    if words.is_empty() {
        let remedy = "write a program and its arguments, such as [./load.sh, \"{ds}\"]";
        return Err(file.refuse(field, "there is no program", remedy));
    }
    Ok(TaskKind::Command(words.into_iter().map(|Text(word)| word).collect()))
}
