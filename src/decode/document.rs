//! A raw table's documents as rows again: the values of an event, by the names that its columns had then,
//! become the cells of a row in the shape that the table has now.
//!
//! Pure. A column that came later has in the rows that were there what the source gave them; whether that is
//! known, the caller has seen to.

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::relation::{Column, Fill, Identity, Relation};
use crate::value::{Cell, RowWriter};

/// How documents of one shape become rows of another.
#[derive(Debug)]
pub struct Layout {
    cells: Vec<Origin>,
    whole: bool,
}

/// Where the cell of a column comes from.
#[derive(Debug, PartialEq, Eq)]
enum Origin {
    /// The member of this name.
    Member(String),
    /// What rows got that were there when the column came.
    Constant(String),
    /// Nothing tells it.
    Nothing,
}

/// An event's row as its document has it.
pub struct Image<'d> {
    /// The values, by the names of their columns.
    pub values: &'d Map<String, Value>,
    /// The columns that did not change, and so are not among them.
    pub unchanged: &'d [String],
}

impl Layout {
    /// How documents of the shape `then` become rows of the shape `now`, both of one table.
    pub fn between(then: &Relation, now: &Relation) -> Layout {
        let origin = |column: &Column| {
            let known = then.columns.iter().find(|known| is_same(known, column));
            match (known, &column.fill) {
                (Some(known), _) if !known.hidden => Origin::Member(known.name.clone()),
                (None, Fill::Constant(value)) => Origin::Constant(value.clone()),
                _ => Origin::Nothing,
            }
        };
        let cells = now.columns.iter().map(origin).collect();
        Layout { cells, whole: then.identity == Identity::Full }
    }

    /// Whether an old row of such a document is the whole row.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Appends the cells of a row. `partial`: of an old row, of which the source sent the key alone.
    pub fn write(&self, image: &Image<'_>, partial: bool, row: &mut Vec<u8>) -> Result<()> {
        let mut writer = RowWriter::new(row);
        for origin in &self.cells {
            let cell = match origin {
                Origin::Member(name) => member(image, name)?,
                Origin::Constant(value) if !partial => Cell::Text(value.as_bytes()),
                Origin::Constant(_) | Origin::Nothing => Cell::Null,
            };
            writer.push(cell);
        }
        Ok(())
    }
}

fn member<'i>(image: &Image<'i>, name: &str) -> Result<Cell<'i>> {
    match image.values.get(name) {
        Some(Value::String(text)) => Ok(Cell::Text(text.as_bytes())),
        Some(Value::Null) => Ok(Cell::Null),
        Some(_) => Err(Error::bug(format!("{name} of a raw row is neither text nor null"))),
        None if image.unchanged.iter().any(|unchanged| unchanged == name) => Ok(Cell::Unchanged),
        None => Ok(Cell::Null),
    }
}

/// Whether two shapes mean the same column: by its number, which survives a rename.
fn is_same(then: &Column, now: &Column) -> bool {
    match (then.attnum, now.attnum) {
        (0, _) | (_, 0) => then.name == now.name,
        (then, now) => then == now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::TableName;
    use crate::relation::ColumnType;
    use crate::value::Row;

    fn column(name: &str, attnum: i16, fill: Fill) -> Column {
        Column {
            name: name.to_owned(),
            attnum,
            ty: ColumnType::text(),
            as_text: false,
            mask: None,
            in_key: attnum == 1,
            fill,
            hidden: false,
            comment: None,
        }
    }

    fn relation(columns: Vec<Column>) -> Relation {
        Relation {
            oid: 7,
            table: TableName::new("public", "t"),
            identity: Identity::Key,
            columns,
            comment: None,
            attnums: 4,
            filenode: 1,
        }
    }

    #[test]
    fn a_document_takes_the_shape_of_now() {
        let then = relation(vec![
            column("id", 1, Fill::Null),
            column("old", 2, Fill::Null),
            column("bio", 3, Fill::Null),
        ]);
        let now = relation(vec![
            column("id", 1, Fill::Null),
            column("new", 2, Fill::Null),
            // dropped and made again under its name
            column("bio", 5, Fill::Null),
            column("more", 4, Fill::Constant("7".to_owned())),
        ]);
        let document = serde_json::json!({ "id": "1", "old": null, "bio": "x" });
        let values = document.as_object().unwrap();
        let cells = |then: &Relation, image: &Image<'_>, partial| {
            let mut row = Vec::new();
            Layout::between(then, &now).write(image, partial, &mut row).unwrap();
            let cells = Row::from_bytes(&row).cells();
            cells.map(|cell| format!("{cell:?}")).collect::<Vec<_>>()
        };
        let image = Image { values, unchanged: &[] };
        assert_eq!(cells(&then, &image, false), ["Text([49])", "Null", "Null", "Text([55])"]);
        assert_eq!(cells(&then, &image, true), ["Text([49])", "Null", "Null", "Null"]);
        let document = serde_json::json!({ "id": "1", "new": "n", "more": "8" });
        let values = document.as_object().unwrap();
        let image = Image { values, unchanged: &["bio".to_owned()] };
        let expected = ["Text([49])", "Text([110])", "Unchanged", "Text([56])"];
        assert_eq!(cells(&now, &image, false), expected);
    }
}
