//! What the tasks of one connector's session share, whatever the connector reads from.

use std::collections::HashSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use tokio::sync::{Mutex, watch};
use tokio_postgres::Transaction;

use super::follow::not_ours;
use super::held::HeldKeys;
use super::note::Then;
use super::reread::Reread;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::journey::Target;
use crate::merge::{Leaf, Leaves, Templates, absent, create_leaves};
use crate::names::TableName;
use crate::position::{Lsn, Positions};
use crate::postgres::{Session, Side, connect, quote};
use crate::progress::chunks::{self, Chunk};
use crate::progress::leaves::want;
use crate::progress::{Checkpoint, schemas};
use crate::relation::Relation;
use crate::serve::ConnectorBoard;
use crate::spec::{Common, HORIZON, Model, Settings};
use crate::warehouse::{Durations, Fence, Fenced, register};

/// What a connector is run with, from session to session.
#[derive(Clone)]
pub(super) struct Basis {
    pub(super) common: Arc<Common>,
    pub(super) settings: Arc<Settings>,
    pub(super) models: Arc<[Model]>,
    pub(super) clock: Clock,
    pub(super) board: ConnectorBoard,
    pub(super) durations: Durations,
    pub(super) templates: Templates,
    /// names this run of this process
    pub(super) owner: Arc<str>,
    /// the session ends for a new one with other files: the lease is kept
    pub(super) reloading: Arc<AtomicBool>,
    /// end when everything that is at the source now is in the warehouse
    pub(super) until_caught_up: bool,
    /// tables and publications are somebody else's to make and alter
    pub(super) no_ddl: bool,
    /// told when the files are worth being read again
    pub(super) reread: Arc<Reread>,
}

impl Basis {
    /// How late an event of a topic may come to a table, in seconds.
    pub(super) fn lateness(&self, table: &TableName) -> f64 {
        let declared = self.models.iter().find(|model| model.table == *table);
        declared.map_or(HORIZON, Model::lateness).as_secs_f64()
    }
}

/// What the tasks of a session share.
pub(super) struct Core {
    pub(super) setup: Basis,
    pub(super) fence: Fence,
    /// whether values travel in binary form
    pub(super) binary: bool,
    pub(super) extensions: HashSet<String>,
    reads: Reads,
    /// the first table whose topics tell columns that its rows were read without, in the shape that has those too
    pub(super) untold: OnceLock<(TableName, Relation)>,
    /// the session for short transactions beside the apply lane
    side: Mutex<SideSession>,
    pub(super) flows: watch::Sender<Flows>,
    /// a position that a table waits for: an idle source's is stored at once then
    pub(super) awaited: watch::Sender<Lsn>,
}

/// What of a connector its tables' notes depend on.
pub(super) struct Reads {
    pub(super) connector: String,
    /// whether the rows that were there before are read
    pub(super) rows: bool,
    /// the partition whose stored position gaps are named by
    pub(super) partition: String,
    /// the partitions by whose numbers our kept changes are known among those of other processes; none where
    /// there is but one log
    pub(super) numbers: Option<Vec<i64>>,
}

impl Reads {
    /// The stored position; zero before the first.
    pub(super) async fn stored(&self, transaction: &Transaction<'_>) -> Result<Lsn> {
        let stored = Checkpoint::read(transaction, &self.connector, &self.partition).await?;
        Ok(stored.map_or(Lsn(0), |stored| stored.lsn()))
    }
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
    /// the keys that go on waiting; of a table with kept changes before it they are not known yet, and of one that
    /// flows those that were let wait
    pub(super) held: HeldKeys,
    /// those of them that wait for a delete under a former key
    pub(super) arriving: HeldKeys,
    /// its changes do not come with the batches before these positions are stored: what it refused a
    /// moment ago is to be among the kept ones when it comes again
    pub(super) not_before: Positions,
    /// its kept changes are applied when this position is stored: rows that were read there are among them
    pub(super) joins: Lsn,
    /// its changes come with the batches already: only rows that wait for a delete are looked after
    pub(super) flows: bool,
}

