//! Which part of what is stored the source is told, so that it can let go of its log: all of it, or with
//! `slot_hold_back` what was stored that long ago, so that a warehouse restored from a backup can go on.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::intake::End;
use super::lane::Progress;
use super::shared::{Shared, writer};
use crate::error::Result;
use crate::position::Lsn;
use crate::progress::held_back;
use crate::warehouse::Fenced;

/// Passes on what may be confirmed.
pub(super) async fn confirm(
    shared: Arc<Shared>,
    stored: watch::Sender<Lsn>,
    mut progress: watch::Receiver<Progress>,
) -> Result<End> {
    match shared.connector().slot_hold_back {
        Some(by) => hold_back(&shared, &stored, &progress, by).await?,
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
    shared: &Shared,
    stored: &watch::Sender<Lsn>,
    progress: &watch::Receiver<Progress>,
    by: Duration,
) -> Result<()> {
    let (fence, durations) = (&shared.fence, &shared.setup.durations);
    let mut warehouse = writer(&shared.setup, fence, "hold back").await?;
    let mut ticks = interval((by / held_back::NOTES).max(Duration::from_millis(100)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while progress.has_changed().is_ok() {
        ticks.tick().await;
        let position = progress.borrow().stored.lsn();
        let transaction = Fenced::begin(&mut warehouse, fence, "hold back", durations).await?;
        let connector = &shared.connector().name;
        let due = held_back::note(&transaction, connector, (position, by)).await?;
        transaction.commit().await?;
        if let Some(due) = due {
            // never back: a session begins with what is confirmed
            stored.send_if_modified(|known| due > *known && std::mem::replace(known, due) != due);
        }
    }
    Ok(())
}
