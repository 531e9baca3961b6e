//! The leaves that a service without the right to make them has missed, until `siltstone apply` has made
//! them. Days are counted from 2000-01-01.

use tokio_postgres::GenericClient;

use crate::error::{Error, Result};
use crate::names::TableName;

/// Notes that a table needs the leaves that hold these days.
pub async fn want(client: &impl GenericClient, table: &TableName, days: &[i64]) -> Result<()> {
    client
        .execute(
            "insert into audit.wanted_leaves (table_name, day)
             select $1, date '2000-01-01' + day::int4 from unnest($2::int8[]) d(day)
             on conflict do nothing",
            &[&table.to_string(), &days],
        )
        .await
        .map_err(|error| {
            Error::warehouse(format!("noting the leaves that {table} lacks"), error)
        })?;
    Ok(())
}

/// A day in each leaf that a table needs.
pub async fn wanted(client: &impl GenericClient, table: &TableName) -> Result<Vec<i64>> {
    let failed = |error| Error::warehouse(format!("reading the leaves that {table} lacks"), error);
    let query = "select (day - date '2000-01-01')::int8 from audit.wanted_leaves
                  where table_name = $1 order by 1";
    let rows = client.query(query, &[&table.to_string()]).await.map_err(failed)?;
    rows.iter().map(|row| row.try_get(0).map_err(failed)).collect()
}

/// Forgets the days: their leaves are there.
pub async fn made(client: &impl GenericClient, table: &TableName, days: &[i64]) -> Result<()> {
    client
        .execute(
            "delete from audit.wanted_leaves
              where table_name = $1
                and (day - date '2000-01-01')::int8 = any ($2::int8[])",
            &[&table.to_string(), &days],
        )
        .await
        .map_err(|error| Error::warehouse(format!("noting the leaves of {table}"), error))?;
    Ok(())
}
