//! Rows of topics with values that are older than they are: events left those out. An event that comes behind them and
//! lies between the two tells what they really were. Never asked where changes come in order.

use tokio_postgres::Transaction;

use super::table::{Counts, Merge};
use crate::error::Result;
use crate::journey::Applied;

impl Merge {
    /// Whether a table has rows with values that are older.
    pub(super) async fn has_carried(&mut self, transaction: &Transaction<'_>) -> Result<bool> {
        Ok(self.may_be_late() && !self.query(transaction, "has_carried", &[]).await?.is_empty())
    }

    /// Takes from what is stored the values that staged rows left out, or have from an event before it.
    pub(super) async fn carry(
        &mut self,
        transaction: &Transaction<'_>,
        counts: Counts,
    ) -> Result<u64> {
        if counts.carried == 0 || !self.may_be_late() {
            return Ok(0);
        }
        if self.has("carry_lock") {
            self.execute(transaction, "carry_lock", &[]).await?;
        }
        self.execute(transaction, "carry", &[]).await
    }

    /// Notes when values were told that are older than the rows that were written.
    pub(super) async fn note_carried(
        &mut self,
        transaction: &Transaction<'_>,
        counts: Counts,
    ) -> Result<()> {
        if counts.carried == 0 || !self.may_be_late() {
            return Ok(());
        }
        self.execute(transaction, "carried_note", &[]).await?;
        if self.has("carried_forget") {
            self.execute(transaction, "carried_forget", &[]).await?;
        }
        Ok(())
    }

    /// Brings what staged events tell that came behind a later one of their row into that row of a table that is
    /// overwritten. It takes the other rows out of the staging table.
    pub(super) async fn overtaken(
        &mut self,
        transaction: &Transaction<'_>,
        applied: &mut Applied,
    ) -> Result<()> {
        if applied.stale == 0 || !self.has_carried(transaction).await? {
            return Ok(());
        }
        let rows = self.execute(transaction, "overtaken", &[]).await?;
        if rows == 0 {
            return Ok(());
        }
        self.execute(transaction, "only_overtaken", &[]).await?;
        let counts = Counts { rows, partial: rows, carried: rows, ..Counts::default() };
        let updated = self.update(transaction, counts).await?;
        self.note_carried(transaction, counts).await?;
        applied.upserted += updated;
        applied.stale = applied.stale.saturating_sub(updated);
        Ok(())
    }

    /// The same of a table of which every event is a row.
    pub(super) async fn overtaken_events(&mut self, transaction: &Transaction<'_>) -> Result<()> {
        if self.target().key.is_empty() || !self.has_carried(transaction).await? {
            return Ok(());
        }
        if self.execute(transaction, "overtaken", &[]).await? == 0 {
            return Ok(());
        }
        self.execute(transaction, "only_overtaken", &[]).await?;
        self.look(transaction, "look").await?;
        self.execute(transaction, "amend", &[]).await?;
        self.execute(transaction, "renote", &[]).await?;
        Ok(())
    }

    /// The same of the history of keys of which all events are gathered.
    pub(super) async fn late_carry(&mut self, transaction: &Transaction<'_>) -> Result<()> {
        if self.query(transaction, "late_has_carried", &[]).await?.is_empty() {
            return Ok(());
        }
        for statement in ["late_carry", "late_amend", "late_carried"] {
            self.execute(transaction, statement, &[]).await?;
        }
        Ok(())
    }
}
