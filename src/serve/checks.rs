//! Checks: each with what was found of it last.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};

use super::admin::{App, no_answer};

pub(super) fn routes() -> Router<App> {
    Router::new().route("/checks", get(all))
}

async fn all(State(app): State<App>) -> Response {
    match app.books.checks().await {
        Ok(checks) => Json(checks).into_response(),
        Err(error) => no_answer(&error),
    }
}
