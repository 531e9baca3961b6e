//! Keeps marts fresh, and columns that are looked up: one instance of many does, a task a mart or table, each turn a
//! transaction.
//!
//! A mart that cannot be refreshed says why and is tried again, later each time; the others go on.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::lookups::{self, Looker};
use super::mart::Keeper;
use super::reread::Reread;
use super::told::Events;
use super::withheld::Hold;
use crate::error::{Error, Kind, Result};
use crate::postgres::{Session, Side, connect};
use crate::refresh;
use crate::serve::Board;
use crate::spec::{Settings, Spec};
use crate::warehouse::{
    Claim, Durations, Fence, Fenced, LEASE, leased_to, migrate, refuse_outstanding, take_over,
};

/// What marts are kept with.
#[derive(Clone)]
pub(super) struct Ground {
    pub(super) settings: Arc<Settings>,
    pub(super) owner: Arc<str>,
    pub(super) board: Board,
    pub(super) durations: Durations,
    /// where turns are told
    pub(super) events: Events,
    /// who reads files again
    pub(super) reread: Arc<Reread>,
    /// tables are somebody else's to make
    pub(super) no_ddl: bool,
}

/// What the lease is of.
pub(super) const RESOURCE: &str = "marts";

/// How often an instance that stands by, or waits for the warehouse, looks again.
const STAND_BY: Duration = Duration::from_secs(1);

/// How many marts are computed at a time.
const AT_ONCE: usize = 2;

/// Keeps the marts of the files until `stop` turns true; where `settle` does, until nothing is due.
pub(super) async fn keep(
    ground: Ground,
    mut files: watch::Receiver<Arc<Spec>>,
    mut stop: watch::Receiver<bool>,
    settle: watch::Receiver<bool>,
) {
    let mut epoch = None;
    while !*stop.borrow() {
        let spec = files.borrow_and_update().clone();
        let names: Vec<String> = spec.marts.iter().map(|mart| mart.table.to_string()).collect();
        ground.board.keep_marts(&names);
        let none = names.is_empty() && spec.models.iter().all(|model| model.lookups.is_empty());
        let kept = async {
            match none && epoch.is_none() {
                // nothing was ever kept here, and nothing is asked for
                true if !leftovers(&ground).await => std::future::pending().await,
                _ => term(&ground, &spec, &mut epoch, &settle).await,
            }
        };
        tokio::select! {
            biased;
            () = told(&mut stop) => {}
            ended = kept => match ended {
                Ok(()) => break,
                Err(error) => {
                    if error.kind() == Kind::Fenced {
                        epoch = None;
                        // by `siltstone apply`, which may have gone by newer files
                        ground.reread.ask();
                    }
                    tracing::warn!(remedy = error.remedy_text(), "marts: {}", error.reason());
                    tokio::time::sleep(STAND_BY).await;
                }
            },
            Ok(()) = files.changed() => {}
            told = settled(settle.clone(), none) => return told,
        }
    }
    release(&ground, epoch).await;
}

/// Waits until told to stop.
async fn told(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Whether tables still tell of their changes for marts whose files are gone.
async fn leftovers(ground: &Ground) -> bool {
    let asked = async {
        let session =
            connect(Side::Warehouse, &ground.settings.warehouse, "siltstone marts").await?;
        let watched = refresh::any_watched(&*session).await?;
        let known = refresh::lookups(&*session).await;
        known.map(|known| watched || !known.is_empty())
    };
    asked.await.unwrap_or(false)
}

/// Waits until marts are to settle, where there are none.
async fn settled(mut settle: watch::Receiver<bool>, none: bool) {
    if !none || settle.wait_for(|settle| *settle).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Lets another instance take over at once.
async fn release(ground: &Ground, fence: Option<Fence>) {
    let Some(fence) = fence else { return };
    let released = async {
        let session =
            connect(Side::Warehouse, &ground.settings.warehouse, "siltstone marts").await?;
        fence.release(&session, true).await
    };
    if let Err(error) = released.await {
        tracing::debug!("the lease of marts runs out by itself: {}", error.reason());
    }
}

/// One time of being the owner; it ends well when everything has settled.
async fn term(
    ground: &Ground,
    spec: &Spec,
    fence: &mut Option<Fence>,
    settle: &watch::Receiver<bool>,
) -> Result<()> {
    let mut session =
        connect(Side::Warehouse, &ground.settings.warehouse, "siltstone marts").await?;
    match ground.no_ddl {
        true => refuse_outstanding(&*session).await?,
        false => migrate(&mut session).await?,
    }
    let owned = become_owner(ground, &mut session, fence.as_ref()).await?;
    *fence = Some(owned.clone());
    let marts = &spec.marts;
    let mut names: Vec<String> = marts.iter().map(|mart| mart.table.to_string()).collect();
    let mut lookers = lookups::lookers(ground, &owned, spec, (&session, settle)).await?;
    names.extend(lookers.iter().map(|looker| looker.table().to_string()));
    let transaction = Fenced::begin(&mut session, &owned, "mart", &ground.durations).await?;
    refresh::forget(&*transaction, &names).await?;
    transaction.commit().await?;
    if marts.is_empty() && lookers.is_empty() {
        // another instance may have some, now or later
        owned.release(&session, true).await?;
        *fence = None;
        drop(session);
        return std::future::pending().await;
    }
    let mut looking = JoinSet::new();
    lookers.drain(..).for_each(|looker| drop(looking.spawn(Looker::run(looker))));
    // a mart that reads what is looked up settles behind it
    let behind = watch::Sender::new(false);
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for mart in marts {
        let keeper = Keeper {
            ground: ground.clone(),
            fence: owned.clone(),
            mart: mart.clone(),
            hold: Hold::of(spec, mart),
            settle: behind.subscribe(),
            turns: turns.clone(),
        };
        tasks.spawn(keeper.run());
    }
    let mut ticks = tokio::time::interval(LEASE / 3);
    let mut settles = settle.clone();
    loop {
        if looking.is_empty() && *settle.borrow() {
            behind.send_replace(true);
        }
        tokio::select! {
            ended = looking.join_next(), if !looking.is_empty() => match ended {
                Some(Ok(ended)) => ended?,
                Some(Err(error)) => return Err(Error::bug("a lookup's task broke off").because(error)),
                None => {}
            },
            Ok(()) = settles.changed() => {}
            ended = tasks.join_next(), if !tasks.is_empty() => match ended {
                Some(Ok(ended)) => ended?,
                Some(Err(error)) => return Err(Error::bug("a mart's task broke off").because(error)),
                None => {}
            },
            _ = ticks.tick() => owned.renew(&session).await?,
        }
        if looking.is_empty() && tasks.is_empty() && *settle.borrow() {
            return Ok(());
        }
    }
}

async fn become_owner(
    ground: &Ground,
    session: &mut Session,
    held: Option<&Fence>,
) -> Result<Fence> {
    let claim = held.map_or(Claim::Vacant, |fence| Claim::Again(fence.epoch()));
    let mut standing_by = false;
    loop {
        let other = match claim {
            Claim::Vacant => leased_to(session, RESOURCE, &ground.owner).await?,
            _ => None,
        };
        match other {
            Some(other) if !standing_by => {
                standing_by = true;
                tracing::info!("marts: standing by, {other} keeps them");
            }
            Some(_) => {}
            None => match take_over(session, RESOURCE, &ground.owner, claim).await {
                // another one that stood by was faster
                Err(error) if error.kind() == Kind::Fenced && claim == Claim::Vacant => {}
                taken => return taken,
            },
        }
        tokio::time::sleep(STAND_BY).await;
    }
}
