//! `columns:` of a table's file: what the table's columns are, and how other fields name them.

use indexmap::IndexMap;
use serde::Deserialize;

use super::file::{File, Given, nearest};
use super::lookup;
use super::mask::{self, RawMask};
use super::model::{Lookup, ModelColumn};
use super::scalar::{PgName, Scalar};
use super::table::comment;
use crate::error::Result;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawColumn {
    pub(super) from: Option<Given>,
    r#type: Given,
    #[serde(default)]
    pub(super) required: bool,
    pub(super) comment: Option<Given>,
    #[serde(default, deserialize_with = "mask::given")]
    pub(super) mask: Option<RawMask>,
    lookup: Option<Given>,
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
    let remedy = match nearest(&name, names) {
        Some(near) => format!("write {near}, or add {name} to columns"),
        None => format!("add it to columns, or write one of {}", names.join(", ")),
    };
    Err(file.refuse_given(field, given, &format!("{name} is no column of this table"), &remedy))
}

/// Columns of the table, each named once.
pub(super) fn known_columns(
    file: &File<'_>,
    field: &str,
    given: &[Given],
    names: &[&str],
) -> Result<Vec<String>> {
    let mut columns = Vec::new();
    for given in given {
        let column = known_column(file, field, given, names)?;
        if columns.contains(&column) {
            let why = format!("{column} stands here twice");
            return Err(file.refuse_given(field, given, &why, "name each column once"));
        }
        columns.push(column);
    }
    Ok(columns)
}

/// The names of columns that tables have from us, each as its history asks for.
pub const OURS: [&str; 13] = [
    "_seq",
    "_ord",
    "_synced_at",
    "_deleted_at",
    "_row",
    "_op",
    "_end_seq",
    "_end_ord",
    "_last_seq",
    "_last_ord",
    "valid_from",
    "valid_to",
    "is_current",
];

/// Reads `columns:`, those that the source feeds and those that are looked up; a table without any of the first is
/// refused.
pub(super) fn read_columns(
    file: &File<'_>,
    raw: Option<&IndexMap<String, RawColumn>>,
) -> Result<(Vec<ModelColumn>, Vec<Lookup>)> {
    let feeds = |columns: &&IndexMap<String, RawColumn>| {
        columns.values().any(|column| column.lookup.is_none())
    };
    let given = raw.filter(feeds);
    let Some(given) = given else {
        let remedy =
            "list the table's columns, such as columns: { user_id: { from: id, type: bigint } }";
        return Err(file.refuse("columns", "the table has no columns", remedy));
    };
    let (mut columns, mut lookups) = (Vec::new(), Vec::new());
    for (name, column) in given {
        let ty = read_type(file, name, column)?;
        match &column.lookup {
            Some(query) => lookups.push(lookup::read(file, name, column, (ty, query))?),
            None => columns.push(read_column(file, name, column, ty)?),
        }
    }
    lookup::check(file, &lookups, &columns)?;
    Ok((columns, lookups))
}

/// The type of a column, whose name is none of ours.
fn read_type(file: &File<'_>, name: &str, raw: &RawColumn) -> Result<String> {
    let field = format!("columns.{name}");
    if OURS.contains(&name) {
        let why = "the service has a column of this name of its own";
        let remedy = format!("give it another name and write from: {name}");
        return Err(file.refuse(&field, why, &remedy));
    }
    PgName::read(name).map_err(|why| file.refuse(&field, &why, PgName::REMEDY))?;
    let type_field = format!("{field}.type");
    let ty = file.text(&type_field, &raw.r#type)?;
    if !is_type(&ty) {
        let why = format!("{ty:?} does not read as a type");
        let remedy = "write a type of Postgres, such as bigint or \"numeric(10,2)\"";
        return Err(file.refuse_given(&type_field, &raw.r#type, &why, remedy));
    }
    Ok(ty)
}

fn read_column(file: &File<'_>, name: &str, raw: &RawColumn, ty: String) -> Result<ModelColumn> {
    let field = format!("columns.{name}");
    let own = PgName(name.to_owned());
    Ok(ModelColumn {
        name: name.to_owned(),
        from: file.parse_or(&format!("{field}.from"), raw.from.as_ref(), own)?.0,
        ty,
        required: raw.required,
        mask: mask::read(file, &format!("{field}.mask"), raw.mask.as_ref())?,
        fill: None,
        comment: comment(file, raw.comment.as_ref())?,
    })
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
