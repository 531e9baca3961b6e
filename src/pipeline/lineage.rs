//! Keeps lineage as it follows from the files and from what connectors have seen: one instance does, and writes only
//! what differs. Whatever goes wrong here is said and tried again; it stops nothing else.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::leased::{Place, become_owner, keep_lease};
use crate::error::{Kind, Policy, Result};
use crate::lineage::{self, Facts};
use crate::postgres::{Endpoint, Session, Side, connect};
use crate::spec::Spec;
use crate::warehouse::{
    Claim, Durations, Fence, Fenced, migrate, refuse_outstanding, register, take_over,
};

/// Who owns this writes lineage down.
const RESOURCE: &str = "lineage";

/// How often it is looked whether tables were made or altered.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The first and the longest pause behind a failure.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The lineage of the files.
pub(super) struct Lineage {
    /// the warehouse stays the one that the service began with
    pub(super) endpoint: Endpoint,
    pub(super) files: watch::Receiver<Arc<Spec>>,
    pub(super) durations: Durations,
    /// names this run of this process
    pub(super) owner: Arc<str>,
    pub(super) no_ddl: bool,
    /// turns true when all else has come to its end: what was made meanwhile is written down, and that is it
    pub(super) settle: watch::Receiver<bool>,
}

impl Lineage {
    /// Keeps it until `stop` turns true, or everything has settled.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut pause = PAUSES.0;
        loop {
            match self.session(stop.clone()).await {
                Ok(()) => return,
                Err(error) if error.kind() == Kind::Fenced => {
                    tracing::debug!("another instance keeps lineage: standing by");
                    pause = PAUSES.0;
                }
                Err(error) if error.kind().policy() == Policy::Retry => {
                    tracing::warn!("lineage: {}; trying again", error.reason());
                }
                Err(error) => tracing::error!("lineage: {error}"),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = told(&mut stop) => return,
                // once more at most, and without waiting for an owner that does the same
                () = told(&mut self.settle) => return,
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn session(&mut self, stop: watch::Receiver<bool>) -> Result<()> {
        let endpoint = self.endpoint.clone();
        let mut session = connect(Side::Warehouse, &endpoint, "siltstone lineage").await?;
        prepare(&mut session, self.no_ddl).await?;
        let place = Place { resource: RESOURCE, what: "lineage", owner: &self.owner };
        let mut settle = self.settle.clone();
        let fence = tokio::select! {
            fence = become_owner(&mut session, &place, stop.clone()) => fence?,
            // the owner writes it down
            () = settled(&mut settle) => None,
        };
        let Some(fence) = fence else { return Ok(()) };
        let lease = connect(Side::Warehouse, &endpoint, "siltstone lineage").await?;
        register(&lease, &fence).await?;
        let worked = tokio::select! {
            worked = self.work(&mut session, &fence, stop) => worked,
            lost = keep_lease(&lease, &fence) => lost,
        };
        if worked.is_ok() {
            fence.release(&lease, false).await?;
        }
        worked
    }

    async fn work(
        &mut self,
        session: &mut Session,
        fence: &Fence,
        mut stop: watch::Receiver<bool>,
    ) -> Result<()> {
        let mut last = None;
        loop {
            let settling = *self.settle.borrow();
            let spec = self.files.borrow_and_update().clone();
            last = Some(look(session, (fence, &self.durations), &spec, last).await?);
            if settling {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                Ok(()) = self.files.changed() => {}
                () = told(&mut self.settle) => {}
                () = told(&mut stop) => return Ok(()),
            }
        }
    }
}

/// What was written down last: of which files, and of what was found then.
type Last = (Arc<Spec>, Facts);

/// Writes down what differs. The same files and the same tables as last time are not looked into again.
async fn look(
    session: &mut Session,
    (fence, durations): (&Fence, &Durations),
    spec: &Arc<Spec>,
    last: Option<Last>,
) -> Result<Last> {
    let facts = lineage::gather(&**session, spec).await?;
    match last {
        Some((of, found)) if Arc::ptr_eq(&of, spec) && found == facts => return Ok((of, found)),
        _ => {}
    }
    let edges = lineage::derive_all(spec, &facts).await?;
    let transaction = Fenced::begin(session, fence, "lineage", durations).await?;
    let written = lineage::write(&transaction, &edges).await?;
    transaction.commit().await?;
    if written != lineage::Written::default() {
        let lineage::Written { written, removed } = written;
        tracing::info!("lineage: {written} rows written, {removed} removed");
    }
    Ok((spec.clone(), facts))
}

/// Writes lineage down once, for `siltstone apply`; a service that keeps it begins anew.
pub(super) async fn write_once(session: &mut Session, spec: &Spec) -> Result<()> {
    let fence = take_over(session, RESOURCE, "siltstone apply", Claim::Anyway).await?;
    let nobody = Durations::unobserved();
    look(session, (&fence, &nobody), &Arc::new(spec.clone()), None).await?;
    fence.release(session, true).await
}

async fn prepare(session: &mut Session, no_ddl: bool) -> Result<()> {
    match no_ddl {
        true => refuse_outstanding(&**session).await,
        false => migrate(session).await,
    }
}

/// Waits until all else has come to its end, and long enough for a place that nobody has.
async fn settled(settle: &mut watch::Receiver<bool>) {
    const FOR_THE_PLACE: Duration = Duration::from_secs(3);
    told(settle).await;
    tokio::time::sleep(FOR_THE_PLACE).await;
}

/// Waits until something turns true.
async fn told(turns: &mut watch::Receiver<bool>) {
    if turns.wait_for(|turned| *turned).await.is_err() {
        std::future::pending::<()>().await;
    }
}
