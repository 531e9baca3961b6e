//! Which kept changes are already in the rows of a table whose ranges were read under several snapshots: a
//! crash came between. A change is due where it is not older than the snapshot of its key's range.
//!
//! Pure. A row that moved from one range to another may be in one of them and due in the other: then half
//! of its change is.

use crate::decode::{Message, halves, read_message};
use crate::progress::chunks::Range;
use crate::progress::pending::Kept;
use crate::relation::{Relation, Wire};
use crate::types::write_text;
use crate::value::{Cell, Row};

/// The points of a table's ranges.
#[derive(Clone, Debug, Default)]
pub(super) struct Points {
    column: String,
    ranges: Vec<(Option<Place>, Option<Place>, i64)>,
    last: i64,
}

/// A place in a key's order: whole numbers by value, UUIDs by their digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Number(i64),
    Text(String),
}

impl Place {
    fn of(text: &str) -> Place {
        text.parse().map_or_else(|_| Place::Text(text.to_owned()), Place::Number)
    }
}

/// What is due of a change.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// All of it.
    Whole,
    /// Nothing: the rows have it.
    Nothing,
    /// The change in its place: the other half of it is in the rows.
    Half(Vec<u8>),
    /// More than can be told without reading the table again.
    Unknown,
}

impl Points {
    /// The points of ranges; of no use where there are none.
    pub(super) fn new(points: Vec<(Range, i64)>) -> Points {
        let column = points.first().map(|(range, _)| range.column.clone());
        let place = |end: Option<String>| end.as_deref().map(Place::of);
        let last = points.iter().map(|(_, as_of)| *as_of).max();
        let ranges = points
            .into_iter()
            .map(|(range, as_of)| (place(range.lower), place(range.upper), as_of))
            .collect();
        Points { column: column.unwrap_or_default(), ranges, last: last.unwrap_or(0) }
    }

    /// Behind it every change is due.
    pub(super) fn last(&self) -> i64 {
        self.last
    }

    /// The point of a key's range.
    fn of(&self, place: &Place) -> Option<i64> {
        let holds = |(lower, upper, _): &&(Option<Place>, Option<Place>, i64)| {
            lower.as_ref().is_none_or(|lower| lower <= place)
                && upper.as_ref().is_none_or(|upper| place < upper)
        };
        self.ranges.iter().find(holds).map(|(_, _, as_of)| *as_of)
    }

    /// What is due of a kept change, whose table had this shape; `logs`: each change is a row of its own.
    pub(super) fn due(&self, kept: &Kept, relation: &Relation, logs: bool) -> Due {
        if kept.order.seq >= self.last || kept.was_read() {
            return Due::Whole;
        }
        let Some(column) = relation.column(&self.column) else { return Due::Unknown };
        let wire = relation.columns.get(column).map(|known| Wire::of(known, kept.binary));
        let point = |row: Row<'_>| self.of(&place(row.cell(column), wire?)?);
        let is_due = |row: Row<'_>| point(row).map(|point| kept.order.seq >= point);
        let (old, new) = match read_message(&kept.message) {
            Ok(Message::Insert { new, .. }) => (None, is_due(new)),
            Ok(Message::Delete { old, .. }) => (is_due(old.row()), None),
            Ok(Message::Update { old, new, .. }) => {
                let new = is_due(new);
                (old.map_or(new, |old| is_due(old.row())), new)
            }
            // an emptied table: the ranges behind it were read empty, those before it were not
            _ => return Due::Unknown,
        };
        match (old, new) {
            (Some(false), Some(false) | None) | (None, Some(false)) => Due::Nothing,
            (Some(true), Some(true) | None) | (None, Some(true)) => Due::Whole,
            // a row of events says what became of the new key; the old one's is nowhere yet
            (Some(false), Some(true)) if logs => Due::Whole,
            (Some(old), Some(_)) => match halves(&kept.message) {
                Some((delete, _)) if old => Due::Half(delete),
                // the values that it leaves out were those of the other range's row
                Some((_, insert)) if !has_unchanged(&insert) => Due::Half(insert),
                _ => Due::Unknown,
            },
            (None, None) => Due::Unknown,
        }
    }
}

fn has_unchanged(insert: &[u8]) -> bool {
    match read_message(insert) {
        Ok(Message::Insert { new, .. }) => new.cells().any(|cell| cell == Cell::Unchanged),
        _ => true,
    }
}

