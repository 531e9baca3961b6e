//! What one transaction of the apply lane has done, until it is told.

use crate::journey::Applied;

/// What a transaction has done.
#[derive(Default)]
pub(super) struct Receipt {
    pub(super) transactions: u64,
    pub(super) committed_at: i64,
    pub(super) kept: u64,
    pub(super) drained: u64,
    pub(super) tables: Vec<(usize, Applied)>,
}

impl Receipt {
    /// Adds what became of a table's rows.
    pub(super) fn add(&mut self, index: usize, applied: Applied) {
        match self.tables.iter_mut().find(|(known, _)| *known == index) {
            Some((_, sum)) => sum.add(&applied),
            None => self.tables.push((index, applied)),
        }
    }
}
