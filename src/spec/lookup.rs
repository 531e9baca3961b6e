//! `lookup:` of a column: a query over the row and other tables, whose answer the warehouse itself keeps in it.
//!
//! What the query reads, and whether it runs, only the warehouse can tell.

use super::clocks::clock_of;
use super::columns::RawColumn;
use super::file::{File, Given, nearest};
use super::lexer::{Lexer, Token, depth};
use super::marts::tokens;
use super::model::{Lookup, ModelColumn};
use super::table::comment;
use crate::error::{Error, Result};

/// What a column that the source feeds may have, and one that is looked up may not.
fn fed_by(raw: &RawColumn) -> Option<(&'static str, &'static str)> {
    let of_source = "its values come from its lookup, not from the source";
    match raw {
        RawColumn { from: Some(_), .. } => Some(("from", of_source)),
        RawColumn { mask: Some(_), .. } => Some(("mask", of_source)),
        RawColumn { required: true, .. } => {
            Some(("required", "a lookup that finds nothing is NULL"))
        }
        _ => None,
    }
}

/// Reads a column that is looked up.
pub(super) fn read(
    file: &File<'_>,
    name: &str,
    raw: &RawColumn,
    (ty, given): (String, &Given),
) -> Result<Lookup> {
    let field = format!("columns.{name}.lookup");
    if let Some((of, why)) = fed_by(raw) {
        return Err(file.refuse(&format!("columns.{name}.{of}"), why, "remove the field"));
    }
    let query = file.text(&field, given)?.trim().to_owned();
    refuse_unended(file, (&field, given), &query)?;
    if let Some((_, clock)) = clock_of(&query) {
        let why = format!("{clock} changes while no row does");
        let remedy = "write a query over the row and other tables alone";
        return Err(file.refuse_given(&field, given, &why, remedy));
    }
    Ok(Lookup { name: name.to_owned(), ty, query, comment: comment(file, raw.comment.as_ref())? })
}

const EXAMPLE: &str =
    "write one SELECT, such as select region from ref.countries r where r.country = row.country";

/// Refuses what is not one SELECT: it stands between parentheses of ours and ends there.
fn refuse_unended(file: &File<'_>, (field, given): (&str, &Given), query: &str) -> Result<()> {
    let refuse = |why: &str| file.refuse_given(field, given, why, EXAMPLE);
    let (mut lexer, mut open, mut ended) = (Lexer::new(query), 0_i64, false);
    let mut first = true;
    loop {
        let next = lexer.next().map_err(|flaw| refuse(&flaw.why))?;
        let Some((token, place)) = next else { break };
        if matches!(token, Token::Variable(_)) {
            return Err(refuse("only jobs have variables"));
        }
        let word = query.get(place).unwrap_or_default().to_ascii_lowercase();
        if first && token != Token::Comment {
            first = false;
            if !["select", "with"].contains(&word.as_str()) {
                return Err(refuse("it is no SELECT"));
            }
        }
        open += depth(&token);
        ended |= open < 0 || token == Token::Semicolon;
    }
    match first || ended || open != 0 {
        true => Err(refuse("it is not one SELECT")),
        false => Ok(()),
    }
}

/// Refuses lookups of what the source does not feed: another lookup may not be there yet.
pub(super) fn check(file: &File<'_>, lookups: &[Lookup], columns: &[ModelColumn]) -> Result<()> {
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    for lookup in lookups {
        let refuse = |why: &str, remedy: &str| {
            file.refuse(&format!("columns.{}.lookup", lookup.name), why, remedy)
        };
        let named = of_row(&lookup.query);
        if named.is_empty() {
            let why = "it does not say of which row";
            return Err(refuse(why, "compare with a column of the row, such as row.country"));
        }
        if takes_all(&lookup.query) {
            let why = "it takes the row as a whole, and so does not say by which of its columns";
            return Err(refuse(why, "name the columns, each as row.country"));
        }
        if let Some(name) = named.iter().find(|name| !names.contains(&name.as_str())) {
            let why = format!("row.{name} is no column that the source feeds");
            let remedy = match nearest(name, &names) {
                Some(near) => format!("write row.{near}"),
                None => format!("write row. and one of {}", names.join(", ")),
            };
            return Err(refuse(&why, &remedy));
        }
    }
    Ok(())
}

