//! From the queues of partitions to the gate: which partition has its turn, and when a batch leaves. Batches go
//! to the apply lane as soon as the lane is idle, or when the window is full.
//!
//! It stops taking records while both hands are full, so Kafka itself is the buffer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::super::core::{CaughtUp, Core};
use super::super::gate::{Gate, lane_is_gone};
use super::super::intake::End;
use super::super::lane::Progress;
use super::intake::{Here, Partition};
use super::plans::Topics;
use super::tables::Tables;
use super::whole::{Awaited, Step, Whole};
use crate::capture::topics::{Next, Queue, Reading};
use crate::error::Result;
use crate::spec::Kafka;

/// Records of one partition that are taken before the next one has its turn.
const TURN: usize = 2_000;

/// How often rows that wait for a delete under their former key are looked after.
const ARRIVALS_EVERY: Duration = Duration::from_millis(200);

/// The reading task's state.
pub(super) struct Intake {
    pub(super) shared: Arc<Core>,
    pub(super) connector: Arc<Kafka>,
    pub(super) gate: Gate,
    pub(super) tables: Tables,
    pub(super) reading: Reading,
    pub(super) partitions: Vec<Partition>,
    pub(super) topics: Topics,
    /// where transactions are applied as a whole
    pub(super) whole: Option<Whole>,
    /// what that waits for
    pub(super) awaited: watch::Sender<Option<Awaited>>,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) caught_up: mpsc::Sender<CaughtUp>,
    pub(super) stop: watch::Receiver<bool>,
    /// when arrivals were looked after last
    pub(super) looked: Instant,
    /// the row that is being written, in the form in which it is kept
    pub(super) scratch: Vec<u8>,
}

/// What came of a look at a queue.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    Records,
    Nothing,
}

impl Intake {
    /// Reads until told to stop, or until a queue or the lane fails.
    pub(super) async fn run(mut self) -> Result<End> {
        loop {
            let mut taken = Taken::Nothing;
            for at in 0..self.partitions.len() {
                if self.turn(at).await? == Taken::Records {
                    taken = Taken::Records;
                }
                if *self.stop.borrow() {
                    break;
                }
            }
            self.look_after_arrivals().await?;
            if *self.stop.borrow() {
                self.finish().await?;
                return Ok(End::Stopped);
            }
            if self.topics.is_any_unreadable() && self.whole_is_complete() {
                // what is committed decides whether such a topic rests
                self.finish().await?;
                return Ok(End::Restart);
            }
            if taken == Taken::Records {
                // those who wait for the processor have their turn as well
                tokio::task::yield_now().await;
                continue;
            }
            self.when_drained().await?;
            let arrivals = self.looked + ARRIVALS_EVERY;
            let began = Instant::now();
            tokio::select! {
                () = self.reading.filled() => {}
                changed = self.progress.changed() => lane_lives(changed)?,
                changed = self.gate.flows.changed() => lane_lives(changed)?,
                stopped = self.stop.changed() => lane_lives(stopped)?,
                () = tokio::time::sleep_until(arrivals) => {}
            }
            if let Some(whole) = &mut self.whole {
                whole.note_idle(began.elapsed());
            }
        }
    }

    /// Takes what a queue has, up to a number of records.
    async fn turn(&mut self, at: usize) -> Result<Taken> {
        let mut taken = Taken::Nothing;
        let version = self.whole.as_ref().map(Whole::version);
        if self.partitions.get(at).is_some_and(|it| it.waits.is_some() && it.waits == version) {
            return Ok(Taken::Nothing);
        }
        for _ in 0..TURN {
            let Some(queue) = self.reading.queues.get_mut(at) else { break };
            // of a queue only the record is borrowed
            let next = Queue::take(queue)?;
            let record = match next {
                Next::Record(record) => record,
                Next::Nothing => break,
                Next::End => {
                    // more may have come behind it, of which nobody tells us again
                    self.reach_end(at);
                    continue;
                }
            };
            let mut here = Here {
                shared: &self.shared,
                connector: &self.connector,
                gate: &mut self.gate,
                tables: &mut self.tables,
                topics: &mut self.topics,
                whole: &mut self.whole,
                scratch: &mut self.scratch,
            };
            let Some(partition) = self.partitions.get_mut(at) else { break };
            let headers = record.headers();
            let step = here.take(&record.with(headers.all()), partition).await?;
            if step == Step::Waits {
                drop(headers);
                let record = record.detach();
                partition.waits = self.whole.as_ref().map(Whole::version);
                if let Some(queue) = self.reading.queues.get_mut(at) {
                    queue.put_back(record);
                }
                break;
            }
            taken = Taken::Records;
            partition.waits = None;
            let Some(stretch) = self.gate.reach.stretches.get_mut(at) else { break };
            stretch.until = record.offset() + 1;
            let topic = partition.topic;
            self.settle_whole().await?;
            self.gate.hand_over_if_full().await?;
            if self.topics.is_unreadable(topic) && self.whole_is_complete() {
                break;
            }
        }
        Ok(taken)
    }

