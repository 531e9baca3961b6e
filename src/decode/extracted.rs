//! The rows of an extract, as raw keeps them, in the cells of a declared table: each value is a text, and what it
//! is its column's type says. Pure.

use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::convert::write_cell;
use super::declared::of_type;
use super::placeholder::Placeholder;
use super::plan::{Poison, column, oid};
use super::semantic::{Semantic, is_binary};
use crate::relation::{Identity, Relation};
use crate::spec::{BinaryMode, DecimalMode, IntervalMode, Model, TimeMode, Types};

/// How the rows of one table are read.
#[derive(Debug)]
pub struct Extracted {
    /// The shape as everything behind knows it: the table's columns, by the names of the fields that feed them.
    pub relation: Arc<Relation>,
    fields: Vec<Field>,
}

#[derive(Debug)]
struct Field {
    name: String,
    semantic: Semantic,
    binary: bool,
}

impl Extracted {
    /// How rows of a table are read whose endpoint tells them apart by `key`; or why they cannot be.
    pub fn of(model: &Model, key: &[String]) -> Result<Extracted, String> {
        let types = Types {
            decimal: DecimalMode::String,
            time: TimeMode::IsoString,
            binary: BinaryMode::Base64,
            interval: IntervalMode::String,
            ..Types::default()
        };
        let (mut columns, mut fields) = (Vec::new(), Vec::<Field>::new());
        for of in &model.columns {
            if fields.iter().any(|field| field.name == of.from) {
                continue;
            }
            let (semantic, ty) =
                of_type(&of.ty, &types, None).map_err(|why| format!("{}: {why}", of.name))?;
            let binary = is_binary(&semantic, &ty);
            columns.push(column(&of.from, ty, key.contains(&of.from), !binary));
            fields.push(Field { name: of.from.clone(), semantic, binary });
        }
        let relation = Relation {
            oid: oid(&model.from.table),
            table: model.from.table.clone(),
            identity: Identity::Key,
            columns,
            comment: None,
            attnums: 0,
            filenode: 0,
        };
        Ok(Extracted { relation: Arc::new(relation), fields })
    }

    /// Appends the cells of a row; a field that it does not have is NULL.
    pub fn write(&self, row: &Map<String, Value>, out: &mut Vec<u8>) -> Result<(), Poison> {
        for field in &self.fields {
            match row.get(&field.name) {
                Some(Value::String(text)) => field
                    .write(text, out)
                    .map_err(|why| Poison(format!("its {} {why}", field.name)))?,
                _ => out.push(b'n'),
            }
        }
        Ok(())
    }
}

impl Field {
    fn write(&self, text: &str, out: &mut Vec<u8>) -> Result<(), String> {
        let placeholder = &Placeholder::none();
        let bare = match self.semantic {
            Semantic::Bool => true,
            Semantic::Array(_) | Semantic::Map | Semantic::Vector => is_json(text)?,
            Semantic::Json => !is_json(text)?,
            _ => false,
        };
        match bare {
            true => write_cell(&self.semantic, self.binary, text, placeholder, out),
            false => {
                let quoted = Value::from(text).to_string();
                write_cell(&self.semantic, self.binary, &quoted, placeholder, out)
            }
        }
    }
}

