//! What a message of the stream says: pgoutput's own, those about a transaction in chunks, and the kinds that
//! are ours.
//!
//! Only the forms: nothing here reads a byte.

use crate::position::Lsn;
use crate::value::Row;

/// A message of the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A transaction starts; all of it follows.
    Begin {
        /// Where its commit record starts.
        final_lsn: Lsn,
        /// Its commit time, microseconds since 2000-01-01 UTC.
        committed_at: i64,
        /// Its transaction id.
        xid: u32,
    },
    /// The transaction is complete.
    Commit {
        /// The position behind its commit record.
        end_lsn: Lsn,
    },
    /// The shape of a table whose rows follow.
    Relation(RelationMessage),
    /// A row was inserted.
    Insert {
        /// The table's OID.
        relation: u32,
        /// The row.
        new: Row<'a>,
    },
    /// A row was updated.
    Update {
        /// The table's OID.
        relation: u32,
        /// The old key or row, where the source sent one.
        old: Option<Old<'a>>,
        /// The row.
        new: Row<'a>,
    },
    /// A row was deleted.
    Delete {
        /// The table's OID.
        relation: u32,
        /// The old key or row.
        old: Old<'a>,
    },
    /// A row that a snapshot read: no message of pgoutput, but how one of a topic is kept.
    Read {
        /// The table's number.
        relation: u32,
        /// The row.
        new: Row<'a>,
    },
    /// A row that goes on under another key, likewise.
    Left {
        /// The table's number.
        relation: u32,
        /// The old key or row.
        old: Old<'a>,
    },
    /// A row that had another key before, with values left out that it had there, likewise.
    Moved {
        /// The table's number.
        relation: u32,
        /// The old key.
        old: Old<'a>,
        /// The row.
        new: Row<'a>,
    },
    /// Tables were emptied.
    Truncate {
        /// Their OIDs.
        relations: Vec<u32>,
    },
    /// Nothing for us: Origin, Type, a logical message.
    Other,
}

/// Kinds of messages that are ours: how changes of topics are kept that pgoutput has none for. A row that a
/// snapshot read; else as an insert.
pub(in crate::decode) const READ: u8 = b'r';
/// A row that goes on under another key; else as a delete.
pub(in crate::decode) const LEFT: u8 = b'l';
/// A row that had another key before; else as an update.
pub(in crate::decode) const MOVED: u8 = b'm';

/// A message that is about a transaction which is sent in chunks while it is open.
#[derive(Debug, PartialEq, Eq)]
pub enum Streamed<'a> {
    /// A chunk follows.
    Start {
        /// The transaction's id.
        xid: u32,
        /// Whether it is the transaction's first one.
        first: bool,
    },
    /// The chunk is complete.
    Stop,
    /// A message in the chunk. Tag and body together are what a whole transaction would have.
    Part {
        /// The transaction or subtransaction it belongs to.
        xid: u32,
        /// Its first byte.
        tag: u8,
        /// What follows the id.
        body: &'a [u8],
    },
    /// A message in the chunk that is nothing for us: Origin, Type, a logical message.
    Nothing,
    /// A transaction was rolled back, or one of its subtransactions.
    Abort {
        /// The transaction's id.
        xid: u32,
        /// What was rolled back; the same id where it was all of it.
        subxid: u32,
    },
    /// The transaction is complete.
    Commit {
        /// Its id.
        xid: u32,
        /// Where its commit record starts.
        final_lsn: Lsn,
        /// The position behind its commit record.
        end_lsn: Lsn,
        /// Its commit time, microseconds since 2000-01-01 UTC.
        committed_at: i64,
    },
}

/// What the source sent of the old row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old<'a> {
    /// The identity's columns; the others are null because they were not sent.
    Key(Row<'a>),
    /// The whole row (REPLICA IDENTITY FULL).
    Full(Row<'a>),
}

impl<'a> Old<'a> {
    /// The row, whole or not.
    pub fn row(self) -> Row<'a> {
        match self {
            Old::Key(row) | Old::Full(row) => row,
        }
    }
}

/// A table's shape as the stream tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationMessage {
    /// The table's OID.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// `relreplident`: d, n, f or i.
    pub identity: u8,
    /// Its published columns.
    pub columns: Vec<RelationColumn>,
}

/// A column in a Relation message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationColumn {
    /// Whether it belongs to the replica identity.
    pub in_identity: bool,
    /// Its name.
    pub name: String,
    /// Its type's OID.
    pub type_oid: u32,
    /// Its type modifier.
    pub typmod: i32,
}
