//! From the source's stream to batches: reads, decodes and folds, and hands a batch to the apply lane
//! as soon as the lane is idle, or when the window is full.
//!
//! It waits for the lane when both hands are full, so the source's own log is the buffer; and it never
//! waits while the source asks whether we live: the writing half answers by itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::guard::{Guard, ignores_truncate};
use super::lane::Progress;
use super::router::{Router, resolve};
use super::shared::{Flows, Shared};
use crate::capture::replication::{Frame, Reader};
use crate::decode::{Decoded, Decoder};
use crate::error::{Error, Kind, Result};
use crate::fold::Window;
use crate::journey::{Before, ChangeEvent, Flow};
use crate::merge::{Piece, encode_batch};
use crate::position::{Lsn, Order};
use crate::postgres::Session;

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
    pub(super) shared: Arc<Shared>,
    pub(super) reader: Reader,
    pub(super) router: Router,
    /// for the catalogue
    pub(super) source: Session,
    pub(super) window: Window,
    pub(super) lane: mpsc::Sender<Piece>,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) flows: watch::Receiver<Flows>,
    /// changes when the source asks for an answer
    pub(super) asked: watch::Sender<u64>,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) decoder: Decoder,
    pub(super) at: At,
    pub(super) guard: Guard,
}

/// Where the reading task is.
pub(super) struct At {
    /// batches handed to the lane
    sent: u64,
    /// the version of the flows that the open window is folded under
    routing: u64,
    /// behind the last commit, or where the source says that nothing is left
    until: Lsn,
    /// the position of the last batch
    sent_until: Lsn,
    sent_at: Instant,
}

impl At {
    pub(super) fn new(from: Lsn) -> At {
        At { sent: 0, routing: 0, until: from, sent_until: from, sent_at: Instant::now() }
    }
}

impl Intake {
    /// Reads until told to stop, or until the connection or the lane fails.
    pub(super) async fn run(mut self) -> Result<End> {
        loop {
            while self.take_frame().await? {
                if self.window.is_full() {
                    self.hand_over().await?;
                }
            }
            self.when_drained().await?;
            if *self.stop.borrow() {
                self.finish().await?;
                return Ok(End::Stopped);
            }
            tokio::select! {
                filled = self.reader.fill() => filled?,
                changed = self.progress.changed() => lane_lives(changed)?,
                changed = self.flows.changed() => lane_lives(changed)?,
                stopped = self.stop.changed() => lane_lives(stopped)?,
                () = tokio::time::sleep_until(self.at.sent_at + IDLE_STORE_EVERY),
                    if self.at.until > self.at.sent_until => {}
            }
        }
    }

    fn lane_is_idle(&self) -> bool {
        self.progress.borrow().done == self.at.sent
    }

    /// Everything that had arrived is folded: what is whole leaves, if the lane can take it.
    async fn when_drained(&mut self) -> Result<()> {
        if !self.window.at_boundary() || !self.lane_is_idle() {
            return Ok(());
        }
        if !self.window.is_empty() {
            self.hand_over().await?;
        } else if self.routing_changed() {
            self.adopt_flows();
            self.hand_over().await?;
        } else if self.idle_store_is_due() {
            self.hand_over().await?;
        }
        Ok(())
    }

    fn idle_store_is_due(&self) -> bool {
        let behind = self.at.until.since(self.at.sent_until);
        let hurried = self.shared.setup.until_caught_up || *self.stop.borrow();
        behind >= IDLE_STORE_BYTES
            || (behind > 0 && (hurried || self.at.sent_at.elapsed() >= IDLE_STORE_EVERY))
    }

    fn routing_changed(&self) -> bool {
        self.flows.borrow().version != self.at.routing
    }

    fn adopt_flows(&mut self) {
        let flows = self.flows.borrow_and_update().clone();
        for (version, table) in &flows.live {
            if *version > self.at.routing {
                self.router.go_live(table);
            }
        }
        self.at.routing = flows.version;
    }

