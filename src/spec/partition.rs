//! `partition` and `keep` of a table: which leaves it has, over which days.

use serde::Deserialize;

use super::connector::choice;
use super::file::{File, Given};
use super::model::{ModelColumn, Partition, Step};
use super::table::known_column;
use super::units::Span;
use crate::error::Result;
use crate::types::{civil_from_days, days_from_civil};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPartition {
    by: Given,
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
    line: u64,
) -> Result<Partition> {
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    let by = known_column(file, "partition.by", &raw.by, &names)?;
    let column = columns.iter().find(|column| column.name == by);
    let on_time = |ty: &str| ty == "date" || ty.starts_with("timestamp");
    if column.is_none_or(|column| !on_time(&column.ty) || !column.required) {
        let why = "a partition column is a date or timestamp with required: true";
        return Err(file.refuse_given("partition.by", &raw.by, why));
    }
    let every = match choice(file, "partition.every", Some(&raw.every), &["day", "month", "year"])?
    {
        "day" => Step::Day,
        "month" => Step::Month,
        _ => Step::Year,
    };
    choice(file, "partition.outside", raw.outside.as_ref(), &["dead_letter"])?;
    file.parse_or::<Keep>("partition.keep", raw.keep.as_ref(), Keep)?;
    let range = match &raw.range {
        Some((from, to)) => read_range(file, "partition.range", from, to)?,
        None => (days_from_civil(1970, 1, 1), days_from_civil(2200, 1, 1)),
    };
    if range.0 >= range.1 {
        return Err(file.refuse(line, "partition.range", "it ends before it starts"));
    }
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
    let start = day(&file.text(field, from)?)
        .ok_or_else(|| file.refuse_given(field, from, "write a day such as \"2015-01-01\""))?;
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
        file.refuse_given(field, to, "write a day such as \"2030-12-31\", or years ahead: \"+1y\"")
    })?;
    Ok((start, end))
}

/// The day that a text such as `2015-01-01` names, counted from 1970.
pub(super) fn day(text: &str) -> Option<i64> {
    let date: jiff::civil::Date = text.parse().ok()?;
    let part = |value: i8| u32::try_from(value).ok();
    Some(days_from_civil(i64::from(date.year()), part(date.month())?, part(date.day())?))
}

/// `keep`: `forever` or a duration. Dropping old leaves is a job's work; the value is checked here.
pub(super) struct Keep;

impl std::str::FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Keep, String> {
        if text != "forever" {
            text.parse::<Span>()?;
        }
        Ok(Keep)
    }
}
