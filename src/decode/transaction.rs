//! From messages to change events: what transaction a change belongs to, and its order in it.
//!
//! Knows the relations it was given, never where they come from: a change of a table it was not told
//! about is an error of the caller's.

use std::sync::Arc;

use hashbrown::HashMap;

use super::pgoutput::{Message, Old, RelationMessage, read_message};
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
    relations: HashMap<u32, Arc<Relation>>,
    mark: Mark,
    ord: i64,
}

impl Decoder {
    /// Makes a relation known, in place of an earlier one with its OID.
    pub fn install(&mut self, relation: Arc<Relation>) {
        self.relations.insert(relation.oid, relation);
    }

    /// A relation that was installed.
    pub fn relation(&self, oid: u32) -> Option<&Arc<Relation>> {
        self.relations.get(&oid)
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
        Some((self.relations.get(&oid)?.clone(), order))
    }

    /// Decodes one record.
    pub fn decode<'a>(&mut self, bytes: &'a [u8]) -> Result<Decoded<'a>> {
        Ok(match read_message(bytes)? {
            Message::Begin { final_lsn, committed_at, xid } => {
                self.mark = Mark { seq: final_lsn.as_i64(), committed_at, xid };
                self.ord = 0;
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
        let relation = self.relations.get(&oid).ok_or_else(|| {
            Error::bug(format!("a change arrived for table {oid}, whose shape was not told"))
        })?;
        let old = old.map(|old| match old {
            Old::Key(row) => OldRow { row, whole: false },
            Old::Full(row) => OldRow { row, whole: true },
        });
        let order = Order { seq: self.mark.seq, ord: self.ord };
        Ok(ChangeEvent { relation: relation.clone(), op, old, new, order, mark: self.mark })
    }
}
