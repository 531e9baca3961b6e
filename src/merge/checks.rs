//! Asks a table's CHECK constraints about rows before they are merged: all that would be refused are found at
//! once, where a merge names the first one alone.
//!
//! Only constraints whose columns are all fed are asked, and only of values that are known: what they let
//! pass may still be refused.

use tokio_postgres::types::ToSql;
use tokio_postgres::{GenericClient, Transaction};

use super::stored::columns;
use crate::error::{Error, Result};
use crate::journey::Target;
use crate::postgres::quote;

/// The constraints of a table, as a query.
pub struct Checks {
    /// Where the values that it takes stand in a row of the relation.
    pub cells: Vec<usize>,
    query: String,
}

impl Checks {
    /// The constraints that can be asked; none where there are none.
    pub async fn of(client: &impl GenericClient, target: &Target) -> Result<Option<Checks>> {
        const QUERY: &str = "
            select pg_get_expr(k.conbin, k.conrelid),
                   (select array_agg(a.attname::text) from pg_attribute a
                     where a.attrelid = k.conrelid and a.attnum = any (k.conkey))
              from pg_constraint k
              join pg_class c on c.oid = k.conrelid
              join pg_namespace n on n.oid = c.relnamespace
             where k.contype = 'c' and n.nspname = $1 and c.relname = $2";
        let table = &target.model.table;
        let failed = |error| Error::warehouse(format!("reading the constraints of {table}"), error);
        let rows = client.query(QUERY, &[&table.schema, &table.name]).await.map_err(failed)?;
        let feed_of = |name: &String| {
            target.feeds.iter().find(|feed| {
                target.model.columns.get(feed.column).is_some_and(|column| column.name == *name)
            })
        };
        let (mut wanted, mut refused) = (Vec::new(), Vec::new());
        for row in rows {
            let expression: String = row.try_get(0).map_err(failed)?;
            let names: Option<Vec<String>> = row.try_get(1).map_err(failed)?;
            let names = names.unwrap_or_default();
            if names.is_empty() || names.iter().any(|name| feed_of(name).is_none()) {
                continue;
            }
            refused.push(format!("not ({expression})"));
            wanted.extend(names);
        }
        if refused.is_empty() {
            return Ok(None);
        }
        wanted.sort_unstable();
        wanted.dedup();
        let stored = columns(client, table).await?;
        let (mut cells, mut selected, mut unnested) = (Vec::new(), Vec::new(), Vec::new());
        for column in stored.iter().filter(|column| wanted.contains(&column.name)) {
            let Some(feed) = feed_of(&column.name) else { continue };
            let place = cells.len();
            cells.push(feed.from);
            let value = column.cast(&format!("v.c{place}"), "text");
            selected.push(format!("{value} as {}", quote::ident(&column.name)));
            unnested.push((format!("${}::text[]", place + 1), format!("c{place}")));
        }
        let (arrays, names): (Vec<_>, Vec<_>) = unnested.into_iter().unzip();
        let query = format!(
            "select r._nth - 1 from (select v._nth, {} from unnest({}) with ordinality v({}, _nth)) r \
             where {}",
            selected.join(", "),
            arrays.join(", "),
            names.join(", "),
            refused.join(" or ")
        );
        Ok(Some(Checks { cells, query }))
    }

    /// Which of the rows they refuse, each row's values being at one place of every column. None can be told
    /// where a value is not of its column's type; the transaction stays as it was.
    pub async fn refused(
        &self,
        transaction: &Transaction<'_>,
        columns: &[Vec<Option<String>>],
    ) -> Result<Vec<usize>> {
        let failed = |error| Error::warehouse("asking the constraints of its table", error);
        transaction.batch_execute("savepoint checks").await.map_err(failed)?;
        let parameters: Vec<&(dyn ToSql + Sync)> =
            columns.iter().map(|column| column as &(dyn ToSql + Sync)).collect();
        let rows = match transaction.query(&self.query, &parameters).await {
            Ok(rows) => rows,
            Err(error) if error.as_db_error().is_some() => Vec::new(),
            Err(error) => return Err(failed(error)),
        };
        let undo = "rollback to savepoint checks; release savepoint checks";
        transaction.batch_execute(undo).await.map_err(failed)?;
        let place = |row: &tokio_postgres::Row| -> Result<usize> {
            let place: i64 = row.try_get(0).map_err(failed)?;
            usize::try_from(place).map_err(|_| Error::bug("a row before the first"))
        };
        rows.iter().map(place).collect()
    }
}
