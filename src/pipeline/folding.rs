//! From messages to batches: decodes one message after the other and takes its events through the gate.
//!
//! It does not know whether a message comes from the source just now or lay in the spool: both give the
//! same events, in the same order.

use std::sync::Arc;

use super::gate::Gate;
use super::reshape::resolve;
use super::shared::Shared;
use crate::decode::{Decoded, Decoder, RelationMessage};
use crate::error::{Error, Kind, Result};
use crate::journey::Mark;
use crate::names::TableName;
use crate::position::Lsn;
use crate::postgres::Session;
use crate::relation::Relation;

/// What takes messages.
pub(super) struct Folding {
    pub(super) shared: Arc<Shared>,
    pub(super) gate: Gate,
    /// for the catalogue
    pub(super) source: Session,
    pub(super) decoder: Decoder,
}

/// How a message arrived.
#[derive(Clone, Copy)]
pub(super) struct Arrival {
    /// its number among all of the session
    pub(super) number: u64,
    /// the end of the source's log then
    pub(super) log_end: Lsn,
}

impl Folding {
    /// Behind the last commit, or where the source says that nothing is left.
    pub(super) fn until(&self) -> Lsn {
        self.gate.reach.stretches.first().map_or(Lsn(0), |stretch| Lsn::from_i64(stretch.until))
    }

    /// Behind what was handed over.
    pub(super) fn sent_until(&self) -> Lsn {
        self.gate.reach.stretches.first().map_or(Lsn(0), |stretch| Lsn::from_i64(stretch.after))
    }

    /// Notes how far the log was read.
    pub(super) fn set_until(&mut self, until: Lsn) {
        if let Some(stretch) = self.gate.reach.stretches.first_mut() {
            stretch.until = until.as_i64();
        }
    }

    /// Bytes of log that were read behind the last batch.
    pub(super) fn behind(&self) -> u64 {
        let stretch = self.gate.reach.stretches.first();
        stretch
            .map_or(0, |stretch| Lsn::from_i64(stretch.until).since(Lsn::from_i64(stretch.after)))
    }

    /// Begins a transaction whose messages come from the spool.
    pub(super) fn begin_replay(&mut self, mark: Mark) {
        self.decoder.begin(mark);
        self.gate.window.begin(mark.seq);
    }

    /// Ends it. `end` is behind its commit record.
    pub(super) fn end_replay(&mut self, end: Lsn, committed_at: i64, log_end: Lsn) {
        for oid in self.decoder.end_replay() {
            self.gate.router.forget(oid);
        }
        self.commit(end, committed_at, log_end);
    }

    fn commit(&mut self, end: Lsn, committed_at: i64, log_end: Lsn) {
        self.gate.window.commit(committed_at);
        self.set_until(end);
        let board = &self.shared.setup.board;
        board.received(end, log_end.max(end), Some(committed_at));
    }

    /// Takes a message.
    pub(super) async fn take(&mut self, message: &[u8], arrival: Arrival) -> Result<()> {
        match self.decoder.decode(message)? {
            Decoded::Begin(lsn) => self.gate.window.begin(lsn.as_i64()),
            Decoded::Commit { end, committed_at } => {
                self.commit(end, committed_at, arrival.log_end);
            }
            Decoded::Change(event) => self.gate.take(&event, message).await?,
            Decoded::Truncate(events) => {
                for event in events {
                    self.gate.truncate(&event, message).await?;
                }
            }
            Decoded::Relation(told) => self.relation(&told, arrival.number).await?,
            Decoded::Nothing => {}
        }
        Ok(())
    }

    /// Takes the beginning of a message that was too long.
    pub(super) fn take_oversized(&mut self, head: &[u8], length: usize) -> Result<()> {
        let change = self.decoder.oversized(head).ok_or_else(|| oversized(length))?;
        self.gate.router.refuse_oversized((&change.0, change.1), length)
    }

    /// The name under which files know the table that a Relation message describes.
    pub(super) fn known_as(&self, message: &RelationMessage) -> TableName {
        self.gate.router.known_as(message)
    }

    /// The shape that a Relation message tells.
    pub(super) async fn told(&self, message: &RelationMessage) -> Result<Arc<Relation>> {
        let known = self.decoder.relation(message.oid).cloned();
        let known = known.or_else(|| self.gate.router.applied(message));
        let of = (message, &self.known_as(message));
        let relation = resolve(&*self.source, &self.shared, of, known.as_ref()).await?;
        if let Some(column) = relation.text_only().filter(|_| self.shared.binary) {
            let what = format!(
                "{}.{} has a type that travels as text: the stream starts again in text form",
                relation.table, column.name
            );
            return Err(Error::new(Kind::Busy, what));
        }
        Ok(relation)
    }

    /// Takes up the shape that a Relation message tells.
    async fn relation(&mut self, message: &RelationMessage, told: u64) -> Result<()> {
        let relation = self.told(message).await?;
        self.gate.router.forget(relation.oid);
        self.decoder.install(relation, told);
        Ok(())
    }
}

fn oversized(length: usize) -> Error {
    Error::new(Kind::Full, format!("a message of {length} bytes is longer than max_row_bytes"))
        .remedy("raise max_row_bytes (and memory) in siltstone.yaml")
}
