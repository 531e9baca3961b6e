//! Lets a table note what changes in it for a mart.
//!
//! Who writes while the watching begins is waited for: its rows are in the mart's first reading, and every later
//! statement leaves its marks.

use tokio_postgres::GenericClient;

use super::shape::{Input, Shape};
use crate::error::{Error, Result};
use crate::names::TableName;
use crate::postgres::quote;

/// The inputs that do not tell all of what the mart wants to know.
pub async fn unwatched<'s>(
    client: &impl GenericClient,
    shape: &'s Shape,
) -> Result<Vec<&'s Input>> {
    let mut unwatched = Vec::new();
    for input in &shape.inputs {
        let (told, when) = lists(input);
        let row = client
            .query_one(
                "select exists (select from audit.mart_reads
                          where mart = $1 and input = $2 and columns = $4 and compare is not distinct from $5
                            and key = $6 and versions = $7)
                    and not exists (
                        select from (select to_regclass($3) as oid
                                     union select relid from pg_partition_tree(to_regclass($3))) r
                         where (select count(*) from pg_trigger t
                                 where t.tgrelid = r.oid and starts_with(t.tgname, 'siltstone_')) < 4)",
                &[
                    &shape.mart.table.to_string(),
                    &input.read.table.to_string(),
                    &quote::table(&input.read.table),
                    &told,
                    &when,
                    &input.key,
                    &input.versions,
                ],
            )
            .await
            .and_then(|row| row.try_get(0));
        let watched: bool = row.map_err(|error| failed(&input.read.table, error))?;
        if !watched {
            unwatched.push(input);
        }
    }
    Ok(unwatched)
}

/// Begins to watch an input, in a transaction of its own. Writers of the table wait until it ends, readers do not.
pub async fn watch(client: &impl GenericClient, mart: &TableName, input: &Input) -> Result<()> {
    let (told, when) = lists(input);
    let (table, name) = (quote::table(&input.read.table), input.read.table.to_string());
    let failed = |error| failed(&input.read.table, error);
    client
        .batch_execute(&format!("lock table {table} in share row exclusive mode"))
        .await
        .map_err(failed)?;
    let mart = mart.to_string();
    client
        .execute(
            "insert into audit.mart_reads (mart, input, columns, compare, key, versions)
             values ($1, $2, $3, $4, $5, $6)
             on conflict (mart, input) do update
             set columns = excluded.columns, compare = excluded.compare, key = excluded.key,
                 versions = excluded.versions",
            &[&mart, &name, &told, &when, &input.key, &input.versions],
        )
        .await
        .map_err(failed)?;
    client
        .execute(
            "select audit.watch_one(r.oid, $2, $1)
               from (select to_regclass($1) as oid union select relid from pg_partition_tree(to_regclass($1))) r",
            &[&table, &name],
        )
        .await
        .map_err(failed)?;
    client
        .execute("insert into audit.touched (mart, input) values ($1, $2)", &[&mart, &name])
        .await
        .map_err(failed)?;
    Ok(())
}

/// What [`watch`] does to the table, for people.
pub fn watching(input: &Input) -> String {
    let (table, name) = (quote::table(&input.read.table), input.read.table.to_string());
    format!(
        "select audit.watch_one({0}::regclass, {1}, {0})",
        quote::literal(&table),
        quote::literal(&name)
    )
}

/// What a mark has, and what is compared.
fn lists(input: &Input) -> (Vec<&str>, Option<&[String]>) {
    let told = input.told.iter().map(|(name, _)| name.as_str()).collect();
    let when = Some(input.read.when.as_slice()).filter(|when| !when.is_empty());
    (told, when)
}

fn failed(table: &TableName, error: tokio_postgres::Error) -> Error {
    Error::warehouse(format!("watching {table}"), error)
}
