//! Events of a versions table that came late: behind others of their key that are newer. The history of
//! those keys is written anew with them in their place; one that came again changes nothing.

use tokio_postgres::Transaction;

use super::leaves::{Leaves, absent, create};
use super::table::Merge;
use crate::error::{Error, Kind, Result};
use crate::journey::Applied;

impl Merge {
    /// Takes the staged events that are not in the history yet to their places.
    pub(super) async fn late(
        &mut self,
        transaction: &Transaction<'_>,
        applied: &mut Applied,
    ) -> Result<()> {
        let found = self.execute(transaction, "late", &[]).await?;
        if found > 0 {
            self.execute(transaction, "late_fill", &[]).await?;
            self.execute(transaction, "late_known", &[]).await?;
            self.refuse_too_late(transaction).await?;
            self.make_leaves(transaction).await?;
            let before = self.execute(transaction, "late_clear", &[]).await?;
            let after = self.execute(transaction, "late_write", &[]).await?;
            self.execute(transaction, "late_note", &[]).await?;
            applied.opened += after.saturating_sub(before);
            applied.upserted += after;
            applied.stale = applied.stale.saturating_sub(found);
        }
        self.execute(transaction, "late_done", &[]).await?;
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
