//! Rows of a source table as the documents that a raw table keeps of them: their key, and all of them.

use super::raw::Members;
use crate::error::{Error, Kind, Result};
use crate::relation::{Relation, Wire};
use crate::value::Row;

/// Writes rows, one after the other.
pub struct RowDocuments {
    members: Members,
    keyed: Vec<bool>,
    /// The key of the last row.
    pub key: Vec<u8>,
    /// All of the last row.
    pub after: Vec<u8>,
}

impl RowDocuments {
    /// Documents of a relation's rows, whose values arrive by `wires`.
    pub fn of(relation: &Relation, wires: Vec<Wire>) -> RowDocuments {
        let keyed = relation.columns.iter().map(|column| column.in_key).collect();
        let members = Members::of(relation, wires);
        RowDocuments { members, keyed, key: Vec::new(), after: Vec::new() }
    }

    /// Writes a row.
    pub fn write(&mut self, row: Row<'_>) -> Result<()> {
        for document in [&mut self.key, &mut self.after] {
            document.clear();
            document.push(b'{');
        }
        for (column, cell) in row.cells().enumerate() {
            let from = self.after.len() + usize::from(column > 0);
            if column > 0 {
                self.after.push(b',');
            }
            self.members.write(column, cell, &mut self.after)?;
            if self.keyed.get(column).is_some_and(|keyed| *keyed) {
                if self.key.len() > 1 {
                    self.key.push(b',');
                }
                self.key.extend_from_slice(self.after.get(from..).unwrap_or_default());
            }
        }
        self.key.push(b'}');
        self.after.push(b'}');
        // a source in SQL_ASCII keeps whatever it was given
        match std::str::from_utf8(&self.after) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(Kind::Poison, "a row holds bytes that are no UTF-8")
                .remedy("mend the row at the source: its database has the encoding SQL_ASCII")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::TableName;
    use crate::relation::{Column, ColumnType, Fill, Identity};
    use crate::value::{Cell, RowWriter};

    fn relation() -> Relation {
        let column = |name: &str, in_key| Column {
            name: name.to_owned(),
            attnum: 0,
            ty: ColumnType::text(),
            mask: None,
            in_key,
            fill: Fill::Null,
            hidden: false,
            comment: None,
            as_text: true,
        };
        Relation {
            oid: 1,
            table: TableName::new("public", "t"),
            identity: Identity::Key,
            columns: vec![column("a", true), column("b\"", false), column("c", true)],
            comment: None,
            attnums: 3,
            filenode: 0,
        }
    }

    fn written(cells: [Cell<'_>; 3]) -> Result<(String, String)> {
        let mut row = Vec::new();
        let mut writer = RowWriter::new(&mut row);
        cells.into_iter().for_each(|cell| writer.push(cell));
        let mut documents = RowDocuments::of(&relation(), vec![Wire::Text; 3]);
        // what a row before it left is not in it
        documents.write(Row::from_bytes(&row))?;
        documents.write(Row::from_bytes(&row))?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Ok((text(&documents.key), text(&documents.after)))
    }

    #[test]
    fn a_row_is_its_key_and_all_of_it() {
        let (key, after) =
            written([Cell::Text(b"1"), Cell::Null, Cell::Text("ä\"\n".as_bytes())]).unwrap();
        assert_eq!(after, r#"{"a":"1","b\"":null,"c":"ä\"\n"}"#);
        assert_eq!(key, r#"{"a":"1","c":"ä\"\n"}"#);
    }

    #[test]
    fn bytes_of_no_encoding_are_told() {
        let error = written([Cell::Text(b"1"), Cell::Text(b"\xff"), Cell::Null]).unwrap_err();
        assert!(error.reason().contains("no UTF-8"), "{error}");
    }
}
