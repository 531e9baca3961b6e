//! What the tasks of a session share that reads a Postgres.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64};

use tokio::sync::watch;

use super::core::{Basis, Core, Reads};
pub(super) use super::core::{CaughtUp, writer};
use super::ladder::Step;
use crate::capture::preflight::Source;
use crate::capture::spool::Quota;
use crate::error::Result;
use crate::names::TableName;
use crate::progress::tables;
use crate::spec::{Connector, Deletes, Disabled};
use crate::warehouse::Fence;

/// The step taken last, from session to session; none before the first.
#[derive(Clone, Default)]
pub(super) struct WalStep(Arc<std::sync::Mutex<Option<Step>>>);

impl WalStep {
    /// Notes a step; returns the one before.
    pub(super) fn replace(&self, step: Step) -> Option<Step> {
        let mut known = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        known.replace(step)
    }
}

/// What a connector is run with, from session to session.
#[derive(Clone)]
pub(super) struct Setup {
    pub(super) basis: Basis,
    pub(super) connector: Arc<Connector>,
    /// the epoch that the connector's last session held; 0 before the first one
    pub(super) epoch: Arc<AtomicI64>,
    /// the slots of all connectors of the files
    pub(super) slots: Arc<[String]>,
    /// the connectors of the files that are disabled
    pub(super) disabled: Arc<[Disabled]>,
    /// changes are kept, not merged, so that the source can let go of its log
    pub(super) landing: watch::Sender<bool>,
    /// what is done about the log that the slot keeps
    pub(super) wal_step: WalStep,
    /// the position that is stored, as far as it is known while the warehouse is away; 0 before that
    pub(super) stored: Arc<AtomicI64>,
    /// the slot was dropped while the warehouse was away, and `dropped` may not have been able to note it
    pub(super) slot_dropped: Arc<AtomicBool>,
    /// how much disk open transactions may take, of all connectors
    pub(super) quota: Arc<Quota>,
    /// whether large transactions arrive whole, because their chunks could not be kept once
    pub(super) whole: Arc<AtomicBool>,
}

impl Deref for Setup {
    type Target = Basis;

    fn deref(&self) -> &Basis {
        &self.basis
    }
}

impl Setup {
    /// Whether the rows of a table are events, which a snapshot cannot bring back.
    pub(super) fn logs_events(&self, table: &TableName) -> bool {
        self.models.iter().any(|model| {
            model.table == *table && (model.history.logs_events() || model.deletes == Deletes::Row)
        })
    }
}

/// What the tasks of a session share.
pub(super) struct Shared {
    pub(super) core: Arc<Core>,
    pub(super) setup: Setup,
    pub(super) source: Source,
    /// whether the rows that are read have binary form
    pub(super) binary: bool,
    /// whether topics bring the changes of what is read
    pub(super) topics: bool,
    /// which of its connector's readings it is, by which temporary slots are named
    pub(super) reading: String,
}

impl Deref for Shared {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl Shared {
    pub(super) async fn open(
        setup: Setup,
        fence: Fence,
        binary: bool,
        source: Source,
    ) -> Result<Shared> {
        let reads = Reads::of(&setup.connector);
        let core = Arc::new(Core::open(setup.basis.clone(), fence, binary, reads).await?);
        let reading = core.fence.epoch().to_string();
        Ok(Shared { core, setup, source, binary, topics: false, reading })
    }

    /// What it takes to read rows for a connector of topics: `connector` is their source. They are read as text,
    /// for a topic tells nothing of the types by which a source writes binary forms.
    pub(super) fn of_topics(
        core: Arc<Core>,
        (connector, source): (Connector, Source),
        reading: String,
    ) -> Shared {
        let setup = Setup {
            basis: core.setup.clone(),
            connector: Arc::new(connector),
            epoch: Arc::default(),
            slots: Arc::from([]),
            disabled: Arc::from([]),
            landing: watch::Sender::new(false),
            wal_step: WalStep::default(),
            stored: Arc::default(),
            slot_dropped: Arc::default(),
            quota: Arc::new(Quota::new(0)),
            whole: Arc::default(),
        };
        Shared { core, setup, source, binary: false, topics: true, reading }
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.setup.connector
    }

    /// Whether a table's rows were read before.
    pub(super) fn was_read(&self, record: &tables::TableRecord) -> bool {
        was_read(self.connector(), record)
    }
}

impl Reads {
    /// Of a connector that reads a Postgres.
    pub(super) fn of(connector: &Connector) -> Reads {
        Reads {
            connector: connector.name.clone(),
            rows: connector.snapshot.initial,
            partition: connector.slot.clone(),
            numbers: None,
        }
    }
}

/// Whether a table's rows were read before; a table of events misses nothing then but a stretch of the
/// stream.
pub(super) fn was_read(connector: &Connector, record: &tables::TableRecord) -> bool {
    record.was_read || !connector.snapshot.initial
}
