//! The metrics of jobs.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{CounterVec, GaugeVec, IntCounterVec, IntGaugeVec, Opts};

/// The states that a run ends in, each a series of `siltstone_job_run_state`.
const STATES: [&str; 2] = ["success", "failed"];

pub(super) struct JobFamilies {
    took: GaugeVec,
    runs: IntCounterVec,
    state: IntGaugeVec,
    failures: IntCounterVec,
    task_took: GaugeVec,
    task_done_at: GaugeVec,
    limits: IntCounterVec,
    waited: CounterVec,
    archive: IntGaugeVec,
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

impl Default for JobFamilies {
    fn default() -> JobFamilies {
        JobFamilies {
            took: family!(
                GaugeVec,
                "siltstone_job_run_duration_seconds",
                "How long the last run of a job took",
                ["job"]
            ),
            runs: family!(
                IntCounterVec,
                "siltstone_job_runs_total",
                "Runs of a job that ended",
                ["job", "state"]
            ),
            state: family!(
                IntGaugeVec,
                "siltstone_job_run_state",
                "1 for how the last run of a job ended: success, failed",
                ["job", "state"]
            ),
            failures: family!(
                IntCounterVec,
                "siltstone_task_failures_total",
                "Attempts at a task that have failed",
                ["job", "task"]
            ),
            task_took: family!(
                GaugeVec,
                "siltstone_task_duration_seconds",
                "How long the last attempt at a task that went well took: of a backup, or of a drill that restores one",
                ["job", "task"]
            ),
            task_done_at: family!(
                GaugeVec,
                "siltstone_task_last_success_timestamp_seconds",
                "When an attempt at a task last went well, as seconds since 1970",
                ["job", "task"]
            ),
            limits: family!(
                IntCounterVec,
                "siltstone_extract_limits_total",
                "Extracts that failed at a limit: limits.pages, limits.rows, limits.page_bytes, attempts, max_row_bytes",
                ["connector", "limit"]
            ),
            waited: family!(
                CounterVec,
                "siltstone_extract_waited_seconds_total",
                "How long extracts waited for rate or snapshot.max_rate",
                ["connector"]
            ),
            archive: family!(
                IntGaugeVec,
                "siltstone_wal_archive_behind_bytes",
                "Bytes of the warehouse server's log that its archive has not got yet",
                ["folder"]
            ),
        }
    }
}

impl JobFamilies {
    pub(super) fn collectors(&self) -> [Box<dyn Collector>; 9] {
        [
            Box::new(self.took.clone()),
            Box::new(self.runs.clone()),
            Box::new(self.state.clone()),
            Box::new(self.failures.clone()),
            Box::new(self.task_took.clone()),
            Box::new(self.task_done_at.clone()),
            Box::new(self.limits.clone()),
            Box::new(self.waited.clone()),
            Box::new(self.archive.clone()),
        ]
    }

    pub(super) fn run_ended(&self, job: &str, state: &str, took: Duration) {
        self.took.with_label_values(&[job]).set(took.as_secs_f64());
        self.runs.with_label_values(&[job, state]).inc();
        for known in STATES {
            self.state.with_label_values(&[job, known]).set(i64::from(known == state));
        }
    }

    pub(super) fn extract_reached(&self, connector: &str, limit: &str) {
        self.limits.with_label_values(&[connector, limit]).inc();
    }

    pub(super) fn extract_waited(&self, connector: &str, wait: Duration) {
        self.waited.with_label_values(&[connector]).inc_by(wait.as_secs_f64());
    }

    pub(super) fn archive_behind(&self, folder: &str, bytes: i64) {
        self.archive.with_label_values(&[folder]).set(bytes);
    }

    pub(super) fn task_done(&self, job: &str, task: &str, (at, took): (f64, Duration)) {
        self.task_took.with_label_values(&[job, task]).set(took.as_secs_f64());
        self.task_done_at.with_label_values(&[job, task]).set(at);
    }

    pub(super) fn task_failed(&self, job: &str, task: &str) {
        self.failures.with_label_values(&[job, task]).inc();
    }
}
