//! `audit.held_back`: which positions were stored when, so that the source is told only what was stored long
//! enough ago. By the warehouse's clock, and gone with the rows where an older copy of them is restored.

use std::time::Duration;

use tokio_postgres::Transaction;

use crate::error::{Error, Result};
use crate::position::Lsn;

/// Positions noted within the time that is held back; one lasts as long as the others.
pub const NOTES: u32 = 60;

/// Notes the stored position; the last one that was stored `by` ago or before.
pub async fn note(
    transaction: &Transaction<'_>,
    connector: &str,
    (stored, by): (Lsn, Duration),
) -> Result<Option<Lsn>> {
    let failed = |error| Error::warehouse("noting what is stored", error);
    let (position, by) = (stored.as_i64(), by.as_secs_f64());
    let between = by / f64::from(NOTES);
    transaction
        .execute(
            "insert into audit.held_back (connector, position)
             select $1, $2 where not exists (
                 select from audit.held_back
                  where connector = $1 and stored_at > now() - make_interval(secs => $3))
                 on conflict do nothing",
            &[&connector, &position, &between],
        )
        .await
        .map_err(failed)?;
    let row = transaction
        .query_one(
            "select max(position) from audit.held_back
              where connector = $1 and stored_at <= now() - make_interval(secs => $2)",
            &[&connector, &by],
        )
        .await
        .map_err(failed)?;
    let due: Option<i64> = row.try_get(0).map_err(failed)?;
    let gone =
        "delete from audit.held_back where connector = $1 and (position < $2 or position > $3)";
    let due_or_none = due.unwrap_or(0);
    transaction.execute(gone, &[&connector, &due_or_none, &position]).await.map_err(failed)?;
    Ok(due.map(Lsn::from_i64))
}
