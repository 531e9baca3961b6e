//! The rows of a table that its source had and has no more, as a whole reading of it tells: what is current, is older
//! than the reading, and is none of what was read.

use tokio_postgres::{Portal, Transaction};

use crate::error::{Error, Result};
use crate::position::Order;
use crate::postgres::quote;
use crate::spec::{Deletes, History, Model};

/// Keys of a page.
const ROWS: i32 = 2_000;

/// Keys of rows that are gone, page by page.
pub struct Gone<'g> {
    portal: Portal,
    model: &'g Model,
}

impl<'g> Gone<'g> {
    /// Looks for them, behind the merge of what raw has of the portion `load_id`; none where the table keeps what its
    /// source deletes.
    pub async fn of(
        transaction: &Transaction<'_>,
        (model, raw): (&'g Model, &Model),
        (load_id, order): (&str, Order),
    ) -> Result<Option<Gone<'g>>> {
        if matches!(model.deletes, Deletes::Ignore | Deletes::Row) {
            return Ok(None);
        }
        let failed = |error| failed(model, error);
        transaction.batch_execute(&told(model, raw, load_id)).await.map_err(failed)?;
        // behind the search, so that nothing reads the table while it is written
        transaction.batch_execute(&lacking(model, order)).await.map_err(failed)?;
        let keys = "select * from pg_temp.siltstone_gone";
        let portal = transaction.bind(keys, &[]).await.map_err(failed)?;
        Ok(Some(Gone { portal, model }))
    }

    /// The next page, each key with its columns as texts in the order of the model's key; one without keys behind
    /// the last one.
    pub async fn next(&self, transaction: &Transaction<'_>) -> Result<Vec<Vec<Option<String>>>> {
        let failed = |error| failed(self.model, error);
        let rows = transaction.query_portal(&self.portal, ROWS).await.map_err(failed)?;
        let key = |row: &tokio_postgres::Row| (0..row.len()).map(|at| row.try_get(at)).collect();
        rows.iter().map(key).collect::<Result<_, _>>().map_err(failed)
    }
}

/// Gathers the keys that the portion has, in the types of the table.
fn told(model: &Model, raw: &Model, load_id: &str) -> String {
    let columns = model.key.iter().filter_map(|name| model.column(name)).enumerate();
    let key = columns.map(|(at, column)| {
        let from = quote::literal(&column.from);
        format!("(r.raw_data->'after'->>{from})::{} as k{at}", column.ty)
    });
    let (key, table) = (key.collect::<Vec<_>>().join(", "), quote::table(&raw.table));
    let (source, load_id) = (quote::literal(&raw.from.source), quote::literal(load_id));
    format!(
        "drop table if exists pg_temp.siltstone_told, pg_temp.siltstone_gone;
         create temporary table siltstone_told on commit drop as
         select {key} from {table} r
          where r.source_system = {source} and r.load_id = {load_id} and r.raw_data->>'carried' is null;
         analyze pg_temp.siltstone_told"
    )
}

/// Gathers the keys of what is current and older than the reading and that it does not have. Both sides are whole
/// tables: the merges' own plans, row by row, would take the product of the two.
fn lacking(model: &Model, order: Order) -> String {
    let (table, newest) = match model.history {
        History::Versions => (model.current_leaf(), "t._last_seq, t._last_ord"),
        _ => (model.table.clone(), "t._seq, t._ord"),
    };
    let names = || model.key.iter().map(|name| quote::ident(name)).enumerate();
    let same: Vec<String> = names().map(|(at, name)| format!("s.k{at} = t.{name}")).collect();
    let key: Vec<String> = names().map(|(at, name)| format!("t.{name}::text as k{at}")).collect();
    let soft = if model.deletes == Deletes::Soft { " and t._deleted_at is null" } else { "" };
    let (key, same, table) = (key.join(", "), same.join(" and "), quote::table(&table));
    let Order { seq, ord } = order;
    format!(
        "set local enable_hashjoin to on;
         create temporary table siltstone_gone on commit drop as
         select {key} from {table} t
          where ({newest}) < ({seq}, {ord}){soft}
            and not exists (select from pg_temp.siltstone_told s where {same});
         set local enable_hashjoin to off"
    )
}

fn failed(model: &Model, error: tokio_postgres::Error) -> Error {
    Error::warehouse("looking what its source has no more", error).on_table(model.table.to_string())
}
