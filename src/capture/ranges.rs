//! Where a large table may be cut into ranges of its key, so that each can be read by itself: by a sample
//! of its rows, as even as the sample is.
//!
//! Only a key whose order follows the order of the rows on disk is of use: in any other each range would
//! read most of the table.

use tokio_postgres::GenericClient;

use super::catalog::SourceTable;
use crate::error::{Error, Result};
use crate::names::TableName;
use crate::postgres::quote;

/// A range holds about this much of a table's main fork: a second's work, more or less.
const RANGE_BYTES: i64 = 32 << 20;

/// A table has at most so many ranges; those of a very large one are larger.
const RANGES_AT_MOST: i64 = 1_000;

/// The sample has about this many pages a range.
const PAGES_SAMPLED: i64 = 32;

/// How far the order of the key must follow that of the rows, 1 being wholly.
const CORRELATION: f64 = 0.8;

/// Types whose values are compared alike here, at the source and in the warehouse.
const ORDERED: [u32; 4] = [INT8, INT2, INT4, UUID];
const INT8: u32 = 20;
const INT2: u32 = 21;
const INT4: u32 = 23;
const UUID: u32 = 2950;

/// How large a table is, without its indexes.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// The bytes of its main fork, which ranges cut.
    pub main: i64,
    /// The bytes of its rows, with the values that are stored outside of them (TOAST).
    pub rows: i64,
}

/// Measures a table, or the leaves of a partitioned one.
pub async fn size(source: &impl GenericClient, table: &SourceTable) -> Result<Size> {
    let relation = &table.relation;
    let failed = |error| Error::source(format!("measuring {}", relation.table), error);
    let of = match table.partitioned {
        true => "select relid from pg_partition_tree($1::oid::regclass)",
        false => "select $1::oid::regclass",
    };
    let query = format!(
        "select coalesce(sum(pg_relation_size(relid)), 0)::int8, coalesce(sum(pg_table_size(relid)), 0)::int8
           from ({of}) t (relid)"
    );
    let row = source.query_one(&query, &[&relation.oid]).await.map_err(failed)?;
    Ok(Size { main: row.try_get(0).map_err(failed)?, rows: row.try_get(1).map_err(failed)? })
}

/// The column whose ranges a table's index finds, if it is one that can be cut.
pub async fn column(source: &impl GenericClient, table: &SourceTable) -> Result<Option<String>> {
    let relation = &table.relation;
    let failed = |error| Error::source(format!("reading the key of {}", relation.table), error);
    let query = "select a.attname::text
                   from pg_index i
                   join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
                  where i.indrelid = $1 and i.indisvalid and (i.indisprimary or i.indisreplident)
                  order by i.indisprimary desc limit 1";
    let row = source.query_opt(query, &[&relation.oid]).await.map_err(failed)?;
    let Some(row) = row else { return Ok(None) };
    let name: String = row.try_get(0).map_err(failed)?;
    let column = relation.columns.iter().find(|column| column.name == name && column.in_key);
    let ordered = column.is_some_and(|column| ORDERED.contains(&column.ty.oid));
    Ok(ordered.then_some(name))
}

/// The values of `column` at which a table of `size` bytes is cut; empty where it is best read at once.
pub async fn bounds(
    source: &impl GenericClient,
    table: &SourceTable,
    column: &str,
    size: i64,
) -> Result<Vec<String>> {
    let ranges = (size / RANGE_BYTES).clamp(1, RANGES_AT_MOST);
    if ranges < 2 {
        return Ok(Vec::new());
    }
    let relation = &table.relation;
    let failed = |error| Error::source(format!("sampling {}", relation.table), error);
    let name = quote::ident(column);
    let only = if table.partitioned { "" } else { "only " };
    let query = format!(
        "with sample as (
             select {name} as k, row_number() over (order by tableoid, ctid)::float8 as place
               from {only}{} tablesample system ($1)),
         ranked as (select k, place, row_number() over (order by k)::float8 as rank from sample)
         select (percentile_disc($2::float8[]) within group (order by k))::text[],
                coalesce(corr(place, rank), 1)
           from ranked",
        quote::table(&relation.table)
    );
    const PAGE: i64 = 8192;
    #[allow(clippy::cast_precision_loss, reason = "a sample and its parts are about right")]
    let (share, parts) = {
        let pages = (size / PAGE).max(1) as f64;
        let share = (100.0 * (ranges * PAGES_SAMPLED) as f64 / pages).clamp(0.000_1, 100.0);
        let parts: Vec<f64> = (1..ranges).map(|n| n as f64 / ranges as f64).collect();
        #[allow(clippy::cast_possible_truncation, reason = "a percentage")]
        (share as f32, parts)
    };
    let row = source.query_one(&query, &[&share, &parts]).await.map_err(failed)?;
    let bounds: Option<Vec<Option<String>>> = row.try_get(0).map_err(failed)?;
    let correlation: f64 = row.try_get(1).map_err(failed)?;
    if correlation < CORRELATION {
        return Ok(Vec::new());
    }
    let mut bounds: Vec<String> = bounds.unwrap_or_default().into_iter().flatten().collect();
    bounds.dedup();
    Ok(bounds)
}

/// The first and the last day of a column's values, since 2000-01-01; none where the source cannot tell.
pub async fn days(
    source: &impl GenericClient,
    table: &TableName,
    column: &str,
) -> Option<(i64, i64)> {
    let (by, table) = (quote::ident(column), quote::table(table));
    let query = format!(
        "select (min({by})::date - date '2000-01-01')::int8, \
                (max({by})::date - date '2000-01-01')::int8 from {table}"
    );
    let row = source.query_one(&query, &[]).await.ok()?;
    let first: Option<i64> = row.try_get(0).ok()?;
    let last: Option<i64> = row.try_get(1).ok()?;
    Some((first?, last?))
}
