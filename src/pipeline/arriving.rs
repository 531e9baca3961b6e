//! The rows of one table of topics that go on under another key, and wait for the delete under their former one:
//! what whoever sends the table's changes knows of them, and when it asks for the kept changes to be gone through.
//!
//! Pure. The rows themselves lie in `audit.pending`; who goes through them is a `Drain`.

use super::held::HeldKeys;
use crate::journey::Digests;

/// The keys of rows that came from another key before the delete there.
#[derive(Default)]
pub(super) struct Arriving {
    keys: HeldKeys,
    /// those that may not have been in the warehouse when the kept changes were last gone through, with the
    /// piece that takes them there
    since: Vec<(Digests, u64)>,
    asked: bool,
    /// keys waited as the session began: what they waited for may have come when the one before ended
    looks: bool,
}

impl Arriving {
    /// What waits as a session begins; `looks` where anything does, for whatever reason.
    pub(super) fn new(keys: HeldKeys, looks: bool) -> Arriving {
        Arriving { keys, looks, ..Arriving::default() }
    }

    /// The keys.
    pub(super) fn keys(&self) -> &HeldKeys {
        &self.keys
    }

    /// Notes a row that waits from now on, and leaves with a piece.
    pub(super) fn note(&mut self, alone: Digests, piece: u64) {
        self.keys.add(alone);
        self.since.push((alone, piece));
    }

    /// Notes one that is kept, for its table is on hold: it may be among what is left when the table goes on, and
    /// waits then.
    pub(super) fn note_kept(&mut self, alone: Digests, piece: u64) {
        self.since.push((alone, piece));
    }

    /// Of a table on hold: whoever goes through its kept changes from now on sees the pieces up to `done`.
    pub(super) fn settle(&mut self, done: u64) {
        self.since.retain(|(_, piece)| *piece > done);
    }

    /// Whether the kept changes are to be gone through, and nobody does. Pieces up to `done` are in the warehouse.
    pub(super) fn asks(&mut self, done: u64) -> bool {
        let looks = self.looks || !self.keys.is_empty();
        if self.asked || !looks {
            return false;
        }
        (self.asked, self.looks) = (true, false);
        self.settle(done);
        true
    }

    /// The kept changes were gone through, and these rows wait; those that came meanwhile wait as well, among the
    /// `held` keys of the table.
    pub(super) fn go_on(&mut self, waiting: &HeldKeys, held: &mut HeldKeys) {
        self.keys.clone_from(waiting);
        self.asked = false;
        for (digests, _) in &self.since {
            held.add(*digests);
            self.keys.add(*digests);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(key: i64) -> Digests {
        Digests { new: key, old: key }
    }

    #[test]
    fn what_is_kept_behind_the_last_look_waits_as_its_table_goes_on() {
        let mut arriving = Arriving::default();
        arriving.note_kept(key(1), 4);
        arriving.note_kept(key(2), 5);
        // 4 is in the warehouse: who looks now finds the row
        arriving.settle(4);
        let mut held = HeldKeys::new([7]);
        arriving.go_on(&HeldKeys::new([7]), &mut held);
        assert!(held.has(7) && held.has(2) && !held.has(1));
        assert!(arriving.keys().has(2) && arriving.asks(5) && !arriving.asks(5));
    }

    #[test]
    fn what_waited_as_the_session_began_is_looked_after_once() {
        let mut arriving = Arriving::new(HeldKeys::default(), true);
        assert!(arriving.asks(0));
        arriving.go_on(&HeldKeys::default(), &mut HeldKeys::default());
        assert!(!arriving.asks(0));
        arriving.note(key(3), 9);
        assert!(arriving.asks(8));
    }
}
