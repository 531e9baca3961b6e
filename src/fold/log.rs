//! Keeps every event of a table whose events are its rows: append and raw tables.
//!
//! Of a topic one may come late or again. In an append table one that came again is left out, and what an
//! update leaves out is taken from the last event before it that told it, whenever that comes.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use super::index::{KeyIndex, keep};
use super::keyed::{complete, write_key};
use super::told::{Before, Late, Mended, date};
use crate::error::Result;
use crate::journey::{Arrival, ChangeEvent, Folded, FoldedRow, OldRow, Op, Span, Target, Told};
use crate::position::Order;
use crate::spec::{Deletes, History};
use crate::value::Row;

/// The events of one table, in their order.
pub(super) struct Log {
    folded: Folded,
    /// raw tables keep old images and images as sent
    raw: bool,
    ignore_deletes: bool,
    /// append tables with a key: a row's last image, for the columns an update leaves out
    index: KeyIndex,
    /// of topics instead, by key and order, where each event is among the folded
    seen: Option<HashMap<Vec<u8>, BTreeMap<Order, usize>>>,
    scratch: Vec<u8>,
    told: Vec<u8>,
}

impl Log {
    pub(super) fn new(target: &Target) -> Log {
        Log {
            folded: Folded::default(),
            raw: target.model.history == History::Raw,
            ignore_deletes: target.model.deletes == Deletes::Ignore,
            index: KeyIndex::default(),
            seen: (target.arrival == Arrival::MayBeLate).then(HashMap::new),
            scratch: Vec::new(),
            told: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, target: &Target, event: &ChangeEvent<'_>) -> Result<()> {
        self.folded.events += 1;
        if self.ignore_deletes && matches!(event.op, Op::Delete | Op::Truncate) {
            return Ok(());
        }
        let key = self.key(target, event)?;
        let carries = !self.raw && !target.key.is_empty();
        if carries && (self.has_seen(key, event.order) || self.has_read(key, event)) {
            return Ok(());
        }
        if self.came_again(target, event) {
            return Ok(());
        }
        // an update that moved the row: what it leaves out stands under the old key
        let old_key = match event.old.filter(|_| carries && event.new.is_some()) {
            Some(old) => self.key_of(target, old.row, None)?,
            None => key,
        };
        let moved = self.folded.bytes(old_key) != self.folded.bytes(key);
        let earlier = if carries { self.earlier(old_key, event.order) } else { None };
        let dated = if carries { self.date(event, earlier, moved) } else { None };
        let (image, unchanged) = self.image(event, earlier.and_then(|row| row.image));
        // of a row that comes from another key the event tells nothing but the key
        let told = self.raw && event.op != Op::Create;
        let before = event.old.filter(|_| told).map(|old| old.row.bytes());
        let before = before.map(|bytes| keep(&mut self.folded, bytes));
        self.folded.rows.push(FoldedRow {
            op: event.op,
            key,
            // where the stored values are: under the key that the row had before the window
            origin: earlier
                .and_then(|row| row.origin)
                .or(moved.then_some(old_key))
                .filter(|_| unchanged),
            image,
            before,
            order: event.order,
            told: dated,
            mark: event.mark,
            leaves: event.leaves,
            unchanged,
            count: event.old.is_some_and(|old| old.whole).into(),
        });
        if carries {
            let at = self.folded.rows.len() - 1;
            let key = self.folded.bytes(key);
            match &mut self.seen {
                Some(seen) => {
                    let seen = seen.entry(key.to_vec()).or_default();
                    seen.insert(event.order, at);
                    let behind = (Bound::Excluded(event.order), Bound::Unbounded);
                    let newer: Vec<usize> = seen.range(behind).map(|(_, at)| *at).collect();
                    newer.into_iter().for_each(|newer| self.mend(newer, at));
                }
                None => self.index.point(&self.folded, key, at),
            }
        }
        Ok(())
    }

    /// When each value of an event's image was told, where one is older than the event.
    fn date(
        &mut self,
        event: &ChangeEvent<'_>,
        earlier: Option<FoldedRow>,
        moved: bool,
    ) -> Option<Span> {
        let new = event.new.filter(|new| self.seen.is_some() && new.has_unchanged())?;
        let whole = event.old.filter(|old| old.whole).map(|old| old.row);
        let before = earlier.and_then(|row| Before::of(&self.folded, &row));
        date(new, whole, (before, moved), event.order, &mut self.told)
            .then(|| keep(&mut self.folded, &self.told))
    }

    /// Takes from an event that came late what a newer one of its row had left out.
    fn mend(&mut self, newer: usize, late: usize) {
        let row = |at: usize| self.folded.rows.get(at).filter(|row| row.op != Op::Delete);
        let (Some(newer_row), Some(late)) = (row(newer), row(late)) else { return };
        let Some(image) = late.image else { return };
        let late = Late {
            image: self.folded.row(image),
            told: late.told.map(|span| Told::from_bytes(self.folded.bytes(span))),
            order: late.order,
        };
        if let Some(mended) = Mended::of(&self.folded, newer_row, late) {
            mended.put(&mut self.folded, newer);
        }
    }

    /// Whether an event of a table without key came again. The rows of a page that COPY filled share one place in the
    /// source's log: their content tells them apart.
    fn came_again(&mut self, target: &Target, event: &ChangeEvent<'_>) -> bool {
        if self.raw || !target.key.is_empty() || event.op == Op::Read {
            return false;
        }
        let content = event.new.or(event.old.map(|old| old.row)).map_or(&[][..], |row| row.bytes());
        let Some(seen) = &mut self.seen else { return false };
        let mut told = content.to_vec();
        told.extend_from_slice(event.op.letter().as_bytes());
        seen.entry(told).or_default().insert(event.order, self.folded.rows.len()).is_some()
    }

    fn has_seen(&self, key: Span, order: Order) -> bool {
        let of_key = self.seen.as_ref().and_then(|seen| seen.get(self.folded.bytes(key)));
        of_key.is_some_and(|events| events.contains_key(&order))
    }

    /// Whether a first reading that was begun again at the same place has brought the row already.
    fn has_read(&self, key: Span, event: &ChangeEvent<'_>) -> bool {
        let (Order { seq, ord }, Op::Read) = (event.order, event.op) else { return false };
        let of_key = self.seen.as_ref().and_then(|seen| seen.get(self.folded.bytes(key)));
        let Some(of_key) = of_key.filter(|_| ord < 0) else { return false };
        let mut read = of_key.range(Order { seq, ord: i64::MIN }..Order { seq, ord: 0 });
        read.any(|(_, at)| {
            let image = self.folded.rows.get(*at).and_then(|row| row.image);
            image.map(|image| self.folded.bytes(image)) == event.new.map(Row::bytes)
        })
    }

    /// The last event of a key before this place.
    fn earlier(&self, key: Span, order: Order) -> Option<FoldedRow> {
        let key = self.folded.bytes(key);
        let at = match &self.seen {
            Some(seen) => *seen.get(key)?.range(..order).next_back()?.1,
            None => self.index.find(&self.folded, key)?,
        };
        // of one that is gone, late ones of its next life may be yet to come: it tells nothing of that
        let tells = |row: &&FoldedRow| self.seen.is_none() || row.op != Op::Delete;
        self.folded.rows.get(at).filter(tells).copied()
    }

    fn key(&mut self, target: &Target, event: &ChangeEvent<'_>) -> Result<Span> {
        let Some(row) = event.new.or(event.old.map(|old| old.row)) else {
            return Ok(keep(&mut self.folded, &[]));
        };
        self.key_of(target, row, event.old)
    }

    fn key_of(&mut self, target: &Target, row: Row<'_>, old: Option<OldRow<'_>>) -> Result<Span> {
        write_key(target, row, old, &mut self.scratch)?;
        Ok(keep(&mut self.folded, &self.scratch))
    }

    /// The event's image: of a delete in an append table the old row, as far as it was sent.
    fn image(&mut self, event: &ChangeEvent<'_>, earlier: Option<Span>) -> (Option<Span>, bool) {
        let old = event.old.map(|old| old.row);
        let Some(row) = event.new.or(old.filter(|_| !self.raw)) else { return (None, false) };
        let whole = event.old.filter(|old| old.whole && !self.raw).map(|old| old.row);
        let earlier = earlier.map(|span| self.folded.row(span));
        complete(row, [whole, earlier], &mut self.scratch);
        let unchanged = Row::from_bytes(&self.scratch).has_unchanged();
        let span = keep(&mut self.folded, &self.scratch);
        (Some(span), unchanged)
    }

    /// The events.
    pub(super) fn finish(self) -> Folded {
        self.folded
    }
}
