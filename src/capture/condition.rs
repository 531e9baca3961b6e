//! A condition that an operator gives over the columns of a table: which rows meet it.
//!
//! It is judged at the source alone, in a transaction that cannot write: the source's rows where they lie,
//! and rows of the warehouse by their values, which are sent there as parameters and take the source's
//! types. So both are judged alike, and the warehouse never sees the text as SQL. It may name the columns
//! that both sides have, without their table, and whatever else the connector's role may read.

use std::collections::HashSet;
use std::ops::Range;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{GenericClient, Row, Transaction};

use crate::error::{Error, Kind, Result};
use crate::names::TableName;
use crate::postgres::quote;

/// What the rows that are judged are called, so that no condition names them.
const ROW: &str = "\"siltstone row\"";

/// A column that a condition may name, or that rows are found by.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its name at the source.
    pub name: String,
    /// Its type there, as `format_type` prints it.
    pub ty: String,
}

/// The values of rows, column by column, as text.
pub type Texts = Vec<Vec<Option<String>>>;

/// A condition and what it is judged over.
#[derive(Clone, Debug)]
pub struct Condition {
    text: String,
    from: String,
    columns: Vec<Column>,
    key: Vec<Column>,
}

/// How a key of the warehouse stands at the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is no such row.
    Gone,
    /// Its row meets the condition.
    Meets,
    /// Its row does not.
    Other,
}

impl Condition {
    /// A condition over `columns` of a table whose rows are told apart by `key`. Refuses a text that is
    /// not one expression: nothing in it may end what it is put into.
    pub fn new(
        text: &str,
        (table, partitioned): (&TableName, bool),
        columns: Vec<Column>,
        key: Vec<Column>,
    ) -> Result<Condition> {
        enclosed(text).map_err(refused)?;
        // an inheriting child has its own rows; a partitioned table has them in its leaves
        let only = if partitioned { "" } else { "only " };
        let from = format!("{only}{}", quote::table(table));
        Ok(Condition { text: text.trim().to_owned(), from, columns, key })
    }

    /// The columns that it may name and seems to, one at least. One more does no harm.
    pub fn named(&self) -> Vec<&Column> {
        let text = self.text.to_lowercase();
        // such a name may be written in other letters
        let escaped = text.contains("u&");
        let named = |column: &&Column| {
            let name = column.name.to_lowercase();
            escaped || text.contains(&name) || text.contains(&quote::ident(&name))
        };
        let columns: Vec<&Column> = self.columns.iter().filter(named).collect();
        if columns.is_empty() { self.columns.iter().take(1).collect() } else { columns }
    }

    /// The condition for the reading of the source's rows.
    pub fn of_rows(&self) -> String {
        format!("({})", self.text)
    }

    /// The condition that names rows by their keys.
    pub fn of_keys(&self, keys: &[Vec<Option<String>>]) -> String {
        let rows = keys.first().map_or(0, Vec::len);
        let cell = |at: usize, (column, values): (&Column, &Vec<Option<String>>)| {
            let value = values.get(at).cloned().flatten();
            let value = value.map_or("null".to_owned(), |value| quote::literal(&value));
            format!("{value}::{}", column.ty)
        };
        let row = |at: usize| -> String {
            let cells = self.key.iter().zip(keys).map(|both| cell(at, both));
            cells.collect::<Vec<_>>().join(", ")
        };
        let rows: Vec<String> = (0..rows).map(|at| format!("({})", row(at))).collect();
        let key = quote::idents(self.key.iter().map(|column| column.name.as_str()));
        format!("({key}) in (values {})", rows.join(", "))
    }

    /// Lets the source read the condition, over nothing but the columns that it may name. Changes nothing
    /// and reads no row.
    pub async fn check(&self, client: &impl GenericClient) -> Result<()> {
        let columns = quote::idents(self.columns.iter().map(|column| column.name.as_str()));
        let statement = format!(
            "select from (select {columns} from {}) as {ROW} where ({})",
            self.from, self.text
        );
        client.prepare(&statement).await.map_err(of_source)?;
        // constants are computed as it is planned
        client.query(&format!("explain {statement}"), &[]).await.map_err(of_source)?;
        Ok(())
    }

