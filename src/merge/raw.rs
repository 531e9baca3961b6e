//! Encodes events as rows of a raw table, by binary COPY straight into it.
//!
//! Every value is its Postgres text form as a JSON string, NULL is null, so that `->>` and a cast
//! give back exactly what the source had. The shape of the document is the contract of design.md:
//! op, key, before, after, unchanged, seq, ord, tx, committed_at, schema.

use std::io::Write;

use bytes::{BufMut, Bytes, BytesMut};

use super::copy::{CHUNK, HEADER, TRAILER, put_value};
use crate::error::{Error, Kind, Result};
use crate::journey::{Folded, FoldedRow, Op, Target};
use crate::relation::{Column, Relation, Wire};
use crate::types::{Builtin, write_text};
use crate::value::{Cell, Row};

/// Bytes of a COPY tuple before a row's document: three columns.
const COLUMNS: i16 = 3;

/// jsonb's binary form is this version byte and the text.
const JSONB_VERSION: u8 = 1;

/// Encodes events, one after the other.
pub(super) struct RawEncoder<'t> {
    target: &'t Target,
    members: Members,
    source: String,
    load_id: String,
    document: Vec<u8>,
    buffer: BytesMut,
    chunks: Vec<Bytes>,
}

/// Encodes all events of a table. `load_id` names the batch: the position where it ends.
pub(super) fn encode_raw(target: &Target, folded: &Folded, load_id: &str) -> Result<Vec<Bytes>> {
    let mut encoder = RawEncoder::new(target, load_id);
    for row in &folded.rows {
        let span = |span| folded.row(span);
        encoder.push(row, span(row.key), row.before.map(span), row.image.map(span))?;
    }
    Ok(encoder.finish())
}

impl<'t> RawEncoder<'t> {
    /// An encoder for events of `target`.
    pub(super) fn new(target: &'t Target, load_id: &str) -> RawEncoder<'t> {
        let mut buffer = BytesMut::with_capacity(CHUNK + CHUNK / 4);
        buffer.put_slice(HEADER);
        RawEncoder {
            target,
            members: Members::of(&target.relation, target.wires.clone()),
            source: target.model.from.source.clone(),
            load_id: load_id.to_owned(),
            document: vec![JSONB_VERSION],
            buffer,
            chunks: Vec::new(),
        }
    }

    /// Appends an event.
    pub(super) fn push(
        &mut self,
        event: &FoldedRow,
        key: Row<'_>,
        before: Option<Row<'_>>,
        after: Option<Row<'_>>,
    ) -> Result<()> {
        self.document.truncate(1);
        self.write(format_args!("{{\"op\":\"{}\",\"key\":", event.op.letter()));
        if event.op == Op::Truncate {
            self.document.extend_from_slice(b"null");
        } else {
            self.write_key(key)?;
        }
        self.document.extend_from_slice(b",\"before\":");
        // a partial old row carries its identity's columns only: the others are not NULL but unsent
        let whole = event.count != 0;
        self.write_image(before, whole)?;
        self.document.extend_from_slice(b",\"after\":");
        self.write_image(after, true)?;
        self.write_unchanged(after);
        self.write(format_args!(
            ",\"seq\":\"{}\",\"ord\":{},\"tx\":",
            event.order.seq, event.order.ord
        ));
        match event.mark.xid {
            0 => self.document.extend_from_slice(b"null"),
            xid => self.write(format_args!("\"{xid}\"")),
        }
        self.document.extend_from_slice(b",\"committed_at\":");
        self.write_timestamp(event.mark.committed_at)?;
        self.write(format_args!(",\"schema\":{}}}", self.target.schema_id));
        self.buffer.put_i16(COLUMNS);
        put_value(&mut self.buffer, &self.document);
        put_value(&mut self.buffer, self.source.as_bytes());
        put_value(&mut self.buffer, self.load_id.as_bytes());
        if self.buffer.len() >= CHUNK {
            self.chunks.push(self.buffer.split().freeze());
        }
        Ok(())
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        // writing to a Vec cannot fail
        let _infallible = self.document.write_fmt(text);
    }

    fn write_key(&mut self, key: Row<'_>) -> Result<()> {
        self.document.push(b'{');
        for (n, column) in self.target.key.iter().enumerate() {
            if n > 0 {
                self.document.push(b',');
            }
            self.write_member(*column, key.cell(n))?;
        }
        self.document.push(b'}');
        Ok(())
    }

    fn write_image(&mut self, image: Option<Row<'_>>, whole: bool) -> Result<()> {
        let Some(image) = image else {
            self.document.extend_from_slice(b"null");
            return Ok(());
        };
        self.document.push(b'{');
        let start = self.document.len();
        for (column, cell) in image.cells().enumerate() {
            let unsent = !whole && cell == Cell::Null;
            let hidden = self.target.relation.columns.get(column).is_some_and(|c| c.hidden);
            if cell == Cell::Unchanged || unsent || hidden {
                continue;
            }
            if self.document.len() > start {
                self.document.push(b',');
            }
            self.write_member(column, cell)?;
        }
        self.document.push(b'}');
        Ok(())
    }

    fn write_unchanged(&mut self, image: Option<Row<'_>>) {
        self.document.extend_from_slice(b",\"unchanged\":[");
        let cells = image.into_iter().flat_map(Row::cells).enumerate();
        let mut first = true;
        for (column, _) in cells.filter(|(_, cell)| *cell == Cell::Unchanged) {
            if !first {
                self.document.push(b',');
            }
            first = false;
            let name = self.members.name(column);
            self.document.extend_from_slice(name);
        }
        self.document.push(b']');
    }

    fn write_member(&mut self, column: usize, cell: Cell<'_>) -> Result<()> {
        let written = self.members.write(column, cell, &mut self.document);
        written.map_err(|error| error.on_table(self.target.model.table.to_string()))
    }

    fn write_timestamp(&mut self, micros: i64) -> Result<()> {
        const TIMESTAMPTZ: u32 = 1184;
        let wire = Builtin::of(TIMESTAMPTZ).map_or(Wire::Text, Wire::Binary);
        let at = micros.to_be_bytes();
        let written = self.members.write_value(wire, Cell::Binary(&at), &mut self.document);
        written.map_err(|error| error.on_table(self.target.model.table.to_string()))
    }

    /// Takes what has been encoded so far, for a COPY that is fed piece by piece.
    pub(super) fn take(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.chunks)
    }

