//! The open window and what leads into it: events go to their routes, and a batch to the apply lane.
//!
//! It does not know what an event was made of, only how far the log was read.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::core::{Core, Flows};
use super::guard::{Guard, ignores_truncate};
use super::router::Router;
use super::untold::refuse_untold;
use crate::decode::Memory;
use crate::error::{Error, Kind, Result};
use crate::fold::Window;
use crate::journey::{Before, ChangeEvent, Flow, Mark, Op, Route, Stretch};
use crate::merge::{Piece, encode_batch};
use crate::position::Order;
use crate::relation::Relation;
use crate::spec::History;

/// The gate of a session.
pub(super) struct Gate {
    pub(super) shared: Arc<Core>,
    pub(super) router: Router,
    pub(super) window: Window,
    pub(super) lane: mpsc::Sender<Piece>,
    pub(super) flows: watch::Receiver<Flows>,
    pub(super) guard: Guard,
    pub(super) reach: Reach,
    /// batches handed to the lane
    pub(super) sent: u64,
    /// the last one did not end: the warehouse transaction waits for the next one
    pub(super) is_midway: bool,
    /// when the last one was
    pub(super) sent_at: Instant,
    /// the version of the flows that the lane has heard of
    told: u64,
    /// the version of the flows that the open window is folded under
    routing: u64,
}

/// How far the partitions of the log were read, and how far batches have gone.
pub(super) struct Reach {
    /// each from the end of the last batch to where it was read
    pub(super) stretches: Vec<Stretch>,
    /// of each, what has to be known of the records before, where it is something else than what is stored
    memories: Vec<Option<Memory>>,
    /// what raw rows of a batch are marked with
    name: fn(&[Stretch]) -> String,
}

impl Reach {
    /// Nothing read yet behind these positions.
    pub(super) fn new(
        positions: impl IntoIterator<Item = (Arc<str>, i64)>,
        name: fn(&[Stretch]) -> String,
    ) -> Reach {
        let stretch = |(partition, at): (Arc<str>, i64)| Stretch {
            partition,
            after: at,
            until: at,
            memory: None,
        };
        let stretches: Vec<Stretch> = positions.into_iter().map(stretch).collect();
        Reach { memories: vec![None; stretches.len()], stretches, name }
    }

    /// Keeps what is known of the partition at a place with its position. It is written once a batch, however
    /// often it changes in it.
    pub(super) fn remember(&mut self, at: usize, memory: &Memory) {
        if let Some(known) = self.memories.get_mut(at) {
            *known = Some(memory.clone());
        }
    }

    /// Whether more was read than the last batch covers.
    pub(super) fn is_beyond(&self) -> bool {
        self.stretches.iter().any(|stretch| stretch.until > stretch.after)
    }

    /// What a batch covers that leaves now.
    fn cover(&self) -> Result<(Vec<Stretch>, String)> {
        let mut moved = Vec::new();
        for (stretch, memory) in self.stretches.iter().zip(&self.memories) {
            if stretch.until > stretch.after {
                let memory = memory.as_ref().map(written).transpose()?;
                moved.push(Stretch { memory, ..stretch.clone() });
            }
        }
        Ok((moved, (self.name)(&self.stretches)))
    }

    /// A batch has left that covers all of it.
    fn close(&mut self) {
        for (stretch, memory) in self.stretches.iter_mut().zip(&mut self.memories) {
            if stretch.until > stretch.after {
                *memory = None;
            }
            stretch.after = stretch.until;
        }
    }
}

fn written(memory: &Memory) -> Result<String> {
    serde_json::to_string(memory)
        .map_err(|error| Error::bug("what is remembered is no JSON").because(error))
}

impl Gate {
    /// The gate in front of a lane.
    pub(super) fn new(
        shared: Arc<Core>,
        router: Router,
        window: Window,
        lane: mpsc::Sender<Piece>,
        reach: Reach,
    ) -> Gate {
        let flows = shared.flows.subscribe();
        Gate {
            shared,
            router,
            window,
            lane,
            flows,
            guard: Guard::default(),
            reach,
            sent: 0,
            is_midway: false,
            sent_at: Instant::now(),
            routing: 0,
            told: 0,
        }
    }

    /// Whether tables go on of which the open window does not know yet.
    pub(super) fn routing_changed(&self) -> bool {
        self.flows.borrow().version != self.routing
    }

    /// Whether the lane waits to hear that tables go on with the batches: the last one left before that was known
    /// here, and of an idle source no other may follow.
    pub(super) fn owes_routing(&self) -> bool {
        self.flows.borrow().version != self.told
    }