    /// Which rows meet it, by their values in the columns that [`Condition::named`] tells: their places. One
    /// that cannot be judged, as its values are none of the source's types, counts as one that does.
    pub async fn judge(&self, under: &Transaction<'_>, rows: &Texts) -> Result<Vec<usize>> {
        let named = self.named();
        let columns: Vec<String> = named
            .iter()
            .enumerate()
            .map(|(n, column)| format!("u.c{n}::{} as {}", column.ty, quote::ident(&column.name)))
            .collect();
        let statement = format!(
            "select {ROW}.\"siltstone n\" from (select {}, u.n as \"siltstone n\" from {}) as {ROW} where ({})",
            columns.join(", "),
            unnested("c", named.len()),
            self.text
        );
        let (found, failed) = in_parts(under, &statement, rows).await?;
        let mut meets: Vec<usize> = found.into_iter().map(|(at, _)| at).chain(failed).collect();
        meets.sort_unstable();
        Ok(meets)
    }

    /// How keys stand at the source. One that is no value of the key's types is not there.
    pub async fn look_up(&self, under: &Transaction<'_>, keys: &Texts) -> Result<Vec<Found>> {
        let same: Vec<String> = self
            .key
            .iter()
            .enumerate()
            .map(|(n, column)| {
                format!("{ROW}.{} = u.c{n}::{}", quote::ident(&column.name), column.ty)
            })
            .collect();
        let statement = format!(
            "select u.n, k.meets from {} join lateral (select ({}) is true as meets from {} as {ROW} \
             where {}) as k on true",
            unnested("c", self.key.len()),
            self.text,
            self.from,
            same.join(" and ")
        );
        let (found, _) = in_parts(under, &statement, keys).await?;
        let mut all = vec![Found::Gone; keys.first().map_or(0, Vec::len)];
        for (at, row) in found {
            let meets: bool = row.try_get(1).map_err(of_source)?;
            if let Some(place) = all.get_mut(at) {
                *place = if meets { Found::Meets } else { Found::Other };
            }
        }
        Ok(all)
    }
}

/// Parameters as the columns of rows, numbered from 1.
fn unnested(prefix: &str, columns: usize) -> String {
    let arrays: Vec<String> = (1..=columns).map(|n| format!("${n}::text[]")).collect();
    let names: Vec<String> = (0..columns).map(|n| format!("{prefix}{n}")).collect();
    format!("unnest({}) with ordinality as u({}, n)", arrays.join(", "), names.join(", "))
}

/// Runs a query over rows whose number it answers with; those on which it fails by themselves, by their
/// places.
async fn in_parts(
    under: &Transaction<'_>,
    statement: &str,
    columns: &Texts,
) -> Result<(Vec<(usize, Row)>, HashSet<usize>)> {
    let prepared = under.prepare(statement).await.map_err(of_source)?;
    let all = Range { start: 0, end: columns.first().map_or(0, Vec::len) };
    let mut parts = vec![all];
    let (mut found, mut failed) = (Vec::new(), HashSet::new());
    while let Some(part) = parts.pop() {
        let values: Vec<&[Option<String>]> =
            columns.iter().map(|values| values.get(part.clone()).unwrap_or_default()).collect();
        let parameters: Vec<&(dyn ToSql + Sync)> =
            values.iter().map(|values| values as &(dyn ToSql + Sync)).collect();
        savepoint(under, "savepoint rows").await?;
        match under.query(&prepared, &parameters).await {
            Ok(rows) => {
                savepoint(under, "release savepoint rows").await?;
                for row in rows {
                    let number: i64 = row.try_get(0).map_err(of_source)?;
                    let at =
                        usize::try_from(number - 1).map_err(|_| Error::bug("a strange row"))?;
                    found.push((part.start + at, row));
                }
            }
            Err(error) if is_of_values(&error) => {
                savepoint(under, "rollback to savepoint rows; release savepoint rows").await?;
                let middle = part.start + part.len() / 2;
                match part.len() {
                    0 | 1 => failed.extend(part),
                    _ => parts.extend([middle..part.end, part.start..middle]),
                }
            }
            Err(error) => return Err(of_source(error)),
        }
    }
    Ok((found, failed))
}

async fn savepoint(under: &Transaction<'_>, statement: &str) -> Result<()> {
    let failed = |error| Error::source("judging rows", error);
    under.batch_execute(statement).await.map_err(failed)
}

/// Whether a statement failed on the values that it was given.
fn is_of_values(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| code.code().starts_with("22"))
}

/// What the source says of a condition. A failure that waiting mends stays one.
fn of_source(error: tokio_postgres::Error) -> Error {
    let passing = matches!(
        error.code(),
        None | Some(
            &SqlState::QUERY_CANCELED | &SqlState::ADMIN_SHUTDOWN | &SqlState::CRASH_SHUTDOWN
        )
    );
    let failure = Error::source("reading the condition", error);
    match failure.kind() {
        _ if passing => failure,
        Kind::SourceAway | Kind::Busy => failure,
        _ => refused(failure.reason()),
    }
}

