//! Transactions that the source sends in chunks while they are open: into the spool, and from there into
//! the window once they are committed, by the road of all messages.
//!
//! What cannot be spooled, or read again, loses nothing: the session begins anew and asks for large
//! transactions whole, as they are sent at their commit.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::watch;

use super::folding::{Arrival, Folding};
use super::shared::Shared;
use super::wall::Wall;
use crate::capture::spool::{Kind as Record, Spool};
use crate::decode::Streamed;
use crate::error::{Error, Kind, Result};
use crate::journey::Mark;

/// So many records are replayed before others may run, and before a stop is looked for.
const AT_ONCE: u32 = 1_000;

/// The transactions that come in chunks.
pub(super) struct Streams {
    shared: Arc<Shared>,
    /// none where large transactions arrive whole
    spool: Option<Spool>,
    stop: watch::Receiver<bool>,
}

impl Streams {
    /// An empty spool, whatever lay in the connector's folder. A folder that cannot be written costs only
    /// the chunks.
    pub(super) fn open(shared: &Arc<Shared>, stop: watch::Receiver<bool>) -> Streams {
        let setup = &shared.setup;
        let folder = setup.settings.spool_path.join(&setup.connector.name);
        let opened = Spool::open(&folder, shared.fence.epoch(), setup.quota.clone());
        if let Err(error) = &opened {
            tracing::warn!(
                connector = setup.connector.name,
                remedy =
                    "make the folder writable, or set spool.path in siltstone.yaml to one that is",
                "{} cannot be used: {error}; large transactions arrive whole at their commit",
                folder.display()
            );
        }
        let whole = setup.whole.load(Ordering::Relaxed);
        setup.board.spooled(0);
        Streams { shared: shared.clone(), spool: opened.ok().filter(|_| !whole), stop }
    }

    /// Whether the source may send transactions in chunks.
    pub(super) fn are_taken(&self) -> bool {
        self.spool.is_some()
    }

    /// Takes a message about a transaction in chunks. False if we were told to stop in the middle of one
    /// that is replayed.
    pub(super) async fn take(
        &mut self,
        message: Streamed<'_>,
        arrival: Arrival,
        (folding, wall): (&mut Folding, &mut Wall),
    ) -> Result<bool> {
        let spool = self.spool.as_mut().ok_or_else(not_asked_for)?;
        let written = match message {
            Streamed::Start { xid, first } => spool.start(xid, first),
            Streamed::Part { xid, tag, body } => {
                let kind =
                    if tag == b'R' { Record::Relation(arrival.number) } else { Record::Message };
                let body = wall.part((tag, body), folding).await?;
                return match spool.append(xid, kind, tag, body) {
                    Ok(()) => Ok(true),
                    Err(error) => Err(self.give_up(error)),
                };
            }
            Streamed::Stop => spool.stop(),
            Streamed::Nothing => return Ok(true),
            Streamed::Abort { xid, subxid } => spool.abort(xid, subxid),
            Streamed::Commit { xid, final_lsn, end_lsn, committed_at } => {
                let mark = Mark { seq: final_lsn.as_i64(), committed_at, xid };
                folding.begin_replay(mark);
                if !self.replay(xid, arrival, folding).await? {
                    return Ok(false);
                }
                folding.end_replay(end_lsn, committed_at, arrival.log_end);
                Ok(())
            }
        };
        written.map_err(|error| self.give_up(error))?;
        let bytes = self.spool.as_ref().map_or(0, Spool::bytes);
        self.shared.setup.board.spooled(bytes);
        Ok(true)
    }

    /// Takes the beginning of a message that was too long: whether that matters is known at the commit.
    pub(super) fn take_oversized(&mut self, message: &Streamed<'_>, length: usize) -> Result<()> {
        let spool = self.spool.as_mut().ok_or_else(not_asked_for)?;
        let Streamed::Part { xid, tag, body } = message else { return Ok(()) };
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        // the table's OID: what follows may be a value that nobody may see
        let oid = body.get(..4).unwrap_or(body);
        let written = spool.append(*xid, Record::Oversized(length), *tag, oid);
        written.map_err(|error| self.give_up(error))
    }

    async fn replay(&mut self, xid: u32, commit: Arrival, folding: &mut Folding) -> Result<bool> {
        let spool = self.spool.as_mut().ok_or_else(not_asked_for)?;
        let mut replay = spool.replay(xid).map_err(|error| self.give_up(error))?;
        let mut left = 0;
        loop {
            if left == 0 {
                left = AT_ONCE;
                tokio::task::yield_now().await;
                if *self.stop.borrow() {
                    return Ok(false);
                }
            }
            left -= 1;
            let record = replay.next_record().map_err(|error| self.give_up(error))?;
            match record {
                None => return Ok(true),
                Some((Record::Message, message)) => folding.take(message, commit).await?,
                Some((Record::Relation(number), message)) => {
                    folding.take(message, Arrival { number, ..commit }).await?;
                }
                Some((Record::Oversized(length), head)) => {
                    let length = usize::try_from(length).unwrap_or(usize::MAX);
                    folding.take_oversized(head, length)?;
                }
            }
            folding.gate.hand_over_if_full().await?;
        }
    }

    /// From now on large transactions arrive whole. The error ends the session; the next one asks for
    /// them so.
    fn give_up(&self, error: io::Error) -> Error {
        let setup = &self.shared.setup;
        setup.whole.store(true, Ordering::Relaxed);
        setup.board.spool_gave_up();
        let what = "the spool cannot take open transactions: large ones arrive whole at their commit, \
            until siltstone is started again";
        Error::new(Kind::Busy, what)
            .remedy(
                "raise spool.max in siltstone.yaml, or make room at spool.path, and start it again",
            )
            .because(error)
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.shared.setup.board.spooled(0);
    }
}

fn not_asked_for() -> Error {
    Error::bug("the source sends an open transaction in chunks, which it was not asked for")
}
