//! The metrics of marts, read from how they stand when somebody scrapes.

use prometheus::core::Collector;
use prometheus::{GaugeVec, IntGaugeVec, Opts};

use super::marts::MartReport;

/// The states of a mart, each a series of `siltstone_mart_state`.
const STATES: [&str; 6] = ["waiting", "building", "fresh", "stale", "stopped", "held"];

pub(super) struct MartFamilies {
    lag: GaugeVec,
    groups: IntGaugeVec,
    state: IntGaugeVec,
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

impl Default for MartFamilies {
    fn default() -> MartFamilies {
        MartFamilies {
            lag: family!(
                GaugeVec,
                "siltstone_mart_lag_seconds",
                "Age of the oldest applied change that a mart does not have, else 0",
                ["mart"]
            ),
            groups: family!(
                IntGaugeVec,
                "siltstone_mart_stale_groups",
                "Groups of a mart that are known to be stale",
                ["mart"]
            ),
            state: family!(
                IntGaugeVec,
                "siltstone_mart_state",
                "1 for the state a mart is in",
                ["mart", "state"]
            ),
        }
    }
}

impl MartFamilies {
    pub(super) fn collectors(&self) -> [Box<dyn Collector>; 3] {
        [Box::new(self.lag.clone()), Box::new(self.groups.clone()), Box::new(self.state.clone())]
    }

    /// Returns how far the mart that lags most is behind what is applied.
    pub(super) fn stand(&self, marts: &[MartReport]) -> Option<f64> {
        self.lag.reset();
        self.groups.reset();
        self.state.reset();
        for report in marts {
            let name = report.mart.as_str();
            self.lag.with_label_values(&[name]).set(report.lag_seconds);
            self.groups.with_label_values(&[name]).set(report.stale_groups);
            for state in STATES {
                let is = i64::from(report.state == state);
                self.state.with_label_values(&[name, state]).set(is);
            }
        }
        marts.iter().map(|report| report.lag_seconds).reduce(f64::max)
    }
}
