//! Marts: how they stand, and asking for one to be computed anew.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use serde_json::json;

use super::admin::{App, failure, no_answer};
use crate::names::TableName;

/// How a mart stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MartReport {
    /// Its table.
    pub mart: String,
    /// As in `audit.marts`.
    pub state: String,
    /// Why.
    pub reason: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
    /// What was committed in the warehouse before is in all its rows.
    pub as_of: Option<String>,
    /// How many groups are known to be stale.
    pub stale_groups: i64,
    /// How old the oldest change is that it does not have.
    pub lag_seconds: f64,
    /// When it was last computed.
    pub refreshed_at: Option<String>,
    /// How many rows were written since it was made.
    pub rows_written: i64,
}

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/marts", get(all))
        .route("/marts/{mart}", get(one))
        .route("/marts/{mart}/refresh", post(refresh))
}

async fn all(State(app): State<App>) -> Json<Vec<MartReport>> {
    Json(app.board.marts())
}

async fn one(State(app): State<App>, Path(name): Path<String>) -> Response {
    let found = app.board.marts().into_iter().find(|report| report.mart == name);
    found.map_or_else(|| unknown(&name), |report| Json(report).into_response())
}

fn unknown(name: &str) -> Response {
    failure(StatusCode::NOT_FOUND, &format!("there is no mart {name}"), Some("see /marts"))
}

/// Leaves a mark that all of it is to be computed.
async fn refresh(State(app): State<App>, Path(name): Path<String>) -> Response {
    let Ok(mart) = name.parse::<TableName>() else { return unknown(&name) };
    match app.books.refresh(mart).await {
        Ok(true) => (StatusCode::ACCEPTED, Json(json!({ "mart": name }))).into_response(),
        Ok(false) => unknown(&name),
        Err(error) => no_answer(&error),
    }
}
