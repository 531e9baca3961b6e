//! The tables that catch up beside an apply lane, and whose turn it is. Applies nothing itself.

use std::time::Duration;

use tokio::time::Instant;

use super::core::{Basis, CaughtUp};
use super::drain::Drain;
use crate::position::Positions;

/// A table that was refused something goes on with the batches when this long nothing more was: each
/// refusal among those begins the session anew.
const CALM: Duration = Duration::from_secs(10);

/// A table whose kept changes are applied.
pub(super) struct Draining {
    pub(super) drain: Drain,
    /// the routing version from which on the table's changes come with the batches
    pub(super) live_from: Option<u64>,
    /// nothing is left for it before the next batch, or until it may go on
    pub(super) rests: bool,
    /// when it was refused something last, or began
    pub(super) troubled_at: Instant,
}

impl Draining {
    /// A table that begins now.
    pub(super) fn new(table: CaughtUp) -> Draining {
        let drain = Drain::new(table);
        Draining { drain, live_from: None, rests: false, troubled_at: Instant::now() }
    }

    fn has_work(&self, stored: &Positions) -> bool {
        self.live_from.is_none() && !self.rests && self.drain.may_begin(stored)
    }

    /// Whether its changes may come with the batches, as far as they are all applied.
    pub(super) fn may_go_on(&self, stored: &Positions, setup: &Basis) -> bool {
        let calm = setup.until_caught_up || self.troubled_at.elapsed() >= CALM;
        // a new session would read tables anew that are being read
        let alone = calm && !setup.board.has_open_chunks();
        self.drain.may_go_on(stored) && (alone || !self.drain.is_sifted())
    }
}

/// The places of those that may apply kept changes now. What is about to go on with a batch goes through what is
/// left first, and nobody beside it: it lets no key wait of which whoever sends the table's changes has not heard.
pub(super) fn at_work(draining: &[Draining], stored: &Positions) -> Vec<usize> {
    let is_about_to_go_on = |index: usize| {
        draining.iter().any(|table| table.live_from.is_some() && table.drain.index() == index)
    };
    let works =
        |table: &Draining| table.has_work(stored) && !is_about_to_go_on(table.drain.index());
    draining.iter().enumerate().filter(|(_, table)| works(table)).map(|(at, _)| at).collect()
}
