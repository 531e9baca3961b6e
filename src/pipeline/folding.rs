//! From messages to batches: decodes, routes and folds, one message after the other, and hands a batch
//! to the apply lane.
//!
//! It does not know whether a message comes from the source just now or lay in the spool: both give the
//! same events, in the same order.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::guard::{Guard, ignores_truncate};
use super::router::{Router, resolve};
use super::shared::{Flows, Shared};
use crate::decode::{Decoded, Decoder, RelationMessage};
use crate::error::{Error, Kind, Result};
use crate::fold::Window;
use crate::journey::{Before, ChangeEvent, Flow, Mark, Route};
use crate::merge::{Piece, encode_batch};
use crate::names::TableName;
use crate::position::{Lsn, Order};
use crate::postgres::Session;
use crate::relation::Relation;

/// The open window and what leads into it.
pub(super) struct Folding {
    pub(super) shared: Arc<Shared>,
    pub(super) router: Router,
    /// for the catalogue
    pub(super) source: Session,
    pub(super) window: Window,
    pub(super) lane: mpsc::Sender<Piece>,
    pub(super) flows: watch::Receiver<Flows>,
    pub(super) decoder: Decoder,
    pub(super) at: At,
    pub(super) guard: Guard,
}

/// Where the reading task is.
pub(super) struct At {
    /// batches handed to the lane
    pub(super) sent: u64,
    /// the version of the flows that the open window is folded under
    routing: u64,
    /// behind the last commit, or where the source says that nothing is left
    pub(super) until: Lsn,
    /// the position of the last batch
    pub(super) sent_until: Lsn,
    pub(super) sent_at: Instant,
}

impl At {
    pub(super) fn new(from: Lsn) -> At {
        At { sent: 0, routing: 0, until: from, sent_until: from, sent_at: Instant::now() }
    }
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
    pub(super) fn routing_changed(&self) -> bool {
        self.flows.borrow().version != self.at.routing
    }

    pub(super) fn adopt_flows(&mut self) {
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
    pub(super) async fn hand_over(&mut self) -> Result<()> {
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

    /// Hands over if the window is full.
    pub(super) async fn hand_over_if_full(&mut self) -> Result<()> {
        if self.window.is_full() { self.hand_over().await } else { Ok(()) }
    }

    /// Begins a transaction whose messages come from the spool.
    pub(super) fn begin_replay(&mut self, mark: Mark) {
        self.decoder.begin(mark);
        self.window.begin(mark.seq);
    }

    /// Ends it. `end` is behind its commit record.
    pub(super) fn end_replay(&mut self, end: Lsn, committed_at: i64, log_end: Lsn) {
        for oid in self.decoder.end_replay() {
            self.router.forget(oid);
        }
        self.commit(end, committed_at, log_end);
    }

    fn commit(&mut self, end: Lsn, committed_at: i64, log_end: Lsn) {
        self.window.commit(committed_at);
        self.at.until = end;
        let board = &self.shared.setup.board;
        board.received(end, log_end.max(end), Some(committed_at));
    }

    /// Takes a message.
    pub(super) async fn take(&mut self, message: &[u8], arrival: Arrival) -> Result<()> {
        match self.decoder.decode(message)? {
            Decoded::Begin(lsn) => self.window.begin(lsn.as_i64()),
            Decoded::Commit { end, committed_at } => {
                self.commit(end, committed_at, arrival.log_end);
            }
            Decoded::Change(event) => {
                let routes = self.router.of(&event.relation);
                let fits = |at: &usize| {
                    let route = self.router.route(*at);
                    route.is_some_and(|route| {
                        event.order.seq < route.floor
                            || Arc::ptr_eq(&route.target.relation, &event.relation)
                    })
                };
                // rare: the table has another shape than its route
                if !routes.iter().all(fits) {
                    self.follow(&event.relation, &routes, event.order.seq).await?;
                }
                let to = (&mut self.router, &mut self.window);
                let many = self.guard.take(&self.shared, to, &routes, (&event, message))?;
                self.ask_about(&many, event.order).await?;
            }
            Decoded::Truncate(events) => {
                for event in events {
                    self.truncate(&event, message).await?;
                }
            }
            Decoded::Relation(told) => self.relation(&told, arrival.number).await?,
            Decoded::Nothing => {}
        }
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

    /// Takes the beginning of a message that was too long.
    pub(super) fn take_oversized(&mut self, head: &[u8], length: usize) -> Result<()> {
        let change = self.decoder.oversized(head).ok_or_else(|| oversized(length))?;
        self.router.refuse_oversized((&change.0, change.1), length)
    }

    /// The name under which files know the table that a Relation message describes.
    pub(super) fn known_as(&self, message: &RelationMessage) -> TableName {
        self.router.known_as(message)
    }

    /// The shape that a Relation message tells.
    pub(super) async fn told(&self, message: &RelationMessage) -> Result<Arc<Relation>> {
        let known = self.decoder.relation(message.oid).cloned();
        let known = known.or_else(|| self.router.applied(message));
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
        self.router.forget(relation.oid);
        self.decoder.install(relation, told);
        Ok(())
    }

    /// Makes every route of a relation follow its shape. What was folded before leaves first.
    async fn follow(&mut self, relation: &Arc<Relation>, routes: &[usize], seq: i64) -> Result<()> {
        for at in routes {
            // what is in the table's rows already says nothing of their shape now
            if self.router.route(*at).is_some_and(|route| seq < route.floor) {
                continue;
            }
            let same = |route: &Route| Arc::ptr_eq(&route.target.relation, relation);
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

/// The lane has ended; its own error says why, and comes first.
pub(super) fn lane_is_gone() -> Error {
    Error::new(Kind::Cancelled, "the apply lane has ended")
}

fn oversized(length: usize) -> Error {
    Error::new(Kind::Full, format!("a message of {length} bytes is longer than max_row_bytes"))
        .remedy("raise max_row_bytes (and memory) in siltstone.yaml")
}
