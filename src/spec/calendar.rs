//! `layout: calendar`: a table of days that needs no source.

use super::file::File;
use super::model::Calendar;
use super::partition::{day, read_range};
use super::table::{RawTable, comment};
use crate::error::Result;
use crate::names::TableName;

/// Reads a table with `layout: calendar`; `holidays` reads a file beside it.
pub(super) fn read(
    file: &File<'_>,
    raw: &RawTable,
    table: TableName,
    holidays: &dyn Fn(&str) -> std::io::Result<String>,
) -> Result<Calendar> {
    let line = raw.table.line();
    if raw.from.is_some() || raw.columns.is_some() || raw.history.is_some() {
        return Err(file.refuse(line, "layout", "a calendar has its own columns and no source"));
    }
    let Some((from, to)) = &raw.range else {
        return Err(file.refuse(line, "range", "give the first and the last day"));
    };
    let (first, last) = read_range(file, "range", from, to)?;
    let mut days = Vec::new();
    if let Some(given) = &raw.holidays {
        let path = file.text("holidays", given)?;
        let text = holidays(&path)
            .map_err(|error| file.refuse_given("holidays", given, &format!("{path}: {error}")))?;
        for (at, entry) in text.lines().enumerate().filter(|(_, entry)| !entry.trim().is_empty()) {
            let (date, name) = entry.split_once(',').unwrap_or((entry, ""));
            if at == 0 && date == "date" {
                continue;
            }
            if day(date).is_none() {
                let why = format!("{path}:{}: {date:?} is not a day", at + 1);
                return Err(file.refuse_given("holidays", given, &why));
            }
            days.push((date.to_owned(), name.to_owned()));
        }
    }
    let comment = comment(file, raw.comment.as_ref())?;
    Ok(Calendar { table, first, last, holidays: days, comment })
}
