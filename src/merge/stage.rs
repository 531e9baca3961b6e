//! Encodes folded rows as binary COPY for a staging table.
//!
//! A staging table has a column for each fed column, in the type its values travel in, then the
//! columns of [`SYSTEM`], then the key under which unchanged values are stored, where rows moved.
//! It is the same for every history; the templates read what they need. Nothing here runs SQL.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};

use super::copy::{CHUNK, HEADER, TRAILER, put_value};
use crate::error::{Error, Kind, Result};
use crate::journey::{FoldedRow, Op, TableBatch, Target, Told};
use crate::position::Order;
use crate::relation::Wire;
use crate::types::day_of_cell;
use crate::value::{Cell, Row};

/// What every staging table has behind its fed columns: a bit a column for values that did not
/// change, what happened, the chain place or count, order, the label (the commit time), and when each
/// value was told, where one is older than the row.
pub(super) const SYSTEM: &str =
    "_keep bytea, _op \"char\", _n int4, _seq int8, _ord int8, _at timestamptz, _told int8[]";

const SYSTEM_COLUMNS: usize = 7;

/// The letter of a row that goes on under another key; of its columns `_keep` says which are stored.
const LEAVING: &str = "l";

/// The shape of a staging table: tables with the same shape share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    /// The types of the fed columns, `c0`, `c1`, ….
    pub columns: Vec<&'static str>,
    /// The types of the origin's key, `o0`, `o1`, ….
    pub origin: Vec<&'static str>,
    /// The types of what is looked up once the rows are there, `l0`, `l1`, ….
    pub looked_up: Vec<String>,
}

impl Shape {
    /// The shape in which a target's rows are staged.
    pub(super) fn of(target: &Target) -> Shape {
        let columns = target.feeds.iter().map(|feed| feed.wire.staged_type()).collect();
        let wire = |at: &usize| target.wires.get(*at).map_or("text", |wire| wire.staged_type());
        let looked_up = target.model.lookups.iter().map(|lookup| lookup.ty.clone()).collect();
        Shape { columns, origin: target.key.iter().map(wire).collect(), looked_up }
    }

    /// Column definitions for CREATE TABLE.
    pub(super) fn definition(&self) -> String {
        let fed = self.columns.iter().enumerate().map(|(n, ty)| format!("c{n} pg_catalog.{ty:?}"));
        let origin =
            self.origin.iter().enumerate().map(|(n, ty)| format!("o{n} pg_catalog.{ty:?}"));
        let looked_up = self.looked_up.iter().enumerate().map(|(n, ty)| format!("l{n} {ty}"));
        let columns = fed.chain([SYSTEM.to_owned()]).chain(origin).chain(looked_up);
        columns.collect::<Vec<_>>().join(", ")
    }

    /// The statement that takes rows: all columns but those that are looked up.
    pub(super) fn copy(&self, quoted: &str) -> String {
        let fed = (0..self.columns.len()).map(|n| format!("c{n}"));
        let system = SYSTEM.split(", ").filter_map(|column| column.split(' ').next());
        let origin = (0..self.origin.len()).map(|n| format!("o{n}"));
        let columns = fed.chain(system.map(str::to_owned)).chain(origin);
        let columns = columns.collect::<Vec<_>>().join(", ");
        format!("copy {quoted} ({columns}) from stdin with (format binary)")
    }

    /// A name that tables of this shape share.
    pub(super) fn table(&self) -> String {
        format!("stage_{:016x}", crate::names::fingerprint(self.definition().as_bytes()))
    }
}

/// A table's rows, ready to be copied, and what the merge has to know of them.
#[derive(Debug, Default)]
pub(super) struct Staged {
    /// The COPY stream.
    pub chunks: Vec<Bytes>,
    /// How many rows it has.
    pub rows: u64,
    /// Rows that say a delete.
    pub deletes: u64,
    /// Rows with unchanged columns.
    pub partial: u64,
    /// Rows with values that are older than they are.
    pub carried: u64,
    /// Rows whose unchanged columns are stored under another key.
    pub moved: u64,
    /// The longest chain of versions of one key.
    pub longest_chain: i32,
    /// The first days of the leaves that rows go to, in a partitioned table.
    pub days: BTreeSet<i64>,
    /// The earliest and latest label.
    pub labels: Option<(i64, i64)>,
    /// Rows that a snapshot read.
    pub reads: u64,
    /// The oldest order of a row that is not a delete.
    pub oldest: Option<Order>,
}

/// Encodes a table's folded rows.
pub(super) fn encode(batch: &TableBatch) -> Result<Staged> {
    encode_rows(batch, &batch.folded.rows)
}

/// Encodes the events that came late; none where there are none.
pub(super) fn encode_late(batch: &TableBatch) -> Result<Option<Staged>> {
    let late = &batch.folded.late;
    (!late.is_empty()).then(|| encode_rows(batch, late)).transpose()
}

