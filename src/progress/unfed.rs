//! Tables that nothing feeds any more: what is kept for them, and how they are forgotten.

use tokio_postgres::{GenericClient, Transaction};

use crate::error::{Error, Result};
use crate::names::TableName;

/// What there is of a table that would be lost with it: kept changes and open dead letters.
pub async fn holds(client: &impl GenericClient, table: &TableName) -> Result<bool> {
    let query = "select exists (select from audit.pending where table_name = $1)
                     or exists (select from audit.dead_letters where table_name = $1 and state = 'open')";
    let row = client.query_one(query, &[&table.to_string()]).await;
    row.and_then(|row| row.try_get(0))
        .map_err(|error| Error::warehouse(format!("looking what is kept for {table}"), error))
}

/// Forgets a table that nothing feeds: its rows stay, and are nobody's.
pub async fn forget(transaction: &Transaction<'_>, table: &TableName) -> Result<()> {
    const STATEMENTS: [&str; 4] = [
        "delete from audit.pending where table_name = $1",
        "delete from audit.dead_letters where table_name = $1",
        "delete from audit.snapshot_chunks where table_name = $1",
        "delete from audit.tables where table_name = $1",
    ];
    for statement in STATEMENTS {
        transaction
            .execute(statement, &[&table.to_string()])
            .await
            .map_err(|error| Error::warehouse(format!("forgetting {table}"), error))?;
    }
    Ok(())
}
