//! The changes of the backlog: ten a transaction, and what they leave of the table.

/// What happens to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Insert,
    Update,
    Delete,
}

/// A change of a row, whose values are made of its key and a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) kind: Kind,
    pub(super) id: u64,
    pub(super) n: u64,
    /// the transaction, from 1
    pub(super) transaction: u64,
    /// its place in the transaction
    pub(super) place: u64,
}

/// Changes on a table that was filled with `rows` rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Changes {
    pub(super) rows: u64,
    /// One in ten is a delete; otherwise an update.
    pub(super) deletes: bool,
}

/// Changes of a transaction.
pub(super) const A_TRANSACTION: u64 = 10;

impl Changes {
    /// The change number `at`, from 0: of ten four insert, five update and one deletes. A key that 4
    /// divides is deleted at some time and never updated, so that every change finds its row.
    pub(super) fn at(self, at: u64) -> Change {
        let (transaction, place) = (at / A_TRANSACTION + 1, at % A_TRANSACTION);
        let quarter = self.rows / 4;
        let change = |kind, id, n| Change { kind, id, n, transaction, place };
        match place {
            0..=3 => change(Kind::Insert, self.rows + transaction * 4 - place, transaction),
            9 if self.deletes => {
                change(Kind::Delete, 4 * (1 + transaction * 7919 % quarter), transaction)
            }
            _ => {
                let random = scattered(at);
                let id = 4 * (random % quarter) + 1 + (random >> 40) % 3;
                change(Kind::Update, id, at + 1)
            }
        }
    }

    /// The rows that are there behind the first `count` changes: key and number.
    pub(super) fn leave(self, count: u64) -> Vec<(u64, u64)> {
        let mut numbers = std::collections::BTreeMap::new();
        numbers.extend((1..=self.rows).map(|id| (id, id)));
        for change in (0..count).map(|at| self.at(at)) {
            match change.kind {
                Kind::Insert | Kind::Update => drop(numbers.insert(change.id, change.n)),
                Kind::Delete => drop(numbers.remove(&change.id)),
            }
        }
        numbers.into_iter().collect()
    }
}

/// A number that looks random (splitmix64).
fn scattered(at: u64) -> u64 {
    let mut x = at.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_finds_its_row() {
        let changes = Changes { rows: 4_000, deletes: true };
        let mut there: std::collections::BTreeSet<u64> = (1..=4_000).collect();
        let mut counts = [0; 3];
        for change in (0..8_000).map(|at| changes.at(at)) {
            let fits = match change.kind {
                Kind::Insert => there.insert(change.id),
                Kind::Update => there.contains(&change.id),
                Kind::Delete => there.remove(&change.id),
            };
            assert!(fits, "{change:?}");
            counts[change.kind as usize] += 1;
        }
        assert_eq!(counts, [3_200, 4_000, 800]);
        let left: Vec<u64> = changes.leave(8_000).into_iter().map(|(id, _)| id).collect();
        assert_eq!(left, there.into_iter().collect::<Vec<_>>());
    }
}
