//! `schemas/**/*.yaml`: what shape a warehouse table has.

use indexmap::IndexMap;
use serde::Deserialize;

use super::connector::choice;
use super::file::{File, Given, NotYet, nearest};
use super::model::{
    Calendar, Deletes, History, Model, ModelColumn, NewColumns, Partition, SourceName, Step,
};
use super::units::Span;
use crate::error::Result;
use crate::names::TableName;
use crate::types::{civil_from_days, days_from_civil};

/// What a file in `schemas/` declares.
pub(super) enum Declared {
    Model(Model),
    Calendar(Calendar),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTable {
    table: Given,
    from: Option<Given>,
    layout: Option<Given>,
    history: Option<Given>,
    #[serde(default)]
    key: Vec<Given>,
    track: Option<Vec<Given>>,
    since: Option<Given>,
    columns: Option<IndexMap<String, RawColumn>>,
    partition: Option<RawPartition>,
    #[serde(default)]
    indexes: Vec<Vec<Given>>,
    delete: Option<Given>,
    new_columns: Option<Given>,
    keep: Option<Given>,
    comment: Option<Given>,
    range: Option<(Given, Given)>,
    holidays: Option<Given>,
    checks: Option<NotYet>,
    horizon: Option<NotYet>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawColumn {
    from: Option<Given>,
    r#type: Given,
    #[serde(default)]
    required: bool,
    comment: Option<Given>,
    mask: Option<NotYet>,
    lookup: Option<NotYet>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPartition {
    by: Given,
    every: Given,
    ahead: Option<Given>,
    range: Option<(Given, Given)>,
    outside: Option<Given>,
    keep: Option<Given>,
}

/// Column names that every kept table has from us.
const OURS: [&str; 12] = [
    "_seq",
    "_ord",
    "_synced_at",
    "_end_seq",
    "_end_ord",
    "_last_seq",
    "_last_ord",
    "valid_from",
    "valid_to",
    "is_current",
    "_op",
    "_deleted_at",
];

/// Reads a file of `schemas/`; `holidays` reads a file beside it.
pub(super) fn read(
    file: &File<'_>,
    holidays: &dyn Fn(&str) -> std::io::Result<String>,
) -> Result<Declared> {
    let raw: RawTable = file.read()?;
    file.not_yet("checks", raw.checks.as_ref())?;
    file.not_yet("horizon", raw.horizon.as_ref())?;
    let table: TableName = file.parse("table", &raw.table)?;
    match choice(file, "layout", raw.layout.as_ref(), &["columns", "raw", "calendar"])? {
        "calendar" => read_calendar(file, &raw, table, holidays).map(Declared::Calendar),
        "raw" => read_raw(file, &raw, table).map(Declared::Model),
        _ => read_model(file, &raw, table).map(Declared::Model),
    }
}

fn source(file: &File<'_>, raw: &RawTable) -> Result<SourceName> {
    match &raw.from {
        Some(given) => file.parse("from", given),
        None => Err(file.refuse(raw.table.line(), "from", "the field is missing")),
    }
}

fn comment(file: &File<'_>, given: Option<&Given>) -> Result<Option<String>> {
    given.map(|given| file.text("comment", given)).transpose()
}

/// A raw table keeps everything for good unless `keep` says otherwise, and has its own columns.
fn read_raw(file: &File<'_>, raw: &RawTable, table: TableName) -> Result<Model> {
    let given: [(&str, bool); 8] = [
        ("history", raw.history.is_some()),
        ("key", !raw.key.is_empty()),
        ("track", raw.track.is_some()),
        ("since", raw.since.is_some()),
        ("columns", raw.columns.is_some()),
        ("partition", raw.partition.is_some()),
        ("indexes", !raw.indexes.is_empty()),
        ("delete", raw.delete.is_some()),
    ];
    if let Some((field, _)) = given.iter().find(|(_, given)| *given) {
        return Err(file.refuse(raw.table.line(), field, "a raw table has its own six columns"));
    }
    file.parse_or::<Keep>("keep", raw.keep.as_ref(), Keep)?;
    Ok(Model {
        table,
        from: source(file, raw)?,
        history: History::Raw,
        key: Vec::new(),
        track: Vec::new(),
        since: None,
        columns: Vec::new(),
        partition: None,
        indexes: Vec::new(),
        deletes: Deletes::Row,
        new_columns: NewColumns::Ignore,
        mirrored: false,
        comment: comment(file, raw.comment.as_ref())?,
        declared_in: file.path.clone(),
    })
}

fn read_model(file: &File<'_>, raw: &RawTable, table: TableName) -> Result<Model> {
    let line = raw.table.line();
    if raw.range.is_some() || raw.holidays.is_some() {
        return Err(file.refuse(line, "range", "only a calendar has range and holidays"));
    }
    if let Some(keep) = &raw.keep {
        return Err(file.refuse_given("keep", keep, "only raw tables and partitions have keep"));
    }
    let history = match choice(
        file,
        "history",
        raw.history.as_ref(),
        &["overwrite", "versions", "append"],
    )? {
        "versions" => History::Versions,
        "append" => History::Append,
        _ => History::Overwrite,
    };
    let columns = read_columns(file, raw)?;
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    let known = |field: &str, given: &Given| known_column(file, field, given, &names);
    let key = raw.key.iter().map(|given| known("key", given)).collect::<Result<Vec<_>>>()?;
    if key.is_empty() && history != History::Append {
        return Err(file.refuse(line, "key", "name the columns that tell rows apart"));
    }
    let track = match &raw.track {
        Some(given) => given.iter().map(|g| known("track", g)).collect::<Result<_>>()?,
        None => {
            names.iter().filter(|n| !key.iter().any(|k| k == *n)).map(|n| (*n).to_owned()).collect()
        }
    };
    if history != History::Versions && (raw.track.is_some() || raw.since.is_some()) {
        let field = if raw.track.is_some() { "track" } else { "since" };
        return Err(file.refuse(line, field, "only history: versions has it"));
    }
    let since = raw.since.as_ref().map(|given| known("since", given)).transpose()?;
    let partition = match &raw.partition {
        Some(_) if history == History::Versions => {
            let why = "a versions table is partitioned on its validity by itself";
            return Err(file.refuse(line, "partition", why));
        }
        Some(raw) => Some(read_partition(file, raw, &columns, line)?),
        None => None,
    };
    let mut indexes = Vec::new();
    for index in &raw.indexes {
        indexes.push(index.iter().map(|g| known("indexes", g)).collect::<Result<Vec<_>>>()?);
    }
    Ok(Model {
        from: source(file, raw)?,
        deletes: read_deletes(file, raw.delete.as_ref(), history)?,
        new_columns: match choice(
            file,
            "new_columns",
            raw.new_columns.as_ref(),
            &["ignore", "stop"],
        )? {
            "stop" => NewColumns::Stop,
            _ => NewColumns::Ignore,
        },
        table,
        history,
        key,
        track,
        since,
        columns,
        partition,
        indexes,
        mirrored: false,
        comment: comment(file, raw.comment.as_ref())?,
        declared_in: file.path.clone(),
    })
}

fn known_column(file: &File<'_>, field: &str, given: &Given, names: &[&str]) -> Result<String> {
    let name = file.text(field, given)?;
    if names.contains(&name.as_str()) {
        return Ok(name);
    }
    let near = nearest(&name, names).map(|near| format!(", did you mean `{near}`?"));
    let why = format!("`{name}` is no column of this table{}", near.unwrap_or_default());
    Err(file.refuse_given(field, given, &why))
}

fn read_columns(file: &File<'_>, raw: &RawTable) -> Result<Vec<ModelColumn>> {
    let line = raw.table.line();
    let given = raw.columns.as_ref().filter(|columns| !columns.is_empty());
    let Some(given) = given else {
        return Err(file.refuse(line, "columns", "list the table's columns"));
    };
    let mut columns = Vec::new();
    for (name, column) in given {
        let field = format!("columns.{name}");
        file.not_yet(&format!("{field}.mask"), column.mask.as_ref())?;
        file.not_yet(&format!("{field}.lookup"), column.lookup.as_ref())?;
        if OURS.contains(&name.as_str()) || name.len() > 63 || name.is_empty() {
            let why = "the name is one of ours, empty, or longer than 63 bytes";
            return Err(file.refuse_given(&field, &column.r#type, why));
        }
        let type_field = format!("{field}.type");
        let ty = file.text(&type_field, &column.r#type)?;
        if !is_type(&ty) {
            let why = format!("{ty:?} does not read as a Postgres type such as numeric(10,2)");
            return Err(file.refuse_given(&type_field, &column.r#type, &why));
        }
        let from = match &column.from {
            Some(given) => file.text(&format!("{field}.from"), given)?,
            None => name.clone(),
        };
        let required = column.required;
        let comment = comment(file, column.comment.as_ref())?;
        columns.push(ModelColumn { name: name.clone(), from, ty, required, fill: None, comment });
    }
    Ok(columns)
}

/// Whether the text is a type's name with an optional modifier and array brackets: it goes into DDL
/// as it stands, where nothing else may.
fn is_type(text: &str) -> bool {
    let text = text.trim_end_matches("[]");
    let (head, rest) = text.split_once('(').unwrap_or((text, ""));
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ' ' | '.');
    let starts = head.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let tail_is_fine = match rest.split_once(')') {
        _ if !text.contains('(') => true,
        Some((modifier, tail)) => {
            modifier.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, ',' | ' ' | '-'))
                && tail.chars().all(word)
        }
        None => false,
    };
    starts && head.chars().all(word) && tail_is_fine
}

fn read_deletes(file: &File<'_>, given: Option<&Given>, history: History) -> Result<Deletes> {
    let choices: &[&'static str] = match history {
        History::Versions => &["close", "ignore"],
        History::Append => &["row", "ignore"],
        _ => &["hard", "soft", "ignore"],
    };
    Ok(match choice(file, "delete", given, choices)? {
        "close" => Deletes::Close,
        "row" => Deletes::Row,
        "soft" => Deletes::Soft,
        "ignore" => Deletes::Ignore,
        _ => Deletes::Hard,
    })
}

fn read_partition(
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
fn read_range(file: &File<'_>, field: &str, from: &Given, to: &Given) -> Result<(i64, i64)> {
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

fn day(text: &str) -> Option<i64> {
    let date: jiff::civil::Date = text.parse().ok()?;
    let part = |value: i8| u32::try_from(value).ok();
    Some(days_from_civil(i64::from(date.year()), part(date.month())?, part(date.day())?))
}

fn read_calendar(
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

/// `keep`: `forever` or a duration. Dropping old leaves is a job's work; the value is checked here.
struct Keep;

impl std::str::FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Keep, String> {
        if text != "forever" {
            text.parse::<Span>()?;
        }
        Ok(Keep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_a_type_and_nothing_else() {
        for ty in [
            "bigint",
            "varchar(255)",
            "numeric(10, 2)",
            "timestamp(3) with time zone",
            "text[]",
            "double precision",
            "public.geometry(Point,4326)",
        ] {
            assert!(is_type(ty), "{ty}");
        }
        for wrong in ["", "text; drop table x", "text default 1)", "int--", "a'b", "(1)"] {
            assert!(!is_type(wrong), "{wrong}");
        }
    }
}
