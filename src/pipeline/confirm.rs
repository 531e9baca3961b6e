//! Which part of what is stored the source is told, so that it can let go of its log: all of it, or with
//! `slot_hold_back` what was stored that long ago, so that a warehouse restored from a backup can go on.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::intake::End;
use super::lane::Progress;
use crate::error::Result;
use crate::position::Lsn;

/// Positions noted within the time that is held back; one lasts as long as the others.
const NOTES: u32 = 60;

/// The positions that were stored lately, from session to session.
#[derive(Clone, Default)]
pub(super) struct Lately(Arc<Mutex<VecDeque<(Instant, Lsn)>>>);

impl Lately {
    /// Notes the stored position; the last one that was stored `by` ago or before.
    fn note(&self, stored: Lsn, by: Duration, now: Instant) -> Option<Lsn> {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = noted.back().map(|(at, _)| *at);
        if last.is_none_or(|at| now.duration_since(at) >= by / NOTES) {
            noted.push_back((now, stored));
        }
        let mut due = None;
        while noted.front().is_some_and(|(at, _)| now.duration_since(*at) >= by) {
            due = noted.pop_front().map(|(_, position)| position);
        }
        due
    }

    /// Forgets what is beyond the position that a session begins with: the warehouse may be an older copy
    /// since, and what it lacks must not be confirmed.
    pub(super) fn forget_beyond(&self, from: Lsn) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.retain(|(_, position)| *position <= from);
    }
}

/// Passes on what may be confirmed.
pub(super) async fn confirm(
    stored: watch::Sender<Lsn>,
    mut progress: watch::Receiver<Progress>,
    (by, lately): (Option<Duration>, Lately),
) -> Result<End> {
    match by {
        Some(by) => hold_back(&stored, &mut progress, (by, &lately)).await,
        None => {
            while progress.changed().await.is_ok() {
                let position = progress.borrow_and_update().stored.lsn();
                stored.send_if_modified(|known| std::mem::replace(known, position) != position);
            }
        }
    }
    // the lane has ended: what may be confirmed is so by the writer's last update
    std::future::pending().await
}

async fn hold_back(
    stored: &watch::Sender<Lsn>,
    progress: &mut watch::Receiver<Progress>,
    (by, lately): (Duration, &Lately),
) {
    let mut ticks = interval((by / NOTES).max(Duration::from_millis(100)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if progress.has_changed().is_err() {
            return;
        }
        let position = progress.borrow_and_update().stored.lsn();
        if let Some(due) = lately.note(position, by, Instant::now()) {
            // never back: a session begins with what is confirmed
            stored.send_if_modified(|known| due > *known && std::mem::replace(known, due) != due);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_long_enough_ago_is_due() {
        let (lately, by, start) = (Lately::default(), Duration::from_secs(60), Instant::now());
        let at = |second: u64| start + Duration::from_secs(second);
        for second in 0..60 {
            assert_eq!(lately.note(Lsn(100 + second), by, at(second)), None);
        }
        assert_eq!(lately.note(Lsn(500), by, at(60)), Some(Lsn(100)));
        assert_eq!(lately.note(Lsn(501), by, at(70)), Some(Lsn(110)), "the last of several");
        assert_eq!(lately.note(Lsn(502), by, at(1_000)), Some(Lsn(501)));
        lately.forget_beyond(Lsn(200));
        assert_eq!(lately.note(Lsn(200), by, at(2_000)), None, "an older copy of the warehouse");
        assert!(lately.0.lock().unwrap().len() <= 61);
    }
}