    pub(super) fn adopt_flows(&mut self) {
        let flows = self.flows.borrow_and_update().clone();
        for (version, table) in &flows.live {
            if *version > self.routing {
                self.router.go_live(table);
            }
        }
        self.routing = flows.version;
    }

    /// Closes the window and hands it to the lane, which may have one batch waiting beside the one it
    /// works on.
    pub(super) async fn hand_over(&mut self) -> Result<()> {
        let batch = self.window.close(self.reach.cover()?, self.routing);
        let ends = batch.ends;
        let piece = encode_batch(batch)?;
        self.lane.send(piece).await.map_err(|_| lane_is_gone())?;
        self.told = self.routing;
        self.sent += 1;
        self.router.piece = self.sent + 1;
        self.is_midway = !ends;
        if ends {
            self.reach.close();
            self.sent_at = Instant::now();
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

    /// Takes a change to its routes. `message` is the form in which it is kept.
    pub(super) async fn take(&mut self, event: &ChangeEvent<'_>, message: &[u8]) -> Result<()> {
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
        let many = self.guard.take(&self.shared, to, &routes, (event, message))?;
        self.ask_about(&many, event.order).await
    }

    /// Asks a human where a table loses more rows than it may.
    async fn ask_about(&mut self, many: &[(usize, u64)], order: Order) -> Result<()> {
        for (at, deletes) in many {
            let Some(route) = self.router.route(*at) else { continue };
            self.guard.refuse(&self.shared, &route.target, (*deletes, order)).await?;
        }
        Ok(())
    }

    /// Makes every route of a relation follow its shape. What was folded before leaves first.
    pub(super) async fn follow(
        &mut self,
        relation: &Arc<Relation>,
        routes: &[usize],
        seq: i64,
    ) -> Result<()> {
        for at in routes {
            // what is in the table's rows already says nothing of their shape now
            if self.router.route(*at).is_some_and(|route| seq < route.floor) {
                continue;
            }
            let same = |route: &Route| Arc::ptr_eq(&route.target.relation, relation);
            if self.router.route(*at).is_some_and(same) {
                continue;
            }
            // of those that are kept it is seen when they are applied
            if let Some(route) = self.router.route(*at).filter(|route| route.flow == Flow::Live) {
                refuse_untold(&self.shared, &route.target, relation)?;
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
    pub(super) async fn truncate(&mut self, event: &ChangeEvent<'_>, message: &[u8]) -> Result<()> {
        let routes = self.router.of(&event.relation);
        self.follow(&event.relation, &routes, event.order.seq).await?;
        for at in routes.iter() {
            let Some(route) = self.router.route(*at).cloned() else { continue };
            let logs = route.target.model.history.logs_events();
            if route.flow == Flow::Hold || logs {
                self.window.push(&route, event, message)?;
                continue;
            }
            let in_rows = event.order.seq < route.floor || self.router.has(*at, event)?;
            if in_rows || ignores_truncate(&self.shared, &route.target) {
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

    /// A first reading of a table that began: what one before it had brought goes before the rows that follow.
    /// Of tables with a key that is so only where it began `later` in the log: rows that are read twice at one
    /// place are the same ones. A raw table keeps every delivery.
    pub(super) async fn read_anew(
        &mut self,
        relation: &Arc<Relation>,
        (seq, mark): (i64, Mark),
        (later, told): (bool, bool),
    ) -> Result<()> {
        let routes = self.router.of(relation);
        self.follow(relation, &routes, seq).await?;
        for at in routes.iter() {
            let Some(route) = self.router.route(*at).cloned() else { continue };
            let model = &route.target.model;
            let nothing = model.history == History::Raw || !(later || model.is_read_without_key());
            let in_rows = || route.target.has(Order { seq, ord: -1 }, mark, Op::Read);
            if nothing || route.flow == Flow::Hold || seq < route.floor || in_rows()? {
                continue;
            }
            if self.window.has_rows() {
                self.hand_over().await?;
            }
            if later {
                tracing::warn!(
                    table = %model.table,
                    "Debezium's first snapshot was broken off and begun again: what it had brought is read anew"
                );
            }
            self.window.first(Before::ReadAnew { target: route.target, seq, mark, told });
            // the first changes behind a reading may stand before it where their partition had none of its rows
            if later {
                self.router.raise_floor(*at, seq);
            }
        }
        Ok(())
    }
}

/// The lane has ended; its own error says why, and comes first.
pub(super) fn lane_is_gone() -> Error {
    Error::new(Kind::Cancelled, "the apply lane has ended")
}
