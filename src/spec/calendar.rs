//! `layout: calendar`: a table of days that needs no source.

use super::file::File;
use super::model::Calendar;
use super::partition::{day, read_range};
use super::table::{RawTable, comment};
use crate::error::Result;
use crate::names::TableName;

const BESIDE: &str = "put the file beside this one";
const LINES: &str = "write one holiday a line, such as 2024-12-25,Christmas";

/// Reads a table with `layout: calendar`; `holidays` reads a file beside it.
pub(super) fn read(
    file: &File<'_>,
    raw: &RawTable,
    table: TableName,
    holidays: &dyn Fn(&str) -> std::io::Result<String>,
) -> Result<Calendar> {
    if let Some(field) = raw.given(&["from", "new_columns", "keep", "checks"]).or(raw.shaped()) {
        let why = "a calendar has its own columns and no source";
        return Err(file.refuse(field, why, "remove the field"));
    }
    let Some((from, to)) = &raw.range else {
        let remedy = "add the first and the last day, such as range: [\"2015-01-01\", \"+2y\"]";
        return Err(file.refuse("range", "the field is missing", remedy));
    };
    let (first, last) = read_range(file, "range", from, to)?;
    let mut days: Vec<(String, String)> = Vec::new();
    if let Some(given) = &raw.holidays {
        let path = file.text("holidays", given)?;
        let text = holidays(&path)
            .map_err(|error| format!("{path} cannot be read: {error}"))
            .map_err(|why| file.refuse_given("holidays", given, &why, BESIDE))?;
        for (at, entry) in text.lines().enumerate().filter(|(_, entry)| !entry.trim().is_empty()) {
            let (date, name) = entry.split_once(',').unwrap_or((entry, ""));
            if at == 0 && date == "date" {
                continue;
            }
            if day(date).is_none() {
                let why = format!("{path}:{}: {date:?} is not a day", at + 1);
                return Err(file.refuse_given("holidays", given, &why, LINES));
            }
            if days.iter().any(|(other, _)| other == date) {
                let why = format!("{path}:{}: {date} stands there twice", at + 1);
                return Err(file.refuse_given("holidays", given, &why, "keep one of the lines"));
            }
            days.push((date.to_owned(), name.to_owned()));
        }
    }
    let comment = comment(file, raw.comment.as_ref())?;
    let declared_in = file.path.clone();
    Ok(Calendar { table, first, last, holidays: days, comment, declared_in })
}
