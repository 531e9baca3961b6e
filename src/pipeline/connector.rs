//! Keeps a connector running: a session after the other, each from the stored position, until it is
//! told to stop or nothing but a person can help.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use super::intake::End;
use super::ladder;
use super::session;
use super::shared::Setup;
use crate::error::{Policy, Result};
use crate::serve::Phase;

/// The first and the longest pause before another try.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));

/// Told to stop, a session ends within this time or is left.
const ENDED_WITHIN: Duration = Duration::from_millis(8_500);

/// A session that lasted this long begins the pauses anew.
const LASTED: Duration = Duration::from_secs(60);

/// A session that asks for another one within this time is in a hurry; after so many of them in a row
/// there are pauses, so that a change we do not cope with does not become a busy loop.
const LASTED_BRIEFLY: Duration = Duration::from_secs(2);
const HURRIED_AT_MOST: u32 = 10;

/// Runs until stopped or caught up; an error is one that waiting does not mend.
pub(super) async fn run(setup: Setup, stop: watch::Receiver<bool>) -> Result<()> {
    let name = setup.connector.name.clone();
    let mut pause = PAUSES.0;
    let mut hurried = 0;
    loop {
        let started = std::time::Instant::now();
        setup.board.phase(Phase::Starting, None, None);
        // a session that has not come to its tasks yet, as while the source waits to make a slot
        let mut stopped = stop.clone();
        let overdue = async {
            if stopped.wait_for(|stop| *stop).await.is_ok() {
                tokio::time::sleep(ENDED_WITHIN).await;
            }
        };
        let ended = tokio::select! {
            ended = session::run(&setup, stop.clone()) => ended,
            () = overdue => return Ok(()),
        };
        if started.elapsed() >= LASTED {
            pause = PAUSES.0;
        }
        let error = match ended {
            Ok(End::Stopped | End::CaughtUp) => return Ok(()),
            Ok(End::Restart) => {
                hurried = if started.elapsed() < LASTED_BRIEFLY { hurried + 1 } else { 0 };
                if hurried > HURRIED_AT_MOST {
                    wait(pause, stop.clone()).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
                continue;
            }
            Err(error) => error,
        };
        if *stop.borrow() {
            tracing::info!(connector = name, "stopped while: {}", error.reason());
            return Ok(());
        }
        match error.kind().policy() {
            Policy::Retry => {
                let reason = error.reason();
                tracing::warn!(
                    connector = name,
                    "{reason}; trying again in {:.1} s",
                    pause.as_secs_f32()
                );
                setup.board.phase(Phase::Waiting, Some(&reason), error.remedy_text());
                if ladder::lacks_warehouse(error.kind()) {
                    guard_source(&setup).await;
                }
                wait(pause, stop.clone()).await;
                pause = (pause * 2).min(PAUSES.1);
            }
            // a failure of a table is the session's to note; here it has no table to it
            Policy::StopTable
            | Policy::Sift
            | Policy::RereadTable
            | Policy::Human
            | Policy::Stop => {
                let reason = error.reason();
                setup.board.phase(Phase::Stopped, Some(&reason), error.remedy_text());
                return Err(error);
            }
        }
    }
}

/// The source's disk must not fill because the warehouse is away, where the files say so.
async fn guard_source(setup: &Setup) {
    match ladder::drop_unattended(setup).await {
        Ok(true) => setup.slot_dropped.store(true, Ordering::SeqCst),
        Ok(false) => {}
        Err(error) => tracing::warn!("looking after the slot: {}", error.reason()),
    }
}

async fn wait(pause: Duration, mut stop: watch::Receiver<bool>) {
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}