/// What stands behind a word of a query.
fn behind<'q>(query: &'q str, (at, word): &(usize, String)) -> &'q str {
    let quotes = if query.get(*at..).is_some_and(|q| q.starts_with('"')) { 2 } else { 0 };
    query.get(at + word.len() + quotes..).unwrap_or_default()
}

/// Whether a query takes the row as a whole, of which it is not told then by what it is looked up.
fn takes_all(query: &str) -> bool {
    let words: Vec<(usize, String)> = tokens(query).collect();
    let word = |at: Option<usize>| at.and_then(|at| words.get(at)).map_or("", |(_, word)| word);
    words.iter().enumerate().any(|(n, token)| {
        let before = query.get(..token.0).unwrap_or_default().trim_end();
        let rest = behind(query, token).trim_start();
        // another's column, a constructor, a frame, FETCH FIRST ROW ONLY
        let another = before.ends_with('.')
            || rest.starts_with('(')
            || word(n.checked_sub(1)) == "current"
            || ["only", "with"].contains(&word(Some(n + 1)));
        let column = rest.strip_prefix('.').is_some_and(|rest| !rest.trim_start().starts_with('*'));
        token.1 == "row" && !another && !column
    })
}

/// The columns of the row that a query names, in their order.
pub(super) fn of_row(query: &str) -> Vec<String> {
    let words: Vec<(usize, String)> = tokens(query).collect();
    let pairs = words.iter().zip(words.iter().skip(1));
    let named = pairs.filter(|(token @ (_, word), (next, _))| {
        let between = behind(query, token);
        let gap = next.checked_sub(query.len() - between.len());
        word == "row" && gap.and_then(|gap| between.get(..gap)).is_some_and(|gap| gap.trim() == ".")
    });
    let mut columns: Vec<String> = Vec::new();
    for (_, (_, column)) in named {
        if !columns.contains(column) {
            columns.push(column.clone());
        }
    }
    columns
}

/// Refuses a lookup in the place of a column that the source feeds.
pub(super) fn refuse_named<'g>(
    file: &File<'_>,
    lookups: &[Lookup],
    named: impl IntoIterator<Item = (&'static str, &'g Given)>,
) -> Result<()> {
    let refuse = |field: &str, given: &Given, name: &str| -> Error {
        let why = format!("{name} is looked up, and the source does not feed it");
        file.refuse_given(field, given, &why, "name a column without lookup")
    };
    for (field, given) in named {
        let name = file.text(field, given)?;
        if lookups.iter().any(|lookup| lookup.name == name) {
            return Err(refuse(field, given, &name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_of_the_row_are_found_wherever_they_stand() {
        let named = |query: &str| of_row(query).join(" ");
        assert_eq!(
            named("select r from t where t.a = row.country and t.b = ROW . Tier"),
            "country tier"
        );
        assert_eq!(named("select \"row\".\"Odd Name\", row.a, row.a"), "Odd Name a");
        // a text, a comment, a constructor, another's column, a row of somebody's
        assert_eq!(named("select 'row.a' -- row.b\n, row(1), rows.c, t.row, narrow.d"), "");
    }

    #[test]
    fn a_row_as_a_whole_is_noticed() {
        for whole in [
            "select to_jsonb(row)",
            "select row.*, row.a",
            "select f(row, row.a)",
            "select \"row\"",
        ] {
            assert!(takes_all(whole), "{whole}");
        }
        let named = "select row(row.a, t.row), sum(b) over (rows between current row and 1 following) \
                     from t where t.a = row . b fetch first row only";
        assert!(!takes_all(named));
    }
}