impl CaughtUp {
    /// A table whose rows have what is below `floor`, and whose kept changes are all that is behind it.
    pub(super) fn at(target: Arc<Target>, floor: i64) -> CaughtUp {
        let (held, arriving) = (HeldKeys::default(), HeldKeys::default());
        let (not_before, joins) = (Positions::default(), Lsn(0));
        CaughtUp { target, floor, held, arriving, not_before, joins, flows: false }
    }
}

/// How long DDL waits for a lock before it gives way.
const LOCK_TIMEOUT: &str = "set lock_timeout to '1s'";

impl Core {
    pub(super) async fn open(
        setup: Basis,
        fence: Fence,
        binary: bool,
        reads: Reads,
    ) -> Result<Core> {
        let session = writer(&setup, &fence, "ddl").await?;
        session
            .batch_execute(LOCK_TIMEOUT)
            .await
            .map_err(|error| Error::warehouse("setting up a session", error))?;
        let extensions = crate::merge::extension_types(&*session).await?;
        Ok(Core {
            setup,
            fence,
            binary,
            extensions,
            reads,
            untold: OnceLock::new(),
            side: Mutex::new(SideSession { session, leaves: Leaves::default() }),
            flows: watch::Sender::new(Flows::default()),
            awaited: watch::Sender::new(Lsn(0)),
        })
    }

    pub(super) fn connector(&self) -> &Common {
        &self.setup.common
    }

    /// The numbers by which our kept changes are known among those of other processes.
    pub(super) fn numbers(&self) -> Option<&[i64]> {
        self.reads.numbers.as_deref()
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
        const TRIES: u32 = 3;
        for part in missing.chunks(LEAVES_AT_ONCE) {
            let mut tries = 1;
            // somebody else may make the same ones just now
            while let Err(error) = self.make_leaves(session, part).await {
                if tries == TRIES || error.kind() != Kind::Busy {
                    return Err(error);
                }
                tries += 1;
            }
            leaves.note(part);
        }
        Ok(())
    }

    async fn make_leaves(&self, session: &mut Session, part: &[Leaf]) -> Result<()> {
        let transaction =
            Fenced::begin(session, &self.fence, "leaves", &self.setup.durations).await?;
        create_leaves(&*transaction, part).await?;
        transaction.commit().await
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
        if let Err(error) = self.fence.release(&side.session, self.reads.numbers.is_some()).await {
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
                let error = Error::warehouse("changing its definition", error);
                let error = error.on_table(table.to_string());
                match error.kind() {
                    Kind::Rights if then.is_new() => error.remedy(format!(
                        "run what siltstone sql warehouse-role prints; then siltstone connector restart {}",
                        self.connector().name
                    )),
                    Kind::Rights => error.remedy(format!(
                        "alter table {} owner to the warehouse's role, or run what siltstone sql \
                         warehouse-role prints; then siltstone table resume {table:#}",
                        quote::table(table)
                    )),
                    _ => error.remedy(format!("siltstone table resync {table:#}")),
                }
            })?;
        }
        then.note(&transaction, &self.reads, table).await?;
        transaction.commit().await
    }
}

impl Core {
    /// Whether the connector reads the rows that were there before, as topics do not.
    pub(super) fn reads_rows(&self) -> bool {
        self.reads.rows
    }

    /// The stored position that gaps are named by; zero before the first.
    pub(super) async fn stored(&self, transaction: &Transaction<'_>) -> Result<Lsn> {
        self.reads.stored(transaction).await
    }
}

/// A warehouse session that is registered with its owner before its first write.
pub(super) async fn writer(setup: &Basis, fence: &Fence, what: &str) -> Result<Session> {
    let application = format!("siltstone {} {what}", setup.common.name);
    let session = connect(Side::Warehouse, &setup.settings.warehouse, &application).await?;
    register(&session, fence).await?;
    Ok(session)
}
