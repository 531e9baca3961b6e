//! What is read again in another way than all rows from the source: the rows that meet a condition, and
//! tables that are rebuilt from a raw table. The rows that meet a condition wait among the kept changes, at
//! the place of their snapshot, so that the table goes on with all of them in the order of the source.

use tokio_postgres::{GenericClient, Transaction};

use super::chunks::{self, Chunk};
use super::requests;
use super::tables::State;
use crate::error::{Error, Result};
use crate::names::TableName;
use crate::position::Lsn;

/// What is read.
#[derive(Clone, Copy, Debug)]
pub enum What<'a> {
    /// The source's rows that meet a condition.
    Where(&'a str),
    /// The events of a raw table.
    Raw(&'a TableName),
}

/// Opens what is to be read of a table: its changes are kept until that is in. Changes below the table's
/// floor stay what they are: in its rows.
pub async fn open(
    transaction: &Transaction<'_>,
    table: &TableName,
    (what, request): (What<'_>, Option<i64>),
    reason: Option<&str>,
) -> Result<()> {
    let (condition, origin) = match what {
        What::Where(condition) => (Some(condition), None),
        What::Raw(origin) => (None, Some(origin.to_string())),
    };
    let failed = |error| Error::warehouse(format!("noting that a part of {table} is read"), error);
    let name = table.to_string();
    chunks::withdraw(transaction, &name).await?;
    transaction
        .execute(
            "insert into audit.snapshot_chunks
                    (connector, table_name, source_table, state, condition, origin, request)
             select connector, table_name, source_table, 'open', $2, $3, $4
               from audit.tables where table_name = $1",
            &[&name, &condition, &origin, &request],
        )
        .await
        .map_err(failed)?;
    super::tables::set(transaction, table, State::Resyncing, reason, None).await?;
    match request {
        Some(request) => requests::take(transaction, request).await,
        None => Ok(()),
    }
}

/// Reads the source in the place of a raw table that cannot tell all.
pub async fn turn_to_source(transaction: &Transaction<'_>, chunk: &Chunk) -> Result<()> {
    transaction
        .execute(
            "update audit.snapshot_chunks set origin = null, changed_at = now()
              where id = $1 and state = 'open'",
            &[&chunk.id],
        )
        .await
        .map_err(|error| Error::warehouse("turning to the source", error))?;
    Ok(())
}

/// How many rows the first reading of a raw table brought; none where it had none.
pub async fn first_rows(client: &impl GenericClient, raw: &TableName) -> Result<Option<i64>> {
    let failed = |error| Error::warehouse(format!("reading how {raw} began"), error);
    let query = "select sum(rows)::int8 from audit.snapshot_chunks
                  where table_name = $1 and state = 'done' and as_of is not null";
    let row = client.query_one(query, &[&raw.to_string()]).await.map_err(failed)?;
    row.try_get(0).map_err(failed)
}

/// The part's rows are among the kept changes: the table goes on with those, once the stream has come to
/// `as_of`. Returns its floor; none where the part is not asked for any more.
pub async fn load(
    transaction: &Transaction<'_>,
    part: &Chunk,
    (as_of, rows): (Lsn, u64),
    answer: &str,
) -> Result<Option<i64>> {
    let failed = |error| Error::warehouse(format!("noting what {} has", part.table), error);
    let name = part.table.to_string();
    chunks::lock(transaction, &name).await?;
    transaction
        .execute(
            "delete from audit.snapshot_chunks
              where table_name = $1 and state = 'done' and condition is not null",
            &[&name],
        )
        .await
        .map_err(failed)?;
    let rows = i64::try_from(rows).unwrap_or(i64::MAX);
    let loaded = transaction
        .execute(
            "update audit.snapshot_chunks
                set state = 'done', as_of = $2, rows = $3, changed_at = now()
              where id = $1 and state = 'open'",
            &[&part.id, &as_of.as_i64(), &rows],
        )
        .await
        .map_err(failed)?;
    go_on(transaction, part, (loaded == 1, true), answer).await
}

/// Nothing is read: the table goes on as if nobody had asked. Returns its floor; none where it is not
/// asked for any more.
pub async fn give_up(
    transaction: &Transaction<'_>,
    part: &Chunk,
    why: &str,
) -> Result<Option<i64>> {
    chunks::lock(transaction, &part.table.to_string()).await?;
    let gone = transaction
        .execute("delete from audit.snapshot_chunks where id = $1 and state = 'open'", &[&part.id])
        .await
        .map_err(|error| Error::warehouse("giving up a part of a table", error))?;
    go_on(transaction, part, (gone == 1, false), why).await
}

async fn go_on(
    transaction: &Transaction<'_>,
    part: &Chunk,
    (was_open, done): (bool, bool),
    answer: &str,
) -> Result<Option<i64>> {
    if !was_open {
        return Ok(None);
    }
    let failed = |error| Error::warehouse(format!("noting that {} goes on", part.table), error);
    let row = transaction
        .query_one(
            "update audit.tables
                set state = 'catching_up', reason = null, remedy = null, changed_at = now()
              where table_name = $1 returning floor_seq",
            &[&part.table.to_string()],
        )
        .await
        .map_err(failed)?;
    if let Some(request) = part.request {
        requests::answer(transaction, request, done, answer).await?;
    }
    row.try_get(0).map(Some).map_err(failed)
}
