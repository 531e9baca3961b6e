//! From messages to change events: what transaction a change belongs to, and its order in it.
//!
//! Knows the relations it was given, never where they come from: a change of a table it was not told
//! about is an error of the caller's.

use std::sync::Arc;

use hashbrown::HashMap;

use super::pgoutput::{Message, Old, RelationMessage, Streamed, read_message, read_streamed};
use crate::error::{Error, Result};
use crate::journey::{ChangeEvent, Mark, OldRow, Op};
use crate::position::{Lsn, Order};
use crate::relation::Relation;

/// What a record of the stream means.
#[derive(Debug)]
pub enum Decoded<'a> {
    /// A transaction starts, whose commit record starts at this position.
    Begin(Lsn),
    /// A row changed.
    Change(ChangeEvent<'a>),
    /// Tables were emptied; one event a table we know.
    Truncate(Vec<ChangeEvent<'a>>),
    /// A table's shape: to be resolved and installed before its next change.
    Relation(RelationMessage),
    /// The transaction is complete.
    Commit {
        /// The position behind its commit record.
        end: Lsn,
        /// Its commit time, microseconds since 2000-01-01 UTC.
        committed_at: i64,
    },
    /// Nothing for us.
    Nothing,
}

/// Turns records into events.
#[derive(Default)]
pub struct Decoder {
    relations: HashMap<u32, Told>,
    /// what was told later than a transaction that is replayed told it
    later: HashMap<u32, Told>,
    mark: Mark,
    ord: i64,
    /// a chunk of an open transaction has begun
    in_chunk: bool,
}

/// A relation, and the number of the record that told it.
struct Told {
    relation: Arc<Relation>,
    at: u64,
}

impl Decoder {
    /// Makes a relation known, in place of another one with its OID. `at` numbers the record that told
    /// it, in the order of their arrival.
    pub fn install(&mut self, relation: Arc<Relation>, at: u64) {
        let oid = relation.oid;
        let known = self.relations.insert(oid, Told { relation, at });
        if let Some(known) = known.filter(|known| known.at > at) {
            self.later.entry(oid).or_insert(known);
        }
    }

    /// A relation that was installed.
    pub fn relation(&self, oid: u32) -> Option<&Arc<Relation>> {
        self.relations.get(&oid).map(|told| &told.relation)
    }

    /// Reads a record if it is about a transaction that is sent in chunks while it is open.
    pub fn streamed<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<Streamed<'a>>> {
        let streamed = read_streamed(bytes, self.in_chunk)?;
        match streamed {
            Some(Streamed::Start { .. }) => self.in_chunk = true,
            Some(Streamed::Stop) => self.in_chunk = false,
            _ => {}
        }
        Ok(streamed)
    }

    /// Begins a transaction whose changes come next.
    pub fn begin(&mut self, mark: Mark) {
        self.mark = mark;
        self.ord = 0;
    }

    /// A transaction that was sent in chunks has been replayed. Of what the source told while the chunks
    /// came it tells nothing again: the tables whose relation is the later one from now on.
    pub fn end_replay(&mut self) -> Vec<u32> {
        let mut changed = Vec::new();
        for (oid, told) in self.later.drain() {
            if self.relations.get(&oid).is_none_or(|known| known.at < told.at) {
                self.relations.insert(oid, told);
                changed.push(oid);
            }
        }
        changed
    }

    /// Goes on in the middle of a transaction: the next change has this order and mark.
    pub fn resume(&mut self, mark: Mark, order: Order) {
        self.mark = mark;
        self.ord = order.ord - 1;
    }

    /// Counts a row's change of which only the first bytes are there; the table and order it has, if it
    /// is one.
    pub fn oversized(&mut self, head: &[u8]) -> Option<(Arc<Relation>, Order)> {
        let (tag, oid) = head.split_first()?;
        let oid = u32::from_be_bytes(*oid.first_chunk()?);
        if !matches!(tag, b'I' | b'U' | b'D') {
            return None;
        }
        self.ord += 1;
        let order = Order { seq: self.mark.seq, ord: self.ord };
        Some((self.relation(oid)?.clone(), order))
    }

    /// Decodes one record.
    pub fn decode<'a>(&mut self, bytes: &'a [u8]) -> Result<Decoded<'a>> {
        Ok(match read_message(bytes)? {
            Message::Begin { final_lsn, committed_at, xid } => {
                self.begin(Mark { seq: final_lsn.as_i64(), committed_at, xid });
                Decoded::Begin(final_lsn)
            }
            Message::Commit { end_lsn } => {
                Decoded::Commit { end: end_lsn, committed_at: self.mark.committed_at }
            }
            Message::Relation(message) => Decoded::Relation(message),
            Message::Insert { relation, new } => {
                Decoded::Change(self.event(relation, Op::Create, None, Some(new))?)
            }
            Message::Update { relation, old, new } => {
                Decoded::Change(self.event(relation, Op::Update, old, Some(new))?)
            }
            Message::Delete { relation, old } => {
                Decoded::Change(self.event(relation, Op::Delete, Some(old), None)?)
            }
            Message::Read { relation, new } => {
                Decoded::Change(self.event(relation, Op::Read, None, Some(new))?)
            }
            Message::Left { relation, old } => {
                let event = self.event(relation, Op::Delete, Some(old), None)?;
                Decoded::Change(ChangeEvent { leaves: true, ..event })
            }
            // a create all the same: only that it knows where its row was before
            Message::Moved { relation, old, new } => {
                Decoded::Change(self.event(relation, Op::Create, Some(old), Some(new))?)
            }
            Message::Truncate { relations } => {
                let known = relations.into_iter().filter(|oid| self.relations.contains_key(oid));
                let known: Vec<u32> = known.collect();
                let events = known.iter().map(|oid| self.event(*oid, Op::Truncate, None, None));
                Decoded::Truncate(events.collect::<Result<_>>()?)
            }
            Message::Other => Decoded::Nothing,
        })
    }

    fn event<'a>(
        &mut self,
        oid: u32,
        op: Op,
        old: Option<Old<'a>>,
        new: Option<crate::value::Row<'a>>,
    ) -> Result<ChangeEvent<'a>> {
        self.ord += 1;
        let relation = self.relation(oid).ok_or_else(|| {
            Error::bug(format!("a change arrived for table {oid}, whose shape was not told"))
        })?;
        let old = old.map(|old| match old {
            Old::Key(row) => OldRow { row, whole: false },
            Old::Full(row) => OldRow { row, whole: true },
        });
        let order = Order { seq: self.mark.seq, ord: self.ord };
        let (relation, mark) = (relation.clone(), self.mark);
        Ok(ChangeEvent { relation, op, old, new, order, mark, leaves: false, place: order })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::TableName;
    use crate::relation::Identity;

    fn relation(comment: &str) -> Arc<Relation> {
        Arc::new(Relation {
            oid: 7,
            table: TableName::new("public", "t"),
            identity: Identity::Key,
            columns: Vec::new(),
            attnums: 0,
            filenode: 0,
            comment: Some(comment.to_owned()),
        })
    }

    fn shown(decoder: &Decoder) -> &str {
        decoder.relation(7).unwrap().comment.as_deref().unwrap()
    }

    #[test]
    fn behind_a_replay_the_relation_that_was_told_last_is_known() {
        let mut decoder = Decoder::default();
        decoder.install(relation("told whole"), 9);
        decoder.begin(Mark::default());
        decoder.install(relation("told in a chunk before"), 5);
        assert_eq!(shown(&decoder), "told in a chunk before");
        assert_eq!(decoder.end_replay(), [7]);
        assert_eq!(shown(&decoder), "told whole");
        decoder.install(relation("told in a chunk before"), 5);
        decoder.install(relation("told in a chunk behind"), 12);
        assert_eq!(decoder.end_replay(), [0; 0]);
        assert_eq!(shown(&decoder), "told in a chunk behind");
    }

    #[test]
    fn a_chunk_lasts_until_its_stop() {
        let mut decoder = Decoder::default();
        let insert = b"I\0\0\0\x09\0\0\0\x07N\0\0";
        assert!(decoder.streamed(insert).unwrap().is_none());
        decoder.streamed(b"S\0\0\0\x08\x01").unwrap();
        let part = decoder.streamed(insert).unwrap();
        assert!(matches!(part, Some(Streamed::Part { xid: 9, tag: b'I', .. })), "{part:?}");
        decoder.streamed(b"E").unwrap();
        assert!(decoder.streamed(insert).unwrap().is_none());
    }
}
