//! The metrics, in Prometheus' text format. Counters are kept as things happen; gauges are read from
//! the board when somebody scrapes.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use super::alerts::AlertFamilies;
use super::check_metrics::CheckFamilies;
use super::job_metrics::JobFamilies;
use super::lineage::LineageFamilies;
use super::mart_metrics::MartFamilies;
use super::marts::MartReport;
use super::memory::resident_bytes;
use super::view::View;
use crate::journey::Applied;

/// Tables beyond this many are summed as `table="other"`.
const TABLES_AT_MOST: usize = 500;

/// The states of a table, each a series of `siltstone_table_state`.
const STATES: [&str; 6] =
    ["snapshotting", "catching_up", "streaming", "paused", "stopped", "resyncing"];

/// What is done about kept log, each a series of `siltstone_wal_step`.
const WAL_STEPS: [&str; 4] = ["calm", "warn", "landing", "slot_dropped"];

/// All metrics of the process.
#[derive(Clone)]
pub(super) struct Metrics(Arc<Families>);

struct Families {
    registry: Registry,
    rows: IntCounterVec,
    stale: IntCounterVec,
    transactions: HistogramVec,
    lag_bytes: IntGaugeVec,
    lag_records: IntGaugeVec,
    rests: IntGaugeVec,
    transactions_wait: GaugeVec,
    lag_seconds: GaugeVec,
    retained: IntGaugeVec,
    wal_step: IntGaugeVec,
    spooled: IntGaugeVec,
    spool_gave_up: IntCounterVec,
    pending: IntGaugeVec,
    dead_letters: IntGaugeVec,
    unsent: IntGaugeVec,
    waiting: IntGaugeVec,
    state: IntGaugeVec,
    memory: IntGaugeVec,
    build: IntGaugeVec,
    jobs: JobFamilies,
    marts: MartFamilies,
    alerts: AlertFamilies,
    lineage: LineageFamilies,
    checks: CheckFamilies,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let families = Families::new();
        let others = families.jobs.collectors().into_iter().chain(families.alerts.collectors());
        let others = others.chain(families.marts.collectors()).chain(families.checks.collectors());
        let others = others.chain(families.lineage.collectors());
        for family in families.collectors().into_iter().chain(others) {
            // names are constants and each is registered once; a duplicate would be a bug of ours,
            // which costs a metric and not the service
            if let Err(error) = families.registry.register(family) {
                tracing::error!(%error, "a metric cannot be registered");
            }
        }
        Metrics(Arc::new(families))
    }
}

/// A family whose name and labels are constants is always well-formed.
macro_rules! family {
    ($kind:ident, $name:literal, $help:literal, $labels:expr) => {
        match $kind::new(Opts::new($name, $help), &$labels) {
            Ok(family) => family,
            Err(error) => unreachable!("{error}"),
        }
    };
}

fn durations() -> HistogramVec {
    let durations = HistogramOpts::new(
        "siltstone_transaction_duration_seconds",
        "Warehouse transactions from begin to commit",
    )
    .buckets(vec![0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0]);
    match HistogramVec::new(durations, &["name"]) {
        Ok(family) => family,
        Err(error) => unreachable!("{error}"),
    }
}

fn wal_steps() -> IntGaugeVec {
    family!(
        IntGaugeVec,
        "siltstone_wal_step",
        "What is done about that log: 0/1 for calm, warn, landing, slot_dropped",
        ["connector", "step"]
    )
}

fn unsent() -> IntGaugeVec {
    family!(
        IntGaugeVec,
        "siltstone_dead_letters_unsent",
        "Dead letters that dead_letter_topic does not have yet",
        ["connector"]
    )
}

fn spooled() -> IntGaugeVec {
    family!(IntGaugeVec, "siltstone_spool_bytes", "Open transactions on disk", ["connector"])
}

fn spool_gave_up() -> IntCounterVec {
    family!(
        IntCounterVec,
        "siltstone_spool_fallbacks_total",
        "Times that the spool could not take open transactions: large ones arrive whole since",
        ["connector"]
    )
}

fn lag_bytes() -> IntGaugeVec {
    family!(
        IntGaugeVec,
        "siltstone_lag_bytes",
        "Bytes of the source's log behind its end",
        ["connector", "stage"]
    )
}

