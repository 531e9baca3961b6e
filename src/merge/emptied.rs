//! Tables whose rows go all at once: emptied at the source, or read anew by Debezium.
//!
//! It only takes rows out that were before a place; what comes behind it is the merge's.

use tokio_postgres::Transaction;

use super::table::{Counts, Merge};
use crate::clock;
use crate::error::Result;
use crate::journey::{Arrival, Mark};
use crate::position::Order;
use crate::spec::History;

impl Merge {
    /// Empties the table as the source's TRUNCATE did.
    pub(super) async fn truncate(
        &mut self,
        transaction: &Transaction<'_>,
        order: Order,
        mark: Mark,
    ) -> Result<()> {
        let at = clock::from_postgres_micros(mark.committed_at);
        // the lock that TRUNCATE holds to the end would bar the way to a leaf that the same transaction
        // needs: a partitioned table is emptied row by row
        let whole = self.target().model.partition.is_none();
        // of topics rows that came behind it may be here already
        let in_order = self.target().arrival == Arrival::InOrder;
        if whole && in_order && self.target().model.history != History::Versions && !self.is_soft()
        {
            let many = self.query(transaction, "many", &[]).await?;
            if many.first().is_some_and(|row| row.get(0)) {
                self.execute(transaction, "empty", &[]).await?;
                return Ok(());
            }
        }
        self.execute(transaction, "truncate", &[&order.seq, &order.ord, &at]).await?;
        if self.may_be_late() {
            self.execute(transaction, "remember_empty", &[&order.seq, &order.ord, &at]).await?;
        }
        if self.may_be_late() && self.target().model.history == History::Versions {
            self.late_emptied(transaction, order, mark).await?;
        }
        if !in_order && self.target().model.history == History::Bag {
            self.execute(transaction, "void", &[&order.seq, &order.ord]).await?;
        }
        Ok(())
    }

    /// Takes out what a first reading had brought before it was begun again, and bars what is still to come
    /// of it from other partitions.
    pub(super) async fn read_anew(
        &mut self,
        transaction: &Transaction<'_>,
        seq: i64,
        (mark, told): (Mark, bool),
    ) -> Result<()> {
        let at = clock::from_postgres_micros(mark.committed_at);
        if told && self.target().model.is_read_without_key() {
            self.query(transaction, "alone", &[]).await?;
            self.execute(transaction, "begin_reading", &[&seq, &at]).await?;
            return Ok(());
        }
        self.execute(transaction, "read_anew", &[&seq]).await?;
        if matches!(self.target().model.history, History::Overwrite | History::Versions) {
            self.execute(transaction, "remember_empty", &[&seq, &i64::MIN, &at]).await?;
        }
        Ok(())
    }

    /// Leaves out rows of a reading that was broken off; of a table without key, whose rows are counted by one
    /// process at a time from here on.
    pub(super) async fn drop_void(
        &mut self,
        transaction: &Transaction<'_>,
        counts: Counts,
    ) -> Result<u64> {
        self.query(transaction, "alone", &[]).await?;
        match counts.reads {
            0 => Ok(0),
            _ => self.execute(transaction, "drop_void", &[]).await,
        }
    }
}
