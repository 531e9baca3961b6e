//! Folds the changes of a table with a key: the last image of each key, or, where history is kept,
//! the last image that each transaction left (nobody could see the ones between).
//!
//! An update that leaves TOASTed columns out takes them from the key's earlier image in the window;
//! what is still unknown then is marked for the warehouse to fill from the stored row. A change of
//! key is a delete and an insert; the row's values are then stored under the key it had before the
//! window, its origin.
//!
//! Events of a topic may come late or again. Of a key that is overwritten the newest counts; where history
//! is kept, one that is older than the chain's last is set apart for the warehouse to find its place. What the newest
//! left out is what the last one before it told, whenever that comes (`told.rs`).

use std::collections::HashMap;

use super::index::{KeyIndex, keep};
use super::told::{Before, Late, Mended, date};
use crate::error::{Error, Kind, Result};
use crate::journey::{Arrival, ChangeEvent, Folded, FoldedRow, OldRow, Op, Span, Target, Told};
use crate::position::Order;
use crate::spec::{Deletes, History};
use crate::value::{Cell, Row, RowWriter};

/// The fold of one table with a key.
pub(super) struct Keyed {
    folded: Folded,
    index: KeyIndex,
    /// one row a key and transaction, in place of one row a key
    chains: bool,
    ignore_deletes: bool,
    may_be_late: bool,
    /// where among the folded the deletes are of rows that go on under another key
    left_at: HashMap<Order, usize>,
    scratch: Scratch,
}

/// What becomes of a key.
struct State<'i> {
    image: Option<&'i [u8]>,
    /// when each cell of the image was told, where one is older than the event
    told: Option<&'i [u8]>,
    /// where the values of unchanged cells are stored, if not under this key
    origin: Option<Span>,
}

impl<'i> State<'i> {
    fn of(image: Option<&'i [u8]>) -> State<'i> {
        State { image, told: None, origin: None }
    }
}

/// Buffers that are reused from event to event.
#[derive(Default)]
struct Scratch {
    key: Vec<u8>,
    old_key: Vec<u8>,
    image: Vec<u8>,
    told: Vec<u8>,
}

impl Keyed {
    pub(super) fn new(target: &Target) -> Keyed {
        Keyed {
            folded: Folded::default(),
            index: KeyIndex::default(),
            chains: target.model.history == History::Versions,
            ignore_deletes: target.model.deletes == Deletes::Ignore,
            may_be_late: target.arrival == Arrival::MayBeLate,
            left_at: HashMap::new(),
            scratch: Scratch::default(),
        }
    }

    pub(super) fn push(&mut self, target: &Target, event: &ChangeEvent<'_>) -> Result<()> {
        self.folded.events += 1;
        let mut scratch = std::mem::take(&mut self.scratch);
        let pushed = match (event.op, event.new, event.old) {
            (Op::Create | Op::Read, Some(new), None) => {
                self.insert(target, event, new, &mut scratch)
            }
            // a row that comes from another key is one that changed
            (Op::Create | Op::Read | Op::Update, Some(new), old) => {
                self.update(target, event, new, old, &mut scratch)
            }
            (Op::Delete, _, Some(old)) => self.delete(target, event, old, &mut scratch),
            _ => Err(Error::bug("a change carries neither an old nor a new row")),
        };
        self.scratch = scratch;
        pushed
    }

    fn insert(
        &mut self,
        target: &Target,
        event: &ChangeEvent<'_>,
        new: Row<'_>,
        scratch: &mut Scratch,
    ) -> Result<()> {
        write_key(target, new, None, &mut scratch.key)?;
        let older = self.may_be_late
            && new.has_unchanged()
            && date(new, None, (None, false), event.order, &mut scratch.told);
        let told = older.then_some(scratch.told.as_slice());
        self.put(event, &scratch.key, State { told, ..State::of(Some(new.bytes())) });
        Ok(())
    }

