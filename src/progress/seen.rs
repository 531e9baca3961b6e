//! Tables of topics whose rows were read again: what those have of the changes is noted in the transaction that
//! brings them, so that a change that comes once more, or later, is never taken for one that is new.

use tokio_postgres::Transaction;

use super::chunks::{self, Chunk};
use super::pending::op_of;
use crate::error::{Error, Result};
use crate::journey::{Mark, Seen, Sight};
use crate::names::TableName;
use crate::position::Order;

/// Settles the dead letters that are in the rows of a chunk: those that were there when it was opened, for their
/// records had been written by then; of the others those that its snapshot has seen. Comes before the chunk's
/// rows are noted to be in.
pub async fn settle(transaction: &Transaction<'_>, chunk: &Chunk, seen: &Seen) -> Result<()> {
    let table = &chunk.table;
    let failed = |error| Error::warehouse(format!("settling dead letters of {table}"), error);
    let query =
        "select l.id, l.noticed_at < c.changed_at, l.format = 'k', coalesce(l.event_seq, l.seq),
                        coalesce(l.event_ord, l.ord), l.xid, substring(l.event from 1 for 1)
                   from audit.dead_letters l, audit.snapshot_chunks c
                  where l.table_name = $1 and l.state = 'open' and c.id = $2";
    let mut read: Vec<i64> = Vec::new();
    for row in transaction.query(query, &[&table.to_string(), &chunk.id]).await.map_err(failed)? {
        let (before, unreadable): (bool, bool) =
            (row.try_get(1).map_err(failed)?, row.try_get(2).map_err(failed)?);
        let order =
            Order { seq: row.try_get(3).map_err(failed)?, ord: row.try_get(4).map_err(failed)? };
        let xid: i64 = row.try_get(5).map_err(failed)?;
        let message: &[u8] = row.try_get(6).map_err(failed)?;
        let mark = Mark { xid: u32::try_from(xid).unwrap_or(0), ..Mark::default() };
        let is_seen = || seen.judge(order, mark, op_of(message)) == Sight::Seen;
        if before || (!unreadable && is_seen()) {
            read.push(row.try_get(0).map_err(failed)?);
        }
    }
    let statement =
        "update audit.dead_letters set state = 'read', changed_at = now() where id = any ($1)";
    transaction.execute(statement, &[&read]).await.map_err(failed)?;
    Ok(())
}

/// All rows of a table are in: its kept changes are next, as far as they are not seen. The places of deletes
/// before are of no use any more.
pub async fn close(transaction: &Transaction<'_>, table: &TableName, seen: &Seen) -> Result<()> {
    let failed = |error| Error::warehouse(format!("noting that {table} was read"), error);
    let name = table.to_string();
    chunks::finish(transaction, table).await?;
    let text = serde_json::to_string(seen)
        .map_err(|error| Error::bug("what a snapshot has seen is no JSON").because(error))?;
    let forget = "delete from audit.quiet where table_name = $1";
    transaction.execute(forget, &[&name]).await.map_err(failed)?;
    let forget = "delete from audit.carried where table_name = $1";
    transaction.execute(forget, &[&name]).await.map_err(failed)?;
    let statement = "update audit.tables
                        set state = 'catching_up', seen = $2::text::jsonb, floor_seq = 0, reason = null,
                            remedy = null, changed_at = now()
                      where table_name = $1";
    transaction.execute(statement, &[&name, &text]).await.map_err(failed)?;
    Ok(())
}
