//! `audit.source_leaves`: the leaves of partitioned source tables, as the tables that they feed know them.

use std::collections::{BTreeMap, HashMap};

use tokio_postgres::{GenericClient, Transaction};

use crate::error::{Error, Result};
use crate::names::TableName;

/// The file of each leaf's rows, by its OID.
pub type Known = BTreeMap<u32, i64>;

/// What a connector's tables know.
pub async fn read(
    client: &impl GenericClient,
    connector: &str,
) -> Result<HashMap<TableName, Known>> {
    let failed = |error| Error::warehouse("reading which leaves are known", error);
    let query = "select l.table_name, l.leaf, l.filenode from audit.source_leaves l
                   join audit.tables t using (table_name) where t.connector = $1";
    let rows = client.query(query, &[&connector]).await.map_err(failed)?;
    let mut known: HashMap<TableName, Known> = HashMap::new();
    for row in rows {
        let name: String = row.try_get(0).map_err(failed)?;
        if let Ok(table) = name.parse() {
            let (leaf, filenode) = (row.try_get(1), row.try_get(2));
            known
                .entry(table)
                .or_default()
                .insert(leaf.map_err(failed)?, filenode.map_err(failed)?);
        }
    }
    Ok(known)
}

/// Notes what a table knows now.
pub async fn write(transaction: &Transaction<'_>, table: &TableName, known: &Known) -> Result<()> {
    let failed = |error| Error::warehouse(format!("noting the leaves of {table}"), error);
    let name = table.to_string();
    let gone = "delete from audit.source_leaves where table_name = $1";
    transaction.execute(gone, &[&name]).await.map_err(failed)?;
    let (leaves, files): (Vec<u32>, Vec<i64>) =
        known.iter().map(|(leaf, file)| (*leaf, *file)).unzip();
    let insert = "insert into audit.source_leaves (table_name, leaf, filenode)
                  select $1, * from unnest($2::oid[], $3::int8[])";
    transaction.execute(insert, &[&name, &leaves, &files]).await.map_err(failed)?;
    Ok(())
}
