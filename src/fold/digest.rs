//! Which keys a change touches: what finds the changes that must wait behind a dead letter.
//!
//! A digest is made of the values' text form, as a kept change may have come in another form than those
//! of today. Two keys of one digest would wait together, which harms nobody.

use crate::journey::{ChangeEvent, Digests, Refused, Target};
use crate::names::fingerprint;
use crate::relation::Wire;
use crate::spec::History;
use crate::types::write_text;
use crate::value::{Cell, Row};

/// Why the warehouse would refuse a change, with its key for people; none where nothing speaks against it.
pub fn refusal(target: &Target, event: &ChangeEvent<'_>) -> Option<Refused> {
    if target.limits.is_empty() {
        return None;
    }
    let reason = target.refuses(event.new?)?;
    Some(Refused { reason, key: key_document(target, event) })
}

/// The keys of a change, by what tells the rows of its table apart.
pub fn digests(target: &Target, event: &ChangeEvent<'_>) -> Digests {
    let (old, new) = (event.old.map(|old| old.row), event.new);
    let all: Vec<usize>;
    let columns = match target.model.history {
        // rows of events stand alone
        History::Raw => return alone(event),
        History::Append if target.key.is_empty() => return alone(event),
        // equal rows cannot be told apart, different ones can
        History::Bag => {
            all = (0..target.relation.columns.len()).collect();
            &all
        }
        // equal keys may be written differently: all of them count as one
        _ if target.has_loose_key() => return Digests { new: 1, old: 1 },
        _ => &target.key,
    };
    let of = |row: Row<'_>, behind: Option<Row<'_>>| {
        let mut text = Vec::new();
        for column in columns {
            let cell = match (row.cell(*column), behind) {
                (Cell::Unchanged, Some(behind)) => behind.cell(*column),
                (cell, _) => cell,
            };
            write_cell(target, *column, cell, &mut text);
        }
        fingerprint(&text).cast_signed()
    };
    let new_key = new.or(old).map_or(0, |row| of(row, old));
    Digests { new: new_key, old: old.map_or(new_key, |row| of(row, None)) }
}

fn alone(event: &ChangeEvent<'_>) -> Digests {
    let place = [event.order.seq.to_be_bytes(), event.order.ord.to_be_bytes()].concat();
    let digest = fingerprint(&place).cast_signed();
    Digests { new: digest, old: digest }
}

/// Appends a cell: its text behind the length, so that neighbours stay apart.
fn write_cell(target: &Target, column: usize, cell: Cell<'_>, out: &mut Vec<u8>) {
    let Some(text) = text_of(target, column, cell) else { return out.push(b'n') };
    out.push(b't');
    out.extend_from_slice(&text.len().to_be_bytes());
    out.extend_from_slice(&text);
}

/// A cell's text; none for NULL, and for what the source did not send. Bytes that are not of their type
/// count as they are.
pub fn text_of(target: &Target, column: usize, cell: Cell<'_>) -> Option<Vec<u8>> {
    let bytes = cell.bytes()?;
    let mut text = Vec::new();
    match (cell, target.wires.get(column)) {
        (Cell::Binary(_), Some(Wire::Binary(builtin)))
            if write_text(*builtin, bytes, &mut text).is_ok() =>
        {
            Some(text)
        }
        _ => Some(bytes.to_vec()),
    }
}

/// A row's key as a JSON array of texts.
pub fn key_texts(target: &Target, row: Row<'_>) -> String {
    let text = |column: &usize| {
        let text = text_of(target, *column, row.cell(*column));
        text.map(|text| String::from_utf8_lossy(&text).into_owned())
    };
    let texts: Vec<Option<String>> = target.key.iter().map(text).collect();
    serde_json::json!(texts).to_string()
}

/// The key of a change as people read it: its source columns, each value as text. Of a table without
/// key nothing.
pub fn key_document(target: &Target, event: &ChangeEvent<'_>) -> Option<String> {
    let old = event.old.map(|old| old.row);
    let row = event.new.or(old)?;
    let mut key = serde_json::Map::new();
    for column in &target.key {
        let Some(name) = target.relation.columns.get(*column).map(|column| &column.name) else {
            continue;
        };
        let cell = match (row.cell(*column), old) {
            (Cell::Unchanged, Some(old)) => old.cell(*column),
            (cell, _) => cell,
        };
        let text = text_of(target, *column, cell);
        // jsonb knows no NUL, nor does text
        let text = text.map(|text| String::from_utf8_lossy(&text).replace('\0', "\u{fffd}"));
        key.insert(name.clone(), text.into());
    }
    let document = serde_json::Value::Object(key).to_string();
    (!target.key.is_empty()).then_some(document)
}
