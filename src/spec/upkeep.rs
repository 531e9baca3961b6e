//! Tasks of upkeep and programs: `partitions` and `command`.

use std::time::Duration;

use super::common::list;
use super::file::{File, Given};
use super::pattern::TablePattern;
use super::scalar::Scalar;
use super::tasks::TaskKind;
use super::units::Span;
use crate::error::Result;

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

/// Reads the program of a task.
pub(super) fn command(file: &File<'_>, field: &str, given: Option<&[Given]>) -> Result<TaskKind> {
    let words: Vec<Text> = list(file, field, given.unwrap_or_default())?;
    if words.is_empty() {
        let remedy = "write a program and its arguments, such as [./load.sh, \"{ds}\"]";
        return Err(file.refuse(field, "there is no program", remedy));
    }
    Ok(TaskKind::Command(words.into_iter().map(|Text(word)| word).collect()))
}
