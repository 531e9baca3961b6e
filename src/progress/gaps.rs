//! The gaps of tables of events: stretches of the source's log that they never saw, and why. Never of other tables,
//! which are read again instead.

use tokio_postgres::{GenericClient, Transaction};

use crate::error::{Error, Result};
use crate::names::TableName;
use crate::position::Lsn;

/// Names a stretch of the log that a table of events never saw, and lets it go on behind it: from the first change
/// kept for it, else from where it was shelved, else from `stored`, to `until` or where the next slot starts.
pub async fn note(
    transaction: &Transaction<'_>,
    table: &TableName,
    (stored, until): (Lsn, Option<Lsn>),
    reason: &str,
) -> Result<()> {
    let failed = |error| Error::warehouse(format!("noting a gap in {table}"), error);
    let name = table.to_string();
    transaction
        .execute(
            "insert into audit.gaps (table_name, after_seq, until_seq, reason)
             select $1,
                    coalesce(min(seq),
                             (select floor_seq from audit.tables
                               where table_name = $1 and state = 'paused'
                                 and hold = 'unfed'), $4),
                    $2, $3
               from audit.pending where table_name = $1",
            &[&name, &until.map(Lsn::as_i64), &reason, &stored.as_i64()],
        )
        .await
        .map_err(failed)?;
    transaction
        .execute(
            "update audit.dead_letters set state = 'dropped', changed_at = now()
              where table_name = $1 and state = 'open'",
            &[&name],
        )
        .await
        .map_err(failed)?;
    transaction
        .execute("delete from audit.pending where table_name = $1", &[&name])
        .await
        .map_err(failed)?;
    transaction
        .execute(
            "update audit.tables
                set state = 'catching_up', hold = null, floor_seq = $2, reason = null, remedy = null,
                    schema_id = null, changed_at = now()
              where table_name = $1",
            &[&name, &until.map_or(0, Lsn::as_i64)],
        )
        .await
        .map_err(failed)?;
    transaction
        .execute(
            "update audit.snapshot_chunks set state = 'done', changed_at = now()
              where table_name = $1 and state <> 'done'",
            &[&name],
        )
        .await
        .map_err(failed)?;
    Ok(())
}

/// Names a stretch in which a table of events may have missed some, though it goes on before it; without an end
/// until that is known (`end`).
pub async fn name(
    transaction: &Transaction<'_>,
    table: &TableName,
    (after, until): (Lsn, Option<Lsn>),
    reason: &str,
) -> Result<()> {
    transaction
        .execute(
            "insert into audit.gaps (table_name, after_seq, until_seq, reason)
             values ($1, $2, $3, $4)",
            &[&table.to_string(), &after.as_i64(), &until.map(Lsn::as_i64), &reason],
        )
        .await
        .map_err(|error| Error::warehouse(format!("noting a gap in {table}"), error))?;
    Ok(())
}

/// Whether a table of a connector has a gap that has no end yet.
pub async fn is_any_open(client: &impl GenericClient, connector: &str) -> Result<bool> {
    let failed = |error| Error::warehouse("looking for gaps that have no end", error);
    let query = "select exists (select from audit.gaps g join audit.tables t using (table_name)
                                 where t.connector = $1 and g.until_seq is null)";
    let row = client.query_one(query, &[&connector]).await.map_err(failed)?;
    row.try_get(0).map_err(failed)
}

/// Ends the gaps of a connector's tables: where its new slot starts, or where its publications hold all of them.
pub async fn end(transaction: &Transaction<'_>, connector: &str, until: Lsn) -> Result<()> {
    transaction
        .execute(
            "update audit.gaps g set until_seq = $2
               from audit.tables t
              where t.connector = $1 and g.table_name = t.table_name and g.until_seq is null",
            &[&connector, &until.as_i64()],
        )
        .await
        .map_err(|error| Error::warehouse("noting where a gap ends", error))?;
    Ok(())
}

/// The first stretch of the log that a table never saw, for people, if there is one.
pub async fn first(client: &impl GenericClient, table: &TableName) -> Result<Option<String>> {
    let failed = |error| Error::warehouse(format!("reading the gaps of {table}"), error);
    let query =
        "select concat('from ', '0/0'::pg_lsn + after_seq, ' to ', '0/0'::pg_lsn + until_seq,
                               ' (', reason, ')')
                   from audit.gaps where table_name = $1 order by id limit 1";
    let row = client.query_opt(query, &[&table.to_string()]).await.map_err(failed)?;
    row.map(|row| row.try_get(0).map_err(failed)).transpose()
}