    /// All is read that a partition had as the session began. Its end may lie behind the last record: where a
    /// transactional producer writes, markers of Kafka's own are there, which nobody is given.
    fn reach_end(&mut self, at: usize) {
        let end = self.partitions.get(at).map_or(0, |partition| partition.end);
        if let Some(stretch) = self.gate.reach.stretches.get_mut(at) {
            stretch.until = stretch.until.max(end);
        }
    }

    fn whole_is_complete(&self) -> bool {
        self.whole.as_ref().is_none_or(Whole::is_complete)
    }

    /// Lets the batch end where every transaction of it has come as a whole.
    async fn settle_whole(&mut self) -> Result<()> {
        let Some(whole) = &self.whole else { return Ok(()) };
        let complete = whole.is_complete();
        self.gate.window.set_unfinished(!complete);
        if !complete {
            return Ok(());
        }
        if let Some(at) = whole.ends_come_by()
            && let Some(partition) = self.partitions.get_mut(at)
            && partition.memory.ended != whole.passed()
        {
            partition.memory.ended = whole.passed();
            self.gate.reach.remember(at, &partition.memory);
        }
        // the warehouse transaction that waits must not wait for more
        if self.gate.is_midway { self.gate.hand_over().await } else { Ok(()) }
    }

    fn lane_is_idle(&self) -> bool {
        self.progress.borrow().done == self.gate.sent
    }

    /// Everything that had been fetched is folded: it leaves, if the lane can take it.
    async fn when_drained(&mut self) -> Result<()> {
        if !self.lane_is_idle() {
            return Ok(());
        }
        if !self.whole_is_complete() {
            return Ok(());
        }
        let gate = &mut self.gate;
        if !gate.window.is_empty() {
            gate.hand_over().await?;
        } else if gate.owes_routing() {
            gate.adopt_flows();
            gate.hand_over().await?;
        } else if gate.reach.is_beyond() {
            // records that were about nothing
            gate.hand_over().await?;
        }
        Ok(())
    }

    /// Asks for the kept changes of tables in which rows wait for a delete under their former key.
    async fn look_after_arrivals(&mut self) -> Result<()> {
        if self.looked.elapsed() < ARRIVALS_EVERY {
            return Ok(());
        }
        self.looked = Instant::now();
        if let Some(whole) = &mut self.whole {
            let waits = self.partitions.iter().any(|partition| partition.waits.is_some());
            let awaited = whole.awaited(waits);
            self.awaited.send_if_modified(|told| {
                let is_new = *told != awaited;
                *told = awaited;
                is_new
            });
        }
        self.settle_whole().await?;
        // in this order: what is told of a table later was found with those pieces in the warehouse
        let done = self.progress.borrow().done;
        let settled = !self.gate.routing_changed();
        for table in self.gate.router.ask_for_arrivals(done, settled) {
            self.caught_up.send(table).await.map_err(|_| lane_is_gone())?;
        }
        Ok(())
    }

    /// We are told to stop: what was read is stored.
    async fn finish(&mut self) -> Result<()> {
        if !self.whole_is_complete() {
            // what has come of it comes again
            return Ok(());
        }
        if !self.gate.window.is_empty() || self.gate.reach.is_beyond() {
            self.gate.hand_over().await?;
        }
        Ok(())
    }
}

fn lane_lives(changed: Result<(), watch::error::RecvError>) -> Result<()> {
    changed.map_err(|_| lane_is_gone())
}
