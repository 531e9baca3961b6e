//! Folds the changes of a table whose rows have no key (REPLICA IDENTITY FULL): how many rows of
//! each content came or went. Equal rows cannot be told apart, so their number is all there is. Of a
//! topic each coming and going is kept by itself: it may come again, or before what it goes with.

use hashbrown::HashSet;

use super::index::{KeyIndex, keep};
use super::keyed::complete;
use crate::error::{Error, Result};
use crate::journey::{Arrival, ChangeEvent, Folded, FoldedRow};
use crate::names::fingerprint;
use crate::position::Order;
use crate::value::Row;

/// The fold of one table without key.
#[derive(Default)]
pub(super) struct Bag {
    folded: Folded,
    /// of a topic what was counted: the order, what it is counted as, and the content
    seen: Option<HashSet<(Order, i32, u64)>>,
    index: KeyIndex,
    scratch: Vec<u8>,
}

impl Bag {
    pub(super) fn new(arrival: Arrival) -> Bag {
        let seen = (arrival != Arrival::InOrder).then(HashSet::new);
        Bag { seen, ..Bag::default() }
    }

    pub(super) fn push(&mut self, event: &ChangeEvent<'_>) -> Result<()> {
        self.folded.events += 1;
        if let Some(old) = event.old {
            if !old.whole {
                return Err(Error::bug("a table without key sent a partial old row"));
            }
            self.count(event, old.row.bytes(), -1);
        }
        if let Some(new) = event.new {
            let mut image = std::mem::take(&mut self.scratch);
            complete(new, [event.old.map(|old| old.row), None], &mut image);
            self.count(event, &image, 1);
            self.scratch = image;
        }
        Ok(())
    }

    fn count(&mut self, event: &ChangeEvent<'_>, content: &[u8], by: i32) {
        if let Some(seen) = &mut self.seen {
            if !seen.insert((event.order, by, fingerprint(content))) {
                return;
            }
        } else if let Some(at) = self.index.find(&self.folded, content) {
            if let Some(row) = self.folded.rows.get_mut(at) {
                row.count += by;
                row.order = event.order;
                row.mark = event.mark;
            }
            return;
        }
        let span = keep(&mut self.folded, content);
        let at = self.folded.rows.len();
        self.folded.rows.push(FoldedRow {
            op: event.op,
            key: span,
            origin: None,
            image: Some(span),
            before: None,
            order: event.order,
            told: None,
            mark: event.mark,
            leaves: event.leaves,
            unchanged: Row::from_bytes(content).has_unchanged(),
            count: by,
        });
        if self.seen.is_none() {
            self.index.point(&self.folded, content, at);
        }
    }

    /// The contents whose number changed.
    pub(super) fn finish(mut self) -> Folded {
        self.folded.rows.retain(|row| row.count != 0);
        self.folded
    }
}