fn lag_records() -> IntGaugeVec {
    family!(
        IntGaugeVec,
        "siltstone_lag_records",
        "Records of a topic's partition that are not applied",
        ["connector", "partition"]
    )
}

fn rests() -> IntGaugeVec {
    family!(
        IntGaugeVec,
        "siltstone_partition_rests",
        "1 while nothing more of a topic's partition is read, and its records stay in Kafka",
        ["connector", "partition"]
    )
}

fn transactions_wait() -> GaugeVec {
    family!(
        GaugeVec,
        "siltstone_transactions_wait_seconds",
        "How long transactions wait for what has not come of them (atomic: true), once that is long",
        ["connector"]
    )
}

fn waiting() -> IntGaugeVec {
    family!(
        IntGaugeVec,
        "siltstone_waiting_changes",
        "Changes that wait behind dead letters of their key",
        ["table"]
    )
}

impl Families {
    fn new() -> Families {
        Families {
            registry: Registry::new(),
            transactions: durations(),
            rows: family!(
                IntCounterVec,
                "siltstone_rows_applied_total",
                "Rows applied to warehouse tables",
                ["table", "op"]
            ),
            stale: family!(
                IntCounterVec,
                "siltstone_stale_rows_total",
                "Rows dropped because a newer one was there",
                ["table"]
            ),
            lag_bytes: lag_bytes(),
            lag_records: lag_records(),
            rests: rests(),
            transactions_wait: transactions_wait(),
            lag_seconds: family!(
                GaugeVec,
                "siltstone_lag_seconds",
                "Age of the last applied commit while something waits, else 0",
                ["connector", "stage"]
            ),
            wal_step: wal_steps(),
            retained: family!(
                IntGaugeVec,
                "siltstone_slot_retained_bytes",
                "Log that the slot keeps at the source",
                ["connector"]
            ),
            spooled: spooled(),
            spool_gave_up: spool_gave_up(),
            pending: family!(
                IntGaugeVec,
                "siltstone_pending_bytes",
                "Changes kept for a table that cannot take them now",
                ["table"]
            ),
            dead_letters: family!(
                IntGaugeVec,
                "siltstone_dead_letters",
                "Changes that their table refuses",
                ["table"]
            ),
            unsent: unsent(),
            waiting: waiting(),
            state: family!(
                IntGaugeVec,
                "siltstone_table_state",
                "1 for the state a table is in",
                ["table", "state"]
            ),
            memory: family!(
                IntGaugeVec,
                "siltstone_memory_bytes",
                "Resident memory of the process",
                ["kind"]
            ),
            build: family!(IntGaugeVec, "siltstone_build_info", "1", ["version"]),
            jobs: JobFamilies::default(),
            marts: MartFamilies::default(),
            alerts: AlertFamilies::default(),
            lineage: LineageFamilies::default(),
            checks: CheckFamilies::default(),
        }
    }

    fn collectors(&self) -> Vec<Box<dyn prometheus::core::Collector>> {
        vec![
            Box::new(self.rows.clone()),
            Box::new(self.stale.clone()),
            Box::new(self.transactions.clone()),
            Box::new(self.lag_bytes.clone()),
            Box::new(self.lag_records.clone()),
            Box::new(self.rests.clone()),
            Box::new(self.transactions_wait.clone()),
            Box::new(self.lag_seconds.clone()),
            Box::new(self.retained.clone()),
            Box::new(self.wal_step.clone()),
            Box::new(self.spooled.clone()),
            Box::new(self.spool_gave_up.clone()),
            Box::new(self.pending.clone()),
            Box::new(self.dead_letters.clone()),
            Box::new(self.unsent.clone()),
            Box::new(self.waiting.clone()),
            Box::new(self.state.clone()),
            Box::new(self.memory.clone()),
            Box::new(self.build.clone()),
        ]
    }
}

impl Metrics {
    pub(super) fn observe_transaction(&self, name: &str, took: Duration) {
        self.0.transactions.with_label_values(&[name]).observe(took.as_secs_f64());
    }

    pub(super) fn jobs(&self) -> &JobFamilies {
        &self.0.jobs
    }

    pub(super) fn alerts(&self) -> &AlertFamilies {
        &self.0.alerts
    }