    fn update(
        &mut self,
        target: &Target,
        event: &ChangeEvent<'_>,
        new: Row<'_>,
        old: Option<OldRow<'_>>,
        scratch: &mut Scratch,
    ) -> Result<()> {
        write_key(target, new, old, &mut scratch.key)?;
        match old {
            Some(old) => write_key(target, old.row, None, &mut scratch.old_key)?,
            None => scratch.old_key.clone_from(&scratch.key),
        }
        let left = self.left(event.order, &scratch.old_key);
        let earlier = left.or_else(|| {
            let row = self.find(&scratch.old_key).and_then(|at| self.folded.rows.get(at));
            // a newer one may be another row of that key
            row.copied().filter(|row| row.order <= event.order)
        });
        let earlier_image = earlier.and_then(|row| row.image.or(row.before));
        let earlier_image = earlier_image.map(|span| self.folded.row(span));
        let whole = old.filter(|old| old.whole).map(|old| old.row);
        complete(new, [whole, earlier_image], &mut scratch.image);
        let moved = scratch.old_key != scratch.key;
        let older = self.may_be_late && new.has_unchanged() && {
            let before = earlier.and_then(|row| Before::of(&self.folded, &row));
            date(new, whole, (before, moved), event.order, &mut scratch.told)
        };
        let unchanged = Row::from_bytes(&scratch.image).has_unchanged();
        // where the stored values are: under the key that the row had before the window
        let origin = match earlier {
            _ if !unchanged => None,
            Some(row) => row.origin.or(moved.then_some(row.key)),
            None if moved => Some(self.keep(&scratch.old_key)),
            None => None,
        };
        // a row of a topic that is created anew under another key has its delete in a record of its own, which may
        // be another member's: both would end the same version
        if moved && event.op == Op::Update && !self.ignore_deletes {
            self.put(event, &scratch.old_key, State::of(None));
        }
        let origin = match origin.filter(|span| self.folded.bytes(*span) == scratch.key) {
            None => origin,
            // round to the key that it had first: where records come again it may be stored under the one before
            Some(_) if left.is_some() && moved => Some(self.keep(&scratch.old_key)),
            Some(_) => None,
        };
        let told = older.then_some(scratch.told.as_slice());
        self.put(event, &scratch.key, State { origin, told, image: Some(&scratch.image) });
        Ok(())
    }

    fn delete(
        &mut self,
        target: &Target,
        event: &ChangeEvent<'_>,
        old: OldRow<'_>,
        scratch: &mut Scratch,
    ) -> Result<()> {
        write_key(target, old.row, None, &mut scratch.key)?;
        if event.leaves {
            self.leave(event, &scratch.key);
        }
        if !self.ignore_deletes {
            self.put(event, &scratch.key, State::of(None));
        }
        Ok(())
    }

    /// Notes that a row leaves a key for another, with the image that it had, where that is known here.
    fn leave(&mut self, event: &ChangeEvent<'_>, key: &[u8]) {
        if self.left(event.order, key).is_some() {
            // it came again
            return;
        }
        let last = self.find(key).and_then(|at| self.folded.rows.get(at)).copied();
        let last = last.filter(|last| last.order < event.order && last.image.is_some());
        let row = FoldedRow {
            op: event.op,
            key: last.map_or_else(|| self.keep(key), |last| last.key),
            origin: last.and_then(|last| last.origin),
            image: None,
            before: last.and_then(|last| last.image),
            order: event.order,
            mark: event.mark,
            told: None,
            leaves: true,
            unchanged: false,
            count: 1,
        };
        self.left_at.insert(event.order, self.folded.left.len());
        self.folded.left.push(row);
    }

    /// The delete by which the row of an event left its former key.
    fn left(&self, order: Order, key: &[u8]) -> Option<FoldedRow> {
        let row = self.folded.left.get(*self.left_at.get(&order)?)?;
        (self.folded.bytes(row.key) == key).then_some(*row)
    }

