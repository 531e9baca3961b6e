//! A connector that has stopped for a person, while others of its process go on: it owns nothing and waits
//! for the person to ask something of it, or for other files. Its source's disk is looked after meanwhile.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::kinds::AnySetup;
use super::ladder::Warehouse;
use crate::error::Result;
use crate::postgres::{Session, Side, connect};
use crate::progress::requests;

/// How often it is looked whether somebody asks something.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often it is looked how much log the slot keeps.
const GUARD_EVERY: Duration = Duration::from_secs(30);

/// Counts the connectors of a process that are at work, as long as it is there.
pub(super) struct AtWork(watch::Sender<usize>);

impl AtWork {
    pub(super) fn of(all: &watch::Sender<usize>) -> AtWork {
        all.send_modify(|many| *many += 1);
        AtWork(all.clone())
    }

    fn rests(&self) {
        self.0.send_modify(|many| *many -= 1);
    }

    fn works(&self) {
        self.0.send_modify(|many| *many += 1);
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.rests();
    }
}

/// What was asked of a connector that had stopped, as far as a session began for it.
#[derive(Default)]
pub(super) struct Asked {
    /// the last of the requests
    last: i64,
}

impl Asked {
    /// Waits until something more is asked, or the files were read again. False where the process is to
    /// end: it was told to, or no other connector is at work.
    pub(super) async fn until_more(
        &mut self,
        setup: &AnySetup,
        (setups, mut stop): (&mut watch::Receiver<AnySetup>, watch::Receiver<bool>),
        at_work: &mut AtWork,
    ) -> bool {
        setup.give_up();
        at_work.rests();
        let mut others = at_work.0.subscribe();
        let goes_on = tokio::select! {
            // who tells it to stop drops what would tell it of other files
            biased;
            _ = stop.wait_for(|stop| *stop) => false,
            _ = others.wait_for(|many| *many == 0) => false,
            changed = setups.changed() => changed.is_ok(),
            () = self.look(setup) => true,
        };
        at_work.works();
        goes_on
    }

    async fn look(&mut self, setup: &AnySetup) {
        let mut warehouse = None;
        let mut guarded = None::<Instant>;
        loop {
            match self.is_asked(setup, &mut warehouse).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!("looking what is asked: {}", error.reason());
                    warehouse = None;
                }
            }
            if guarded.is_none_or(|at| at.elapsed() >= GUARD_EVERY) {
                setup.guard(warehouse.as_ref().map_or(Warehouse::Away, Warehouse::Read)).await;
                guarded = Some(Instant::now());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn is_asked(
        &mut self,
        setup: &AnySetup,
        warehouse: &mut Option<Session>,
    ) -> Result<bool> {
        let session = match warehouse.take() {
            Some(session) => session,
            None => {
                connect(Side::Warehouse, &setup.settings.warehouse, "siltstone requests").await?
            }
        };
        let newest = requests::newest(&*session, &setup.common.name).await?;
        *warehouse = Some(session);
        let more = newest > self.last;
        self.last = self.last.max(newest);
        Ok(more)
    }
}