    pub(super) fn checks(&self) -> &CheckFamilies {
        &self.0.checks
    }

    pub(super) fn lineage(&self) -> &LineageFamilies {
        &self.0.lineage
    }

    pub(super) fn spool_gave_up(&self, connector: &str) {
        self.0.spool_gave_up.with_label_values(&[connector]).inc();
    }

    pub(super) fn applied(&self, table: &str, applied: &Applied) {
        for (op, rows) in [
            ("upsert", applied.upserted),
            ("delete", applied.deleted),
            ("close", applied.closed),
            ("open", applied.opened),
        ] {
            if rows > 0 {
                self.0.rows.with_label_values(&[table, op]).inc_by(rows);
            }
        }
        self.0.stale.with_label_values(&[table]).inc_by(applied.stale);
    }

    /// Everything, as Prometheus reads it.
    pub(super) fn render(&self, views: &[View], marts: &[MartReport], now: i64) -> String {
        let families = &*self.0;
        families.pending.reset();
        families.lag_records.reset();
        families.rests.reset();
        families.state.reset();
        families.dead_letters.reset();
        families.waiting.reset();
        families.checks.forget_freshness();
        let behind = families.marts.stand(marts);
        families.build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        families.memory.with_label_values(&["resident"]).set(gauge(resident_bytes()));
        let mut tables = 0;
        for view in views {
            let name = view.name.as_str();
            let received = view.source_end.since(view.received.max(view.stored));
            families.lag_bytes.with_label_values(&[name, "received"]).set(gauge(received));
            families.lag_bytes.with_label_values(&[name, "applied"]).set(gauge(view.lag_bytes()));
            let seconds = Duration::from_micros(view.lag_micros(now).unsigned_abs()).as_secs_f64();
            for (partition, report) in &view.partitions {
                let family = &families.lag_records;
                family.with_label_values(&[name, partition]).set(gauge(report.lag()));
                let rests = families.rests.with_label_values(&[name, partition]);
                rests.set(i64::from(report.rests));
            }
            if !view.partitions.is_empty() {
                let waits = view.transactions_wait.map_or(0, |since| now.saturating_sub(since));
                let waits = Duration::from_micros(waits.max(0).unsigned_abs()).as_secs_f64();
                families.transactions_wait.with_label_values(&[name]).set(waits);
            }
            families.lag_seconds.with_label_values(&[name, "received"]).set(0.0);
            families.lag_seconds.with_label_values(&[name, "applied"]).set(seconds);
            if let Some(behind) = behind {
                let seconds = seconds + behind;
                families.lag_seconds.with_label_values(&[name, "mart"]).set(seconds);
            }
            families.retained.with_label_values(&[name]).set(gauge(view.retained));
            for step in WAL_STEPS {
                let taken = if view.wal_step.is_empty() { "calm" } else { view.wal_step };
                let now = families.wal_step.with_label_values(&[name, step]);
                now.set(i64::from(step == taken));
            }
            families.spooled.with_label_values(&[name]).set(gauge(view.spooled));
            if let Some(unsent) = view.unsent_letters {
                families.unsent.with_label_values(&[name]).set(gauge(unsent));
            }
            for (table, report) in &view.tables {
                tables += 1;
                let shown = table.to_string();
                let shown = if tables > TABLES_AT_MOST { "other" } else { shown.as_str() };
                if report.state == "streaming" && view.fresh_to != 0 {
                    let age = now.saturating_sub(view.fresh_to).max(0).unsigned_abs();
                    families.checks.fresh(shown, Duration::from_micros(age).as_secs_f64());
                }
                families.pending.with_label_values(&[shown]).add(gauge(report.pending_bytes));
                families.dead_letters.with_label_values(&[shown]).add(gauge(report.dead_letters));
                families.waiting.with_label_values(&[shown]).add(gauge(report.waiting));
                for state in STATES {
                    let is = i64::from(report.state == state);
                    families.state.with_label_values(&[shown, state]).add(is);
                }
            }
        }
        let mut text = Vec::new();
        let encoded = TextEncoder::new().encode(&families.registry.gather(), &mut text);
        if let Err(error) = encoded {
            tracing::error!(%error, "the metrics cannot be written");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
