//! What is yet to be read of source tables: whole tables, or ranges of a large one's key. A range that is
//! in stays `loaded` until all of its table are; then they are done together, and the table goes on with
//! its kept changes.

use tokio_postgres::{GenericClient, Transaction};

use super::tables::State;
use crate::error::{Error, Result};
use crate::names::TableName;
use crate::position::Lsn;

/// A stretch of a key: from `lower` on, up to but without `upper`. Open where nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The source's column.
    pub column: String,
    /// The first value in it, as text.
    pub lower: Option<String>,
    /// The first value behind it, as text.
    pub upper: Option<String>,
}

/// What is to be read at once.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Its number.
    pub id: i64,
    /// The warehouse table.
    pub table: TableName,
    /// The range; none for the whole table.
    pub range: Option<Range>,
    /// The shape in which the ranges were cut.
    pub schema_id: Option<i32>,
    /// Whether these are the first rows of the table.
    pub fresh: bool,
    /// Whether a first reading broke off, whose rows are still there.
    pub empties: bool,
    /// What its rows meet, over the source's columns; none for all of the table or range.
    pub condition: Option<String>,
    /// The raw table whose events are taken in the place of the source's rows.
    pub origin: Option<TableName>,
    /// The request that asked for it, if it is answered when they are in.
    pub request: Option<i64>,
}

/// The chunks of a connector's tables that are to be read, in the order of their ranges.
pub async fn open(client: &impl GenericClient, connector: &str) -> Result<Vec<Chunk>> {
    let failed = |error| Error::warehouse("reading what is to be read", error);
    let rows = client
        .query(
            "select id, table_name, key_column, lower, upper, schema_id, fresh, empties, condition,
                    origin, request
               from audit.snapshot_chunks
              where connector = $1 and state in ('waiting', 'open') order by id",
            &[&connector],
        )
        .await
        .map_err(failed)?;
    let origin = |name: Option<String>| name.and_then(|name| name.parse().ok());
    let chunk = |row: &tokio_postgres::Row| -> Result<Chunk> {
        let name: String = row.try_get(1).map_err(failed)?;
        let column: Option<String> = row.try_get(2).map_err(failed)?;
        let (lower, upper) = (row.try_get(3).map_err(failed)?, row.try_get(4).map_err(failed)?);
        Ok(Chunk {
            id: row.try_get(0).map_err(failed)?,
            table: name.parse().map_err(|_| {
                Error::bug(format!("audit.snapshot_chunks has a strange row for {name:?}"))
            })?,
            range: column.map(|column| Range { column, lower, upper }),
            schema_id: row.try_get(5).map_err(failed)?,
            fresh: row.try_get(6).map_err(failed)?,
            empties: row.try_get(7).map_err(failed)?,
            condition: row.try_get(8).map_err(failed)?,
            origin: origin(row.try_get(9).map_err(failed)?),
            request: row.try_get(10).map_err(failed)?,
        })
    };
    rows.iter().map(chunk).collect()
}

/// Opens a table's chunk: its rows are to be read (again); its changes are kept until they are in.
pub async fn open_table(
    transaction: &Transaction<'_>,
    table: &TableName,
    state: State,
    reason: Option<&str>,
) -> Result<()> {
    let failed = |error| Error::warehouse(format!("noting that {table} is to be read"), error);
    let name = table.to_string();
    transaction
        .execute(
            "update audit.tables
                set state = $2, hold = null, reason = $3, remedy = null, floor_seq = 0,
                    changed_at = now()
              where table_name = $1",
            &[&name, &state.word(), &reason],
        )
        .await
        .map_err(failed)?;
    ask_for_reading(transaction, table).await
}

/// Opens a table's chunk and leaves its state alone. Ranges that are in count no more; where they were
/// the table's first rows, those have to go before it is read.
pub async fn ask_for_reading(transaction: &Transaction<'_>, table: &TableName) -> Result<()> {
    let failed = |error| Error::warehouse(format!("noting that {table} is to be read"), error);
    let name = table.to_string();
    let Withdrawn { fresh, empties, lost } = withdraw(transaction, &name).await?;
    transaction
        .execute(
            "insert into audit.snapshot_chunks
                    (connector, table_name, source_table, state, fresh, empties, lost)
             select connector, table_name, source_table, 'open', $2 or state = 'snapshotting', $3, $4
               from audit.tables where table_name = $1",
            &[&name, &fresh, &empties, &lost],
        )
        .await
        .map_err(failed)?;
    Ok(())
}

