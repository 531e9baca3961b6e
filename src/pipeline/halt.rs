//! A connector that an operator has paused or stopped: it keeps its lease, holds no connection to the
//! source, and waits to be resumed. The slot keeps the log meanwhile.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::core::Basis;
use super::intake::End;
use super::ladder::Warehouse;
use super::shared::Setup;
use super::{connector, owner};
use crate::error::Result;
use crate::postgres::Session;
use crate::progress::requests::{self, Request, Verb};
use crate::progress::wanted::{self, Wanted};
use crate::serve::Phase;
use crate::warehouse::{Fence, Fenced};

/// How often it is looked whether somebody wants it to go on.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often it is looked how much log the slot keeps.
const GUARD_EVERY: Duration = Duration::from_secs(30);

/// Waits until the connector is wanted; how the session ends where it is told to stop before.
/// A source that keeps its log for us is looked after meanwhile.
pub(super) async fn until_wanted(
    setup: &Basis,
    fence: &Fence,
    (warehouse, stop): (&mut Session, watch::Receiver<bool>),
    guard: Option<&Setup>,
) -> Result<Option<End>> {
    let name = &setup.common.name;
    carry_out_all(setup, fence, warehouse).await?;
    if wanted::read(&**warehouse, name).await? == Wanted::Running {
        return Ok(None);
    }
    let ended = tokio::select! {
        ended = wait(setup, fence, (&mut *warehouse, stop), guard) => ended?,
        lost = owner::keep_lease(setup, fence) => Some(lost?),
    };
    if ended.is_some() && !setup.reloading.load(Ordering::SeqCst) {
        // whoever stands by, or removes it, need not wait for the lease to run out
        fence.release(warehouse, false).await?;
    }
    Ok(ended)
}

async fn wait(
    setup: &Basis,
    fence: &Fence,
    (warehouse, mut stop): (&mut Session, watch::Receiver<bool>),
    guard: Option<&Setup>,
) -> Result<Option<End>> {
    let name = &setup.common.name;
    let mut guarded = None::<Instant>;
    let mut told = None;
    loop {
        carry_out_all(setup, fence, warehouse).await?;
        let (phase, reason) = match wanted::read(&**warehouse, name).await? {
            Wanted::Running => return Ok(None),
            Wanted::Paused(by) => (Phase::Paused, by),
            Wanted::Stopped(by) => (Phase::Halted, by),
        };
        let remedy = format!("siltstone connector resume {name}");
        setup.board.phase(phase, Some(&reason), Some(&remedy));
        if told.as_ref() != Some(&reason) {
            tracing::warn!(connector = name, remedy, "{reason}");
            told = Some(reason);
        }
        if setup.until_caught_up {
            return Ok(Some(End::CaughtUp));
        }
        if guarded.is_none_or(|at| at.elapsed() >= GUARD_EVERY) {
            if let Some(setup) = guard {
                connector::guard_source(setup, Warehouse::Ours(fence, warehouse)).await;
            }
            guarded = Some(Instant::now());
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(Some(End::Stopped)),
        }
    }
}

/// Whether a verb is about a connector and not its tables.
pub(super) fn is_of_connector(verb: Verb) -> bool {
    matches!(
        verb,
        Verb::PauseConnector | Verb::ResumeConnector | Verb::StopConnector | Verb::RestartConnector
    )
}

/// Carries out what is asked of the connector. A session begins with it: it may not come to its control.
pub(super) async fn carry_out_all(
    setup: &Basis,
    fence: &Fence,
    warehouse: &mut Session,
) -> Result<()> {
    for request in requests::open(&**warehouse, &setup.common.name).await? {
        if is_of_connector(request.verb) {
            carry_out(setup, fence, warehouse, &request).await?;
        }
    }
    Ok(())
}

/// Notes what is wanted of the connector from now on; the next session acts on it.
pub(super) async fn carry_out(
    setup: &Basis,
    fence: &Fence,
    warehouse: &mut Session,
    request: &Request,
) -> Result<()> {
    let name = &setup.common.name;
    let transaction = Fenced::begin(warehouse, fence, "request", &setup.durations).await?;
    let (word, answer) = match request.verb {
        Verb::PauseConnector => (Some("paused"), "is paused"),
        Verb::StopConnector => (Some("stopped"), "is stopped"),
        Verb::ResumeConnector => (Some("running"), "goes on"),
        _ => (None, "begins a new session"),
    };
    if let Some(word) = word {
        wanted::set(&transaction, name, word, request.id).await?;
    }
    let answer = format!("{name} {answer}");
    requests::answer(&*transaction, request.id, true, &answer).await?;
    transaction.commit().await?;
    tracing::info!("{answer}");
    Ok(())
}
