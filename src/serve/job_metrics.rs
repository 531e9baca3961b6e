//! The metrics of jobs.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts};

/// The states that a run ends in, each a series of `siltstone_job_run_state`.
const STATES: [&str; 2] = ["success", "failed"];

pub(super) struct JobFamilies {
    took: GaugeVec,
    runs: IntCounterVec,
    state: IntGaugeVec,
    failures: IntCounterVec,
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
        }
    }
}

impl JobFamilies {
    pub(super) fn collectors(&self) -> [Box<dyn Collector>; 4] {
        [
            Box::new(self.took.clone()),
            Box::new(self.runs.clone()),
            Box::new(self.state.clone()),
            Box::new(self.failures.clone()),
        ]
    }

    pub(super) fn run_ended(&self, job: &str, state: &str, took: Duration) {
        self.took.with_label_values(&[job]).set(took.as_secs_f64());
        self.runs.with_label_values(&[job, state]).inc();
        for known in STATES {
            self.state.with_label_values(&[job, known]).set(i64::from(known == state));
        }
    }

    pub(super) fn task_failed(&self, job: &str, task: &str) {
        self.failures.with_label_values(&[job, task]).inc();
    }
}
