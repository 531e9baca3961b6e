//! What tasks of jobs have brought of sources without a stream, interval by interval.

use jiff::Timestamp;
use tokio_postgres::{GenericClient, Transaction};

use crate::error::{Error, Result};
use crate::names::TableName;

/// What of time an extract is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Portion {
    /// Its name, in raw tables and here.
    pub load_id: String,
    /// Its first moment.
    pub start: Timestamp,
    /// The first moment behind it.
    pub end: Timestamp,
}

/// What was brought of a portion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Brought {
    /// The `ord` of its newest rows.
    pub revision: i64,
    /// How many rows it has.
    pub rows: i64,
    /// How many pages they came in.
    pub pages: i64,
    /// The number of their shape in `audit.schemas`, where they are of a table.
    pub schema: Option<i32>,
    /// Whether they are all that the source had, so that what they lack is gone.
    pub whole: bool,
}

fn failed(error: tokio_postgres::Error) -> Error {
    Error::warehouse("reading or noting what was extracted", error)
}

/// A table that tasks of jobs feed, as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The warehouse table.
    pub table: String,
    /// What feeds it.
    pub source: String,
    /// The end of the last interval that was brought.
    pub up_to: Option<Timestamp>,
}

/// The tables that tasks of jobs feed.
pub async fn listed(client: &impl GenericClient) -> Result<Vec<Listed>> {
    let query = "
        select x.table_name, x.source, greatest(
                   (select max(e.interval_end) from audit.extracts e where e.table_name = x.table_name),
                   (select max(l.interval_end) from audit.loads l where l.table_name = x.table_name))
          from audit.extracted x order by 1";
    let rows = client.query(query, &[]).await.map_err(failed)?;
    let listed = |row: &tokio_postgres::Row| {
        Ok(Listed { table: row.try_get(0)?, source: row.try_get(1)?, up_to: row.try_get(2)? })
    };
    rows.iter().map(listed).collect::<Result<_, _>>().map_err(failed)
}

/// Notes that a table is fed by extracts from a source.
pub async fn note_table(
    client: &impl GenericClient,
    table: &TableName,
    source: &str,
) -> Result<()> {
    let insert = "insert into audit.extracted (table_name, source) values ($1, $2)
                  on conflict (table_name) do update set source = excluded.source
                   where extracted.source <> excluded.source";
    client.execute(insert, &[&table.to_string(), &source]).await.map_err(failed)?;
    Ok(())
}

/// Whoever else writes the table is waited for, and waits until this transaction is at an end.
pub async fn lock_table(transaction: &Transaction<'_>, table: &TableName) -> Result<()> {
    let lock = "select from audit.extracted where table_name = $1 for update";
    match transaction.query_opt(lock, &[&table.to_string()]).await.map_err(failed)? {
        Some(_) => Ok(()),
        None => Err(Error::bug(format!("{table} is written, and nobody noted it"))),
    }
}

/// What was brought of a portion into a raw table; none where that has not been extracted.
pub async fn brought(
    client: &impl GenericClient,
    raw: &TableName,
    load_id: &str,
) -> Result<Option<Brought>> {
    let query = "select revision, rows, pages, schema_id, whole
                   from audit.extracts where table_name = $1 and load_id = $2";
    let row = client.query_opt(query, &[&raw.to_string(), &load_id]).await.map_err(failed)?;
    let brought = |row: tokio_postgres::Row| {
        Ok(Brought {
            revision: row.try_get(0)?,
            rows: row.try_get(1)?,
            pages: row.try_get(2)?,
            schema: row.try_get(3)?,
            whole: row.try_get(4)?,
        })
    };
    row.map(brought).transpose().map_err(failed)
}

/// Notes what was brought of a portion into a raw table.
pub async fn note_extract(
    transaction: &Transaction<'_>,
    raw: &TableName,
    portion: &Portion,
    brought: Brought,
) -> Result<()> {
    let upsert = "
        insert into audit.extracts
               (table_name, load_id, interval_start, interval_end, revision, rows, pages, schema_id, whole)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
            on conflict (table_name, load_id) do update
           set interval_start = excluded.interval_start, interval_end = excluded.interval_end,
               revision = excluded.revision, rows = excluded.rows, pages = excluded.pages,
               schema_id = excluded.schema_id, whole = excluded.whole, extracted_at = now()";
    let Portion { load_id, start, end } = portion;
    let Brought { revision, rows, pages, schema, whole } = brought;
    let table = raw.to_string();
    transaction
        .execute(upsert, &[&table, load_id, start, end, &revision, &rows, &pages, &schema, &whole])
        .await
        .map_err(failed)?;
    Ok(())
}

/// Notes that what was brought of a portion is merged into a table.
pub async fn note_load(
    transaction: &Transaction<'_>,
    table: &TableName,
    portion: &Portion,
    (brought, rows): (Brought, i64),
) -> Result<()> {
    let upsert = "
        insert into audit.loads (table_name, load_id, interval_start, interval_end, revision, rows, whole)
        values ($1, $2, $3, $4, $5, $6, $7)
            on conflict (table_name, load_id) do update
           set interval_start = excluded.interval_start, interval_end = excluded.interval_end,
               revision = excluded.revision, rows = excluded.rows, whole = excluded.whole,
               loaded_at = now()";
    let Portion { load_id, start, end } = portion;
    let Brought { revision, whole, .. } = brought;
    transaction
        .execute(upsert, &[&table.to_string(), load_id, start, end, &revision, &rows, &whole])
        .await
        .map_err(failed)?;
    Ok(())
}

/// Whether all rows of a later interval were merged into a table.
pub async fn is_whole_behind(
    client: &impl GenericClient,
    table: &TableName,
    portion: &Portion,
) -> Result<bool> {
    let query = "select exists (select from audit.loads
                                 where table_name = $1 and whole and interval_end > $2)";
    let row = client.query_one(query, &[&table.to_string(), &portion.end]).await;
    row.and_then(|row| row.try_get(0)).map_err(failed)
}
