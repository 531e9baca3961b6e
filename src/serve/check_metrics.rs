//! The metrics of checks, by the names that the reference warehouse is watched by.

use prometheus::core::Collector;
use prometheus::{GaugeVec, IntCounterVec, Opts};

pub(super) struct CheckFamilies {
    failures: IntCounterVec,
    completeness: GaugeVec,
    freshness: GaugeVec,
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

impl Default for CheckFamilies {
    fn default() -> CheckFamilies {
        CheckFamilies {
            failures: family!(
                IntCounterVec,
                "data_quality_check_failures_total",
                "Times that jobs found a check to fail",
                ["table", "check"]
            ),
            completeness: family!(
                GaugeVec,
                "data_completeness_percentage",
                "Rows that have all that not_null asks for, as jobs found it last",
                ["table", "check"]
            ),
            freshness: family!(
                GaugeVec,
                "data_freshness_seconds",
                "Age of what a table lacks of its source at most, while it streams; an idle source is fresh",
                ["table"]
            ),
        }
    }
}

impl CheckFamilies {
    pub(super) fn collectors(&self) -> [Box<dyn Collector>; 3] {
        [
            Box::new(self.failures.clone()),
            Box::new(self.completeness.clone()),
            Box::new(self.freshness.clone()),
        ]
    }

    pub(super) fn judged(&self, of: [&str; 2], failed: bool, completeness: Option<f64>) {
        // the series is there from the first verdict on, so that a rise can be told
        self.failures.with_label_values(&of).inc_by(u64::from(failed));
        if let Some(percent) = completeness {
            self.completeness.with_label_values(&of).set(percent);
        }
    }

    pub(super) fn forget_freshness(&self) {
        self.freshness.reset();
    }

    /// Of tables that are summed the oldest counts.
    pub(super) fn fresh(&self, table: &str, seconds: f64) {
        let gauge = self.freshness.with_label_values(&[table]);
        gauge.set(gauge.get().max(seconds));
    }
}

#[cfg(test)]
mod tests {
    use crate::clock::Clock;
    use crate::serve::Board;

    #[test]
    fn failures_are_counted_and_the_last_completeness_is_told() {
        let board = Board::new(Clock::system());
        let of = ("s.t", "not_null(a)");
        board.check_judged(of, "FAIL", Some(50.0));
        board.check_judged(of, "WARN", Some(75.0));
        let text = board.metrics_text();
        let labels = "{check=\"not_null(a)\",table=\"s.t\"}";
        for line in [
            format!("data_quality_check_failures_total{labels} 1\n"),
            format!("data_completeness_percentage{labels} 75\n"),
        ] {
            assert!(text.contains(&line), "{line} {text}");
        }
    }
}
