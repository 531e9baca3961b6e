//! A place that one instance has, by a lease at the warehouse, and others stand by for.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::error::{Error, Kind, Result};
use crate::postgres::Session;
use crate::warehouse::{Claim, Fence, LEASE, leased_to, take_over};

/// How often an instance that stands by looks after the owner.
const STAND_BY: Duration = Duration::from_secs(1);

/// A place, and who wants it.
pub(super) struct Place<'p> {
    /// What the lease is of.
    pub(super) resource: &'p str,
    /// What its owner does, for people.
    pub(super) what: &'p str,
    /// This run of this process.
    pub(super) owner: &'p str,
}

/// Waits until nobody else has the place, and takes it. None if told to stop meanwhile.
pub(super) async fn become_owner(
    session: &mut Session,
    place: &Place<'_>,
    mut stop: watch::Receiver<bool>,
) -> Result<Option<Fence>> {
    let Place { resource, what, owner } = place;
    let mut standing_by = false;
    loop {
        match leased_to(session, resource, owner).await? {
            Some(other) if !standing_by => {
                standing_by = true;
                tracing::info!("{what}: standing by, {other} has them");
            }
            Some(_) => {}
            None => match take_over(session, resource, owner, Claim::Vacant).await {
                // another one that stood by was faster
                Err(error) if error.kind() == Kind::Fenced => {}
                taken => return taken.map(Some),
            },
        }
        tokio::select! {
            () = tokio::time::sleep(STAND_BY) => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(None),
        }
    }
}

/// Renews the lease until that fails.
pub(super) async fn keep_lease(session: &Session, fence: &Fence) -> Result<()> {
    let tick = LEASE / 3;
    let mut ticks = tokio::time::interval(tick);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // behind the lease another one may have the place, and a dead connection says nothing for a minute
        match tokio::time::timeout(LEASE.saturating_sub(tick), fence.renew(session)).await {
            Ok(renewed) => renewed?,
            Err(_) => {
                let what = "the lease could not be renewed in time";
                return Err(Error::new(Kind::WarehouseAway, what));
            }
        }
    }
}
