//! What was taken before a mask came, and lies in the control tables as it arrived: found, and put back
//! masked.

use tokio_postgres::{GenericClient, Transaction};

use crate::error::{Error, Result};
use crate::names::TableName;
use crate::position::Order;

/// The numbers of the shapes in which changes of a table are kept, dead letters of any state among them.
pub async fn kept_shapes(client: &impl GenericClient, table: &TableName) -> Result<Vec<i32>> {
    let failed = |error| Error::warehouse("reading the shapes of kept changes", error);
    let rows = client
        .query(
            "select schema_id from audit.pending where table_name = $1
             union select schema_id from audit.dead_letters where table_name = $1",
            &[&table.to_string()],
        )
        .await
        .map_err(failed)?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(failed)
}

/// Puts masked changes in the place of kept ones.
pub async fn replace_pending(
    transaction: &Transaction<'_>,
    table: &TableName,
    masked: &[(Order, i32, Vec<u8>)],
) -> Result<()> {
    let seqs: Vec<i64> = masked.iter().map(|(order, ..)| order.seq).collect();
    let ords: Vec<i64> = masked.iter().map(|(order, ..)| order.ord).collect();
    let shapes: Vec<i32> = masked.iter().map(|(_, shape, _)| *shape).collect();
    let events: Vec<&[u8]> = masked.iter().map(|(.., event)| event.as_slice()).collect();
    transaction
        .execute(
            "update audit.pending p
                set schema_id = m.shape, event = m.event, bytes = length(m.event),
                    record_key = null, record_value = null, record_headers = null
               from unnest($2::int8[], $3::int8[], $4::int4[], $5::bytea[]) m(seq, ord, shape, event)
              where p.table_name = $1 and p.seq = m.seq and p.ord = m.ord",
            &[&table.to_string(), &seqs, &ords, &shapes, &events],
        )
        .await
        .map_err(|error| Error::warehouse("masking kept changes", error))?;
    Ok(())
}

/// The dead letters of a table that came in one of some shapes: number, shape, message.
pub async fn letters(
    transaction: &Transaction<'_>,
    table: &TableName,
    shapes: &[i32],
) -> Result<Vec<(i64, i32, Vec<u8>)>> {
    let failed = |error| Error::warehouse("reading dead letters to mask them", error);
    let rows = transaction
        .query(
            "select id, schema_id, event from audit.dead_letters
              where table_name = $1 and schema_id = any ($2) order by id",
            &[&table.to_string(), &shapes],
        )
        .await
        .map_err(failed)?;
    let letter =
        |row: &tokio_postgres::Row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
    rows.iter().map(letter).collect::<Result<_, tokio_postgres::Error>>().map_err(failed)
}

/// Puts a masked message in the place of a dead letter's; of one that cannot be read, its hash, and it
/// is settled. Its reason and key may have told values.
pub async fn replace_letter(
    transaction: &Transaction<'_>,
    (id, shape): (i64, i32),
    masked: Option<&[u8]>,
) -> Result<()> {
    transaction
        .execute(
            "update audit.dead_letters
                set schema_id = $2, event = coalesce($3, sha256(event)), key = null,
                    record_key = null, record_value = null, record_headers = null, edited_key = null,
                    edited_value = null,
                    reason = 'it was refused before its table was masked',
                    state = case when $3 is null and state = 'open' then 'dropped' else state end,
                    changed_at = now()
              where id = $1",
            &[&id, &shape, &masked],
        )
        .await
        .map_err(|error| Error::warehouse("masking a dead letter", error))?;
    Ok(())
}

/// Forgets the rows that checks have kept, of whatever table: a query of one may have read a table that is masked
/// now. The next time that a check is judged they are there again, masked.
pub async fn forget_failed(transaction: &Transaction<'_>) -> Result<()> {
    let forget = transaction.execute("delete from audit.data_quality_rows", &[]).await;
    forget.map(drop).map_err(|error| Error::warehouse("forgetting rows that checks kept", error))
}

/// Lets a table that is to be read be emptied first.
pub async fn empty_first(transaction: &Transaction<'_>, table: &TableName) -> Result<()> {
    transaction
        .execute(
            "update audit.snapshot_chunks set empties = true
              where table_name = $1 and state = 'open'",
            &[&table.to_string()],
        )
        .await
        .map_err(|error| Error::warehouse(format!("noting that {table} is emptied"), error))?;
    Ok(())
}

/// Forgets between which values of columns a table was read in ranges, unless its kept changes still need
/// to know.
pub async fn forget_bounds(
    transaction: &Transaction<'_>,
    table: &TableName,
    columns: &[String],
) -> Result<()> {
    transaction
        .execute(
            "update audit.snapshot_chunks set key_column = null, lower = null, upper = null
              where table_name = $1 and state = 'done' and key_column = any ($2)
                and not exists (select from audit.pending where table_name = $1)",
            &[&table.to_string(), &columns],
        )
        .await
        .map_err(|error| Error::warehouse(format!("forgetting the ranges of {table}"), error))?;
    Ok(())
}
