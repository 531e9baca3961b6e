//! What the tasks of one connector's session share.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64};

use tokio::sync::{Mutex, Notify, watch};
use tokio_postgres::Transaction;

use super::confirm::Lately;
use super::follow::not_ours;
use super::held::HeldKeys;
use super::ladder::Step;
use super::note::Then;
use crate::capture::preflight::Source;
use crate::capture::spool::Quota;
use crate::clock::Clock;
use crate::error::Result;
use crate::journey::Target;
use crate::merge::{Leaf, Leaves, Templates, absent, create_leaves};
use crate::names::TableName;
use crate::position::Lsn;
use crate::postgres::{Session, Side, connect};
use crate::progress::chunks::{self, Chunk};
use crate::progress::leaves::want;
use crate::progress::{Checkpoint, schemas, tables};
use crate::relation::Relation;
use crate::serve::ConnectorBoard;
use crate::spec::{Connector, Model, Settings};
use crate::warehouse::{Durations, Fence, Fenced, register};

/// The step taken last, from session to session.
#[derive(Clone, Default)]
pub(super) struct WalStep(Arc<std::sync::Mutex<Step>>);

impl WalStep {
    /// Notes a step; returns the one before.
    pub(super) fn replace(&self, step: Step) -> Step {
        let mut known = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::replace(&mut *known, step)
    }
}

/// What a connector is run with, from session to session.
#[derive(Clone)]
pub(super) struct Setup {
    pub(super) connector: Arc<Connector>,
    pub(super) settings: Arc<Settings>,
    pub(super) models: Arc<[Model]>,
    pub(super) clock: Clock,
    pub(super) board: ConnectorBoard,
    pub(super) durations: Durations,
    pub(super) templates: Templates,
    /// names this run of this process
    pub(super) owner: Arc<str>,
    /// the epoch that the connector's last session held; 0 before the first one
    pub(super) epoch: Arc<AtomicI64>,
    /// the slots of all connectors of the files
    pub(super) slots: Arc<[String]>,
    /// changes are kept, not merged, so that the source can let go of its log
    pub(super) landing: watch::Sender<bool>,
    /// what is done about the log that the slot keeps
    pub(super) wal_step: WalStep,
    /// the positions that were stored lately
    pub(super) lately: Lately,
    /// the session ends for a new one with other files: the lease is kept
    pub(super) reloading: Arc<AtomicBool>,
    /// the slot was dropped while the warehouse was away: everything is to be read again
    pub(super) slot_dropped: Arc<AtomicBool>,
    /// how much disk open transactions may take, of all connectors
    pub(super) quota: Arc<Quota>,
    /// whether large transactions arrive whole, because their chunks could not be kept once
    pub(super) whole: Arc<AtomicBool>,
    /// end when everything that is at the source now is in the warehouse
    pub(super) until_caught_up: bool,
    /// tables and publications are somebody else's to make and alter
    pub(super) no_ddl: bool,
    /// told when the files are worth being read again
    pub(super) reread: Arc<Notify>,
}

/// What the tasks of a session share.
pub(super) struct Shared {
    pub(super) setup: Setup,
    pub(super) fence: Fence,
    /// whether values travel in binary form
    pub(super) binary: bool,
    pub(super) extensions: HashSet<String>,
    pub(super) source: Source,
    /// the session for short transactions beside the apply lane
    side: Mutex<SideSession>,
    pub(super) flows: watch::Sender<Flows>,
    /// a position that a table waits for: an idle source's is stored at once then
    pub(super) awaited: watch::Sender<Lsn>,
}

pub(super) struct SideSession {
    session: Session,
    leaves: Leaves,
}

impl SideSession {
    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    pub(super) fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}

/// Which tables have caught up, in versions: capture takes a newer one between two transactions, and
/// stamps its batches with it.
#[derive(Clone, Default)]
pub(super) struct Flows {
    pub(super) version: u64,
    /// the tables that went on in this session, each with the version that let it
    pub(super) live: Vec<(u64, CaughtUp)>,
}

/// A table whose rows are in: its kept changes are next.
#[derive(Clone)]
pub(super) struct CaughtUp {
    /// in the shape that its rows have
    pub(super) target: Arc<Target>,
    /// changes below it are in the rows: the stream may still be behind the snapshot
    pub(super) floor: i64,
    /// the keys that go on waiting; of a table with kept changes before it they are not known yet
    pub(super) held: HeldKeys,
    /// its changes do not come with the batches before this position is stored: what it refused a
    /// moment ago is to be among the kept ones when it comes again
    pub(super) not_before: Lsn,
    /// its kept changes are applied when this position is stored: rows that were read there are among them
    pub(super) joins: Lsn,
}

impl CaughtUp {
    /// A table whose rows have what is below `floor`, and whose kept changes are all that is behind it.
    pub(super) fn at(target: Arc<Target>, floor: i64) -> CaughtUp {
        let (held, not_before, joins) = (HeldKeys::default(), Lsn(0), Lsn(0));
        CaughtUp { target, floor, held, not_before, joins }
    }
}

/// How long DDL waits for a lock before it gives way.
const LOCK_TIMEOUT: &str = "set lock_timeout to '1s'";

impl Shared {
    pub(super) async fn open(
        setup: Setup,
        fence: Fence,
        binary: bool,
        source: Source,
    ) -> Result<Shared> {
        let session = writer(&setup, &fence, "ddl").await?;
        session
            .batch_execute(LOCK_TIMEOUT)
            .await
            .map_err(|error| crate::error::Error::warehouse("setting up a session", error))?;
        let extensions = crate::merge::extension_types(&*session).await?;
        Ok(Shared {
            setup,
            fence,
            binary,
            extensions,
            source,
            side: Mutex::new(SideSession { session, leaves: Leaves::default() }),
            flows: watch::Sender::new(Flows::default()),
            awaited: watch::Sender::new(Lsn(0)),
        })
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.setup.connector
    }

