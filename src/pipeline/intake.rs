//! From the source's stream to the window: reads frames, and hands a batch to the apply lane as soon as
//! the lane is idle, or when the window is full.
//!
//! It waits for the lane when both hands are full, so the source's own log is the buffer; and it never
//! waits while the source asks whether we live: the writing half answers by itself.

use std::time::Duration;

use tokio::sync::watch;

use super::folding::{Arrival, Folding};
use super::gate::lane_is_gone;
use super::lane::Progress;
use super::streamed::Streams;
use super::wall::Wall;
use crate::capture::replication::{Frame, Reader};
use crate::error::Result;
use crate::position::Lsn;

/// An idle source's position is stored this often: each time is a warehouse transaction, and where
/// both are one cluster it makes the log that it confirms.
const IDLE_STORE_EVERY: Duration = Duration::from_secs(10);

/// But at once when this much log has passed, so that the source can let go of it.
const IDLE_STORE_BYTES: u64 = 16 << 20;

/// How a session ends without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// We were told to stop.
    Stopped,
    /// Everything that was at the source at the start is in the warehouse.
    CaughtUp,
    /// Something changed that a new session takes up.
    Restart,
}

/// The reading task's state.
pub(super) struct Intake {
    reader: Reader,
    folding: Folding,
    streams: Streams,
    wall: Wall,
    progress: watch::Receiver<Progress>,
    awaited: watch::Receiver<Lsn>,
    /// changes when the source asks for an answer
    asked: watch::Sender<u64>,
    stop: watch::Receiver<bool>,
    /// messages that arrived
    arrived: u64,
}

/// What came of a look for a frame.
enum Taken {
    Frame,
    Nothing,
    /// told to stop in the middle of a transaction: what is folded of it must not be handed over
    Stopped,
}

impl Intake {
    pub(super) fn new(
        (reader, folding): (Reader, Folding),
        (streams, wall): (Streams, Wall),
        progress: watch::Receiver<Progress>,
        asked: watch::Sender<u64>,
        stop: watch::Receiver<bool>,
    ) -> Intake {
        let awaited = folding.shared.awaited.subscribe();
        Intake { reader, folding, streams, wall, progress, awaited, asked, stop, arrived: 0 }
    }

    /// Reads until told to stop, or until the connection or the lane fails.
    pub(super) async fn run(mut self) -> Result<End> {
        loop {
            loop {
                match self.take_frame().await? {
                    Taken::Frame => self.folding.gate.hand_over_if_full().await?,
                    Taken::Nothing => break,
                    Taken::Stopped => return Ok(End::Stopped),
                }
            }
            self.when_drained().await?;
            if *self.stop.borrow() {
                self.finish().await?;
                return Ok(End::Stopped);
            }
            let gate = &mut self.folding.gate;
            let (sent_at, is_beyond) = (gate.sent_at, gate.reach.is_beyond());
            tokio::select! {
                filled = self.reader.fill() => filled?,
                changed = self.progress.changed() => lane_lives(changed)?,
                changed = gate.flows.changed() => lane_lives(changed)?,
                changed = self.awaited.changed() => lane_lives(changed)?,
                stopped = self.stop.changed() => lane_lives(stopped)?,
                () = tokio::time::sleep_until(sent_at + IDLE_STORE_EVERY), if is_beyond => {}
            }
        }
    }

    fn lane_is_idle(&self) -> bool {
        self.progress.borrow().done == self.folding.gate.sent
    }

    /// Everything that had arrived is folded: what is whole leaves, if the lane can take it.
    async fn when_drained(&mut self) -> Result<()> {
        if !self.folding.gate.window.at_boundary() || !self.lane_is_idle() {
            return Ok(());
        }
        let due = self.idle_store_is_due();
        let gate = &mut self.folding.gate;
        if !gate.window.is_empty() {
            gate.hand_over().await?;
        } else if gate.owes_routing() {
            gate.adopt_flows();
            gate.hand_over().await?;
        } else if due {
            gate.hand_over().await?;
        }
        Ok(())
    }

    fn idle_store_is_due(&self) -> bool {
        let Folding { gate, shared, .. } = &self.folding;
        let behind = self.folding.behind();
        let awaited = *self.awaited.borrow();
        let awaited = self.folding.sent_until() < awaited && awaited <= self.folding.until();
        let hurried = shared.setup.until_caught_up || *self.stop.borrow() || awaited;
        behind >= IDLE_STORE_BYTES
            || (behind > 0 && (hurried || gate.sent_at.elapsed() >= IDLE_STORE_EVERY))
    }

    /// We are told to stop: what is whole is stored, an open transaction is left to the next start.
    async fn finish(&mut self) -> Result<()> {
        let gate = &mut self.folding.gate;
        let something = !gate.window.is_empty() || gate.reach.is_beyond();
        if gate.window.at_boundary() && something {
            gate.hand_over().await?;
        }
        Ok(())
    }

    /// Takes the next frame that has arrived, if one has.
    async fn take_frame(&mut self) -> Result<Taken> {
        let Intake { reader, folding, streams, wall, arrived, .. } = self;
        let Some(frame) = reader.next_buffered()? else { return Ok(Taken::Nothing) };
        match frame {
            Frame::Record(record) => {
                *arrived += 1;
                let arrival = Arrival { number: *arrived, log_end: record.end };
                match folding.decoder.streamed(record.bytes)? {
                    None => {
                        let message = wall.message(record.bytes, folding).await?;
                        folding.take(message, arrival).await?;
                    }
                    Some(streamed) => {
                        if !streams.take(streamed, arrival, (folding, wall)).await? {
                            return Ok(Taken::Stopped);
                        }
                    }
                }
            }
            Frame::Keepalive { end, reply } => {
                let window = &folding.gate.window;
                if window.at_boundary() && window.is_empty() && end > folding.until() {
                    folding.set_until(end);
                }
                folding.shared.setup.board.received(folding.until(), end, None);
                if reply {
                    self.asked.send_modify(|count| *count += 1);
                }
            }
            Frame::Oversized { head, length } => match folding.decoder.streamed(head)? {
                None => folding.take_oversized(head, length)?,
                Some(part) => streams.take_oversized(&part, length)?,
            },
        }
        Ok(Taken::Frame)
    }
}

fn lane_lives(changed: Result<(), watch::error::RecvError>) -> Result<()> {
    changed.map_err(|_| lane_is_gone())
}
