//! Reads `checks` of a table or mart: a list of what must hold, each of one kind with its options.

use indexmap::IndexMap;
use serde::Deserialize;

use super::check_kinds::{RawBounds, RawFreshness, RawVolume};
use super::columns::known_columns;
use super::file::{File, Given, Placed, listed};
use super::model::{Deletes, History, Model};
use super::quality::{CHECK_KINDS, Check, CheckKind, Limits, Severity, Threshold};
use super::scalar::{Identifier, Scalar};
use super::tasks::Open;
use super::units::Span;
use crate::error::{Error, Result};
use crate::names::{TableName, fingerprint};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCheck {
    unique: Option<Vec<Given>>,
    not_null: Option<Vec<Given>>,
    accepted_values: Option<IndexMap<String, Vec<Given>>>,
    relationships: Option<IndexMap<String, Given>>,
    range: Option<IndexMap<String, RawBounds>>,
    row_count: Option<RawBounds>,
    freshness: Option<RawFreshness>,
    volume: Option<RawVolume>,
    sql: Option<Given>,
    r#where: Option<Given>,
    severity: Option<Given>,
    scope: Option<Given>,
    keep_rows: Option<Given>,
    tag: Option<Given>,
    grace: Option<Given>,
    warn_if: Option<Given>,
    fail_if: Option<Given>,
}

/// The list as it stands in a file.
pub(super) type RawChecks = Vec<Placed<RawCheck>>;

/// What the checks of a file are about.
pub(super) struct Subject {
    table: TableName,
    /// the columns that may be named; none where only the warehouse knows them
    pub(super) columns: Option<Vec<String>>,
    /// those of days and moments, and whether they are days
    pub(super) times: Vec<(String, bool)>,
    /// the one that says when a row came in
    arrived: Option<&'static str>,
    /// the one that says what day a row belongs to, where the file need not name it
    pub(super) by: Option<String>,
}

/// What a version has beside its columns.
const OF_VERSIONS: [&str; 7] =
    ["valid_from", "valid_to", "is_current", "_end_seq", "_end_ord", "_last_seq", "_last_ord"];

impl Subject {
    /// A table's rows.
    pub(super) fn table(model: &Model) -> Subject {
        let table = model.table.clone();
        if model.history == History::Raw {
            const COLUMNS: [&str; 6] =
                ["id", "raw_data", "loaded_at", "source_system", "load_id", "created_at"];
            return Subject {
                table,
                columns: Some(COLUMNS.map(str::to_owned).to_vec()),
                times: ["loaded_at", "created_at"].map(|name| (name.to_owned(), false)).to_vec(),
                arrived: Some("loaded_at"),
                by: Some("loaded_at".to_owned()),
            };
        }
        let more: &[&str] = match model.history {
            History::Versions => &OF_VERSIONS,
            History::Append => &["_op"],
            _ if model.deletes == Deletes::Soft => &["_deleted_at"],
            _ => &[],
        };
        let ours = ["_seq", "_ord", "_synced_at"].iter().chain(more);
        let names = model.columns.iter().map(|column| column.name.as_str());
        let names = names.chain(model.lookups.iter().map(|lookup| lookup.name.as_str()));
        let times = model.columns.iter().filter(|column| column.tells_time());
        let times = times.map(|column| (column.name.clone(), column.ty == "date"));
        let our_times =
            ["_synced_at", "valid_from", "valid_to"].map(|name| (name.to_owned(), false));
        let by = match model.history {
            History::Versions => Some("valid_from".to_owned()),
            History::Append if model.partition.is_none() => Some("_synced_at".to_owned()),
            _ => model.partition.as_ref().map(|partition| partition.by.clone()),
        };
        Subject {
            table,
            columns: Some(names.chain(ours.copied()).map(str::to_owned).collect()),
            times: times.chain(our_times).collect(),
            arrived: Some("_synced_at"),
            by,
        }
    }

