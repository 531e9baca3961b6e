//! Keeps a connector running: a session after the other, each from the stored position, until it is
//! told to stop or nothing but a person can help.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::intake::End;
use super::kinds::AnySetup;
use super::ladder::{self, Warehouse};
use super::resting::{Asked, AtWork};
use super::shared::Setup;
use super::standing;
use crate::error::{Error, Policy, Result};
use crate::progress::standing::Standing;
use crate::serve::Phase;

/// The first and the longest pause before another try.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));

/// Told to stop, a session ends within this time or is left.
const ENDED_WITHIN: Duration = Duration::from_millis(8_500);

/// A session that worked this long begins the pauses anew: a blip behind an outage is no part of it.
const LASTED: Duration = Duration::from_secs(5);

/// A session that asks for another one within this time is in a hurry; after so many of them in a row
/// there are pauses, so that a change we do not cope with does not become a busy loop.
const LASTED_BRIEFLY: Duration = Duration::from_secs(2);
const HURRIED_AT_MOST: u32 = 10;

/// Why a connector ended, and since when nothing but a person could help it.
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) at: Instant,
}

/// Runs until stopped or caught up; an error is one that waiting does not mend, and that nobody has done
/// anything about while others were at work. Each session is run with the newest of `setups`.
pub(super) async fn run(
    mut setups: watch::Receiver<AnySetup>,
    stop: watch::Receiver<bool>,
    mut at_work: AtWork,
) -> Result<(), Failed> {
    let mut pause = PAUSES.0;
    let (mut hurried, mut asked) = (0, Asked::default());
    loop {
        let setup = setups.borrow_and_update().clone();
        setup.reloading.store(false, Ordering::SeqCst);
        let name = setup.common.name.clone();
        let started = Instant::now();
        setup.board.phase(Phase::Starting, None, None);
        let ended = session(&setup, &mut setups, stop.clone()).await;
        let worked = matches!(setup.board.view().phase, Phase::Snapshotting | Phase::Streaming);
        if begins_anew(worked, started.elapsed()) {
            pause = PAUSES.0;
        }
        let error = match ended {
            Ok(End::Stopped) if !*stop.borrow() => continue,
            Ok(End::Stopped | End::CaughtUp) => return Ok(()),
            Ok(End::Restart) => {
                hurried = if started.elapsed() < LASTED_BRIEFLY { hurried + 1 } else { 0 };
                if hurried > HURRIED_AT_MOST {
                    rest(&mut pause, stop.clone()).await;
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
                    remedy = error.remedy_text(),
                    "{reason}; trying again in {:.1} s",
                    pause.as_secs_f32()
                );
                tell(&setup, (Phase::Waiting, Standing::Waiting), &error).await;
                if ladder::lacks_warehouse(error.kind()) {
                    setup.guard(Warehouse::Away).await;
                }
                rest(&mut pause, stop.clone()).await;
            }
            // a failure of a table is the session's to note; here it has no table to it
            Policy::StopTable
            | Policy::Sift
            | Policy::RereadTable
            | Policy::Human
            | Policy::Stop => {
                tracing::error!("{error}");
                tell(&setup, (Phase::Stopped, Standing::Stopped), &error).await;
                let failed = Failed { error, at: Instant::now() };
                let rests = asked.until_more(&setup, (&mut setups, stop.clone()), &mut at_work);
                if setup.until_caught_up || !rests.await {
                    return Err(failed);
                }
            }
        }
    }
}

/// Runs one session, until it ends or is told to and left.
async fn session(
    setup: &AnySetup,
    setups: &mut watch::Receiver<AnySetup>,
    stop: watch::Receiver<bool>,
) -> Result<End> {
    let (end, ending) = watch::channel(false);
    // a session that has not come to its tasks yet, as while the source waits to make a slot
    let overdue = async {
        asked_to_end(setups, stop).await;
        end.send_replace(true);
        tokio::time::sleep(ENDED_WITHIN).await;
    };
    tokio::select! {
        ended = setup.session(ending) => ended,
        () = overdue => Ok(End::Stopped),
    }
}

/// Tells what keeps it from its work, on the board and in the warehouse.
async fn tell(setup: &AnySetup, (phase, standing): (Phase, Standing), error: &Error) {
    setup.board.phase(phase, Some(&error.reason()), error.remedy_text());
    standing::tell(setup, standing, error).await;
}

/// Whether pauses begin anew behind a session: waiting for a connection is no work.
fn begins_anew(worked: bool, lasted: Duration) -> bool {
    worked && lasted >= LASTED
}

/// Waits until the connector is told to stop, or to go on with other files.
async fn asked_to_end(setups: &mut watch::Receiver<AnySetup>, mut stop: watch::Receiver<bool>) {
    let gone = tokio::select! {
        // who tells it to stop drops what would tell it of other files
        biased;
        stopped = stop.wait_for(|stop| *stop) => stopped.is_err(),
        changed = setups.changed() => changed.is_err(),
    };
    if gone {
        std::future::pending::<()>().await;
    }
}

/// The source's disk must not fill because the warehouse is away, or because the connector rests, where the
/// files say so.
pub(super) async fn guard_source(setup: &Setup, warehouse: Warehouse<'_>) {
    match ladder::drop_unattended(setup, warehouse).await {
        Err(error) if setup.connector.wal.drop_slot.is_some() => {
            tracing::warn!("looking after the slot: {}", error.reason());
        }
        // a source that is away keeps no log that grows
        Err(error) => tracing::debug!("looking after the slot: {}", error.reason()),
        Ok(()) => {}
    }
}

/// Pauses before another try, longer each time.
async fn rest(pause: &mut Duration, mut stop: watch::Receiver<bool>) {
    tokio::select! {
        () = tokio::time::sleep(*pause) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
    *pause = (*pause * 2).min(PAUSES.1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_begin_anew_behind_work() {
        let seconds = Duration::from_secs;
        assert!(begins_anew(true, seconds(16)), "a healthy stream");
        assert!(!begins_anew(true, seconds(1)), "it fails again and again");
        assert!(!begins_anew(false, seconds(60)), "nobody answered");
    }
}
