//! Where a change stands in the order of its source, from what Debezium says of it.
//!
//! Pure. A Postgres tells the end of the commit before (`sequence[0]`) and the row's own place: the pair
//! orders all changes, where the place alone would not, for transactions interleave in the log. A MySQL
//! tells file, position and row. Where nothing is told there is only the order of the topic.
//!
//! Source: Debezium documentation, `source` blocks of its Postgres and MySQL connectors.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::fields::Text;
use super::memory::Memory;
use crate::journey::{Mark, TopicRecord};
use crate::names::fingerprint;
use crate::position::Order;

/// Microseconds between 1970 and 2000, where Postgres counts from.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// The `source` block of an event.
#[derive(Debug, Default, Deserialize)]
pub struct Origin<'a> {
    #[serde(borrow, default)]
    connector: Option<Text<'a>>,
    #[serde(borrow, default)]
    name: Option<Text<'a>>,
    #[serde(borrow, default)]
    db: Option<Text<'a>>,
    #[serde(borrow, default)]
    schema: Option<Text<'a>>,
    #[serde(borrow, default)]
    table: Option<Text<'a>>,
    #[serde(borrow, default)]
    sequence: Option<&'a RawValue>,
    #[serde(default)]
    lsn: Option<i64>,
    #[serde(rename = "txId", borrow, default)]
    transaction: Option<&'a RawValue>,
    #[serde(default)]
    ts_us: Option<i64>,
    #[serde(default)]
    ts_ms: Option<i64>,
    #[serde(default)]
    server_id: Option<i64>,
    #[serde(borrow, default)]
    snapshot: Option<&'a RawValue>,
    #[serde(borrow, default)]
    gtid: Option<Text<'a>>,
    #[serde(borrow, default)]
    file: Option<Text<'a>>,
    #[serde(default)]
    pos: Option<i64>,
    #[serde(default)]
    row: Option<i64>,
    /// of a tombstone, which has a key and nothing else
    #[serde(skip)]
    bare: bool,
}

/// The same fields as a flattened record has them, as far as they were asked for (`add.fields`).
#[derive(Debug, Default, Deserialize)]
pub(super) struct Beside<'a> {
    #[serde(rename = "__op", borrow, default)]
    pub(super) op: Option<Text<'a>>,
    #[serde(rename = "__deleted", borrow, default)]
    pub(super) deleted: Option<Text<'a>>,
    #[serde(rename = "__lsn", alias = "__source_lsn", default)]
    lsn: Option<i64>,
    #[serde(rename = "__sequence", alias = "__source_sequence", borrow, default)]
    sequence: Option<&'a RawValue>,
    #[serde(rename = "__table", alias = "__source_table", borrow, default)]
    table: Option<Text<'a>>,
    #[serde(rename = "__schema", alias = "__source_schema", borrow, default)]
    schema: Option<Text<'a>>,
    #[serde(rename = "__name", alias = "__source_name", borrow, default)]
    name: Option<Text<'a>>,
    #[serde(rename = "__db", alias = "__source_db", borrow, default)]
    db: Option<Text<'a>>,
    #[serde(rename = "__txId", alias = "__source_txId", borrow, default)]
    transaction: Option<&'a RawValue>,
    #[serde(rename = "__file", alias = "__source_file", borrow, default)]
    file: Option<Text<'a>>,
    #[serde(rename = "__snapshot", alias = "__source_snapshot", borrow, default)]
    snapshot: Option<&'a RawValue>,
    #[serde(rename = "__gtid", alias = "__source_gtid", borrow, default)]
    gtid: Option<Text<'a>>,
    #[serde(rename = "__pos", alias = "__source_pos", default)]
    pos: Option<i64>,
    #[serde(rename = "__row", alias = "__source_row", default)]
    row: Option<i64>,
    #[serde(rename = "__server_id", alias = "__source_server_id", default)]
    server_id: Option<i64>,
    #[serde(rename = "__source_ts_us", default)]
    source_ts_us: Option<i64>,
    #[serde(rename = "__source_ts_ms", default)]
    source_ts_ms: Option<i64>,
    #[serde(rename = "__ts_ms", default)]
    ts_ms: Option<i64>,
}

impl<'a> Beside<'a> {
    /// As an event has them; where the source's time was not asked for, the record's.
    pub(super) fn origin(&mut self, record: &TopicRecord<'_>) -> Origin<'a> {
        let told = std::mem::take(self);
        Origin {
            connector: None,
            name: told.name,
            db: told.db,
            schema: told.schema,
            table: told.table,
            sequence: told.sequence,
            lsn: told.lsn,
            transaction: told.transaction,
            ts_us: told.source_ts_us,
            ts_ms: told.source_ts_ms.or(told.ts_ms).or(Some(record.timestamp)),
            server_id: told.server_id,
            snapshot: told.snapshot,
            gtid: told.gtid,
            file: told.file,
            pos: told.pos,
            row: told.row,
            bare: false,
        }
    }
}

/// Where a change stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its order.
    pub order: Order,
    /// Its transaction.
    pub mark: Mark,
    /// Whether its source told the order; else it is that of the topic, and only within a partition.
    pub told: bool,
    /// Whether it is just behind what came before it in its partition, for its record tells none of its own.
    pub behind: bool,
    /// Whether it tells no commit before it, behind changes that did: Debezium's connector was made again.
    pub made_again: bool,
}

