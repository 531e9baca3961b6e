//! Reads the messages of the pgoutput plugin, protocol version 2.
//!
//! Pure and total: any bytes give a message or an error, never a panic. It copies nothing but a
//! Relation's names. It keeps no state: whether a message stands in a chunk of an open transaction, where
//! its form is another, the caller says.
//!
//! Source: PostgreSQL documentation, "Logical Replication Message Formats".

mod message;

use crate::error::{Error, Result};
use crate::position::Lsn;
use crate::value::Row;

pub(super) use message::{LEFT, MOVED, READ};
pub use message::{Message, Old, RelationColumn, RelationMessage, Streamed};

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

/// Reads one message of a whole transaction.
pub fn read_message(bytes: &[u8]) -> Result<Message<'_>> {
    read(&mut Input(bytes)).ok_or_else(|| malformed(bytes))
}

/// Reads one message that is about a transaction in chunks; none if it is not. `in_chunk` says whether
/// it stands between Start and Stop.
pub(super) fn read_streamed(bytes: &[u8], in_chunk: bool) -> Result<Option<Streamed<'_>>> {
    if !in_chunk && !matches!(bytes.first(), Some(b'S' | b'c' | b'A')) {
        return Ok(None);
    }
    let read = match in_chunk {
        true => read_part(&mut Input(bytes)),
        false => read_between(&mut Input(bytes)),
    };
    read.map(Some).ok_or_else(|| malformed(bytes))
}

fn malformed(bytes: &[u8]) -> Error {
    let kind = bytes.first().map_or(' ', |byte| char::from(*byte));
    Error::bug(format!("a pgoutput message of kind {kind:?} is malformed or out of place"))
}

fn read_part<'a>(input: &mut Input<'a>) -> Option<Streamed<'a>> {
    Some(match input.u8()? {
        tag @ (b'R' | b'I' | b'U' | b'D' | b'T') => {
            Streamed::Part { xid: input.u32()?, tag, body: input.0 }
        }
        b'O' | b'Y' | b'M' => Streamed::Nothing,
        b'E' => Streamed::Stop,
        _ => return None,
    })
}

fn read_between<'a>(input: &mut Input<'a>) -> Option<Streamed<'a>> {
    Some(match input.u8()? {
        b'S' => Streamed::Start { xid: input.u32()?, first: input.u8()? == 1 },
        b'A' => Streamed::Abort { xid: input.u32()?, subxid: input.u32()? },
        b'c' => {
            let xid = input.u32()?;
            let _flags = input.u8()?;
            Streamed::Commit {
                xid,
                final_lsn: Lsn(input.u64()?),
                end_lsn: Lsn(input.u64()?),
                committed_at: input.i64()?,
            }
        }
        _ => return None,
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
        b'D' => Message::Delete { relation: input.u32()?, old: input.old()? },
        READ => {
            let relation = input.u32()?;
            (input.u8()? == b'N').then_some(())?;
            Message::Read { relation, new: input.row()? }
        }
        LEFT => Message::Left { relation: input.u32()?, old: input.old()? },
        MOVED => {
            let (relation, old) = (input.u32()?, input.old()?);
            (input.u8()? == b'N').then_some(())?;
            Message::Moved { relation, old, new: input.row()? }
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

    fn old(&mut self) -> Option<Old<'a>> {
        Some(match self.u8()? {
            b'K' => Old::Key(self.row()?),
            b'O' => Old::Full(self.row()?),
            _ => return None,
        })
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

    /// Messages about the transaction 258 in chunks, as the documentation gives their form.
    #[test]
    fn a_chunk_and_its_end_are_read() {
        let read = |bytes: &'static [u8], in_chunk| read_streamed(bytes, in_chunk).unwrap();
        let start = Streamed::Start { xid: 258, first: true };
        assert_eq!(read(b"S\0\0\x01\x02\x01", false), Some(start));
        let start = Streamed::Start { xid: 258, first: false };
        assert_eq!(read(b"S\0\0\x01\x02\0", false), Some(start));
        assert_eq!(read(b"E", true), Some(Streamed::Stop));
        let abort = Streamed::Abort { xid: 258, subxid: 259 };
        assert_eq!(read(b"A\0\0\x01\x02\0\0\x01\x03", false), Some(abort));
        let commit = b"c\0\0\x01\x02\0\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x05";
        let (final_lsn, end_lsn) = (Lsn(7), Lsn(9));
        let whole = Streamed::Commit { xid: 258, final_lsn, end_lsn, committed_at: 5 };
        assert_eq!(read(commit, false), Some(whole));
        for end in 1..commit.len() {
            assert!(read_streamed(&commit[..end], false).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_part_is_the_message_of_a_whole_transaction_with_an_xid() {
        let whole = key_update();
        let mut bytes = whole.clone();
        bytes.splice(1..1, [0, 0, 1, 3]);
        let Some(Streamed::Part { xid: 259, tag, body }) = read_streamed(&bytes, true).unwrap()
        else {
            panic!("not a part")
        };
        assert_eq!([&[tag], body].concat(), whole);
        assert_eq!(read_streamed(&whole, false).unwrap(), None);
    }

    #[test]
    fn a_message_out_of_its_place_is_an_error() {
        for bytes in [b"B\0\0\0\0".as_slice(), b"C\0", b"S\0\0\0\x01\x01", b"c", b"A"] {
            assert!(read_streamed(bytes, true).is_err(), "{bytes:?} in a chunk");
        }
        assert!(read_message(b"E").is_err(), "the end of a chunk that has not begun");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            drop(read_message(&bytes));
            drop(read_streamed(&bytes, true));
            drop(read_streamed(&bytes, false));
        }

        #[test]
        fn no_damaged_message_panics(at in 0usize..key_update().len(), byte: u8) {
            let mut bytes = key_update();
            bytes[at] = byte;
            drop(read_message(&bytes));
        }
    }
}
