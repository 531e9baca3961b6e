//! `schemas/**/*.yaml`: what shape a warehouse table has.

use indexmap::IndexMap;
use serde::Deserialize;

use super::calendar;
use super::connector::choice;
use super::file::{File, Given, NotYet, nearest};
use super::model::{Calendar, Deletes, History, Model, ModelColumn, NewColumns, SourceName};
use super::partition::{self, Keep, RawPartition};
use crate::error::Result;
use crate::names::TableName;

/// What a file in `schemas/` declares.
pub(super) enum Declared {
    Model(Box<Model>),
    Calendar(Calendar),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTable {
    pub(super) table: Given,
    pub(super) from: Option<Given>,
    layout: Option<Given>,
    pub(super) history: Option<Given>,
    #[serde(default)]
    key: Vec<Given>,
    track: Option<Vec<Given>>,
    since: Option<Given>,
    pub(super) columns: Option<IndexMap<String, RawColumn>>,
    partition: Option<RawPartition>,
    #[serde(default)]
    indexes: Vec<Vec<Given>>,
    delete: Option<Given>,
    new_columns: Option<Given>,
    keep: Option<Given>,
    pub(super) comment: Option<Given>,
    pub(super) range: Option<(Given, Given)>,
    pub(super) holidays: Option<Given>,
    checks: Option<NotYet>,
    horizon: Option<NotYet>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawColumn {
    from: Option<Given>,
    r#type: Given,
    #[serde(default)]
    required: bool,
    comment: Option<Given>,
    mask: Option<NotYet>,
    lookup: Option<NotYet>,
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
        "calendar" => calendar::read(file, &raw, table, holidays).map(Declared::Calendar),
        "raw" => read_raw(file, &raw, table).map(Box::new).map(Declared::Model),
        _ => read_model(file, &raw, table).map(Box::new).map(Declared::Model),
    }
}

fn source(file: &File<'_>, raw: &RawTable) -> Result<SourceName> {
    match &raw.from {
        Some(given) => file.parse("from", given),
        None => Err(file.refuse(raw.table.line(), "from", "the field is missing")),
    }
}

pub(super) fn comment(file: &File<'_>, given: Option<&Given>) -> Result<Option<String>> {
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
    let history = read_history(file, raw.history.as_ref())?;
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
        Some(raw) => Some(partition::read(file, raw, &columns, line)?),
        None => None,
    };
    let mut indexes = Vec::new();
    for index in &raw.indexes {
        indexes.push(index.iter().map(|g| known("indexes", g)).collect::<Result<Vec<_>>>()?);
    }
    Ok(Model {
        from: source(file, raw)?,
        deletes: read_deletes(file, raw.delete.as_ref(), history)?,
        new_columns: read_new_columns(file, raw.new_columns.as_ref())?,
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

fn read_history(file: &File<'_>, given: Option<&Given>) -> Result<History> {
    Ok(match choice(file, "history", given, &["overwrite", "versions", "append"])? {
        "versions" => History::Versions,
        "append" => History::Append,
        _ => History::Overwrite,
    })
}

fn read_new_columns(file: &File<'_>, given: Option<&Given>) -> Result<NewColumns> {
    Ok(match choice(file, "new_columns", given, &["ignore", "stop"])? {
        "stop" => NewColumns::Stop,
        _ => NewColumns::Ignore,
    })
}

/// The text of `given`, which must name a column of the table.
pub(super) fn known_column(
    file: &File<'_>,
    field: &str,
    given: &Given,
    names: &[&str],
) -> Result<String> {
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
