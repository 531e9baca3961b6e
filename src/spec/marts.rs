//! `sql/marts/*.sql`: a SELECT that runs in psql, behind a comment that says how its rows are kept.

use std::time::Duration;

use indexmap::IndexMap;
use serde::Deserialize;

use super::checks::{self, RawChecks, Subject};
use super::clocks::clock_of;
use super::env::Env;
use super::file::{File, Given};
use super::quality::Check;
use super::scalar::Identifier;
use super::tasks::Open;
use super::units::Span;
use crate::error::{Error, Kind, Result};
use crate::names::{TableName, fingerprint};
use crate::postgres::quote;

/// A table of results that follows the tables it is computed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mart {
    /// Its table.
    pub table: TableName,
    /// The columns that tell its rows apart.
    pub key: Vec<String>,
    /// The column by whose values it is recomputed; none of a materialized view, which is so as a whole.
    pub refresh_by: Option<String>,
    /// How old it may be while what it reads changes.
    pub max_age: Duration,
    /// While a check of this tag fails, it stays as it was.
    pub hold_on: Option<String>,
    /// The tables that its query reads.
    pub reads: Vec<MartRead>,
    /// Columns that depend on the day it is looked at: name and expression. A view over the mart has them.
    pub today: Vec<(String, String)>,
    /// The SELECT.
    pub query: String,
    /// The file it is declared in, for messages.
    pub declared_in: String,
    /// The line on which the SELECT begins.
    pub query_line: usize,
    /// The lines of `when`, of each table in the order of `reads`; none where there is none.
    pub when_lines: Vec<Option<u64>>,
}

/// A table that a mart reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MartRead {
    /// The table.
    pub table: TableName,
    /// A row in which none of these changed did not change for the mart; any counts where there are none.
    pub when: Vec<String>,
    /// The groups that rows of `changed` belong to, before and after; all groups where it is not told.
    pub touches: Option<String>,
}

impl Mart {
    /// A digest of what its rows depend on: another one asks for all of them anew.
    pub fn digest(&self) -> String {
        let mut all = format!("{:?}", (&self.key, &self.refresh_by, &self.today, &self.query));
        if self.refresh_by.is_some() {
            // with other `touches` groups may have been left as they were
            all.push_str(&format!("{:?}", self.reads));
        }
        format!("{:016x}", fingerprint(all.as_bytes()))
    }

    /// The view that has the columns which depend on the day.
    pub fn today_view(&self) -> TableName {
        self.table.with_suffix("_today")
    }

