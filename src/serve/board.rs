//! The live state of every connector: written by the pipeline as it goes, read by the admin server,
//! the metrics and the demo's screen. No lock is held for longer than a few assignments.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::journey::{Advanced, Applied};
use crate::names::TableName;
use crate::position::Lsn;

use super::metrics::Metrics;

/// What a connector is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Finding out where it stands.
    #[default]
    Starting,
    /// Another instance owns it.
    Standby,
    /// Some tables are being read.
    Snapshotting,
    /// Changes are applied as they come.
    Streaming,
    /// Source or warehouse is away, and waited for.
    Waiting,
    /// It cannot go on by itself.
    Stopped,
    /// An operator lets it rest.
    Paused,
    /// An operator stopped it.
    Halted,
}

impl Phase {
    /// The word in `/status`.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Standby => "standby",
            Phase::Snapshotting => "snapshotting",
            Phase::Streaming => "streaming",
            Phase::Waiting => "waiting",
            Phase::Stopped => "stopped",
            Phase::Paused => "paused",
            Phase::Halted => "halted",
        }
    }
}

/// A table's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableReport {
    /// As in `audit.tables`.
    pub state: String,
    /// Why it stopped.
    pub reason: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
    /// Rows read by its snapshot.
    pub rows_read: u64,
    /// Rows the source's planner thinks it has.
    pub rows_estimated: u64,
    /// Bytes of changes kept for it.
    pub pending_bytes: u64,
    /// Changes that it refuses.
    pub dead_letters: u64,
    /// Changes that wait behind those.
    pub waiting: u64,
}

/// Sums since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Source transactions.
    pub transactions: u64,
    /// Changes, before they were folded.
    pub events: u64,
    /// Versions opened.
    pub versions: u64,
}

/// A connector's state, as it is read.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The connector.
    pub name: String,
    /// What it is doing.
    pub phase: Phase,
    /// Why it waits or stopped.
    pub reason: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
    /// The stored position.
    pub stored: Lsn,
    /// How far the stream was read.
    pub received: Lsn,
    /// The end of the source's log, as it last told.
    pub source_end: Lsn,
    /// An end of the source's log that is not stored yet, and when it was the end by the source's clock.
    pub(super) ahead: Option<(Lsn, i64)>,
    /// What the source committed before is in the warehouse: microseconds since 2000-01-01 UTC by its
    /// clock, 0 where that is not known yet.
    pub fresh_to: i64,
    /// The commit time of the last applied transaction, microseconds since 2000-01-01 UTC.
    pub applied_commit: i64,
    /// The commit time of the last received transaction, likewise.
    pub received_commit: i64,
    /// The commit time of the first transaction that is not applied, likewise.
    pub waiting_commit: i64,
    /// When the position last moved, or there last was nothing to move it: microseconds since 2000-01-01 UTC by our clock.
    pub moved_at: i64,
    /// Bytes of log that the slot keeps at the source.
    pub retained: u64,
    /// What is done about them: calm, warn, landing, slot_dropped.
    pub wal_step: &'static str,
    /// Bytes of open transactions on disk.
    pub spooled: u64,
    /// The tables.
    pub tables: BTreeMap<TableName, TableReport>,
    /// Sums.
    pub totals: Totals,
    /// The tables' names by their place in the session.
    pub(super) names: BTreeMap<usize, TableName>,
}

impl View {
    /// What was the end of the log is in the warehouse.
    fn settle_freshness(&mut self) {
        if let Some((_, at)) = self.ahead.take_if(|(end, _)| *end <= self.stored) {
            self.fresh_to = at;
        }
    }

    /// Bytes of log between what is applied and the end of the source's log.
    pub fn lag_bytes(&self) -> u64 {
        if self.backlog() { self.source_end.since(self.stored) } else { 0 }
    }

    /// Whether something was received that is not yet applied.
    pub fn backlog(&self) -> bool {
        self.received_commit != self.applied_commit || self.phase != Phase::Streaming
    }

