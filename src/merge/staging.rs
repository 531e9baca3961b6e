//! The staging tables of one session: temporary, shared by shape, emptied when they are used again.

use std::collections::HashMap;

use tokio_postgres::Transaction;

use super::copy::copy_in;
use super::stage::{Shape, Staged};
use crate::error::{Error, Result};
use crate::postgres::quote;

/// Rows that may be deleted one by one before a table is truncated: TRUNCATE gives a table a new
/// file and a new row in pg_class each time, which small batches would multiply.
const DELETED_AT_MOST: u64 = 20_000;

/// A session keeps this many staging tables.
const TABLES_AT_MOST: usize = 64;

struct Table {
    /// the COPY statement
    copy: tokio_postgres::Statement,
    /// rows since the table was last truncated
    rows: u64,
    /// when it was used last, by the count of uses
    used: u64,
}

/// The staging tables of one session.
#[derive(Default)]
pub(super) struct Staging {
    tables: HashMap<String, Table>,
    uses: u64,
}

impl Staging {
    /// The quoted name of the table for a shape.
    pub(super) fn quoted(shape: &Shape) -> String {
        format!("pg_temp.{}", quote::ident(&shape.table()))
    }

    /// The transaction went back to a savepoint: what was made since is gone, and what is there holds
    /// what it held.
    pub(super) fn rolled_back(&mut self) {
        self.tables.clear();
    }

    /// Makes the table for a shape if need be, empties it and fills it.
    pub(super) async fn fill(
        &mut self,
        transaction: &Transaction<'_>,
        shape: &Shape,
        staged: Staged,
    ) -> Result<()> {
        let failed = |error| Error::warehouse("staging rows", error);
        let name = shape.table();
        self.uses += 1;
        if !self.tables.contains_key(&name) {
            self.make_room(transaction).await?;
            self.create(transaction, shape).await?;
        }
        let Some(table) = self.tables.get_mut(&name) else {
            return Err(Error::bug("a staging table is missing"));
        };
        let quoted = Self::quoted(shape);
        if table.rows > DELETED_AT_MOST {
            transaction.batch_execute(&format!("truncate {quoted}")).await.map_err(failed)?;
            table.rows = 0;
        } else if table.rows > 0 {
            transaction.batch_execute(&format!("delete from {quoted}")).await.map_err(failed)?;
        }
        table.rows += staged.rows;
        table.used = self.uses;
        copy_in(transaction, &table.copy, staged.chunks).await.map_err(failed)?;
        Ok(())
    }

    async fn create(&mut self, transaction: &Transaction<'_>, shape: &Shape) -> Result<()> {
        let failed = |error| Error::warehouse("making a staging table", error);
        let quoted = Self::quoted(shape);
        // a table of an earlier transaction of this session may be there: a rollback forgets ours
        let create = format!(
            "create temp table if not exists {} ({})",
            quote::ident(&shape.table()),
            shape.definition()
        );
        transaction.batch_execute(&create).await.map_err(failed)?;
        let copy = transaction.prepare(&shape.copy(&quoted)).await.map_err(failed)?;
        let table = Table { copy, rows: DELETED_AT_MOST + 1, used: self.uses };
        self.tables.insert(shape.table(), table);
        Ok(())
    }

    /// Drops the table that was used longest ago.
    async fn make_room(&mut self, transaction: &Transaction<'_>) -> Result<()> {
        if self.tables.len() < TABLES_AT_MOST {
            return Ok(());
        }
        let oldest = self.tables.iter().min_by_key(|(_, table)| table.used);
        let Some(name) = oldest.map(|(name, _)| name.clone()) else { return Ok(()) };
        self.tables.remove(&name);
        transaction
            .batch_execute(&format!("drop table if exists pg_temp.{}", quote::ident(&name)))
            .await
            .map_err(|error| Error::warehouse("dropping a staging table", error))
    }
}
