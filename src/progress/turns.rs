//! Changes of a table's state that are made only where it is still in the one that they are meant for. Several
//! work on a table side by side: what one of them has seen may be over when it comes to write.

use tokio_postgres::{GenericClient, Transaction};

use crate::error::{Error, Result};
use crate::names::TableName;
use crate::progress::holds::Hold;

/// Holds a table while `siltstone apply` changes it, unless an operator paused it or something else than that is to
/// let it go on.
pub async fn hold(
    client: &impl GenericClient,
    table: &TableName,
    reason: &str,
    remedy: &str,
) -> Result<()> {
    client
        .execute(
            "update audit.tables t
                set state = 'stopped', hold = 'changing', reason = $2, remedy = $3,
                    changed_at = now()
              where table_name = $1
                and case state
                    when 'stopped' then remedy like 'siltstone apply%'
                    when 'paused' then t.hold is not distinct from 'unfed'
                    else true end",
            &[&table.to_string(), &reason, &remedy],
        )
        .await
        .map_err(|error| Error::warehouse(format!("holding {table}"), error))?;
    Ok(())
}

/// Lets a table go on that is stopped for this and nothing else.
pub async fn let_go(client: &impl GenericClient, table: &TableName, hold: Hold) -> Result<()> {
    client
        .execute(
            "update audit.tables t
                set state = case when exists (select from audit.snapshot_chunks c
                                               where c.table_name = t.table_name
                                                 and c.state in ('waiting', 'open'))
                                 then 'resyncing' else 'catching_up' end,
                    hold = null, reason = null, remedy = null, changed_at = now()
              where table_name = $1 and state = 'stopped' and hold = $2",
            &[&table.to_string(), &hold.word()],
        )
        .await
        .map_err(|error| Error::warehouse(format!("letting {table} go on"), error))?;
    Ok(())
}

/// Lets a table apply its kept changes again, where it goes on.
pub async fn catch_up(client: &impl GenericClient, table: &TableName) -> Result<()> {
    client
        .execute(
            // a table that is about to go on sees that it was asked once more
            "update audit.tables set state = 'catching_up', changed_at = now()
              where table_name = $1 and state in ('streaming', 'catching_up')",
            &[&table.to_string()],
        )
        .await
        .map_err(|error| Error::warehouse(format!("noting that {table} catches up"), error))?;
    Ok(())
}

/// When a table's state changed last.
pub async fn changed_at(client: &impl GenericClient, table: &TableName) -> Result<String> {
    let failed = |error| Error::warehouse(format!("reading what {table} is doing"), error);
    let query = "select changed_at::text from audit.tables where table_name = $1";
    let row = client.query_opt(query, &[&table.to_string()]).await.map_err(failed)?;
    row.map_or_else(|| Ok(String::new()), |row| row.try_get(0)).map_err(failed)
}

/// A table has applied its kept changes and goes on. False where its state is another one than at `since`:
/// somebody asked for something else meanwhile, and that stays.
pub async fn stream(transaction: &Transaction<'_>, table: &TableName, since: &str) -> Result<bool> {
    let streams = transaction
        .execute(
            "update audit.tables
                set state = 'streaming', reason = null, remedy = null, changed_at = now()
              where table_name = $1 and state = 'catching_up' and changed_at::text = $2",
            &[&table.to_string(), &since],
        )
        .await
        .map_err(|error| Error::warehouse(format!("noting that {table} goes on"), error))?;
    Ok(streams == 1)
}