    /// How long ago the oldest change that is not applied was committed, at most: none left, 0.
    pub fn lag_micros(&self, now: i64) -> i64 {
        if !self.backlog() || self.applied_commit == 0 {
            return 0;
        }
        // behind a quiet hour a new change is not an hour late
        now.saturating_sub(self.applied_commit.max(self.waiting_commit)).max(0)
    }
}

/// The state of all connectors.
#[derive(Clone)]
pub struct Board {
    connectors: Arc<Mutex<BTreeMap<String, ConnectorBoard>>>,
    metrics: Metrics,
    clock: Clock,
}

impl Board {
    /// An empty board.
    pub fn new(clock: Clock) -> Board {
        Board { connectors: Arc::default(), metrics: Metrics::default(), clock }
    }

    /// The board of a connector; made when it is asked for first.
    pub fn connector(&self, name: &str) -> ConnectorBoard {
        let mut connectors = lock(&self.connectors);
        let made = connectors.entry(name.to_owned()).or_insert_with(|| {
            let moved_at = self.clock.now_postgres();
            let view = View { name: name.to_owned(), moved_at, ..View::default() };
            ConnectorBoard {
                view: Arc::new(Mutex::new(view)),
                metrics: self.metrics.clone(),
                clock: self.clock.clone(),
            }
        });
        made.clone()
    }

    /// Forgets all connectors but these.
    pub fn keep(&self, names: &HashSet<&str>) {
        lock(&self.connectors).retain(|name, _| names.contains(name.as_str()));
    }

    /// What every connector is doing.
    pub fn views(&self) -> Vec<View> {
        lock(&self.connectors).values().map(ConnectorBoard::view).collect()
    }

    /// Reports how long a transaction took.
    pub fn observe_transaction(&self, name: &'static str, took: Duration) {
        self.metrics.observe_transaction(name, took);
    }

    /// The time now, microseconds since 2000-01-01 UTC.
    pub fn now(&self) -> i64 {
        self.clock.now_postgres()
    }

    /// The metrics in Prometheus' text format.
    pub(super) fn metrics_text(&self) -> String {
        self.metrics.render(&self.views(), self.now())
    }
}

/// The state of one connector.
#[derive(Clone)]
pub struct ConnectorBoard {
    view: Arc<Mutex<View>>,
    metrics: Metrics,
    clock: Clock,
}

impl ConnectorBoard {
    /// What the connector is doing.
    pub fn view(&self) -> View {
        lock(&self.view).clone()
    }

    /// Notes what it is doing, and why.
    pub fn phase(&self, phase: Phase, reason: Option<&str>, remedy: Option<&str>) {
        let mut view = lock(&self.view);
        if !view.backlog() && phase != Phase::Streaming {
            // an idle connector has not been stuck while it was idle
            view.moved_at = self.clock.now_postgres();
        }
        view.phase = phase;
        view.reason = reason.map(str::to_owned);
        view.remedy = remedy.map(str::to_owned);
    }

    /// Notes how far the stream was read, and where the source's log ends.
    pub fn received(&self, position: Lsn, source_end: Lsn, committed_at: Option<i64>) {
        let mut view = lock(&self.view);
        view.received = position;
        view.source_end = source_end.max(view.source_end);
        if let Some(committed_at) = committed_at {
            if view.received_commit == view.applied_commit {
                view.waiting_commit = committed_at;
            }
            view.received_commit = committed_at;
        }
    }

    /// Notes what a committed batch did.
    pub fn advanced(&self, advanced: &Advanced, stored: Lsn) {
        let now = self.clock.now_postgres();
        let mut view = lock(&self.view);
        view.stored = stored;
        view.source_end = view.source_end.max(stored);
        view.moved_at = now;
        view.settle_freshness();
        if advanced.transactions > 0 {
            view.applied_commit = advanced.committed_at;
        }
        view.totals.transactions += advanced.transactions;
        for (index, applied) in &advanced.tables {
            self.add(&mut view, *index, applied);
        }
    }