/// Notes what was lost of a table's topics that is made good once its rows are in.
pub async fn note_lost(transaction: &Transaction<'_>, table: &TableName, lost: &str) -> Result<()> {
    let statement =
        "update audit.snapshot_chunks set lost = $2 where table_name = $1 and state = 'open'";
    let done = transaction.execute(statement, &[&table.to_string(), &lost]).await;
    done.map(|_| ()).map_err(|error| Error::warehouse(format!("noting what {table} lost"), error))
}

/// What was yet to be read of a table.
pub struct Withdrawn {
    /// Whether those were its first rows.
    pub fresh: bool,
    /// Whether some of them are in.
    pub empties: bool,
    /// What was lost that they would have made good.
    pub lost: Option<String>,
}

/// Takes back what is yet to be read of a table.
pub async fn withdraw(transaction: &Transaction<'_>, name: &str) -> Result<Withdrawn> {
    let failed = |error| Error::warehouse(format!("noting what is not read of {name}"), error);
    lock(transaction, name).await?;
    let row = transaction
        .query_one(
            "with gone as (delete from audit.snapshot_chunks
                            where table_name = $1 and state <> 'done'
                        returning fresh, empties or (fresh and state = 'loaded') as empties, request, lost),
                  told as (update audit.requests r
                              set state = 'failed', answered_at = now(),
                                  answer = 'all of ' || $1 || ' is read again before it was done'
                             from gone where r.id = gone.request and r.state = 'taken')
             select coalesce(bool_or(fresh), false), coalesce(bool_or(empties), false), max(lost) from gone",
            &[&name],
        )
        .await
        .map_err(failed)?;
    let (fresh, empties) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
    Ok(Withdrawn { fresh, empties, lost: row.try_get(2).map_err(failed)? })
}

/// Whoever changes a table's chunks holds its row: two that are the last ones see each other.
pub(super) async fn lock(transaction: &Transaction<'_>, name: &str) -> Result<()> {
    transaction
        .execute("select from audit.tables where table_name = $1 for update", &[&name])
        .await
        .map_err(|error| Error::warehouse(format!("locking what {name} is doing"), error))?;
    Ok(())
}

/// Cuts a table's chunk into ranges of `column` at `bounds`, in order; none where it is to be read anew.
pub async fn cut(
    transaction: &Transaction<'_>,
    chunk: &Chunk,
    (column, bounds): (&str, &[String]),
    schema_id: i32,
) -> Result<Option<Vec<Chunk>>> {
    let failed = |error| Error::warehouse(format!("cutting {} into ranges", chunk.table), error);
    let name = chunk.table.to_string();
    lock(transaction, &name).await?;
    let whole = transaction
        .query_opt(
            "delete from audit.snapshot_chunks where id = $1 and state = 'open'
             returning connector, source_table",
            &[&chunk.id],
        )
        .await
        .map_err(failed)?;
    let Some(whole) = whole else { return Ok(None) };
    let connector: String = whole.try_get(0).map_err(failed)?;
    let source: String = whole.try_get(1).map_err(failed)?;
    let lowers = std::iter::once(None).chain(bounds.iter().cloned().map(Some));
    let uppers = bounds.iter().cloned().map(Some).chain(std::iter::once(None));
    let mut ranges = Vec::new();
    for (lower, upper) in lowers.zip(uppers) {
        let row = transaction
            .query_one(
                "insert into audit.snapshot_chunks (connector, table_name, source_table, state,
                        key_column, lower, upper, schema_id, fresh)
                 values ($1, $2, $3, 'open', $4, $5, $6, $7, $8) returning id",
                &[&connector, &name, &source, &column, &lower, &upper, &schema_id, &chunk.fresh],
            )
            .await
            .map_err(failed)?;
        ranges.push(Chunk {
            id: row.try_get(0).map_err(failed)?,
            range: Some(Range { column: column.to_owned(), lower, upper }),
            schema_id: Some(schema_id),
            empties: false,
            ..chunk.clone()
        });
    }
    Ok(Some(ranges))
}