    /// Closes the window and hands it to the lane, which may have one batch waiting beside the one it
    /// works on.
    async fn hand_over(&mut self) -> Result<()> {
        let batch = self.window.close(self.at.until, self.at.routing);
        let (ends, until) = (batch.ends, batch.range.until);
        let piece = encode_batch(batch)?;
        self.lane.send(piece).await.map_err(|_| lane_is_gone())?;
        self.at.sent += 1;
        if ends {
            self.at.sent_until = until;
            self.at.sent_at = Instant::now();
            if self.routing_changed() {
                self.adopt_flows();
            }
        }
        Ok(())
    }

    /// We are told to stop: what is whole is stored, an open transaction is left to the next start.
    async fn finish(&mut self) -> Result<()> {
        let something = !self.window.is_empty() || self.at.until > self.at.sent_until;
        if self.window.at_boundary() && something {
            self.hand_over().await?;
        }
        Ok(())
    }

    /// Takes the next frame that has arrived; false if none has.
    async fn take_frame(&mut self) -> Result<bool> {
        // the borrow of the frame ends before anything else of `self` is awaited with it
        let Intake { reader, decoder, router, window, shared, at, guard, .. } = self;
        let Some(frame) = reader.next_buffered()? else { return Ok(false) };
        let record = match frame {
            Frame::Record(record) => record,
            Frame::Keepalive { end, reply } => {
                if window.at_boundary() && window.is_empty() && end > at.until {
                    at.until = end;
                }
                shared.setup.board.received(at.until, end, None);
                if reply {
                    self.asked.send_modify(|count| *count += 1);
                }
                return Ok(true);
            }
            Frame::Oversized { head, length } => {
                let change = decoder.oversized(head).ok_or_else(|| oversized(length))?;
                router.refuse_oversized((&change.0, change.1), length)?;
                return Ok(true);
            }
        };
        match decoder.decode(record.bytes)? {
            Decoded::Begin(lsn) => window.begin(lsn.as_i64()),
            Decoded::Commit { end, committed_at } => {
                window.commit(committed_at);
                at.until = end;
                shared.setup.board.received(end, record.end.max(end), Some(committed_at));
            }
            Decoded::Change(event) => {
                let routes = router.of(&event.relation);
                let fits = |at: &usize| {
                    let route = router.route(*at);
                    route.is_some_and(|route| {
                        event.order.seq < route.floor
                            || Arc::ptr_eq(&route.target.relation, &event.relation)
                    })
                };
                if routes.iter().all(fits) {
                    let to = (&mut *router, &mut *window);
                    let many = guard.take(shared, to, &routes, (&event, record.bytes))?;
                    let order = event.order;
                    return self.ask_about(&many, order).await.map(|()| true);
                }
                // rare: the table has another shape than its route. The record is copied, because what
                // must be done first needs all of `self`
                let (relation, order) = (event.relation.clone(), event.order);
                let (mark, bytes) = (event.mark, record.bytes.to_vec());
                self.follow(&relation, &routes, order.seq).await?;
                self.decoder.resume(mark, order);
                self.push_again(&routes, &bytes)?;
            }
            Decoded::Truncate(events) => {
                let events: Vec<_> = events
                    .into_iter()
                    .map(|event| (event.relation, event.order, event.mark))
                    .collect();
                let bytes = record.bytes.to_vec();
                for (relation, order, mark) in events {
                    let op = crate::journey::Op::Truncate;
                    let event = ChangeEvent { relation, op, old: None, new: None, order, mark };
                    self.truncate(&event, &bytes).await?;
                }
            }
            Decoded::Relation(message) => self.relation(&message).await?,
            Decoded::Nothing => {}
        }
        Ok(true)
    }

