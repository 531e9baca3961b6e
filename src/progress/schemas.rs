//! The shapes of source tables, numbered: kept changes and raw rows refer to them.

use std::collections::HashMap;

use tokio_postgres::GenericClient;

use crate::error::{Error, Result};
use crate::names::fingerprint;
use crate::relation::Relation;

/// The number of a shape; it gets one when it is seen first.
pub async fn number(
    client: &impl GenericClient,
    connector: &str,
    relation: &Relation,
) -> Result<i32> {
    let failed = |error| Error::warehouse("numbering the shape of a source table", error);
    let json = serde_json::to_value(relation)
        .map_err(|error| Error::bug("a shape cannot be written").because(error))?;
    let digest = format!("{:016x}", fingerprint(json.to_string().as_bytes()));
    let table = relation.table.to_string();
    let row = client
        .query_opt(
            "select id from audit.schemas
              where connector = $1 and source_table = $2 and digest = $3",
            &[&connector, &table, &digest],
        )
        .await
        .map_err(failed)?;
    if let Some(row) = row {
        return row.try_get(0).map_err(failed);
    }
    let row = client
        .query_one(
            "insert into audit.schemas (connector, source_table, digest, relation)
             values ($1, $2, $3, $4)
             on conflict (connector, source_table, digest) do update set digest = excluded.digest
             returning id",
            &[&connector, &table, &digest, &json],
        )
        .await
        .map_err(failed)?;
    row.try_get(0).map_err(failed)
}

/// Reads shapes by their numbers.
pub async fn read(client: &impl GenericClient, ids: &[i32]) -> Result<HashMap<i32, Relation>> {
    let failed = |error| Error::warehouse("reading the shapes of source tables", error);
    let rows = client
        .query("select id, relation from audit.schemas where id = any ($1)", &[&ids])
        .await
        .map_err(failed)?;
    let mut shapes = HashMap::new();
    for row in rows {
        let json: serde_json::Value = row.try_get(1).map_err(failed)?;
        let relation = serde_json::from_value(json)
            .map_err(|error| Error::bug("a stored shape cannot be read").because(error))?;
        shapes.insert(row.try_get(0).map_err(failed)?, relation);
    }
    Ok(shapes)
}
