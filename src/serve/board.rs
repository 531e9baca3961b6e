//! The live state of every connector: written by the pipeline as it goes, read by the admin server,
//! the metrics and the demo's screen. No lock is held for longer than a few assignments.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::clock::Clock;
use crate::journey::{Advanced, Applied};
use crate::names::TableName;
use crate::position::Lsn;

use super::marts::MartReport;
use super::metrics::Metrics;
use super::view::{PartitionReport, Phase, TableReport, View};

/// The state of all connectors.
#[derive(Clone)]
pub struct Board {
    connectors: Arc<Mutex<BTreeMap<String, ConnectorBoard>>>,
    marts: Arc<Mutex<BTreeMap<String, MartReport>>>,
    metrics: Metrics,
    clock: Clock,
}

impl Board {
    /// An empty board.
    pub fn new(clock: Clock) -> Board {
        Board {
            connectors: Arc::default(),
            marts: Arc::default(),
            metrics: Metrics::default(),
            clock,
        }
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

    /// How every mart stands that this instance keeps.
    pub fn marts(&self) -> Vec<MartReport> {
        lock(&self.marts).values().cloned().collect()
    }

    /// Notes how a mart stands.
    pub fn mart(&self, report: MartReport) {
        lock(&self.marts).insert(report.mart.clone(), report);
    }

    /// Notes why a mart does not go on; whether that was known.
    pub fn mart_says(
        &self,
        mart: &TableName,
        state: &str,
        reason: &str,
        remedy: Option<&str>,
    ) -> bool {
        let mut marts = lock(&self.marts);
        let report = marts.entry(mart.to_string()).or_default();
        let known = report.reason.as_deref() == Some(reason);
        report.mart = mart.to_string();
        state.clone_into(&mut report.state);
        report.reason = Some(reason.to_owned());
        report.remedy = remedy.map(str::to_owned);
        known
    }

    /// Forgets all marts but these.
    pub fn keep_marts(&self, names: &[String]) {
        lock(&self.marts).retain(|name, _| names.contains(name));
    }

    /// Reports how long a transaction took.
    pub fn observe_transaction(&self, name: &'static str, took: Duration) {
        self.metrics.observe_transaction(name, took);
    }

    /// Notes that a run of a job has ended.
    pub fn run_ended(&self, job: &str, state: &str, took: Duration) {
        self.metrics.jobs().run_ended(job, state, took);
    }

    /// Notes that an attempt at a task went well: when, and how long it took.
    pub fn task_done(&self, job: &str, task: &str, (at, took): (Timestamp, Duration)) {
        let at = at.as_duration().as_secs_f64();
        self.metrics.jobs().task_done(job, task, (at, took));
    }

    /// Notes that an attempt at a task has failed.
    pub fn task_failed(&self, job: &str, task: &str) {
        self.metrics.jobs().task_failed(job, task);
    }

    /// Notes that an extract of a connector failed at a limit, by the limit's name.
    pub fn extract_reached(&self, connector: &str, limit: &str) {
        self.metrics.jobs().extract_reached(connector, limit);
    }

    /// How many bytes of the warehouse server's log are not in an archive yet.
    pub fn archive_behind(&self, folder: &str, bytes: i64) {
        self.metrics.jobs().archive_behind(folder, bytes);
    }

    /// Notes that an extract of a connector waited for its rate.
    pub fn extract_waited(&self, connector: &str, wait: Duration) {
        self.metrics.jobs().extract_waited(connector, wait);
    }

    /// Notes what a job has found of a check, by its table and name: the status, and the percent of complete rows.
    pub fn check_judged(&self, of: (&str, &str), status: &str, completeness: Option<f64>) {
        self.metrics.checks().judged([of.0, of.1], status == "FAIL", completeness);
    }

    /// Notes what became of a message to a channel: sent, retried, failed, dropped.
    pub fn alert_sent(&self, channel: &str, result: &str) {
        self.metrics.alerts().sent(channel, result);
    }

    /// Notes how many alerts there are by each rule.
    pub fn alerts_firing(&self, counts: &BTreeMap<&str, i64>) {
        self.metrics.alerts().firing(counts);
    }

    /// Notes what became of an event of lineage: sent, failed, dropped.
    pub fn lineage_event(&self, result: &str) {
        self.metrics.lineage().event(result);
    }

    /// The time now, microseconds since 2000-01-01 UTC.
    pub fn now(&self) -> i64 {
        self.clock.now_postgres()
    }

    /// The metrics in Prometheus' text format.
    pub(super) fn metrics_text(&self) -> String {
        self.metrics.render(&self.views(), &self.marts(), self.now())
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

    /// Notes the commit time of a change that was read from a topic.
    pub fn heard(&self, committed_at: i64) {
        let mut view = lock(&self.view);
        if view.received_commit == view.applied_commit {
            view.waiting_commit = committed_at;
        }
        view.received_commit = view.received_commit.max(committed_at);
    }

    /// Notes how far each partition of the topics is, and where it ends.
    pub fn partitions(&self, partitions: BTreeMap<String, PartitionReport>) {
        lock(&self.view).partitions = partitions;
    }

    /// Notes what a committed batch did.
    pub fn advanced(&self, advanced: &Advanced) {
        let now = self.clock.now_postgres();
        let mut view = lock(&self.view);
        view.moved_at = now;
        if view.partitions.is_empty() {
            let stored = advanced.positions.lsn();
            view.stored = stored;
            view.source_end = view.source_end.max(stored);
            view.settle_freshness();
            if advanced.transactions > 0 {
                view.applied_commit = advanced.committed_at;
            }
        } else {
            for (name, stored) in advanced.positions.iter() {
                if let Some(partition) = view.partitions.get_mut(&**name) {
                    *partition =
                        PartitionReport { stored, end: partition.end.max(stored), ..*partition };
                }
            }
            // partitions are not in step: the newest one counts
            view.applied_commit = view.applied_commit.max(advanced.committed_at);
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

    /// Notes that transactions wait for what has not come of them, or do no more.
    pub fn transactions_wait(&self, wait: bool) {
        let now = self.clock.now_postgres();
        let mut view = lock(&self.view);
        view.transactions_wait = wait.then(|| view.transactions_wait.unwrap_or(now));
    }

    /// Notes how many dead letters the topic for them does not have yet.
    pub fn unsent_letters(&self, unsent: u64) {
        lock(&self.view).unsent_letters = Some(unsent);
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