/// Encodes the deletes of rows that go on under another key; none where there are none.
pub(super) fn encode_left(batch: &TableBatch) -> Result<Option<Staged>> {
    let left = &batch.folded.left;
    (!left.is_empty()).then(|| encode_rows(batch, left)).transpose()
}

fn encode_rows(batch: &TableBatch, rows: &[FoldedRow]) -> Result<Staged> {
    let mut encoder = Encoder::new(&batch.target);
    for row in rows {
        let image = row.image.or(row.before.filter(|_| leaves(row)));
        let image = image.map(|span| batch.folded.row(span));
        let key = batch.folded.row(row.key);
        let origin = row.origin.map(|span| batch.folded.row(span));
        let told = row.told.map(|span| Told::from_bytes(batch.folded.bytes(span)));
        encoder.push(row, (image, told), key, origin)?;
    }
    Ok(encoder.finish())
}

/// Encodes one row after the other.
pub(super) struct Encoder<'t> {
    target: &'t Target,
    /// for each fed column its place in the key
    key_places: Vec<Option<usize>>,
    partition: Option<PartitionFeed>,
    buffer: BytesMut,
    staged: Staged,
}

#[derive(Clone, Copy)]
struct PartitionFeed {
    from: usize,
    wire: Wire,
}

impl<'t> Encoder<'t> {
    /// An encoder for rows of `target`.
    pub(super) fn new(target: &'t Target) -> Encoder<'t> {
        let place = |from: usize| target.key.iter().position(|column| *column == from);
        let by = target.model.partition.as_ref().map(|partition| partition.by.as_str());
        let column_name = |column: usize| target.model.columns.get(column).map(|c| c.name.as_str());
        let partition = by.and_then(|by| {
            let feed = target.feeds.iter().find(|feed| column_name(feed.column) == Some(by))?;
            Some(PartitionFeed { from: feed.from, wire: feed.wire })
        });
        let mut buffer = BytesMut::with_capacity(CHUNK + CHUNK / 4);
        buffer.put_slice(HEADER);
        Encoder {
            target,
            key_places: target.feeds.iter().map(|feed| place(feed.from)).collect(),
            partition,
            buffer,
            staged: Staged::default(),
        }
    }

    /// Appends a row; of a delete only the key is told.
    pub(super) fn push(
        &mut self,
        folded: &FoldedRow,
        (image, told): (Option<Row<'_>>, Option<Told<'_>>),
        key: Row<'_>,
        origin: Option<Row<'_>>,
    ) -> Result<()> {
        let target = self.target;
        let columns = target.feeds.len() + SYSTEM_COLUMNS + target.key.len();
        self.buffer.put_i16(i16::try_from(columns).map_err(|_| too_wide(target))?);
        let mut keep = Keep::default();
        let leaves = leaves(folded);
        match image {
            Some(image) => self.put_image(image, &mut keep)?,
            None => self.put_key(key)?,
        }
        if leaves && image.is_none() {
            let others = self.key_places.iter().enumerate().filter(|(_, place)| place.is_none());
            others.for_each(|(n, _)| keep.set(n, target.feeds.len()));
        }
        let deleted = image.is_none() || leaves || folded.op == Op::Delete;
        keep.put(&mut self.buffer);
        let op = if deleted && folded.op != Op::Truncate { Op::Delete } else { folded.op };
        put_value(&mut self.buffer, if leaves { LEAVING } else { op.letter() }.as_bytes());
        put_value(&mut self.buffer, &folded.count.to_be_bytes());
        put_value(&mut self.buffer, &folded.order.seq.to_be_bytes());
        put_value(&mut self.buffer, &folded.order.ord.to_be_bytes());
        put_value(&mut self.buffer, &folded.mark.committed_at.to_be_bytes());
        self.put_told(told.filter(|_| !deleted))?;
        for (n, column) in target.key.iter().enumerate() {
            match (origin, target.wires.get(*column)) {
                (Some(origin), Some(wire)) => {
                    put_cell(&mut self.buffer, origin.cell(n), *wire, target)?;
                }
                _ => self.buffer.put_i32(-1),
            }
        }
        self.count(folded, deleted, &keep, origin.is_some());
        if self.buffer.len() >= CHUNK {
            self.staged.chunks.push(self.buffer.split().freeze());
        }
        Ok(())
    }

    fn put_image(&mut self, image: Row<'_>, keep: &mut Keep) -> Result<()> {
        let mut cells = image.cells().enumerate();
        let mut last = None;
        for (n, feed) in self.target.feeds.iter().enumerate() {
            // feeds mostly follow the source's order, so that one pass finds every cell
            let next = match last {
                Some((at, cell)) if at == feed.from => Some(cell),
                _ => cells.by_ref().find(|(at, _)| *at == feed.from).map(|(_, cell)| cell),
            };
            let cell = next.unwrap_or_else(|| image.cell(feed.from));
            last = Some((feed.from, cell));
            if cell == Cell::Unchanged {
                keep.set(n, self.target.feeds.len());
                self.buffer.put_i32(-1);
            } else {
                put_cell(&mut self.buffer, cell, feed.wire, self.target)?;
            }
        }
        if let Some(partition) = self.partition {
            let cell = image.cell(partition.from);
            match day_of_cell(cell, partition.wire) {
                Some(day) => _ = self.staged.days.insert(day),
                None => return Err(no_day(self.target, cell)),
            }
        }
        Ok(())
    }

    /// Appends when the value of each column was told: an array of pairs.
    fn put_told(&mut self, told: Option<Told<'_>>) -> Result<()> {
        const OF_INT8: i32 = 20;
        let Some(told) = told else {
            self.buffer.put_i32(-1);
            return Ok(());
        };
        self.staged.carried += 1;
        let columns = i32::try_from(self.target.feeds.len()).map_err(|_| too_wide(self.target))?;
        // dimensions, no flags, the element's type; of each dimension its length and first subscript
        self.buffer.put_i32(28 + columns * 24);
        for header in [2, 0, OF_INT8, columns, 1, 2, 1] {
            self.buffer.put_i32(header);
        }
        for feed in &self.target.feeds {
            let Order { seq, ord } = told.of(feed.from);
            put_value(&mut self.buffer, &seq.to_be_bytes());
            put_value(&mut self.buffer, &ord.to_be_bytes());
        }
        Ok(())
    }

    fn put_key(&mut self, key: Row<'_>) -> Result<()> {
        for (place, feed) in self.key_places.iter().zip(&self.target.feeds) {
            match place {
                Some(place) => {
                    put_cell(&mut self.buffer, key.cell(*place), feed.wire, self.target)?;
                }
                None => self.buffer.put_i32(-1),
            }
        }
        Ok(())
    }

    fn count(&mut self, row: &FoldedRow, deleted: bool, keep: &Keep, moved: bool) {
        let staged = &mut self.staged;
        staged.rows += 1;
        staged.deletes += u64::from(deleted);
        staged.partial += u64::from(!keep.bits.is_empty() && !deleted);
        staged.moved += u64::from(moved);
        staged.reads += u64::from(row.op == Op::Read);
        if !deleted {
            staged.oldest = Some(staged.oldest.map_or(row.order, |oldest| oldest.min(row.order)));
        }
        staged.longest_chain = staged.longest_chain.max(row.count);
        let label = row.mark.committed_at;
        let (first, last) = staged.labels.unwrap_or((label, label));
        staged.labels = Some((first.min(label), last.max(label)));
    }

    /// Takes what has been encoded so far, for a COPY that is fed piece by piece.
    pub(super) fn take(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.staged.chunks)
    }