fn place(cell: Cell<'_>, wire: Wire) -> Option<Place> {
    let bytes = cell.bytes()?;
    let mut text = Vec::new();
    match (cell, wire) {
        (Cell::Binary(_), Wire::Binary(builtin)) => write_text(builtin, bytes, &mut text).ok()?,
        (Cell::Text(_), _) => text.extend_from_slice(bytes),
        _ => return None,
    }
    String::from_utf8(text).ok().map(|text| Place::of(&text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journey::Mark;
    use crate::names::TableName;
    use crate::position::Order;
    use crate::relation::{Column, ColumnType, Fill, Identity, TypeKind};

    fn relation() -> Relation {
        let column = |name: &str, in_key| Column {
            name: name.to_owned(),
            attnum: 1,
            ty: ColumnType {
                oid: 20,
                typmod: -1,
                name: "bigint".to_owned(),
                kind: TypeKind::Builtin { oid: 20, name: "bigint".to_owned() },
            },
            in_key,
            fill: Fill::Null,
            mask: None,
            hidden: false,
            as_text: false,
            comment: None,
        };
        Relation {
            oid: 7,
            table: TableName::new("public", "t"),
            identity: Identity::Key,
            columns: vec![column("v", false), column("id", true)],
            comment: None,
            attnums: 2,
            filenode: 1,
        }
    }

    /// Keys below 100 were read at 10, the others at 20.
    fn points() -> Points {
        let range = |lower: Option<&str>, upper: Option<&str>| Range {
            column: "id".to_owned(),
            lower: lower.map(str::to_owned),
            upper: upper.map(str::to_owned),
        };
        Points::new(vec![(range(None, Some("100")), 10), (range(Some("100"), None), 20)])
    }

    fn tuple(v: &[u8], id: i64) -> Vec<u8> {
        let id = id.to_string();
        let mut bytes = b"\0\x02".to_vec();
        bytes.extend(v);
        bytes.push(b't');
        bytes.extend(u32::try_from(id.len()).unwrap().to_be_bytes());
        bytes.extend(id.as_bytes());
        bytes
    }

    fn due(seq: i64, message: Vec<u8>, logs: bool) -> Due {
        let kept = Kept {
            order: Order { seq, ord: 1 },
            place: Order { seq, ord: 1 },
            mark: Mark { seq, committed_at: 0, xid: 0 },
            schema_id: 1,
            binary: false,
            waits: false,
            comes_from: None,
            message,
        };
        points().due(&kept, &relation(), logs)
    }

    fn message(tag: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        [tag, &[0, 0, 0, 7], &parts.concat()].concat()
    }

    const V: &[u8] = b"t\0\0\0\x011";

    #[test]
    fn a_change_is_due_behind_the_snapshot_of_its_range() {
        let insert = |id| message(b"I", &[b"N", &tuple(V, id)]);
        let delete = |id| message(b"D", &[b"K", &tuple(b"n", id)]);
        for (seq, id, expected) in [
            (15, 99, Due::Whole),
            (15, 100, Due::Nothing),
            (20, 100, Due::Whole),
            (9, 5, Due::Nothing),
        ] {
            assert_eq!(due(seq, insert(id), false), expected);
            assert_eq!(due(seq, delete(id), false), expected);
        }
        assert_eq!(due(15, message(b"T", &[&[0]]), false), Due::Unknown);
    }

    #[test]
    fn a_row_that_moved_between_ranges_is_due_by_halves() {
        let moved =
            |from, v: &[u8], to| message(b"U", &[b"K", &tuple(b"n", from), b"N", &tuple(v, to)]);
        assert_eq!(
            due(15, moved(5, V, 500), false),
            Due::Half(message(b"D", &[b"K", &tuple(b"n", 5)]))
        );
        assert_eq!(
            due(15, moved(500, V, 5), false),
            Due::Half(message(b"I", &[b"N", &tuple(V, 5)]))
        );
        assert_eq!(due(15, moved(500, b"u", 5), false), Due::Unknown, "its value is lost");
        assert_eq!(due(15, moved(500, b"u", 5), true), Due::Whole);
        assert_eq!(due(25, moved(5, V, 500), false), Due::Whole);
        assert_eq!(due(15, moved(500, V, 501), false), Due::Nothing);
    }
}
