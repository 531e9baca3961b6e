//! The keys of one table that wait behind dead letters.
//!
//! Waiting is closed under change of key: a change that touches a key that waits makes both its keys
//! wait, so that whatever is applied later is applied in the order of the source.

use std::collections::HashSet;

use crate::error::{Error, Kind, Result};
use crate::journey::{Arrival, ChangeEvent, Digests, Op, Target};
use crate::names::TableName;
use crate::value::Cell;

/// Keys that wait.
#[derive(Clone, Debug, Default)]
pub(super) struct HeldKeys {
    keys: HashSet<i64>,
}

impl HeldKeys {
    pub(super) fn new(keys: impl IntoIterator<Item = i64>) -> HeldKeys {
        HeldKeys { keys: keys.into_iter().collect() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether a change must wait; then both its keys do from now on.
    pub(super) fn catches(&mut self, digests: Digests) -> bool {
        let caught = self.keys.contains(&digests.new) || self.keys.contains(&digests.old);
        if caught {
            self.add(digests);
        }
        caught
    }

    /// The keys under which a change of a table must wait, if it must. Of topics a row that comes from another key tells
    /// all of itself, or waits for the delete there, which is a record of its own. So it waits for what is refused under
    /// that key, but not for rows that come to it since, those of `arriving`: they may wait for what is behind it.
    pub(super) fn wait_under(
        &mut self,
        (arrival, digests): (Arrival, Digests),
        arriving: &HeldKeys,
    ) -> Option<Digests> {
        let comes = arrival != Arrival::InOrder && digests.new != digests.old;
        if !comes {
            return self.catches(digests).then_some(digests);
        }
        if self.has(digests.old) && !arriving.has(digests.old) {
            self.add(digests);
            return Some(digests);
        }
        self.has(digests.new).then_some(digests.alone())
    }

    /// Adds the keys of others.
    pub(super) fn extend(&mut self, others: &HeldKeys) {
        self.keys.extend(&others.keys);
    }

    pub(super) fn add(&mut self, digests: Digests) {
        self.keys.insert(digests.new);
        self.keys.insert(digests.old);
    }

    /// Whether all of them wait in others' eyes, too.
    pub(super) fn are_among(&self, others: &HeldKeys) -> bool {
        self.keys.is_subset(&others.keys)
    }

    /// Whether a key waits.
    pub(super) fn has(&self, key: i64) -> bool {
        self.keys.contains(&key)
    }

    /// Nothing of a key waits any more.
    pub(super) fn release(&mut self, key: i64) {
        self.keys.remove(&key);
    }

    /// Refuses more keys than may wait.
    pub(super) fn refuse_too_many(&self, table: &TableName, at_most: usize) -> Result<()> {
        if self.keys.len() <= at_most {
            return Ok(());
        }
        let what = format!("more than {at_most} keys wait behind dead letters");
        Err(Error::new(Kind::TableStops, what)
            .remedy(format!(
                "siltstone dead-letter list {table:#}, mend what refuses them, then siltstone \
                 dead-letter replay {table:#} and siltstone table resume {table:#}"
            ))
            .on_table(table.to_string()))
    }
}

/// A TRUNCATE cannot be applied around keys that wait: it and all behind it wait too.
pub(super) fn refuse_truncate(held: &HeldKeys, table: &TableName) -> Result<()> {
    if held.is_empty() {
        return Ok(());
    }
    Err(Error::new(Kind::TableStops, "a TRUNCATE came while keys wait behind dead letters")
        .remedy(format!(
            "siltstone dead-letter replay {table:#} (or drop), then siltstone table resume {table:#}"
        ))
        .on_table(table.to_string()))
}

/// Whether a row comes from another key, and leaves values out that it had there.
pub(super) fn comes_unfinished(target: &Target, event: &ChangeEvent<'_>) -> bool {
    event.op == Op::Create
        && event.old.is_some()
        && !target.model.history.logs_events()
        && event.new.is_some_and(|new| {
            let is_left_out = |from: usize| new.cell(from) == Cell::Unchanged;
            new.has_unchanged() && target.feeds.iter().any(|feed| is_left_out(feed.from))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_from_another_key_does_not_wait_for_what_comes_to_that_key_since() {
        let from = |old, new| (Arrival::MayBeLate, Digests { new, old });
        // 7 waits behind a dead letter, 8 for the delete under 9
        let (mut held, arriving) = (HeldKeys::new([7, 8]), HeldKeys::new([8]));
        assert_eq!(held.wait_under(from(8, 1), &arriving), None);
        assert!(!held.has(1));
        // what is there already waits alone
        assert_eq!(held.wait_under(from(2, 8), &arriving), Some(Digests { new: 8, old: 8 }));
        assert!(!held.has(2));
        assert_eq!(held.wait_under(from(7, 3), &arriving), Some(Digests { new: 3, old: 7 }));
        assert_eq!(held.wait_under(from(3, 3), &arriving), Some(Digests { new: 3, old: 3 }));
        // of a log in order one change is both
        let in_order = (Arrival::InOrder, Digests { new: 4, old: 8 });
        assert_eq!(held.wait_under(in_order, &arriving), Some(in_order.1));
        assert!(held.has(4));
    }

    #[test]
    fn a_change_of_a_waiting_key_takes_its_other_key_along() {
        let mut held = HeldKeys::new([7]);
        assert!(!held.catches(Digests { new: 1, old: 1 }));
        assert!(held.catches(Digests { new: 8, old: 7 }));
        assert!(held.catches(Digests { new: 8, old: 8 }));
        assert!(held.catches(Digests { new: 9, old: 8 }));
        assert!(!held.catches(Digests { new: 2, old: 1 }));
    }
}