    /// Ends the stream.
    pub(super) fn finish(mut self) -> Vec<Bytes> {
        self.buffer.put_slice(&TRAILER);
        self.chunks.push(self.buffer.freeze());
        self.chunks
    }
}

/// Writes cells as members of a JSON object.
pub(super) struct Members {
    /// `"name":` of each column
    names: Vec<Vec<u8>>,
    wires: Vec<Wire>,
    text: Vec<u8>,
}

impl Members {
    /// Members for the columns of a relation, whose values arrive by `wires`.
    pub(super) fn of(relation: &Relation, wires: Vec<Wire>) -> Members {
        let name = |column: &Column| {
            let mut quoted = Vec::new();
            write_string(column.name.as_bytes(), &mut quoted);
            quoted.push(b':');
            quoted
        };
        Members { names: relation.columns.iter().map(name).collect(), wires, text: Vec::new() }
    }

    /// The name of a column, as a JSON string.
    fn name(&self, column: usize) -> &[u8] {
        let name = self.names.get(column).map_or(&[][..], Vec::as_slice);
        name.strip_suffix(b":").unwrap_or(name)
    }

    /// Appends a column and its cell.
    pub(super) fn write(&mut self, column: usize, cell: Cell<'_>, out: &mut Vec<u8>) -> Result<()> {
        if let Some(name) = self.names.get(column) {
            out.extend_from_slice(name);
        }
        self.write_value(self.wires.get(column).copied().unwrap_or(Wire::Text), cell, out)
    }

    fn write_value(&mut self, wire: Wire, cell: Cell<'_>, out: &mut Vec<u8>) -> Result<()> {
        match (cell, wire) {
            (Cell::Null | Cell::Unchanged, _) => out.extend_from_slice(b"null"),
            (Cell::Text(text), _) => write_string(text, out),
            (Cell::Binary(value), Wire::Binary(builtin)) => {
                self.text.clear();
                write_text(builtin, value, &mut self.text).map_err(|error| {
                    Error::new(Kind::Poison, "a value cannot be read").because(error)
                })?;
                write_string(&self.text, out);
            }
            (Cell::Binary(_), _) => {
                return Err(Error::bug("a binary value arrived in a column announced as text"));
            }
        }
        Ok(())
    }
}

/// Writes a JSON string. Bytes above 127 stay as they are: the text is UTF-8 already.
fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)) {
        let (plain, special) = rest.split_at(at);
        out.extend_from_slice(plain);
        let Some((byte, after)) = special.split_first() else { break };
        let _infallible = match byte {
            b'"' | b'\\' => out.write_all(&[b'\\', *byte]),
            b'\n' => out.write_all(b"\\n"),
            b'\r' => out.write_all(b"\\r"),
            b'\t' => out.write_all(b"\\t"),
            _ => write!(out, "\\u{byte:04x}"),
        };
        rest = after;
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_string_reads_back(text: String) {
            let mut out = Vec::new();
            write_string(text.as_bytes(), &mut out);
            let read: String = serde_json::from_slice(&out).unwrap();
            proptest::prop_assert_eq!(read, text);
        }
    }
}
