//! Rows of a first reading that their table refuses: each becomes a dead letter, all others go in. The later
//! changes of their keys wait behind them.
//!
//! What can be told from the types, lengths and ranges of the columns is told here; what only the
//! warehouse can refuse stops the table. So does any refused row of a table that is read again: there the
//! stored row of its key would have to go.

use std::sync::Arc;

use tokio_postgres::Transaction;

use crate::decode::insert_message;
use crate::error::{Error, Kind, Result};
use crate::fold::{digests, refusal};
use crate::journey::{ChangeEvent, Digests, Mark, Op, Refused, Target};
use crate::merge::Point;
use crate::position::Order;
use crate::progress::chunks::Chunk;
use crate::progress::dead_letters::{self, DeadLetter};
use crate::progress::pending::Kept;
use crate::value::Row;

/// Refused rows of one reading may be this long together; they are written when all rows are in.
const BYTES_AT_MOST: usize = 64 << 20;

/// A chunk has fewer refused rows than this, so that each has a place of its own.
const PLACES: i64 = 1 << 24;

/// The place among the kept changes of the `nth` of a chunk's rows that go there: below those of its
/// snapshot's commits, and of no other chunk. None where there are too many.
pub(super) fn place(chunk: i64, nth: usize) -> Option<i64> {
    let nth = i64::try_from(nth).ok().filter(|nth| *nth < PLACES)?;
    Some(-1 - (chunk * PLACES + nth))
}

/// The refused rows of one chunk.
pub(super) struct RefusedRows {
    point: Point,
    chunk: i64,
    takes: bool,
    at_most: usize,
    bytes: usize,
    rows: Vec<(Kept, Digests, Refused)>,
}

impl RefusedRows {
    /// None yet. `at_most` so many may there be.
    pub(super) fn new(chunk: &Chunk, point: Point, at_most: usize) -> RefusedRows {
        let takes = chunk.fresh;
        RefusedRows { point, chunk: chunk.id, takes, at_most, bytes: 0, rows: Vec::new() }
    }

    /// Takes a row that the table refuses; false where nothing speaks against it.
    pub(super) fn takes(&mut self, target: &Target, binary: bool, row: Row<'_>) -> Result<bool> {
        if target.limits.is_empty() || !self.takes {
            return Ok(false);
        }
        let seq = Order::of_snapshot(self.point.as_of).seq;
        let mark = Mark { seq, committed_at: self.point.taken_at, xid: 0 };
        let place = place(self.chunk, self.rows.len());
        let order = Order { seq, ord: place.unwrap_or_default() };
        let relation = target.relation.clone();
        let (op, new) = (Op::Read, Some(row));
        let event =
            ChangeEvent { relation, op, old: None, new, order, mark, leaves: false, place: order };
        let Some(refused) = refusal(target, &event) else { return Ok(false) };
        let message = insert_message(target.relation.oid, row)?;
        self.bytes += message.len();
        if self.rows.len() >= self.at_most || self.bytes > BYTES_AT_MOST || place.is_none() {
            return Err(self.too_many(target, &refused.reason));
        }
        let schema_id = target.schema_id;
        let kept = Kept {
            order,
            place: order,
            mark,
            schema_id,
            binary,
            waits: false,
            comes_from: None,
            message,
        };
        self.rows.push((kept, digests(target, &event), refused));
        Ok(true)
    }

    fn too_many(&self, target: &Target, reason: &str) -> Error {
        let table = &target.model.table;
        let what = format!(
            "more than {} of the rows that were read are refused, the last one because {reason}",
            self.rows.len()
        );
        Error::new(Kind::TableStops, what)
            .on_table(table.to_string())
            .remedy(format!("mend the cause, then siltstone table resync {table:#}"))
    }

    /// Writes them down, in the transaction of the other rows.
    pub(super) async fn write(
        self,
        transaction: &Transaction<'_>,
        connector: &str,
        target: &Arc<Target>,
    ) -> Result<()> {
        let table = &target.model.table;
        for (kept, digests, Refused { reason, key }) in &self.rows {
            let (key, reason) = (key.clone(), reason.clone());
            let digests = *digests;
            let letter = DeadLetter { kept, digests, key, reason, record: None, readable: true };
            dead_letters::write(transaction, connector, table, &letter).await?;
        }
        if let Some((_, _, Refused { reason, .. })) = self.rows.first() {
            let rows = self.rows.len();
            tracing::warn!(%table, rows, reason, "rows are refused: they become dead letters");
        }
        Ok(())
    }
}
