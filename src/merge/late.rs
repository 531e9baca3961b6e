//! Events of a versions table that came late: behind others of their key that are newer. The history of
//! those keys is written anew with them in their place; one that came again changes nothing.

use tokio_postgres::Transaction;
use tokio_postgres::types::ToSql;

use super::leaves::{Leaves, absent, create};
use super::table::{Counts, Merge};
use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::journey::{Applied, Mark};
use crate::position::Order;

impl Merge {
    /// Takes the staged events that are not in the history yet to their places.
    pub(super) async fn late(
        &mut self,
        transaction: &Transaction<'_>,
        applied: &mut Applied,
    ) -> Result<()> {
        let found = self.execute(transaction, "late", &[]).await?;
        if found > 0 {
            self.gather(transaction).await?;
            self.execute(transaction, "late_fill", &[]).await?;
            if !self.query(transaction, "late_orphan", &[]).await?.is_empty() {
                return Err(self.orphan());
            }
            self.refuse_too_late(transaction).await?;
            self.late_carry(transaction).await?;
            self.write_anew(transaction, applied).await?;
            applied.stale = applied.stale.saturating_sub(found);
        }
        self.execute(transaction, "late_done", &[]).await?;
        Ok(())
    }

    /// The same for staged events that the fold has told to be late.
    pub(super) async fn late_apart(
        &mut self,
        transaction: &Transaction<'_>,
        counts: Counts,
        applied: &mut Applied,
    ) -> Result<()> {
        self.recall(transaction, counts).await?;
        self.late(transaction, applied).await
    }

    /// Takes the emptying of the table to its place in the history of keys of which later events are here.
    pub(super) async fn late_emptied(
        &mut self,
        transaction: &Transaction<'_>,
        order: Order,
        mark: Mark,
    ) -> Result<()> {
        let at = clock::from_postgres_micros(mark.committed_at);
        let parameters: [&(dyn ToSql + Sync); 3] = [&order.seq, &order.ord, &at];
        if self.execute(transaction, "late_emptied", &parameters).await? > 0 {
            self.gather(transaction).await?;
            self.write_anew(transaction, &mut Applied::default()).await?;
        }
        self.execute(transaction, "late_done", &[]).await?;
        Ok(())
    }

    /// Gathers the other events of the keys.
    async fn gather(&mut self, transaction: &Transaction<'_>) -> Result<()> {
        for statement in ["late_known", "late_index", "late_analyze"] {
            self.execute(transaction, statement, &[]).await?;
        }
        Ok(())
    }

    /// Writes the history of the keys anew of which all events are gathered.
    async fn write_anew(
        &mut self,
        transaction: &Transaction<'_>,
        applied: &mut Applied,
    ) -> Result<()> {
        self.make_leaves(transaction).await?;
        self.look(transaction, "late_look").await?;
        let before = self.execute(transaction, "late_clear", &[]).await?;
        let after = self.execute(transaction, "late_write", &[]).await?;
        self.execute(transaction, "late_note", &[]).await?;
        applied.opened += after.saturating_sub(before);
        applied.upserted += after;
        Ok(())
    }

    /// What a table forgets can put no event in its place.
    async fn refuse_too_late(&mut self, transaction: &Transaction<'_>) -> Result<()> {
        let horizon = self.target().model.lateness();
        let too_late = self.query(transaction, "late_beyond", &[&horizon.as_secs_f64()]).await?;
        if too_late.is_empty() {
            return Ok(());
        }
        let days = horizon.as_secs() / 86_400;
        let what = format!(
            "too late: the event is more than {days} days older than the newest of its key"
        );
        Err(Error::new(Kind::Poison, what)
            .on_table(self.target().model.table.to_string())
            .remedy("raise `horizon` in its file, or siltstone dead-letter drop"))
    }

    /// A version that an event cuts may end in a year in which none has ended before.
    async fn make_leaves(&mut self, transaction: &Transaction<'_>) -> Result<()> {
        let rows = self.query(transaction, "late_days", &[]).await?;
        let failed = |error| self.failed("late_days", error);
        let days = rows.iter().map(|row| row.try_get::<_, i32>(0).map(i64::from));
        let days: Vec<i64> = days.collect::<Result<_, _>>().map_err(failed)?;
        // a label may be a little behind the time of its event
        let days = days.iter().flat_map(|day| [*day, *day + 1]);
        let wanted = Leaves::default().missing(&self.target().model, days)?;
        let missing = absent(transaction, wanted).await?;
        create(transaction, &missing).await
    }
}