    /// Makes the leaves that hold `days` of a table, in a short transaction of their own; or `within`
    /// one that has altered a table, and would have to wait for itself.
    pub(super) async fn ensure_leaves(
        &self,
        wanted: &[(Arc<Model>, Vec<i64>)],
        within: Option<&Transaction<'_>>,
    ) -> Result<()> {
        let mut side = self.side.lock().await;
        let SideSession { session, leaves } = &mut *side;
        let mut missing: Vec<Leaf> = Vec::new();
        for (model, days) in wanted {
            missing.extend(leaves.missing(model, days.iter().copied())?);
        }
        if self.setup.no_ddl {
            return self.look_for(session, leaves, missing).await;
        }
        if let Some(transaction) = within {
            // not noted: the transaction may yet be rolled back
            return create_leaves(transaction, &missing).await;
        }
        // one transaction must not hold the locks of hundreds of new leaves
        const LEAVES_AT_ONCE: usize = 50;
        for part in missing.chunks(LEAVES_AT_ONCE) {
            let transaction =
                Fenced::begin(session, &self.fence, "leaves", &self.setup.durations).await?;
            create_leaves(&*transaction, part).await?;
            transaction.commit().await?;
            leaves.note(part);
        }
        Ok(())
    }

    /// Looks for leaves that somebody else is to make; what is not there is noted and stops its table.
    async fn look_for(
        &self,
        session: &mut Session,
        leaves: &mut Leaves,
        wanted: Vec<Leaf>,
    ) -> Result<()> {
        let gone = absent(&**session, wanted.clone()).await?;
        let Some(first) = gone.first() else {
            leaves.note(&wanted);
            return Ok(());
        };
        let of_table: Vec<&Leaf> = gone.iter().filter(|leaf| leaf.parent == first.parent).collect();
        let days: Vec<i64> = of_table.iter().map(|leaf| leaf.first_day()).collect();
        let transaction =
            Fenced::begin(session, &self.fence, "leaves", &self.setup.durations).await?;
        want(&*transaction, &first.parent, &days).await?;
        transaction.commit().await?;
        let what = match days.len() {
            1 => format!("it lacks the leaf {}", first.name),
            many => format!("it lacks {many} leaves, such as {}", first.name),
        };
        Err(not_ours(&what).on_table(first.parent.to_string()))
    }

    /// Gives up the lease; a failure only means that it runs out.
    pub(super) async fn release(&self) {
        let side = self.side.lock().await;
        if let Err(error) = self.fence.release(&side.session).await {
            tracing::debug!("{error}");
        }
    }

    /// The session for short work beside the apply lane.
    pub(super) async fn side_session(&self) -> tokio::sync::MutexGuard<'_, SideSession> {
        self.side.lock().await
    }

    /// What is to be read.
    pub(super) async fn open_chunks(&self) -> Result<Vec<Chunk>> {
        let side = self.side.lock().await;
        chunks::open(&*side.session, &self.connector().name).await
    }

    /// The number of a relation's shape.
    pub(super) async fn number_shape(&self, relation: &Relation) -> Result<i32> {
        let mut side = self.side.lock().await;
        let transaction =
            Fenced::begin(&mut side.session, &self.fence, "shape", &self.setup.durations).await?;
        let id = schemas::number(&*transaction, &self.connector().name, relation).await?;
        transaction.commit().await?;
        Ok(id)
    }

    /// Runs statements for a table in a transaction of their own, and notes its state.
    pub(super) async fn define(
        &self,
        statements: &[String],
        table: &TableName,
        then: Then<'_>,
    ) -> Result<()> {
        if self.setup.no_ddl && !statements.is_empty() {
            return Err(not_ours("it is to be made or altered").on_table(table.to_string()));
        }
        let mut side = self.side.lock().await;
        let transaction =
            Fenced::begin(&mut side.session, &self.fence, "define", &self.setup.durations).await?;
        for statement in statements {
            transaction.batch_execute(statement).await.map_err(|error| {
                crate::error::Error::warehouse("changing its definition", error)
                    .on_table(table.to_string())
                    .remedy(format!("siltstone table resync {table}"))
            })?;
        }
        then.note(&transaction, self.connector(), table).await?;
        transaction.commit().await
    }
}

impl Shared {
    /// Whether a table's rows were read before.
    pub(super) fn was_read(&self, record: &tables::TableRecord) -> bool {
        was_read(self.connector(), record)
    }

    /// The stored position; zero before the first.
    pub(super) async fn stored(
        &self,
        transaction: &tokio_postgres::Transaction<'_>,
    ) -> Result<Lsn> {
        stored(transaction, self.connector()).await
    }
}

/// Whether a table's rows were read before; a table of events misses nothing then but a stretch of the
/// stream.
pub(super) fn was_read(connector: &Connector, record: &tables::TableRecord) -> bool {
    record.was_read || !connector.snapshot.initial
}

pub(super) async fn stored(transaction: &Transaction<'_>, connector: &Connector) -> Result<Lsn> {
    let stored = Checkpoint::read(transaction, &connector.name, &connector.slot).await?;
    Ok(stored.map_or(Lsn(0), |stored| stored.position))
}

/// A warehouse session that is registered with its owner before its first write.
pub(super) async fn writer(setup: &Setup, fence: &Fence, what: &str) -> Result<Session> {
    let application = format!("siltstone {} {what}", setup.connector.name);
    let session = connect(Side::Warehouse, &setup.settings.warehouse, &application).await?;
    register(&session, fence).await?;
    Ok(session)
}
