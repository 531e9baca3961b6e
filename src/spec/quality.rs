//! What must hold of the rows of a table or mart, validated. `checks` reads it from a
//! file, `gates` says who waits for it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::names::TableName;

/// Something that must hold of the rows of a table or mart.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// The table or mart.
    pub table: TableName,
    /// What it is called: its table has no other of this name.
    pub name: String,
    /// What must hold.
    pub kind: CheckKind,
    /// Of which rows: a condition over them, as written.
    pub filter: Option<String>,
    /// What it is where it does not hold.
    pub severity: Severity,
    /// Whether only what came in since a run's interval began is looked at.
    pub of_run: bool,
    /// The column that says when a row came in.
    pub arrived: Option<String>,
    /// How many of the rows that fail are kept.
    pub keep_rows: u32,
    /// By what gates and marts name it.
    pub tag: Option<String>,
    /// How young a row may be without being looked at.
    pub grace: Option<Duration>,
    /// From how many rows on it is worth a warning, and a failure.
    pub limits: Limits,
    /// The file it is declared in, for messages.
    pub declared_in: String,
}

/// What must hold.
#[derive(Clone, Debug, PartialEq)]
pub enum CheckKind {
    /// No two rows have the same values in these columns; NULL is like no other.
    Unique(Vec<String>),
    /// None of these columns is NULL.
    NotNull(Vec<String>),
    /// Each column has one of its values, or NULL.
    AcceptedValues(Vec<(String, Vec<String>)>),
    /// Each column's value stands in another table's column, or is NULL.
    Relationships(Vec<Relationship>),
    /// Each column lies between two values, or is NULL.
    Range(Vec<(String, Bounds<String>)>),
    /// There are so many rows.
    RowCount(Bounds<u64>),
    /// What the source committed longer ago is in the table.
    Freshness(Freshness),
    /// The last day or hour has about as many rows as others like it.
    Volume(Volume),
    /// A query has no rows.
    Sql {
        /// Its file.
        path: String,
        /// Its text.
        query: String,
    },
}

/// The words of the kinds in files, in the order in which they are told.
pub const CHECK_KINDS: [&str; 9] = [
    "unique",
    "not_null",
    "accepted_values",
    "relationships",
    "range",
    "row_count",
    "freshness",
    "volume",
    "sql",
];

impl CheckKind {
    /// The word in files.
    pub fn word(&self) -> &'static str {
        match self {
            CheckKind::Unique(_) => "unique",
            CheckKind::NotNull(_) => "not_null",
            CheckKind::AcceptedValues(_) => "accepted_values",
            CheckKind::Relationships(_) => "relationships",
            CheckKind::Range(_) => "range",
            CheckKind::RowCount(_) => "row_count",
            CheckKind::Freshness(_) => "freshness",
            CheckKind::Volume(_) => "volume",
            CheckKind::Sql { .. } => "sql",
        }
    }

    /// Whether it counts rows that fail, and can keep them.
    pub fn counts_failing(&self) -> bool {
        !matches!(self, CheckKind::RowCount(_) | CheckKind::Freshness(_) | CheckKind::Volume(_))
    }
}

/// How old a table may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// So long after the source's commit a change is there.
    pub most: Duration,
    /// A calendar of the files whose weekends and holidays are no time that passes.
    pub calendar: Option<TableName>,
}

/// A column whose values stand in another table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relationship {
    /// The column.
    pub column: String,
    /// The other table.
    pub table: TableName,
    /// Its column.
    pub other: String,
}

/// A least and a most, each of which may be left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds<T> {
    /// The least.
    pub min: Option<T>,
    /// The most.
    pub max: Option<T>,
}

/// How many rows a day or an hour has, compared with others like it.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    /// The column that says what day or hour a row belongs to.
    pub by: String,
    /// Whether hours are compared, and not days.
    pub hours: bool,
    /// Which of them are alike.
    pub season: Season,
    /// How many usual deviations away is too far.
    pub sensitivity: f64,
    /// A difference of fewer rows is none.
    pub ignore_below: u64,
}

/// Which days or hours are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Season {
    /// All.
    None,
    /// Those of the same day of the week.
    DayOfWeek,
    /// Those of the same hour of the day.
    HourOfDay,
    /// Those of the same hour of the same day of the week.
    HourOfWeek,
}

/// What a check is that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// A failure: gates and marts wait for it.
    Fail,
    /// A warning.
    Warn,
}

impl Severity {
    /// The word in files.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Fail => "fail",
            Severity::Warn => "warn",
        }
    }
}

/// From how many failing rows on something is so; where neither is given, from the first one on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// A warning.
    pub warn_if: Option<Threshold>,
    /// A failure.
    pub fail_if: Option<Threshold>,
}

/// A comparison with a number of rows, as in `> 100`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold {
    operator: Operator,
    number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    More,
    AtLeast,
    Less,
    AtMost,
    Equal,
    Other,
}

/// The longer ones first: `>=` begins with `>`.
const OPERATORS: [(&str, Operator); 6] = [
    (">=", Operator::AtLeast),
    ("<=", Operator::AtMost),
    ("!=", Operator::Other),
    (">", Operator::More),
    ("<", Operator::Less),
    ("=", Operator::Equal),
];

impl Threshold {
    /// More than none.
    pub const ANY: Threshold = Threshold { operator: Operator::More, number: 0 };

    /// Whether it is so of this many rows.
    pub fn holds(self, rows: u64) -> bool {
        match self.operator {
            Operator::More => rows > self.number,
            Operator::AtLeast => rows >= self.number,
            Operator::Less => rows < self.number,
            Operator::AtMost => rows <= self.number,
            Operator::Equal => rows == self.number,
            Operator::Other => rows != self.number,
        }
    }
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Threshold, String> {
        let read = OPERATORS.iter().find_map(|(word, operator)| {
            let number = text.trim().strip_prefix(word)?.trim().parse().ok()?;
            Some(Threshold { operator: *operator, number })
        });
        read.ok_or_else(|| format!("{text:?} is not a comparison with a number of rows"))
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = OPERATORS.iter().find(|(_, operator)| *operator == self.operator);
        write!(f, "{} {}", word.map_or("", |(word, _)| word), self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_reads_as_written() {
        for (text, rows, holds) in [
            ("> 100", 101, true),
            (">100", 100, false),
            (">= 100", 100, true),
            ("< 1", 0, true),
            ("<= 0", 1, false),
            ("= 0", 0, true),
            (" != 0 ", 3, true),
        ] {
            let threshold: Threshold = text.parse().unwrap();
            assert_eq!(threshold.holds(rows), holds, "{text}");
        }
        assert_eq!(">100".parse::<Threshold>().unwrap().to_string(), "> 100");
        for wrong in ["", "100", "> -1", "> many", "=> 3", "> 1 %"] {
            assert!(wrong.parse::<Threshold>().is_err(), "{wrong}");
        }
    }
}