    /// The columns that it has beside those of the mart, of a row `m`.
    pub fn today_list(&self) -> String {
        let named = self.today.iter();
        let named = named.map(|(name, sql)| format!("(\n{sql}\n) as {}", quote::ident(name)));
        named.collect::<Vec<_>>().join(", ")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMart {
    table: Given,
    #[serde(default)]
    key: Vec<Given>,
    refresh_by: Option<Given>,
    materialized: Option<bool>,
    max_age: Option<Given>,
    hold_on: Option<Given>,
    checks: Option<RawChecks>,
    reads: IndexMap<String, RawRead>,
    #[serde(default)]
    today: IndexMap<String, Given>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRead {
    when: Option<Vec<Given>>,
    touches: Option<Given>,
}

/// How old a mart may be where its file does not say it.
const MAX_AGE: Duration = Duration::from_secs(5);

/// What the comment begins with.
const OPENING: &str = "/* siltstone";

const EXAMPLE: &str = "begin the file with /* siltstone, then table, key, refresh_by and reads, one a line, \
                       then */ and the SELECT";

/// Reads a file of `sql/marts`, and what must hold of its rows; `open` reads a file below the root. The file that
/// is answered is its header, for refusals.
pub(super) fn read<'e>(
    path: String,
    bytes: Vec<u8>,
    env: &'e Env,
    open: Open<'_>,
) -> Result<(Mart, Vec<Check>, File<'e>)> {
    let (header, query) = split(&path, bytes)?;
    let file = File::new(path, header.into_bytes(), env)?;
    let raw: RawMart = file.read()?;
    let table: TableName = file.parse("table", &raw.table)?;
    let key = names(&file, "key", &raw.key)?;
    if key.is_empty() {
        let remedy = "name the columns that tell its rows apart, such as key: [day]";
        return Err(file.refuse("key", "the mart has no key", remedy));
    }
    let materialized = raw.materialized.unwrap_or(false);
    let refresh_by = raw.refresh_by.as_ref().map(|given| file.text("refresh_by", given));
    let refresh_by = refresh_by.transpose()?;
    if materialized == refresh_by.is_some() {
        let why = match materialized {
            true => "a materialized view is computed as a whole",
            false => "nothing says by which column the mart is recomputed",
        };
        let remedy = "write one of refresh_by: COLUMN and materialized: true";
        return Err(file.refuse("refresh_by", why, remedy));
    }
    let max_age = file.parse_or("max_age", raw.max_age.as_ref(), Span(MAX_AGE))?.0;
    let reads = raw.reads.iter().map(|(name, raw)| read_input(&file, name, raw, materialized));
    let reads = reads.collect::<Result<Vec<_>>>()?;
    if reads.is_empty() {
        let remedy = "name every table that the query reads, such as sales.orders: {}";
        return Err(file.refuse("reads", "the mart reads nothing", remedy));
    }
    let today = raw.today.iter().map(|(name, given)| {
        let field = format!("today.{name}");
        Ok((name.clone(), file.text(&field, given)?))
    });
    let today = today.collect::<Result<Vec<_>>>()?;
    refuse_clocks(&file.path, &query)?;
    let line = |raw: &RawRead| raw.when.as_ref()?.first().map(Given::line);
    let when_lines = raw.reads.values().map(line).collect();
    let Query { text: query, line: query_line } = query;
    let declared_in = file.path.clone();
    let hold_on = raw.hold_on.as_ref().map(|given| file.parse::<Identifier>("hold_on", given));
    let hold_on = hold_on.transpose()?.map(|Identifier(tag)| tag);
    let checks = checks::read(&file, raw.checks.as_ref(), &Subject::mart(&table), open)?;
    let mart = Mart {
        table,
        key,
        refresh_by,
        max_age,
        hold_on,
        reads,
        today,
        query,
        declared_in,
        query_line,
        when_lines,
    };
    Ok((mart, checks, file))
}

fn read_input(file: &File<'_>, name: &str, raw: &RawRead, materialized: bool) -> Result<MartRead> {
    let field = format!("reads.{name}");
    let table = name.parse().map_err(|_| {
        let why = format!("{name:?} is not a table");
        file.refuse(&field, &why, "write schema.table")
    })?;
    if let Some(touches) = raw.touches.as_ref().filter(|_| materialized) {
        let why = "a materialized view is computed as a whole";
        return Err(file.refuse_given(
            &format!("{field}.touches"),
            touches,
            why,
            "remove the field",
        ));
    }
    let when = raw.when.as_deref().map(|when| names(file, &format!("{field}.when"), when));
    let when = when.transpose()?;
    if when.as_ref().is_some_and(Vec::is_empty) {
        let remedy = "name the columns whose change matters, or remove the field for all of them";
        return Err(file.refuse(&format!("{field}.when"), "no column is named", remedy));
    }
    let touches_field = format!("{field}.touches");
    let touches = raw.touches.as_ref().map(|given| file.text(&touches_field, given)).transpose()?;
    if let (Some(text), Some(given)) = (&touches, &raw.touches)
        && !tokens(text).any(|(_, token)| token == "changed")
    {
        let why = "it does not say which rows changed";
        let remedy = "select the groups from changed, which has the rows before and after";
        return Err(file.refuse_given(&touches_field, given, why, remedy));
    }
    Ok(MartRead { table, when: when.unwrap_or_default(), touches })
}

/// A list of columns, each named once.
fn names(file: &File<'_>, field: &str, given: &[Given]) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for given in given {
        let name = file.text(field, given)?;
        if names.contains(&name) {
            let why = format!("{name} stands here twice");
            return Err(file.refuse_given(field, given, &why, "keep one"));
        }
        names.push(name);
    }
    Ok(names)
}

/// The SELECT and the line it begins on.
struct Query {
    text: String,
    line: usize,
}

/// The header, on the lines that it has in the file, and the SELECT behind it.
fn split(path: &str, bytes: Vec<u8>) -> Result<(String, Query)> {
    let refuse = |line: usize, what: &str, remedy: &str| {
        Error::new(Kind::Config, format!("{path}:{line}: {what}")).remedy(remedy)
    };
    let text = String::from_utf8(bytes)
        .map_err(|_| refuse(1, "query: the text is not UTF-8", "save the file as UTF-8"))?;
    let start = text.len() - text.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']).len();
    let opened = text.get(start..).and_then(|text| text.strip_prefix(OPENING));
    let Some(opened) = opened.filter(|behind| behind.starts_with(char::is_whitespace)) else {
        return Err(refuse(1, "header: the file does not say what it is", EXAMPLE));
    };
    let first = text.get(..start).unwrap_or_default().matches('\n').count();
    let Some((header, query)) = opened.split_once("*/") else {
        return Err(refuse(first + 1, "header: the comment has no end", "end it with */"));
    };
    // what stands behind the opening is for readers, such as the file's name
    let fields = header.find('\n').and_then(|end| header.get(end..)).unwrap_or_default();
    let line = first + header.matches('\n').count() + 1;
    let leading = query.len() - query.trim_start().len();
    let line = line + query.get(..leading).unwrap_or_default().matches('\n').count();
    let query = query.trim().trim_end_matches(';').trim_end().to_owned();
    let begins = tokens(&query).next().map(|(_, token)| token).unwrap_or_default();
    if !["select", "with", "values"].contains(&begins.as_str()) {
        let what = "query: there is no SELECT behind the header";
        return Err(refuse(line, what, "write one SELECT, as it runs in psql"));
    }
    Ok((format!("{}{fields}", "\n".repeat(first)), Query { text: query, line }))
}

/// A row must depend on rows alone, or it would be wrong a day later without a change.
fn refuse_clocks(path: &str, query: &Query) -> Result<()> {
    let Some((at, clock)) = clock_of(&query.text) else { return Ok(()) };
    let line = query.line + query.text.get(..at).unwrap_or_default().matches('\n').count();
    let what = format!("{path}:{line}: query: {clock} changes while no row does");
    let remedy = "leave the column out, and write it below today: a view over the mart has it";
    Err(Error::new(Kind::Config, what).remedy(remedy))
}

/// The words of a statement in lower case, with their places; what stands in quotes keeps its case and
/// comes as one word, a text literal not at all.
pub fn tokens(sql: &str) -> impl Iterator<Item = (usize, String)> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = sql.get(at..).filter(|rest| !rest.is_empty())?;
            let start = at;
            if rest.starts_with("--") {
                at += rest.find('\n').unwrap_or(rest.len());
            } else if rest.starts_with("/*") {
                at += rest.find("*/").map_or(rest.len(), |end| end + 2);
            } else if let Some(behind) = rest.strip_prefix('\'') {
                at += 1 + behind.find('\'').map_or(behind.len(), |end| end + 1);
            } else if let Some(behind) = rest.strip_prefix('"') {
                let end = behind.find('"').unwrap_or(behind.len());
                at += 1 + (end + 1).min(behind.len());
                return Some((start, behind.get(..end).unwrap_or_default().to_owned()));
            } else {
                let part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
                let end = rest.find(|c| !part(c)).unwrap_or(rest.len());
                if end > 0 {
                    at += end;
                    return Some((start, rest.get(..end).unwrap_or_default().to_lowercase()));
                }
                let symbol = rest.chars().next().unwrap_or_default();
                at += symbol.len_utf8();
                if symbol == '*' {
                    return Some((start, "*".to_owned()));
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(sql: &str) -> Vec<String> {
        tokens(sql).map(|(_, token)| token).collect()
    }

    #[test]
    fn words_of_a_statement_are_told_from_texts_and_comments() {
        let sql = "select O.day, \"Odd Name\", 'now''s', c.* -- now\n/* now */ from changed c";
        assert_eq!(
            words(sql),
            ["select", "o", "day", "Odd Name", "c", "*", "from", "changed", "c"]
        );
    }

    #[test]
    fn a_header_keeps_its_lines() {
        let text = "\n/* siltstone   a.sql\ntable: m.a\n*/\n\nselect 1;\n";
        let (header, query) = split("a.sql", text.into()).unwrap();
        assert_eq!(header, "\n\ntable: m.a\n");
        assert_eq!((query.text.as_str(), query.line), ("select 1", 6));
    }
    #[test]
    fn a_mart_whose_touches_were_corrected_is_another_one() {
        let mart = |touches: &str, by: Option<&str>| Mart {
            table: "m.a".parse().unwrap(),
            key: vec!["day".to_owned()],
            refresh_by: by.map(str::to_owned),
            max_age: MAX_AGE,
            hold_on: None,
            reads: vec![MartRead {
                table: "s.t".parse().unwrap(),
                when: Vec::new(),
                touches: Some(touches.to_owned()),
            }],
            today: Vec::new(),
            query: "select day from s.t".to_owned(),
            declared_in: "a.sql".to_owned(),
            query_line: 1,
            when_lines: Vec::new(),
        };
        let (one, other) = ("select day from changed", "select day + 1 from changed");
        assert_ne!(mart(one, Some("day")).digest(), mart(other, Some("day")).digest());
        // computed as a whole anyway
        assert_eq!(mart(one, None).digest(), mart(other, None).digest());
    }
}
