//! What is known of rows that are deleted, or that went on under another key, where events may come late or again.
//! Never asked where they come in order.

use tokio_postgres::Transaction;

use super::table::{Counts, Merge};
use crate::error::Result;
use crate::journey::Applied;
use crate::position::Order;
use crate::spec::History;

impl Merge {
    /// Leaves out events that came behind the delete of their row.
    pub(super) async fn drop_gone(
        &mut self,
        transaction: &Transaction<'_>,
        counts: Counts,
        applied: &mut Applied,
    ) -> Result<Counts> {
        let Some(oldest) = counts.oldest.filter(|_| self.may_be_late()) else { return Ok(counts) };
        let rows = self.query(transaction, "newest_gone", &[]).await?;
        let Some(row) = rows.first() else { return Ok(counts) };
        let failed = |error| self.failed("newest_gone", error);
        let gone =
            Order { seq: row.try_get(0).map_err(failed)?, ord: row.try_get(1).map_err(failed)? };
        if gone <= oldest {
            return Ok(counts);
        }
        let dropped = self.execute(transaction, "drop_gone", &[]).await?;
        applied.stale += dropped;
        Ok(Counts { rows: counts.rows - dropped, ..counts })
    }

    /// Keeps the values of rows that go on under another key, which are staged.
    pub(super) async fn left(&mut self, transaction: &Transaction<'_>) -> Result<()> {
        if !self.may_be_late() {
            return Ok(());
        }
        let model = self.target().model.clone();
        if model.history == History::Overwrite && model.partition.is_some() {
            self.fill_left(transaction).await?;
        } else {
            self.execute(transaction, "fill_left", &[]).await?;
            if model.history == History::Overwrite {
                self.execute(transaction, "fill_left_own", &[]).await?;
            }
        }
        self.execute(transaction, "remember_gone", &[]).await?;
        Ok(())
    }

    /// Completes rows that come from another key with the values that they had there when they left: the key
    /// may be another row's since.
    pub(super) async fn recall(
        &mut self,
        transaction: &Transaction<'_>,
        counts: Counts,
    ) -> Result<u64> {
        match counts.moved > 0 && self.may_be_late() {
            true => self.execute(transaction, "fill_gone", &[]).await,
            false => Ok(0),
        }
    }
}
