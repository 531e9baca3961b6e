//! Alerts: what people have been told of, and the metrics of it.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus::core::Collector;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};

use super::admin::{App, no_answer};

pub(super) fn routes() -> Router<App> {
    Router::new().route("/alerts", get(all))
}

async fn all(State(app): State<App>) -> Response {
    match app.books.alerts().await {
        Ok(alerts) => Json(alerts).into_response(),
        Err(error) => no_answer(&error),
    }
}

/// What is counted of alerts.
pub(super) struct AlertFamilies {
    sent: IntCounterVec,
    firing: IntGaugeVec,
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

impl Default for AlertFamilies {
    fn default() -> AlertFamilies {
        AlertFamilies {
            sent: family!(
                IntCounterVec,
                "siltstone_alerts_sent_total",
                "Messages to a channel: sent, retried, failed for good, dropped where too many wait",
                ["channel", "result"]
            ),
            firing: family!(
                IntGaugeVec,
                "siltstone_alerts_firing",
                "What is so and should not be, by its rule",
                ["rule"]
            ),
        }
    }
}

impl AlertFamilies {
    pub(super) fn collectors(&self) -> [Box<dyn Collector>; 2] {
        [Box::new(self.sent.clone()), Box::new(self.firing.clone())]
    }

    pub(super) fn sent(&self, channel: &str, result: &str) {
        self.sent.with_label_values(&[channel, result]).inc();
    }

    pub(super) fn firing(&self, counts: &BTreeMap<&str, i64>) {
        for (rule, count) in counts {
            self.firing.with_label_values(&[*rule]).set(*count);
        }
    }
}
