//! Whether rows that are read from a Postgres itself are what its topics tell of them, column by column. Pure.
//!
//! Topics tell which columns there are, for Debezium may leave some out that nobody may see; the source's
//! catalogue tells how their values are written. They are read as text, which the warehouse takes for a value of
//! the column's type: that is the same value where both are of one type, or of two whose texts are alike.

use super::declared::{family, split_type};
use crate::relation::{Column, ColumnType, Relation, TypeKind};

const TEXT: u32 = 25;
const NUMBERS: [u32; 6] = [20, 21, 23, 700, 701, 1700];
const BITS: [u32; 2] = [1560, 1562];

/// Types that Debezium writes as the text that the source itself has for them.
const WRITTEN_AS_TEXT: [&str; 11] = [
    "uuid", "xml", "inet", "cidr", "macaddr", "macaddr8", "json", "jsonb", "ltree", "citext",
    "name",
];

/// What a table's topics tell of it, as its rows can be read from the source: without the columns that are not
/// there any more. Or why they cannot.
pub fn read_as_told(told: &Relation, source: &Relation) -> Result<Relation, String> {
    let mut columns = Vec::new();
    for column in &told.columns {
        let Some(at) = source.column(&column.name) else { continue };
        let Some(found) = source.columns.get(at) else { continue };
        if !is_alike(column, &found.ty) {
            return Err(format!(
                "its {} is of type {} at the source and comes as {} by topics: rows that are read there would differ \
                 from what Debezium writes",
                column.name,
                found.ty.name,
                column.source_type().name
            ));
        }
        columns.push(column.clone());
    }
    let key =
        told.columns.iter().find(|column| column.in_key && source.column(&column.name).is_none());
    match key {
        Some(key) => Err(format!("the source has no column {}, which is of its key", key.name)),
        None => Ok(Relation { columns, ..told.clone() }),
    }
}

/// The columns of the source that topics do not tell: they are yet to, or Debezium leaves them out.
pub fn not_told(told: &Relation, source: &Relation) -> Vec<String> {
    let names = source.columns.iter().map(|column| &column.name);
    names.filter(|name| told.column(name).is_none()).cloned().collect()
}

/// Whether a column's values at the source are those that topics tell. Of one that is masked each text counts.
fn is_alike(told: &Column, source: &ColumnType) -> bool {
    let (told_name, source_name) = (name(told.source_type()), name(source));
    let exactly = told.mask.is_some();
    match (told_name.strip_suffix("[]"), source_name.strip_suffix("[]")) {
        // the modifier of elements stands before the brackets
        (Some(told), Some(source)) => are_alike(split_type(told).0, split_type(source).0, exactly),
        (None, None) => {
            let is_label = source.kind == TypeKind::Enum && family(told_name) == Some(TEXT);
            is_label || are_alike(told_name, source_name, exactly)
        }
        _ => false,
    }
}

fn are_alike(told: &str, source: &str, exactly: bool) -> bool {
    if told == source {
        return true;
    }
    let (told, family_there) = (family(told), family(source));
    let both = |oids: &[u32]| {
        let is = |family: Option<u32>| family.is_some_and(|family| oids.contains(&family));
        is(told) && is(family_there)
    };
    let same = told.is_some() && told == family_there;
    let as_text = told == Some(TEXT) && WRITTEN_AS_TEXT.contains(&source);
    same || (!exactly && (both(&NUMBERS) || both(&BITS) || as_text))
}

/// The name of a type, of a domain that of its base, without schema and modifier; of arrays with their brackets.
fn name(ty: &ColumnType) -> &str {
    let named = match &ty.kind {
        TypeKind::Builtin { name, .. } | TypeKind::Extension { name } => name,
        _ => &ty.name,
    };
    if named.ends_with("[]") { named } else { split_type(named).0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::semantic::builtin;
    use crate::names::TableName;
    use crate::relation::{Fill, Identity, Mask, Masked};

    fn column(name: &str, ty: ColumnType) -> Column {
        Column {
            name: name.to_owned(),
            attnum: 0,
            ty,
            mask: None,
            in_key: name == "id",
            fill: Fill::Null,
            hidden: false,
            comment: None,
            as_text: false,
        }
    }

    fn relation(columns: &[(&str, &str)]) -> Relation {
        let columns = columns.iter().map(|(name, ty)| column(name, builtin(0, ty)));
        Relation {
            oid: 1,
            table: TableName::new("public", "t"),
            identity: Identity::Key,
            columns: columns.collect(),
            comment: None,
            attnums: 0,
            filenode: 0,
        }
    }

    fn alike(told: &str, source: &str) -> bool {
        is_alike(&column("c", builtin(0, told)), &builtin(0, source))
    }

    #[test]
    fn types_are_alike_whose_texts_are() {
        for (told, source) in [
            ("bigint", "bigint"),
            ("integer", "smallint"),
            ("numeric", "numeric(12,2)"),
            ("double precision", "numeric(12,2)"),
            ("text", "character varying(20)"),
            ("text", "uuid"),
            ("jsonb", "json"),
            ("bit varying", "bit(3)"),
            ("timestamptz", "timestamp(3) with time zone"),
            ("integer[]", "integer[]"),
            ("text[]", "character varying[]"),
            ("point", "point"),
        ] {
            assert!(alike(told, source), "{told} and {source}");
        }
        for (told, source) in [
            ("text", "bytea"),
            ("text", "numeric"),
            ("timestamp without time zone", "timestamp with time zone"),
            ("jsonb", "hstore"),
            ("bigint", "timestamp without time zone"),
            ("integer[]", "integer"),
            ("interval", "text"),
        ] {
            assert!(!alike(told, source), "{told} and {source}");
        }
    }

    #[test]
    fn an_enum_is_its_label() {
        let mut label = builtin(0, "public.mood");
        label.kind = TypeKind::Enum;
        assert!(is_alike(&column("c", builtin(0, "text")), &label));
        assert!(!is_alike(&column("c", builtin(0, "integer")), &label));
    }

    #[test]
    fn what_is_masked_has_one_text() {
        let masked = |ty: &str| {
            let mask = Masked { by: Mask::Hash, key: None, ty: builtin(0, ty) };
            Column { mask: Some(mask), ..column("c", builtin(0, "text")) }
        };
        assert!(is_alike(&masked("numeric"), &builtin(0, "numeric(4,2)")));
        assert!(!is_alike(&masked("double precision"), &builtin(0, "numeric(4,2)")));
    }

    #[test]
    fn rows_have_the_columns_that_topics_tell() {
        let source = relation(&[("id", "bigint"), ("secret", "text"), ("v", "text")]);
        let told = relation(&[("v", "text"), ("gone", "text"), ("id", "bigint")]);
        let read = read_as_told(&told, &source).unwrap();
        let names: Vec<&str> = read.columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["v", "id"]);
        assert_eq!(not_told(&told, &source), ["secret"]);
        let other = relation(&[("id", "bigint"), ("v", "bytea")]);
        let why = read_as_told(&told, &other).unwrap_err();
        assert!(why.contains("its v is of type bytea"), "{why}");
        let keyless = relation(&[("v", "text")]);
        assert!(read_as_told(&told, &keyless).unwrap_err().contains("no column id"));
    }
}