    /// Notes a key's new state: in place of the one it had, or behind it where the chain is kept and
    /// another transaction made it.
    fn put(&mut self, event: &ChangeEvent<'_>, key: &[u8], state: State<'_>) {
        let found = self.find(key);
        let last = found.and_then(|at| self.folded.rows.get(at)).copied();
        let late = last.filter(|last| event.order < last.order);
        // what its own transaction did later, or a later one to a row that is overwritten, stands
        let stands = |last: &FoldedRow| !self.chains || event.mark.seq == last.mark.seq;
        if let (Some(at), Some(last)) = (found, late.filter(stands)) {
            let told = state.told.map(Told::from_bytes);
            let late = state.image.map(|image| Late {
                image: Row::from_bytes(image),
                told,
                order: event.order,
            });
            let mended = late.and_then(|late| Mended::of(&self.folded, &last, late));
            return mended.map_or((), |mended| mended.put(&mut self.folded, at));
        }
        let State { image, told, origin } = state;
        let unchanged = image.is_some_and(|image| Row::from_bytes(image).has_unchanged());
        let image = image.map(|image| self.keep(image));
        let told = told.map(|told| self.keep(told));
        let behind = last.filter(|last| self.chains && last.mark.seq != event.mark.seq);
        let row = FoldedRow {
            op: event.op,
            key: last.map_or_else(|| self.keep(key), |last| last.key),
            origin,
            image,
            before: None,
            order: event.order,
            told,
            mark: event.mark,
            leaves: false,
            unchanged,
            count: behind.map_or(last.map_or(1, |last| last.count), |last| last.count + 1),
        };
        if late.is_some() {
            let origin = origin.filter(|_| unchanged);
            return self.folded.late.push(FoldedRow { origin, count: 1, ..row });
        }
        let slot = found.filter(|_| behind.is_none());
        if let Some(place) = slot.and_then(|at| self.folded.rows.get_mut(at)) {
            *place = row;
            return;
        }
        let at = self.folded.rows.len();
        self.folded.rows.push(row);
        self.index.point(&self.folded, key, at);
    }

    /// Whether the delete is here by which the row of an event left its former key.
    pub(super) fn has_left(&self, target: &Target, event: &ChangeEvent<'_>) -> bool {
        let mut key = Vec::new();
        let Some(old) = event.old else { return false };
        write_key(target, old.row, None, &mut key).is_ok() && self.left(event.order, &key).is_some()
    }

    fn find(&self, key: &[u8]) -> Option<usize> {
        self.index.find(&self.folded, key)
    }

    fn keep(&mut self, bytes: &[u8]) -> Span {
        keep(&mut self.folded, bytes)
    }

    /// The folded rows, sorted by key and, within a key, by order: neighbours in the index are
    /// neighbours in the batch, and two batches lock rows in one order.
    pub(super) fn finish(self) -> Folded {
        let mut folded = self.folded;
        let Folded { arena, rows, .. } = &mut folded;
        let key = |row: &FoldedRow| arena.get(row.key.start..row.key.end).unwrap_or_default();
        rows.sort_unstable_by(|a, b| key(a).cmp(key(b)).then(a.count.cmp(&b.count)));
        folded
    }
}

/// Writes the cells of a row's key. A TOASTed key column may be left out of an update's new row; the
/// old key is sent then.
pub(super) fn write_key(
    target: &Target,
    row: Row<'_>,
    old: Option<OldRow<'_>>,
    key: &mut Vec<u8>,
) -> Result<()> {
    key.clear();
    let mut writer = RowWriter::new(key);
    for column in &target.key {
        let cell = match row.cell(*column) {
            Cell::Unchanged => old.map_or(Cell::Unchanged, |old| old.row.cell(*column)),
            cell => cell,
        };
        if cell == Cell::Unchanged {
            let what = "an update carries neither the new nor the old value of its key";
            return Err(Error::new(Kind::TableStops, what)
                .on_table(target.model.table.to_string())
                .remedy(format!("siltstone table resync {:#}", target.model.table)));
        }
        writer.push(cell);
    }
    Ok(())
}

/// Writes a row whose unchanged cells are taken from the first of the older images that has them.
pub(super) fn complete(new: Row<'_>, older: [Option<Row<'_>>; 2], image: &mut Vec<u8>) {
    image.clear();
    if !new.has_unchanged() {
        return image.extend_from_slice(new.bytes());
    }
    let mut writer = RowWriter::new(image);
    for (at, cell) in new.cells().enumerate() {
        let known = older.iter().flatten().map(|row| row.cell(at)).find(|c| *c != Cell::Unchanged);
        writer.push(if cell == Cell::Unchanged { known.unwrap_or(cell) } else { cell });
    }
}