    /// Ends the stream.
    pub(super) fn finish(mut self) -> Staged {
        self.buffer.put_slice(&TRAILER);
        self.staged.chunks.push(self.buffer.freeze());
        self.staged
    }
}

/// Whether the values of a row that is gone are to be kept for the key under which it goes on.
fn leaves(row: &FoldedRow) -> bool {
    row.leaves && row.image.is_none()
}

/// Which columns of a row did not change: a bit each, the lowest bit first.
#[derive(Default)]
struct Keep {
    bits: Vec<u8>,
}

impl Keep {
    fn set(&mut self, column: usize, columns: usize) {
        if self.bits.is_empty() {
            self.bits.resize(columns.div_ceil(8), 0);
        }
        if let Some(bits) = self.bits.get_mut(column / 8) {
            *bits |= 1 << (column % 8);
        }
    }

    /// NULL where every column is known.
    fn put(&mut self, buffer: &mut BytesMut) {
        if self.bits.is_empty() {
            return buffer.put_i32(-1);
        }
        put_value(buffer, &self.bits);
    }
}

pub(super) fn put_cell(
    buffer: &mut BytesMut,
    cell: Cell<'_>,
    wire: Wire,
    target: &Target,
) -> Result<()> {
    match (cell, wire) {
        (Cell::Null, _) => buffer.put_i32(-1),
        (Cell::Binary(value), Wire::Binary(_)) | (Cell::Text(value), Wire::Text) => {
            put_value(buffer, value);
        }
        _ => {
            let what = "a value arrived in another form than its column was announced in";
            return Err(Error::bug(what).on_table(target.model.table.to_string()));
        }
    }
    Ok(())
}

fn too_wide(target: &Target) -> Error {
    Error::new(Kind::Poison, "the table has more columns than can be staged")
        .on_table(target.model.table.to_string())
}

fn no_day(target: &Target, cell: Cell<'_>) -> Error {
    let by = target.model.partition.as_ref().map_or("", |partition| partition.by.as_str());
    let what = match cell {
        Cell::Null => format!("a row has no {by}, by which the table is partitioned"),
        _ => format!("a row's {by}, by which the table is partitioned, is no finite date"),
    };
    Error::new(Kind::TableStops, what)
        .on_table(target.model.table.to_string())
        .remedy(format!("mend the row, then siltstone table resync {:#}", target.model.table))
}