    /// A mart's rows, whose columns its query has.
    pub(super) fn mart(table: &TableName) -> Subject {
        let table = table.clone();
        Subject { table, columns: None, times: Vec::new(), arrived: None, by: None }
    }
}

/// Reads what must hold of a subject's rows; `open` reads a file below the root.
pub(super) fn read(
    file: &File<'_>,
    raw: Option<&RawChecks>,
    subject: &Subject,
    open: Open<'_>,
) -> Result<Vec<Check>> {
    let mut checks: Vec<Check> = Vec::new();
    for placed in raw.into_iter().flatten() {
        let line = placed.referenced.line();
        let reader = Reader { file, subject, raw: &placed.value, line };
        let check = reader.read(open)?;
        if checks.iter().any(|other| other.name == check.name) {
            let why = format!("{} stands here twice", check.name);
            return Err(reader.refuse("", &why, "keep one"));
        }
        checks.push(check);
    }
    Ok(checks)
}

pub(super) struct Reader<'r> {
    pub(super) file: &'r File<'r>,
    pub(super) subject: &'r Subject,
    raw: &'r RawCheck,
    line: u64,
}

impl Reader<'_> {
    /// A refusal of a field of the check, or of the check itself.
    pub(super) fn refuse(&self, field: &str, why: &str, remedy: &str) -> Error {
        let field = if field.is_empty() { "checks".to_owned() } else { at(field) };
        self.file.refuse_at(self.line, &field, why, remedy)
    }

    fn read(&self, open: Open<'_>) -> Result<Check> {
        let RawCheck { r#where, severity, scope, keep_rows, tag, grace, .. } = self.raw;
        let file = self.file;
        let kind = self.kind(open)?;
        let limits = self.limits()?;
        self.refuse_useless(&kind)?;
        let filter = r#where.as_ref().map(|given| self.condition(given)).transpose()?;
        let of_run = file.choice(&at("scope"), scope.as_ref(), &["table", "run"])? == "run";
        let severity = match file.choice(&at("severity"), severity.as_ref(), &["fail", "warn"])? {
            "warn" => Severity::Warn,
            _ => Severity::Fail,
        };
        let tag = tag.as_ref().map(|given| file.parse::<Identifier>(&at("tag"), given));
        let grace = grace.as_ref().map(|given| file.parse::<Span>(&at("grace"), given));
        Ok(Check {
            name: named(&kind, filter.as_deref(), of_run),
            table: self.subject.table.clone(),
            kind,
            filter,
            severity,
            of_run,
            arrived: self.subject.arrived.map(str::to_owned),
            keep_rows: file.parse_or(&at("keep_rows"), keep_rows.as_ref(), 100)?,
            tag: tag.transpose()?.map(|Identifier(tag)| tag),
            grace: grace.transpose()?.map(|Span(grace)| grace),
            limits,
            declared_in: file.path.clone(),
        })
    }

    /// Refuses options that say nothing beside its kind.
    fn refuse_useless(&self, kind: &CheckKind) -> Result<()> {
        let raw = self.raw;
        let (word, counts) = (kind.word(), kind.counts_failing());
        let run = self.file.choice(&at("scope"), raw.scope.as_ref(), &["table", "run"])? == "run";
        let arrives = self.subject.arrived.is_some();
        let rows = !matches!(kind, CheckKind::Freshness(_) | CheckKind::Sql { .. });
        let parts = rows && !matches!(kind, CheckKind::Unique(_) | CheckKind::Volume(_));
        let related = matches!(kind, CheckKind::Relationships(_));
        let useless = [
            ("where", raw.r#where.is_some() && !rows),
            ("scope", run && !(parts && arrives)),
            ("keep_rows", raw.keep_rows.is_some() && !counts),
            ("grace", raw.grace.is_some() && !(related && arrives)),
            ("warn_if", raw.warn_if.is_some() && !counts),
            ("fail_if", raw.fail_if.is_some() && !counts),
        ];
        let Some((field, _)) = useless.iter().find(|(_, useless)| *useless) else { return Ok(()) };
        let why = match arrives {
            true => format!("a check of {word} has none"),
            false => format!("a check of {word} of a mart has none"),
        };
        Err(self.refuse(field, &why, "remove the field"))
    }

    fn limits(&self) -> Result<Limits> {
        let RawCheck { warn_if, fail_if, severity, .. } = self.raw;
        let warns = severity.as_ref().is_some_and(|given| given.raw() == "warn");
        if fail_if.is_some() && warns {
            let remedy = "remove severity, or write warn_if";
            return Err(self.refuse("fail_if", "severity: warn never fails", remedy));
        }
        if warn_if.is_some() && fail_if.is_none() && !warns {
            let why = "nothing says from how many rows on it fails";
            return Err(self.refuse("warn_if", why, "add fail_if, or severity: warn"));
        }
        let read = |field: &str, given: &Option<Given>| {
            given.as_ref().map(|given| self.file.parse(&at(field), given)).transpose()
        };
        Ok(Limits { warn_if: read("warn_if", warn_if)?, fail_if: read("fail_if", fail_if)? })
    }

    fn kind(&self, open: Open<'_>) -> Result<CheckKind> {
        let raw = self.raw;
        let given = [
            raw.unique.is_some(),
            raw.not_null.is_some(),
            raw.accepted_values.is_some(),
            raw.relationships.is_some(),
            raw.range.is_some(),
            raw.row_count.is_some(),
            raw.freshness.is_some(),
            raw.volume.is_some(),
            raw.sql.is_some(),
        ];
        let mut kinds = CHECK_KINDS.iter().zip(given).filter(|(_, given)| *given);
        let (one, other) = (kinds.next(), kinds.next());
        if let (Some((one, _)), Some((other, _))) = (one, other) {
            let why = format!("a check is of one kind, and this one is of {one} as well");
            return Err(self.refuse(other, &why, "write two checks"));
        }
        match raw {
            RawCheck { unique: Some(columns), .. } => {
                Ok(CheckKind::Unique(self.columns("unique", columns)?))
            }
            RawCheck { not_null: Some(columns), .. } => {
                Ok(CheckKind::NotNull(self.columns("not_null", columns)?))
            }
            RawCheck { accepted_values: Some(accepted), .. } => self.accepted(accepted),
            RawCheck { relationships: Some(related), .. } => self.related(related),
            RawCheck { range: Some(ranges), .. } => self.ranges(ranges),
            RawCheck { row_count: Some(bounds), .. } => self.row_count(bounds),
            RawCheck { freshness: Some(freshness), .. } => self.freshness(freshness),
            RawCheck { volume: Some(volume), .. } => self.volume(volume),
            RawCheck { sql: Some(path), .. } => self.sql(path, open),
            _ => {
                let remedy = format!("add one of {}", listed(&CHECK_KINDS));
                Err(self.refuse("", "the check says nothing that must hold", &remedy))
            }
        }
    }

    fn columns(&self, kind: &str, given: &[Given]) -> Result<Vec<String>> {
        if given.is_empty() {
            return Err(self.refuse(kind, "no column is named", "name at least one"));
        }
        match self.known() {
            Some(known) => known_columns(self.file, &at(kind), given, &known),
            None => given.iter().map(|given| self.file.text(&at(kind), given)).collect(),
        }
    }

    pub(super) fn known(&self) -> Option<Vec<&str>> {
        Some(self.subject.columns.as_ref()?.iter().map(String::as_str).collect())
    }

    /// A column that is named in front of a colon.
    pub(super) fn column(&self, kind: &str, name: &str) -> Result<String> {
        let Some(known) = self.known().filter(|known| !known.contains(&name)) else {
            return Ok(name.to_owned());
        };
        let remedy = match super::file::nearest(name, &known) {
            Some(near) => format!("write {near}"),
            None => format!("write one of {}", known.join(", ")),
        };
        Err(self.refuse(kind, &format!("{name} is no column of this table"), &remedy))
    }

    /// A condition: SQL that stands between parentheses of ours and ends there.
    fn condition(&self, given: &Given) -> Result<String> {
        let text = self.file.text(&at("where"), given)?;
        let mut open = 0_i64;
        let mut ends = text.trim().is_empty();
        let mut lexer = super::lexer::Lexer::new(&text);
        loop {
            match lexer.next() {
                Ok(None) => break,
                Ok(Some((token, _))) => {
                    open += super::lexer::depth(&token);
                    ends |= open < 0 || token == super::lexer::Token::Semicolon;
                }
                Err(flaw) => {
                    return Err(self.file.refuse_given(
                        &at("where"),
                        given,
                        &flaw.why,
                        &flaw.remedy,
                    ));
                }
            }
        }
        if ends || open != 0 {
            let remedy = "write a condition over the table's columns, such as is_current";
            let why = format!("{text:?} is no condition");
            return Err(self.file.refuse_given(&at("where"), given, &why, remedy));
        }
        Ok(text)
    }
}

/// A field of a check, as messages show it.
pub(super) fn at(field: &str) -> String {
    format!("checks.{field}")
}

impl Scalar for Threshold {
    const REMEDY: &'static str = "write a comparison with a number of rows, such as \"> 100\"";

    fn read(text: &str) -> Result<Threshold, String> {
        text.parse()
    }
}

/// What a check is called: what it is about, in the words of its file.
fn named(kind: &CheckKind, filter: Option<&str>, of_run: bool) -> String {
    const LONGEST: usize = 150;
    let about = match kind {
        CheckKind::Unique(columns) | CheckKind::NotNull(columns) => columns.join(", "),
        CheckKind::AcceptedValues(all) => listing(all.iter().map(|(column, _)| column)),
        CheckKind::Relationships(all) => listing(all.iter().map(|related| &related.column)),
        CheckKind::Range(all) => listing(all.iter().map(|(column, _)| column)),
        CheckKind::RowCount(_) | CheckKind::Freshness(_) => String::new(),
        CheckKind::Volume(volume) => volume.by.clone(),
        CheckKind::Sql { path, .. } => {
            let name = path.rsplit('/').next().unwrap_or(path);
            name.trim_end_matches(".sql").to_owned()
        }
    };
    let mut name = kind.word().to_owned();
    if !about.is_empty() {
        name.push_str(&format!("({about})"));
    }
    if let Some(filter) = filter {
        let words: Vec<&str> = filter.split_whitespace().collect();
        name.push_str(&format!(" where {}", words.join(" ")));
    }
    if of_run {
        name.push_str(" of the run");
    }
    if name.chars().count() > LONGEST {
        // two long ones never become one
        let digest = fingerprint(name.as_bytes()) >> 32;
        name = name.chars().take(LONGEST).collect();
        name.push_str(&format!("… {digest:08x}"));
    }
    name
}

fn listing<'c>(columns: impl Iterator<Item = &'c String>) -> String {
    columns.map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Bounds;

    #[test]
    fn a_name_says_what_it_is_about_and_fits() {
        let unique = CheckKind::Unique(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(named(&unique, None, false), "unique(a, b)");
        assert_eq!(
            named(&unique, Some("is_current\n  and x"), true),
            "unique(a, b) where is_current and x of the run"
        );
        let (one, other) = ("x".repeat(300), "x".repeat(301));
        let (one, other) = (named(&unique, Some(&one), false), named(&unique, Some(&other), false));
        assert!(one != other && one.chars().count() <= 200, "{one}");
        let count = CheckKind::RowCount(Bounds { min: Some(1), max: None });
        assert_eq!(named(&count, None, true), "row_count of the run");
        let sql = CheckKind::Sql { path: "sql/quality/a.sql".to_owned(), query: String::new() };
        assert_eq!(named(&sql, None, false), "sql(a)");
    }
}