/// A condition that cannot be used.
pub fn refused(why: impl std::fmt::Display) -> Error {
    Error::new(Kind::TableStops, format!("the condition is refused: {why}"))
}

/// Refuses a text that could end the parentheses it is put into: quotes and parentheses that are not closed,
/// a comment, a second statement.
fn enclosed(text: &str) -> Result<(), &'static str> {
    let mut depth = 0_usize;
    let mut rest = text;
    let mut before = ' ';
    while let Some(first) = rest.chars().next() {
        let behind = rest.get(first.len_utf8()..).unwrap_or_default();
        let next = behind.chars().next();
        rest = match first {
            '\'' => {
                let escapes = is_escaping(text, rest);
                behind_quote(behind, '\'', escapes).ok_or("a quote is not closed")?
            }
            '"' => behind_quote(behind, '"', false).ok_or("a quoted name is not closed")?,
            '$' if !is_of_name(before) => behind_dollars(behind)?,
            '(' => {
                depth += 1;
                behind
            }
            ')' => {
                depth = depth.checked_sub(1).ok_or("a parenthesis is closed that is not open")?;
                behind
            }
            ';' => return Err("it is one expression, and ends no statement"),
            '-' if next == Some('-') => return Err("it has no comment"),
            '/' if next == Some('*') => return Err("it has no comment"),
            '\0' => return Err("it has no NUL"),
            _ => behind,
        };
        before = first;
    }
    match (depth, text.trim().is_empty()) {
        (_, true) => Err("it is empty"),
        (0, false) => Ok(()),
        _ => Err("a parenthesis is not closed"),
    }
}

fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

/// Whether the quote at which `rest` begins is one in which a backslash escapes: E'…'.
fn is_escaping(text: &str, rest: &str) -> bool {
    let mut before = text.get(..text.len() - rest.len()).unwrap_or_default().chars().rev();
    matches!(before.next(), Some('e' | 'E')) && !before.next().is_some_and(is_of_name)
}

/// What stands behind a quote that is open; two in a row are one that is meant.
fn behind_quote(text: &str, quote: char, escapes: bool) -> Option<&str> {
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if escapes && c == '\\' {
            chars.next()?;
        } else if c == quote && chars.next_if(|(_, next)| *next == quote).is_none() {
            return text.get(at + 1..);
        }
    }
    None
}

/// What stands behind $…$ and its end; refuses a parameter.
fn behind_dollars(text: &str) -> Result<&str, &'static str> {
    let (tag, body) = text.split_once('$').ok_or("it has no parameters")?;
    let is_tag = tag.chars().all(is_of_name) && !tag.starts_with(|c: char| c.is_ascii_digit());
    if !is_tag {
        return Err("it has no parameters");
    }
    let end = format!("${tag}$");
    body.split_once(end.as_str()).map(|(_, behind)| behind).ok_or("a quote is not closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_one_expression_is_taken() {
        for text in [
            "id = 7",
            "id in (select user_id from public.vip)",
            "note = 'it''s; -- not /* a comment )'",
            r"note = E'it\'s ) \\'",
            r"note = 'a backslash \' and note <> ')'",
            r#""a)""b" = 1"#,
            "note = $$ it's ) $$ or note = $q$ $$ ) $q$",
            "price$1 > 2 and ((a) or (b))",
            "doc->>'a' = 'x' and n - -1 > 0",
            "note like 'ü%' and fee'x' is null",
        ] {
            assert_eq!(enclosed(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_could_end_its_parentheses_is_refused() {
        for text in [
            "",
            " \n",
            "true) or (true",
            "true); drop table x; select (true",
            "true; drop table x",
            "true -- rest",
            "true /* rest",
            "(true",
            "note = 'open",
            r"note = E'\'",
            r"note = 'closed\') or (true'",
            "\"open",
            "note = $$ open",
            "note = $q$ open $$",
            "id = $1",
            "id = $1 or note = 'x$'",
            "a\0b",
        ] {
            assert!(enclosed(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rows_are_named_by_their_keys_as_literals() {
        let column = |name: &str, ty: &str| Column { name: name.to_owned(), ty: ty.to_owned() };
        let key = vec![column("id", "bigint"), column("a\"b", "text")];
        let table = TableName::new("public", "t");
        let condition = Condition::new("id > 1", (&table, false), key.clone(), key).unwrap();
        let keys = [vec![Some("7".to_owned())], vec![Some("it's".to_owned())]];
        assert_eq!(
            condition.of_keys(&keys),
            "(\"id\", \"a\"\"b\") in (values ('7'::bigint, 'it''s'::text))"
        );
        assert_eq!(condition.named().len(), 1);
    }
}
