//! The rows of a warehouse table as text, page by page, for who judges them elsewhere.

use tokio_postgres::{Portal, Transaction};

use crate::error::{Error, Result};
use crate::names::TableName;
use crate::postgres::quote;
use crate::spec::{Deletes, History, Model};

/// Rows of a page.
const ROWS: i32 = 5_000;

/// A page: its values column by column, and which of its rows are marked as deleted.
#[derive(Debug, Default)]
pub struct Page {
    /// The values, in the order of the columns that were asked for.
    pub columns: Vec<Vec<Option<String>>>,
    /// Whether each row stays only as one that was deleted.
    pub deleted: Vec<bool>,
}

/// The rows of a table, of one with versions the current ones.
pub struct Pages {
    portal: Portal,
    table: TableName,
    columns: usize,
}

impl Pages {
    /// Begins with the first row; `columns` are the model's.
    pub async fn of(
        transaction: &Transaction<'_>,
        model: &Model,
        columns: &[&str],
    ) -> Result<Pages> {
        let table = match model.history {
            History::Versions => model.current_leaf(),
            _ => model.table.clone(),
        };
        let texts = columns.iter().map(|column| format!("{}::text, ", quote::ident(column)));
        let deleted = match model.deletes {
            Deletes::Soft => "_deleted_at is not null",
            _ => "false",
        };
        let query =
            format!("select {}{deleted} from {}", texts.collect::<String>(), quote::table(&table));
        let portal = transaction.bind(&query, &[]).await.map_err(|e| failed(&table, e))?;
        Ok(Pages { portal, table, columns: columns.len() })
    }

    /// The next page; one without rows behind the last one.
    pub async fn next(&self, transaction: &Transaction<'_>) -> Result<Page> {
        let failed = |error| failed(&self.table, error);
        let rows = transaction.query_portal(&self.portal, ROWS).await.map_err(failed)?;
        let mut page = Page { columns: vec![Vec::new(); self.columns], deleted: Vec::new() };
        for row in rows {
            for (at, values) in page.columns.iter_mut().enumerate() {
                values.push(row.try_get(at).map_err(failed)?);
            }
            page.deleted.push(row.try_get(self.columns).map_err(failed)?);
        }
        Ok(page)
    }
}

fn failed(table: &TableName, error: tokio_postgres::Error) -> Error {
    Error::warehouse("reading its rows", error).on_table(table.to_string())
}
