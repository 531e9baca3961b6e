//! Which source columns feed the columns of a table, as it is noted.

use tokio_postgres::GenericClient;

use crate::error::{Error, Result};
use crate::names::TableName;

/// Notes what feeds a table.
pub async fn set(client: &impl GenericClient, table: &TableName, feeds: &str) -> Result<()> {
    let statement = "update audit.tables set feeds = $2 where table_name = $1";
    client
        .execute(statement, &[&table.to_string(), &feeds])
        .await
        .map_err(|error| Error::warehouse(format!("noting what feeds {table}"), error))?;
    Ok(())
}

/// Notes which source table feeds a table, also where it is to be read.
pub async fn set_source(
    client: &impl GenericClient,
    table: &TableName,
    source: &TableName,
) -> Result<()> {
    let statement = "
        with chunks as (update audit.snapshot_chunks set source_table = $2 where table_name = $1)
        update audit.tables set source_table = $2 where table_name = $1";
    client
        .execute(statement, &[&table.to_string(), &source.to_string()])
        .await
        .map_err(|error| Error::warehouse(format!("noting what feeds {table}"), error))?;
    Ok(())
}