    /// Notes rows that were applied beside the stream: of a snapshot, or kept ones.
    pub fn applied(&self, index: usize, applied: &Applied) {
        let mut view = lock(&self.view);
        view.moved_at = self.clock.now_postgres();
        self.add(&mut view, index, applied);
    }

    fn add(&self, view: &mut View, index: usize, applied: &Applied) {
        view.totals.events += applied.events;
        view.totals.versions += applied.opened;
        if let Some(name) = view.names.get(&index) {
            self.metrics.applied(&name.to_string(), applied);
        }
    }

    /// Tells the name of the table at a place in the session.
    pub fn table_named(&self, index: usize, name: &TableName) {
        lock(&self.view).names.insert(index, name.clone());
    }

    /// Forgets the tables of the last session.
    pub fn clear_tables(&self) {
        let mut view = lock(&self.view);
        view.tables.clear();
        view.names.clear();
    }

    /// Notes a table's state.
    pub fn table_state(
        &self,
        name: &TableName,
        state: &str,
        reason: Option<&str>,
        remedy: Option<&str>,
    ) {
        let mut view = lock(&self.view);
        let table = view.tables.entry(name.clone()).or_default();
        state.clone_into(&mut table.state);
        table.reason = reason.map(str::to_owned);
        table.remedy = remedy.map(str::to_owned);
    }

    /// Notes how far a table's snapshot is.
    pub fn rows_read(&self, name: &TableName, rows: u64, estimated: u64) {
        let now = self.clock.now_postgres();
        let mut view = lock(&self.view);
        view.moved_at = now;
        let table = view.tables.entry(name.clone()).or_default();
        table.rows_read = rows;
        table.rows_estimated = estimated;
    }

    /// Whether a table's rows are being read or caught up.
    pub fn is_reading(&self) -> bool {
        let reading = |table: &TableReport| {
            matches!(table.state.as_str(), "snapshotting" | "resyncing" | "catching_up")
        };
        lock(&self.view).tables.values().any(reading)
    }

    /// Whether rows of a table are read from the source.
    pub fn has_open_chunks(&self) -> bool {
        let open =
            |table: &TableReport| matches!(table.state.as_str(), "snapshotting" | "resyncing");
        lock(&self.view).tables.values().any(open)
    }

    /// Notes where the source's log ends, as the source itself says at the moment `at`.
    pub fn source_ends(&self, end: Lsn, at: i64) {
        let mut view = lock(&self.view);
        view.source_end = view.source_end.max(end);
        // one at a time, or a busy stream would never reach the last one
        view.ahead.get_or_insert((end, at));
        view.settle_freshness();
    }

    /// Notes how much log the slot keeps at the source.
    pub fn retained_bytes(&self, bytes: u64) {
        lock(&self.view).retained = bytes;
    }

    /// Notes what is done about the log that the slot keeps.
    pub fn wal_step(&self, step: &'static str) {
        lock(&self.view).wal_step = step;
    }

    /// Notes how much of open transactions lies on disk.
    pub fn spooled(&self, bytes: u64) {
        lock(&self.view).spooled = bytes;
    }

    /// Notes that open transactions could not be kept on disk.
    pub fn spool_gave_up(&self) {
        self.metrics.spool_gave_up(&lock(&self.view).name);
    }

    /// Notes how much is kept for each table.
    pub fn pending_bytes(&self, sizes: &BTreeMap<TableName, u64>) {
        let mut view = lock(&self.view);
        for (name, table) in &mut view.tables {
            table.pending_bytes = sizes.get(name).copied().unwrap_or(0);
        }
    }

    /// Notes the dead letters of each table, and how many changes wait behind them.
    pub fn dead_letters(&self, counts: &HashMap<TableName, (u64, u64)>) {
        let mut view = lock(&self.view);
        for (name, table) in &mut view.tables {
            (table.dead_letters, table.waiting) = counts.get(name).copied().unwrap_or_default();
        }
    }
}

/// A panic elsewhere leaves the state as it was: every write is complete in itself.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
