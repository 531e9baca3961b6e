//! A cell and a row as they travel from decode to merge.
//!
//! A row is a run of bytes in the layout of pgoutput's TupleData: cell after cell, each a tag and,
//! for a value, a big-endian length and the bytes. Nothing is copied or parsed on the way; the
//! binary form of a value is what binary COPY wants. This file never interprets a value.
//!
//! Source of the layout: PostgreSQL documentation, "Logical Replication Message Formats".

/// One column's value, borrowed from the row that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell<'a> {
    /// SQL NULL, or a column the source did not send (key-only old images).
    Null,
    /// The source did not send the value because it did not change (a TOASTed column).
    Unchanged,
    /// The value in Postgres text form.
    Text(&'a [u8]),
    /// The value in Postgres binary (send/receive) form of its type.
    Binary(&'a [u8]),
}

impl<'a> Cell<'a> {
    /// The value's bytes, whatever their form; `None` for `Null` and `Unchanged`.
    pub fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Cell::Text(bytes) | Cell::Binary(bytes) => Some(bytes),
            Cell::Null | Cell::Unchanged => None,
        }
    }
}

/// A row image: a validated run of cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    cells: &'a [u8],
}

/// The bytes are not a row.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a row ends in the middle of a cell, or carries an unknown cell tag")]
pub struct MalformedRow;

impl<'a> Row<'a> {
    /// Reads a row with its leading 16-bit cell count from the front of `input`, which is left
    /// behind the row. Every cell is checked, so that later reads cannot run over the end.
    pub fn read(input: &mut &'a [u8]) -> Result<Row<'a>, MalformedRow> {
        let (count, start) = input.split_first_chunk::<2>().ok_or(MalformedRow)?;
        let mut rest = start;
        for _ in 0..u16::from_be_bytes(*count) {
            split_cell(&mut rest).ok_or(MalformedRow)?;
        }
        let (cells, after) = start.split_at(start.len() - rest.len());
        *input = after;
        Ok(Row { cells })
    }

    /// A row over bytes that a [`RowWriter`] or [`Row::bytes`] produced.
    pub fn from_bytes(cells: &'a [u8]) -> Row<'a> {
        Row { cells }
    }

    /// The cells' bytes without the count; what an arena keeps.
    pub fn bytes(self) -> &'a [u8] {
        self.cells
    }

    /// The cells in column order.
    pub fn cells(self) -> Cells<'a> {
        Cells { rest: self.cells }
    }

    /// The cell of one column; `Null` behind the last one, as a key-only image may be shorter.
    pub fn cell(self, column: usize) -> Cell<'a> {
        self.cells().nth(column).unwrap_or(Cell::Null)
    }

    /// Whether any cell is [`Cell::Unchanged`].
    pub fn has_unchanged(self) -> bool {
        self.cells().any(|cell| cell == Cell::Unchanged)
    }
}

/// Iterates over a row's cells.
#[derive(Clone)]
pub struct Cells<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Cells<'a> {
    type Item = Cell<'a>;

    fn next(&mut self) -> Option<Cell<'a>> {
        split_cell(&mut self.rest)
    }
}

fn split_cell<'a>(rest: &mut &'a [u8]) -> Option<Cell<'a>> {
    let (tag, after) = rest.split_first()?;
    if matches!(tag, b'n' | b'u') {
        *rest = after;
        return Some(if *tag == b'n' { Cell::Null } else { Cell::Unchanged });
    }
    let (length, after) = after.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (value, after) = after.split_at_checked(length)?;
    let cell = match tag {
        b't' => Cell::Text(value),
        b'b' => Cell::Binary(value),
        _ => return None,
    };
    *rest = after;
    Some(cell)
}

/// Appends cells to a buffer in the layout that [`Row`] reads.
pub struct RowWriter<'b> {
    buffer: &'b mut Vec<u8>,
}

impl<'b> RowWriter<'b> {
    /// Writes behind what `buffer` already holds.
    pub fn new(buffer: &'b mut Vec<u8>) -> RowWriter<'b> {
        RowWriter { buffer }
    }

    /// Appends one cell. A value is at most 1 GB, as in Postgres.
    pub fn push(&mut self, cell: Cell<'_>) {
        let (tag, value) = match cell {
            Cell::Null => return self.buffer.push(b'n'),
            Cell::Unchanged => return self.buffer.push(b'u'),
            Cell::Text(value) => (b't', value),
            Cell::Binary(value) => (b'b', value),
        };
        self.buffer.push(tag);
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        self.buffer.extend_from_slice(&length.to_be_bytes());
        self.buffer.extend_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(cells: &[Cell<'_>]) -> Vec<u8> {
        let mut buffer = Vec::new();
        let mut writer = RowWriter::new(&mut buffer);
        cells.iter().for_each(|cell| writer.push(*cell));
        buffer
    }

    #[test]
    fn a_row_reads_back_cell_by_cell_and_leaves_what_follows() {
        let cells = [Cell::Text(b"7"), Cell::Null, Cell::Unchanged, Cell::Binary(&[0, 1])];
        let mut input = vec![0, 4];
        input.extend(written(&cells));
        input.extend(b"rest");
        let mut rest = input.as_slice();
        let row = Row::read(&mut rest).unwrap();
        assert_eq!(row.cells().collect::<Vec<_>>(), cells);
        assert_eq!(row.cell(9), Cell::Null);
        assert!(row.has_unchanged());
        assert_eq!(rest, b"rest");
    }

    #[test]
    fn a_cut_row_is_refused_at_every_length() {
        let mut input = vec![0, 2];
        input.extend(written(&[Cell::Text(b"abc"), Cell::Null]));
        for end in 0..input.len() {
            assert_eq!(Row::read(&mut &input[..end]), Err(MalformedRow), "cut at {end}");
        }
    }
}