/// A chunk's rows are in; returns whether it was the table's last one. None where its table is to be read
/// anew meanwhile: then they must not stay.
pub async fn load(
    transaction: &Transaction<'_>,
    chunk: &Chunk,
    as_of: Lsn,
    rows: u64,
) -> Result<Option<bool>> {
    let failed = |error| Error::warehouse(format!("noting what {} has", chunk.table), error);
    let name = chunk.table.to_string();
    let rows = i64::try_from(rows).unwrap_or(i64::MAX);
    lock(transaction, &name).await?;
    let loaded = transaction
        .execute(
            "update audit.snapshot_chunks
                set state = 'loaded', as_of = $2, rows = $3, changed_at = now()
              where id = $1 and state = 'open'",
            &[&chunk.id, &as_of.as_i64(), &rows],
        )
        .await
        .map_err(failed)?;
    if loaded != 1 {
        return Ok(None);
    }
    let row = transaction
        .query_one(
            "select not exists (select from audit.snapshot_chunks
                                 where table_name = $1 and state in ('waiting', 'open'))",
            &[&name],
        )
        .await
        .map_err(failed)?;
    row.try_get(0).map(Some).map_err(failed)
}

/// All of a table's chunks are in. Changes below the oldest of their snapshots are part of the rows, the
/// kept ones above are next; returns that point.
pub async fn close(
    transaction: &Transaction<'_>,
    table: &TableName,
    schema_id: i32,
) -> Result<Lsn> {
    let failed = |error| Error::warehouse(format!("noting that {table} was read"), error);
    let name = table.to_string();
    let floor = finish(transaction, table).await?;
    transaction
        .execute(
            "update audit.tables
                set state = 'catching_up', floor_seq = $2, schema_id = $3, reason = null,
                    remedy = null, changed_at = now()
              where table_name = $1",
            &[&name, &floor, &schema_id],
        )
        .await
        .map_err(failed)?;
    // what came before the snapshot is in it, and so is what had been refused, but for rows of this very
    // reading: those have a negative place
    const OF_THIS_READING: &str = "(l.ord < 0 and exists
        (select from audit.snapshot_chunks c where c.table_name = $1 and c.as_of - 1 = l.seq))";
    transaction
        .execute(
            &format!(
                "update audit.dead_letters l set state = 'read', changed_at = now()
                  where l.table_name = $1 and l.state = 'open' and not {OF_THIS_READING}"
            ),
            &[&name],
        )
        .await
        .map_err(failed)?;
    transaction
        .execute(
            &format!(
                "delete from audit.pending l
                  where l.table_name = $1 and l.seq < $2 and not {OF_THIS_READING}"
            ),
            &[&name, &floor],
        )
        .await
        .map_err(failed)?;
    Ok(Lsn::from_i64(floor))
}

/// All of a table's chunks are done together; returns the oldest point of their snapshots.
pub(super) async fn finish(transaction: &Transaction<'_>, table: &TableName) -> Result<i64> {
    let failed = |error| Error::warehouse(format!("noting that {table} was read"), error);
    let name = table.to_string();
    transaction
        .execute(
            "delete from audit.snapshot_chunks where table_name = $1 and state = 'done'",
            &[&name],
        )
        .await
        .map_err(failed)?;
    let row = transaction
        .query_one(
            "with done as (update audit.snapshot_chunks set state = 'done', changed_at = now()
                            where table_name = $1 returning as_of)
             select min(as_of) from done",
            &[&name],
        )
        .await
        .map_err(failed)?;
    row.try_get(0).map_err(failed)
}

/// The ranges of a table's last reading, each with the point of its snapshot, where those differ: a crash
/// came between. None for a table that has gone on from another point since.
pub async fn points(
    transaction: &Transaction<'_>,
    table: &TableName,
    floor: i64,
) -> Result<Vec<(Range, i64)>> {
    let failed = |error| Error::warehouse(format!("reading the ranges of {table}"), error);
    let rows = transaction
        .query(
            "select key_column, lower, upper, as_of, min(as_of) over () as first,
                    max(as_of) over () as last
               from audit.snapshot_chunks
              where table_name = $1 and state = 'done' and key_column is not null
                and as_of is not null",
            &[&table.to_string()],
        )
        .await
        .map_err(failed)?;
    let mut points = Vec::new();
    for row in rows {
        let (first, last): (i64, i64) =
            (row.try_get(4).map_err(failed)?, row.try_get(5).map_err(failed)?);
        if first == last || first != floor {
            return Ok(Vec::new());
        }
        let range = Range {
            column: row.try_get(0).map_err(failed)?,
            lower: row.try_get(1).map_err(failed)?,
            upper: row.try_get(2).map_err(failed)?,
        };
        points.push((range, row.try_get(3).map_err(failed)?));
    }
    Ok(points)
}
