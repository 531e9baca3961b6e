//! `partition` and `keep` of a table: which leaves it has, over which days.

use serde::Deserialize;

use super::columns::known_column;
use super::file::{File, Given};
use super::model::{ModelColumn, Partition, Step};
use super::scalar::Keep;
use crate::error::Result;
use crate::types::{civil_from_days, days_from_civil};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPartition {
    pub(super) by: Given,
    every: Given,
    ahead: Option<Given>,
    range: Option<(Given, Given)>,
    outside: Option<Given>,
    keep: Option<Given>,
}

/// Reads `partition` of a table with these columns.
pub(super) fn read(
    file: &File<'_>,
    raw: &RawPartition,
    columns: &[ModelColumn],
) -> Result<Partition> {
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    let by = known_column(file, "partition.by", &raw.by, &names)?;
    let column = columns.iter().find(|column| column.name == by);
    if column.is_none_or(|column| !column.tells_time() || !column.required) {
        let why = format!("{by} is not a date or timestamp that is always there");
        let remedy =
            format!("give {by} a type of date, timestamp or timestamptz and required: true");
        return Err(file.refuse_given("partition.by", &raw.by, &why, &remedy));
    }
    let every = match file.choice("partition.every", Some(&raw.every), &["day", "month", "year"])? {
        "day" => Step::Day,
        "month" => Step::Month,
        _ => Step::Year,
    };
    file.choice("partition.outside", raw.outside.as_ref(), &["dead_letter"])?;
    file.parse_or("partition.keep", raw.keep.as_ref(), Keep(None))?;
    let range = match &raw.range {
        Some((from, to)) => read_range(file, "partition.range", from, to)?,
        None => (days_from_civil(1970, 1, 1), days_from_civil(2200, 1, 1)),
    };
    let ahead = file.parse_or("partition.ahead", raw.ahead.as_ref(), 0)?;
    Ok(Partition { by, every, ahead, range })
}

/// First and last day. The end may be relative (`+1y`): it is read against the file's own start of
/// the present year, so that the same files mean the same on any day of a year.
pub(super) fn read_range(
    file: &File<'_>,
    field: &str,
    from: &Given,
    to: &Given,
) -> Result<(i64, i64)> {
    let text = file.text(field, from)?;
    let start = day(&text).ok_or_else(|| {
        let why = format!("{text:?} is not a day");
        file.refuse_given(field, from, &why, "write a day such as \"2015-01-01\"")
    })?;
    let text = file.text(field, to)?;
    let end = match text.strip_prefix('+') {
        Some(years) => {
            years.strip_suffix('y').and_then(|years| years.parse::<i64>().ok()).map(|years| {
                let (year, _, _) = civil_from_days(file.env.today());
                days_from_civil(year + years + 1, 1, 1) - 1
            })
        }
        None => day(&text),
    };
    let end = end.ok_or_else(|| {
        let remedy = "write a day such as \"2030-12-31\", or years ahead: \"+1y\"";
        file.refuse_given(field, to, &format!("{text:?} is not a day"), remedy)
    })?;
    if start > end {
        let remedy = "write the first day, then the last";
        return Err(file.refuse_given(field, to, "it ends before it starts", remedy));
    }
    Ok((start, end))
}

/// The day that a text such as `2015-01-01` names, counted from 1970.
pub(super) fn day(text: &str) -> Option<i64> {
    let date: jiff::civil::Date = text.parse().ok()?;
    let part = |value: i8| u32::try_from(value).ok();
    Some(days_from_civil(i64::from(date.year()), part(date.month())?, part(date.day())?))
}
