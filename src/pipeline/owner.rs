//! One instance owns a connector, others stand by: they take over when its lease has run out, or as soon
//! as none of its sessions is left.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::core::{Basis, writer};
use super::intake::End;
use super::shared::Setup;
use crate::clock::from_postgres_micros;
use crate::error::{Error, Kind, Result};
use crate::postgres::Session;
use crate::serve::Phase;
use crate::warehouse::{Claim, Fence, LEASE, leased_to, take_over};

/// How often an instance that stands by looks after the owner.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Becomes the owner, and stands by as long as another instance is. None if told to stop meanwhile.
pub(super) async fn become_owner(
    setup: &Setup,
    warehouse: &mut Session,
    mut stop: watch::Receiver<bool>,
) -> Result<Option<Fence>> {
    let name = &setup.connector.name;
    let resource = format!("connector:{name}");
    let claim = match setup.epoch.load(Ordering::SeqCst) {
        0 => Claim::Vacant,
        held => Claim::Again(held),
    };
    let mut standing_by = false;
    loop {
        let other = match claim {
            Claim::Vacant => leased_to(warehouse, &resource, &setup.owner).await?,
            _ => None,
        };
        if let Some(other) = other {
            if !standing_by {
                standing_by = true;
                let reason = format!("{other} owns it");
                tracing::info!(connector = name, "standing by: {reason}");
                setup.board.phase(Phase::Standby, Some(&reason), None);
            }
        } else {
            match take_over(warehouse, &resource, &setup.owner, claim).await {
                // another one that stood by was faster
                Err(error) if error.kind() == Kind::Fenced && claim == Claim::Vacant => {}
                taken => {
                    if standing_by {
                        tracing::warn!(connector = name, "the owner is gone: taking over");
                    }
                    let fence = taken?;
                    setup.epoch.store(fence.epoch(), Ordering::SeqCst);
                    if matches!(claim, Claim::Again(held) if held + 1 != fence.epoch()) {
                        // somebody told it to begin anew while it was about to
                        setup.reread.done().await;
                        if *stop.borrow() {
                            return Ok(None);
                        }
                    }
                    return Ok(Some(fence));
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(None),
        }
    }
}

/// Renews the lease, on a session of its own, so that it never waits for a long COPY.
pub(super) async fn keep_lease(setup: &Basis, fence: &Fence) -> Result<End> {
    let session = writer(setup, fence, "lease").await?;
    let mut ticks = tokio::time::interval(LEASE / 3);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = 0;
    loop {
        ticks.tick().await;
        fence.renew(&session).await?;
        let fresh_to = setup.board.view().fresh_to;
        if fresh_to != told {
            tell_freshness(&session, &setup.common.name, fresh_to).await?;
            told = fresh_to;
        }
    }
}

/// Notes to when the connector's tables are fresh, for jobs that wait for it, wherever they run.
async fn tell_freshness(session: &Session, connector: &str, fresh_to: i64) -> Result<()> {
    let fresh_to = from_postgres_micros(fresh_to);
    session
        .execute(
            "insert into audit.freshness (connector, fresh_to) values ($1, $2)
             on conflict (connector) do update
             set fresh_to = greatest(freshness.fresh_to, excluded.fresh_to)",
            &[&connector, &fresh_to],
        )
        .await
        .map_err(|error| Error::warehouse("noting how fresh it is", error))?;
    Ok(())
}
