//! Reads the messages of the pgoutput plugin, protocol version 1.
//!
//! Pure and total: any bytes give a message or an error, never a panic. It copies nothing but a
//! Relation's names. In-progress transactions (version 2: S, E, c, A) are not asked for yet.
//!
//! Source: PostgreSQL documentation, "Logical Replication Message Formats".

use crate::error::{Error, Result};
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
    /// Tables were emptied.
    Truncate {
        /// Their OIDs.
        relations: Vec<u32>,
    },
    /// Nothing for us: Origin, Type, a logical message.
    Other,
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

/// An update that moved a row as the delete and the insert that it comes to; none of anything else.
pub fn halves(update: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    const HEAD: usize = 5;
    let (head, rows) = update.split_at_checked(HEAD)?;
    let (tag, relation) = head.split_first()?;
    let old = matches!(rows.first()?, b'K' | b'O');
    (*tag == b'U' && old).then_some(())?;
    let mut behind = Input(rows.get(1..)?);
    behind.row()?;
    let (old, new) = rows.split_at_checked(rows.len().checked_sub(behind.0.len())?)?;
    Some(([b"D", relation, old].concat(), [b"I", relation, new].concat()))
}

/// Reads one message.
pub fn read_message(bytes: &[u8]) -> Result<Message<'_>> {
    let mut input = Input(bytes);
    read(&mut input).ok_or_else(|| {
        let kind = bytes.first().map_or(' ', |byte| char::from(*byte));
        Error::bug(format!("a pgoutput message of kind {kind:?} is malformed"))
    })
}

fn read<'a>(input: &mut Input<'a>) -> Option<Message<'a>> {
    Some(match input.u8()? {
        b'B' => Message::Begin {
            final_lsn: Lsn(input.u64()?),
            committed_at: input.i64()?,
            xid: input.u32()?,
        },
        b'C' => {
            let _flags = input.u8()?;
            let _commit_lsn = input.u64()?;
            Message::Commit { end_lsn: Lsn(input.u64()?) }
        }
        b'R' => Message::Relation(read_relation(input)?),
        b'I' => {
            let relation = input.u32()?;
            (input.u8()? == b'N').then_some(())?;
            Message::Insert { relation, new: input.row()? }
        }
        b'U' => {
            let relation = input.u32()?;
            let (old, tag) = match input.u8()? {
                b'K' => (Some(Old::Key(input.row()?)), input.u8()?),
                b'O' => (Some(Old::Full(input.row()?)), input.u8()?),
                tag => (None, tag),
            };
            (tag == b'N').then_some(())?;
            Message::Update { relation, old, new: input.row()? }
        }
        b'D' => {
            let relation = input.u32()?;
            let old = match input.u8()? {
                b'K' => Old::Key(input.row()?),
                b'O' => Old::Full(input.row()?),
                _ => return None,
            };
            Message::Delete { relation, old }
        }
        b'T' => {
            let count = input.u32()?;
            let _options = input.u8()?;
            Message::Truncate { relations: (0..count).map(|_| input.u32()).collect::<Option<_>>()? }
        }
        b'O' | b'Y' | b'M' => Message::Other,
        _ => return None,
    })
}

fn read_relation(input: &mut Input<'_>) -> Option<RelationMessage> {
    let oid = input.u32()?;
    let schema = input.text()?;
    // an empty namespace stands for pg_catalog
    let schema = if schema.is_empty() { "pg_catalog".to_owned() } else { schema };
    let name = input.text()?;
    let identity = input.u8()?;
    let count = input.u16()?;
    let columns = (0..count)
        .map(|_| {
            Some(RelationColumn {
                in_identity: input.u8()? & 1 == 1,
                name: input.text()?,
                type_oid: input.u32()?,
                typmod: input.u32()?.cast_signed(),
            })
        })
        .collect::<Option<_>>()?;
    Some(RelationMessage { oid, schema, name, identity, columns })
}

/// A cursor that ends in `None`, never in a panic.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn fixed<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.fixed::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.fixed().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.fixed().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.fixed().map(u64::from_be_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.fixed().map(i64::from_be_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let (text, rest) = self.0.split_at_checked(end)?;
        self.0 = rest.get(1..)?;
        String::from_utf8(text.to_vec()).ok()
    }

    fn row(&mut self) -> Option<Row<'a>> {
        Row::read(&mut self.0).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Cell;

    /// An update of a key column, as recorded: old key 1, new row (2, unchanged, NULL).
    fn key_update() -> Vec<u8> {
        let mut bytes = b"U\0\0\0\x07K\0\x03t\0\0\0\x011nn".to_vec();
        bytes.extend(b"N\0\x03t\0\0\0\x012un");
        bytes
    }

    #[test]
    fn a_key_update_carries_both_rows() {
        let bytes = key_update();
        let Message::Update { relation: 7, old: Some(Old::Key(old)), new } =
            read_message(&bytes).unwrap()
        else {
            panic!("not an update with an old key")
        };
        assert_eq!(old.cell(0), Cell::Text(b"1"));
        assert_eq!(
            new.cells().collect::<Vec<_>>(),
            [Cell::Text(b"2"), Cell::Unchanged, Cell::Null]
        );
    }

    #[test]
    fn a_message_cut_anywhere_is_an_error() {
        let bytes = key_update();
        for end in 0..bytes.len() {
            assert!(read_message(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            drop(read_message(&bytes));
        }

        #[test]
        fn no_damaged_message_panics(at in 0usize..key_update().len(), byte: u8) {
            let mut bytes = key_update();
            bytes[at] = byte;
            drop(read_message(&bytes));
        }
    }
}
