//! Lineage: what a table comes from and what comes from it, and what is counted of the events that are told of it.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus::core::Collector;
use prometheus::{IntCounterVec, Opts};

use super::admin::{App, failure, no_answer};

pub(super) fn routes() -> Router<App> {
    Router::new().route("/lineage/{table}", get(one))
}

async fn one(State(app): State<App>, Path(table): Path<String>) -> Response {
    match app.books.lineage(table.clone()).await {
        Ok(Some(lineage)) => Json(lineage).into_response(),
        Ok(None) => {
            let what = format!("nothing is known of {table}");
            failure(StatusCode::NOT_FOUND, &what, Some("siltstone lineage names the tables"))
        }
        Err(error) => no_answer(&error),
    }
}

/// What is counted of events that are told by OpenLineage.
pub(super) struct LineageFamilies {
    events: IntCounterVec,
}

impl Default for LineageFamilies {
    fn default() -> LineageFamilies {
        let what = "Events told by OpenLineage: sent, failed, dropped where too many wait";
        let events = Opts::new("siltstone_lineage_events_total", what);
        // constants are always well-formed
        match IntCounterVec::new(events, &["result"]) {
            Ok(events) => LineageFamilies { events },
            Err(error) => unreachable!("{error}"),
        }
    }
}

impl LineageFamilies {
    pub(super) fn collectors(&self) -> [Box<dyn Collector>; 1] {
        [Box::new(self.events.clone())]
    }

    pub(super) fn event(&self, result: &str) {
        self.events.with_label_values(&[result]).inc();
    }
}
