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