/// The source is another one than before, so that orders cannot be compared.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OtherSource(pub String);

impl<'a> Origin<'a> {
    /// The schema and name of the table. A MySQL has databases in the place of schemas.
    pub(super) fn table<'o>(&'o self, schema: Option<&'o str>) -> Option<(&'o str, &'o str)> {
        let named = self.schema.as_deref().or(self.db.as_deref()).or(schema);
        Some((named?, self.table.as_deref()?))
    }

    /// The log file of a MySQL that it names, where that is none: no place can be told of it.
    pub(super) fn odd_file(&self) -> Option<&str> {
        self.file.as_deref().filter(|file| file_number(file).is_none())
    }

    /// What the source calls itself, with the database, of which one connector may read several; none where that
    /// is not told.
    pub fn source(&self) -> Option<String> {
        let name = self.name.as_deref()?;
        Some(self.db.as_deref().map_or_else(|| name.to_owned(), |db| format!("{name}/{db}")))
    }

    /// The database of the source, where that is told.
    pub(super) fn database(&self) -> Option<&str> {
        self.db.as_deref()
    }

    /// Of a delete of which only the tombstone is left.
    pub(super) fn of_tombstone(record: &TopicRecord<'_>) -> Origin<'a> {
        Origin { ts_ms: Some(record.timestamp), bare: true, ..Origin::default() }
    }

    /// Whether an old row is whole whatever the source's table says: a MySQL logs all of it.
    pub(super) fn logs_whole_rows(&self) -> bool {
        matches!(self.connector.as_deref(), Some("mysql" | "mariadb"))
    }

    /// Whether the source is a MySQL or MariaDB; of a flattened record its binlog tells.
    pub(super) fn is_mysql(&self) -> bool {
        self.logs_whole_rows() || self.file.is_some()
    }

    /// Where the change stands. `read` says that a snapshot read the row.
    pub fn place(
        &self,
        record: &TopicRecord<'_>,
        read: bool,
        memory: &mut Memory,
    ) -> Result<Place, OtherSource> {
        let at = self.ts_us.or_else(|| self.ts_ms?.checked_mul(1_000));
        let committed_at = at.unwrap_or(0).saturating_sub(POSTGRES_EPOCH);
        let (order, told, made_again) = match (&self.file, self.lsn, self.before()) {
            (Some(file), _, _) => {
                let number = file_number(file).unwrap_or(0);
                let seq = self.in_binlog(number, (read, committed_at), memory)?;
                let order = match read {
                    true if self.is_of_snapshot() => {
                        memory.note_read(seq, self.ts_us);
                        self.of_read(seq, record)
                    }
                    true => self.of_read(seq, record),
                    false => {
                        memory.note_streamed(seq);
                        Order { seq, ord: self.row.unwrap_or(0) + 1 }
                    }
                };
                (order, true, false)
            }
            (None, _, Some(before)) if read => {
                memory.settled = memory.settled.max(before);
                (self.of_read(before, record), true, false)
            }
            (None, Some(lsn), Some(before)) => {
                memory.note_streamed(lsn);
                memory.settled = memory.settled.max(before);
                (Order { seq: before, ord: lsn }, true, false)
            }
            (None, Some(lsn), None) if read => {
                memory.note_read(lsn, self.ts_us);
                if self.sequence.is_none() {
                    memory.note_flat_read(lsn);
                }
                (self.of_read(lsn, record), true, false)
            }
            (None, Some(lsn), None) if self.sequence.is_some() => {
                memory.note_streamed(lsn);
                (Order { seq: memory.read, ord: lsn }, true, memory.is_made_again(lsn))
            }
            // a flattened record with the row's own place
            (None, Some(lsn), None) => {
                memory.note_streamed(lsn);
                (memory.own_place(lsn, committed_at), true, false)
            }
            // a tombstone, and a row that is read beside the stream (an incremental snapshot), are behind what came
            // before them, and before all that the source did later
            (None, None, _) if self.stands_behind(read, memory) => {
                (Origin::behind(read, memory), true, false)
            }
            (None, None, _) => {
                let ord = i64::from(record.partition) + 1;
                (Order { seq: record.offset, ord }, false, false)
            }
        };
        let behind = self.stands_behind(read, memory);
        let mark = self.mark(order, (read, committed_at), memory);
        Ok(Place { order, mark, told, behind, made_again })
    }

    /// The transaction of a change that has this order.
    fn mark(&self, order: Order, (read, committed_at): (bool, i64), memory: &mut Memory) -> Mark {
        let xid = self.transaction.map(RawValue::get).and_then(number);
        let xid = xid.and_then(|xid| u32::try_from(xid & 0xffff_ffff).ok()).unwrap_or(0);
        // each change of a binlog has a place of its own, and is of the transaction that began with the first one
        let seq = match (&self.file, self.gtid.as_deref()) {
            (Some(_), Some(gtid)) if !read => memory.begin_of(gtid, order.seq),
            _ => order.seq,
        };
        Mark { seq, committed_at, xid }
    }

    /// Whether a row that was read says that the whole table is: an incremental snapshot goes by chunks, each at a
    /// later place of the log, and may leave rows out.
    fn is_of_snapshot(&self) -> bool {
        let how = self.snapshot.map(|how| how.get().trim_matches('"'));
        how.is_some_and(|how| !matches!(how, "incremental" | "false"))
    }

    /// Whether a flattened record tells no place, where the ones before it did.
    fn stands_behind(&self, read: bool, memory: &Memory) -> bool {
        let tells = self.file.is_some() || self.lsn.is_some() || (read && self.before().is_some());
        (self.bare || read) && !tells && memory.last.is_some()
    }

    /// The order of what stands behind the record before it.
    fn behind(read: bool, memory: &mut Memory) -> Order {
        let last = memory.last.unwrap_or_default();
        if !read || (memory.at.is_none() && memory.reads.is_empty()) {
            return behind(last);
        }
        let order = match last {
            // later changes may have lower places than this one, and are at the place of the row
            (seq, 2..) => Order { seq: seq + 1, ord: 1 },
            last => behind(last),
        };
        memory.note_flat_read(order.seq);
        order
    }

    /// `sequence` is the text of an array: the end of the commit before, and the row's place.
    fn before(&self) -> Option<i64> {
        let (first, _) = self.sequence?.get().split_once(',')?;
        number(first)
    }

    /// The order of a row that was read when the log had come this far: before all that follows. Equal rows
    /// of a table without key are told apart by when Debezium read them, where it says that finely enough.
    fn of_read(&self, seq: i64, record: &TopicRecord<'_>) -> Order {
        let told = match record.value.filter(|_| self.ts_us.is_some()) {
            Some(value) => fingerprint(value),
            None => {
                let place = format!("{}/{}:{}", record.topic, record.partition, record.offset);
                fingerprint(place.as_bytes())
            }
        };
        Order { seq: seq - 1, ord: -1 - (told >> 1).cast_signed() }
    }

    /// A file's number and a position in it.
    fn in_binlog(
        &self,
        number: i64,
        (read, committed_at): (bool, i64),
        memory: &mut Memory,
    ) -> Result<i64, OtherSource> {
        let position = self.pos.unwrap_or(0) & 0xffff_ffff;
        // the one where the change was made first: behind a replica, or a failover of what that follows, one log has
        // those of several
        let server = self.server_id.filter(|server| *server != 0 && !read);
        // what is sent again was told before, what another log has was not; a time is that of the statement, and
        // need not grow with the place
        let is_news = committed_at > memory.since;
        if let (Some(server), Some(known)) = (server, memory.server)
            && server != known
            && (number, position) <= (memory.file, memory.pos)
            && is_news
        {
            let what = format!("the source is server {server} now, it was {known}");
            return Err(OtherSource(what));
        }
        if number < memory.file && is_news {
            let what = format!("the source's log is at file {number}, it was at {}", memory.file);
            return Err(OtherSource(what));
        }
        memory.server = server.or(memory.server);
        memory.since = memory.since.max(committed_at);
        (memory.file, memory.pos) = (number, position).max((memory.file, memory.pos));
        Ok(number << 32 | position)
    }
}

/// The order of a tombstone behind a record. Where the source's transactions are told, it may be of the same one
/// as what follows; else each row stands by itself, and so does it.
fn behind((seq, ord): (i64, i64)) -> Order {
    match ord {
        ..0 => Order { seq: seq + 1, ord: 0 },
        0 | 1 => Order { seq: seq + 1, ord },
        _ => Order { seq, ord: ord + 1 },
    }
}

/// The number of a log file such as `binlog.000007`.
fn file_number(file: &str) -> Option<i64> {
    let digits = file.rsplit('.').next()?;
    let number: i32 = digits.parse().ok()?;
    (number >= 0).then_some(i64::from(number))
}

/// The digits in a text such as `"123"`; none in `null`.
fn number(text: &str) -> Option<i64> {
    let digits = text.trim_matches(|character: char| !character.is_ascii_digit());
    digits.parse().ok()
}

#[cfg(test)]
mod tests;