    /// Takes up the shape that a Relation message tells.
    async fn relation(&mut self, message: &crate::decode::RelationMessage) -> Result<()> {
        let known = self.decoder.relation(message.oid).cloned();
        let known = known.or_else(|| self.router.applied(message));
        let relation = resolve(&*self.source, &self.shared, message, known.as_ref()).await?;
        if let Some(column) = relation.text_only().filter(|_| self.shared.binary) {
            let what = format!(
                "{}.{} has a type that travels as text: the stream starts again in text form",
                relation.table, column.name
            );
            return Err(Error::new(Kind::Busy, what));
        }
        self.router.forget(relation.oid);
        self.decoder.install(relation);
        Ok(())
    }

    /// Asks a human where a table loses more rows than it may.
    async fn ask_about(&mut self, many: &[(usize, u64)], order: Order) -> Result<()> {
        for (at, deletes) in many {
            let Some(route) = self.router.route(*at) else { continue };
            self.guard.refuse(&self.shared, &route.target, (*deletes, order)).await?;
        }
        Ok(())
    }

    /// Decodes a record once more, now that its routes fit.
    fn push_again(&mut self, routes: &[usize], bytes: &[u8]) -> Result<()> {
        let Decoded::Change(event) = self.decoder.decode(bytes)? else {
            return Err(Error::bug("a record decodes into something else the second time"));
        };
        for at in routes {
            self.router.push(*at, &event, bytes, &mut self.window)?;
        }
        Ok(())
    }

    /// Makes every route of a relation follow its shape. What was folded before leaves first.
    async fn follow(
        &mut self,
        relation: &Arc<crate::relation::Relation>,
        routes: &[usize],
        seq: i64,
    ) -> Result<()> {
        for at in routes {
            // what is in the table's rows already says nothing of their shape now
            if self.router.route(*at).is_some_and(|route| seq < route.floor) {
                continue;
            }
            let same =
                |route: &crate::journey::Route| Arc::ptr_eq(&route.target.relation, relation);
            if self.router.route(*at).is_some_and(same) {
                continue;
            }
            let shared = self.shared.clone();
            if let Some(reshape) = self.router.reshape(*at, relation, &shared).await? {
                if self.window.has_rows() {
                    self.hand_over().await?;
                }
                self.window.first(Before::Reshape {
                    target: reshape.target,
                    statements: reshape.statements,
                });
            }
        }
        Ok(())
    }

    /// An emptied table: of tables of events it is an event, of the others it comes before the rows
    /// that follow.
    async fn truncate(&mut self, event: &ChangeEvent<'_>, bytes: &[u8]) -> Result<()> {
        let routes = self.router.of(&event.relation);
        self.follow(&event.relation, &routes, event.order.seq).await?;
        for at in routes.iter() {
            let Some(route) = self.router.route(*at).cloned() else { continue };
            let logs = route.target.model.history.logs_events();
            if route.flow == Flow::Hold || logs {
                self.window.push(&route, event, bytes)?;
                continue;
            }
            if event.order.seq < route.floor || ignores_truncate(&self.shared, &route.target) {
                continue;
            }
            self.router.refuse_truncate(*at)?;
            self.guard.refuse_truncate(&self.shared, &route.target, event.order).await?;
            if self.window.has_rows() {
                self.hand_over().await?;
            }
            self.window.first(Before::Truncate {
                target: route.target,
                order: event.order,
                mark: event.mark,
            });
        }
        Ok(())
    }
}

fn lane_lives(changed: Result<(), watch::error::RecvError>) -> Result<()> {
    changed.map_err(|_| lane_is_gone())
}

/// The lane has ended; its own error says why, and comes first.
fn lane_is_gone() -> Error {
    Error::new(Kind::Cancelled, "the apply lane has ended")
}

fn oversized(length: usize) -> Error {
    Error::new(Kind::Full, format!("a message of {length} bytes is longer than max_row_bytes"))
        .remedy("raise max_row_bytes (and memory) in siltstone.yaml")
}