fn is_json(text: &str) -> Result<bool, String> {
    let read = serde_json::from_str::<&RawValue>(text);
    read.map(|_| true).map_err(|_| "is no JSON".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::TableName;
    use crate::relation::Wire;
    use crate::spec::{Deletes, History, ModelColumn, NewColumns, SourceName};
    use crate::types::write_text;
    use crate::value::{Cell, Row};

    fn model(columns: &[(&str, &str)]) -> Model {
        let column = |(name, ty): &(&str, &str)| ModelColumn {
            name: format!("my_{name}"),
            from: (*name).to_owned(),
            ty: (*ty).to_owned(),
            required: false,
            mask: None,
            fill: None,
            comment: None,
        };
        Model {
            table: TableName::new("cleansed", "t"),
            from: SourceName { source: "api".to_owned(), table: TableName::new("", "t") },
            history: History::Overwrite,
            key: vec!["my_id".to_owned()],
            track: Vec::new(),
            since: None,
            columns: columns.iter().map(column).collect(),
            partition: None,
            lookups: Vec::new(),
            indexes: Vec::new(),
            deletes: Deletes::Hard,
            new_columns: NewColumns::Ignore,
            keep: None,
            horizon: None,
            mirrored: false,
            comment: None,
            declared_in: "t.yaml".to_owned(),
        }
    }

    /// What a text becomes in a column of a type, as Postgres prints it.
    fn becomes(ty: &str, text: &str) -> Result<String, String> {
        let model = model(&[("v", ty)]);
        let extracted = Extracted::of(&model, &["v".to_owned()])?;
        let row = serde_json::json!({ "v": text });
        let mut cells = Vec::new();
        extracted.write(row.as_object().unwrap(), &mut cells).map_err(|poison| poison.0)?;
        let wire = Wire::of(&extracted.relation.columns[0], true);
        Ok(match (Row::from_bytes(&cells).cell(0), wire) {
            (Cell::Text(text), _) => String::from_utf8(text.to_vec()).unwrap(),
            (Cell::Binary(value), Wire::Binary(builtin)) => {
                let mut text = Vec::new();
                write_text(builtin, value, &mut text).unwrap();
                String::from_utf8(text).unwrap()
            }
            (cell, _) => format!("{cell:?}"),
        })
    }

    #[test]
    fn a_text_becomes_a_value_of_its_columns_type() {
        let cases = [
            ("bigint", "7", "7"),
            ("numeric(10,2)", "1.10", "1.10"),
            ("numeric", "12345678901234567890.5", "12345678901234567890.5"),
            ("boolean", "true", "t"),
            ("boolean", "false", "f"),
            ("date", "2024-03-10", "2024-03-10"),
            ("timestamptz", "2024-03-10T12:30:00+01:00", "2024-03-10 11:30:00+00"),
            ("timestamp", "2024-03-10T12:30:00", "2024-03-10 12:30:00"),
            ("varchar(9)", "a\"b", "a\"b"),
            ("text", "__debezium_unavailable_value", "__debezium_unavailable_value"),
            ("jsonb", "{\"a\": [1]}", "{\"a\": [1]}"),
            ("jsonb", "\"x\"", "\"x\""),
            ("text[]", "[\"a\",\"b\"]", "{\"a\",\"b\"}"),
            ("bigint[]", "[1,2]", "{\"1\",\"2\"}"),
            ("bigint[]", "[0]", "{\"0\"}"),
            ("inet", "10.0.0.1", "10.0.0.1"),
        ];
        for (ty, text, expected) in cases {
            assert_eq!(becomes(ty, text).as_deref(), Ok(expected), "{text} as {ty}");
        }
        let wrong = [
            ("bigint", "7.5"),
            ("bigint", "seven"),
            ("numeric(10,2)", "1,10"),
            ("boolean", "yes"),
            ("date", "10.03.2024"),
            ("timestamptz", "1710073800"),
            ("jsonb", "x"),
            ("text[]", "a,b"),
            ("uuid", "7"),
        ];
        for (ty, text) in wrong {
            let said = becomes(ty, text);
            assert!(
                said.as_ref().is_err_and(|why| why.starts_with("its v ")),
                "{text} as {ty}: {said:?}"
            );
        }
    }

    #[test]
    fn what_a_row_does_not_have_is_null() {
        let extracted = Extracted::of(
            &model(&[("id", "bigint"), ("a", "text"), ("b", "text")]),
            &["id".to_owned()],
        );
        let extracted = extracted.unwrap();
        let row = serde_json::json!({ "id": "1", "a": null, "more": "x" });
        let mut cells = Vec::new();
        extracted.write(row.as_object().unwrap(), &mut cells).unwrap();
        let cells: Vec<Cell<'_>> = Row::from_bytes(&cells).cells().collect();
        assert_eq!(cells[1..], [Cell::Null, Cell::Null]);
        let keys: Vec<&str> = extracted.relation.key().collect();
        assert_eq!(keys, ["id"]);
    }
}
