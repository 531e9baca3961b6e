//! Connectors over HTTP, in Kafka Connect's shape: what they are doing, and what scripts that know Connect
//! ask of them. Connectors themselves are files.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::admin::{App, Asked, failure, write_down};
use super::status;
use super::view::Phase;

#[derive(Deserialize)]
pub(super) struct Expand {
    expand: Option<String>,
}

pub(super) async fn connectors(State(app): State<App>, Query(query): Query<Expand>) -> Json<Value> {
    let views = app.board.views();
    if query.expand.as_deref() == Some("status") {
        let entry = |view| json!({ "status": status::connect_status(view) });
        let entries = views.iter().map(|view| (view.name.clone(), entry(view)));
        return Json(Value::Object(entries.collect()));
    }
    Json(json!(views.iter().map(|view| &view.name).collect::<Vec<_>>()))
}

pub(super) async fn connector(State(app): State<App>, Path(name): Path<String>) -> Response {
    let status = status::status(&app.board.views(), app.board.now());
    let all = status["connectors"].as_array();
    match all.and_then(|all| all.iter().find(|connector| connector["name"] == *name)) {
        Some(found) => Json(found.clone()).into_response(),
        None => unknown_connector(&name),
    }
}

pub(super) async fn connector_status(State(app): State<App>, Path(name): Path<String>) -> Response {
    match app.board.views().iter().find(|view| view.name == name) {
        Some(view) => Json(status::connect_status(view)).into_response(),
        None => unknown_connector(&name),
    }
}

fn unknown_connector(name: &str) -> Response {
    failure(StatusCode::NOT_FOUND, &format!("there is no connector {name}"), None)
}

/// What Connect's scripts ask of a connector: pause, resume, stop.
pub(super) async fn ask_connector(
    State(app): State<App>,
    Path((name, verb)): Path<(String, String)>,
) -> Response {
    if !matches!(verb.as_str(), "pause" | "resume" | "stop") {
        let message = format!("{verb} is no verb of a connector: pause, resume, stop, restart");
        return failure(StatusCode::NOT_FOUND, &message, None);
    }
    if !knows(&app, &name) {
        return unknown_connector(&name);
    }
    write_down(&app, format!("{verb} connector"), name, None, Asked::Nothing).await
}

pub(super) async fn restart(State(app): State<App>, Path(name): Path<String>) -> Response {
    if !knows(&app, &name) {
        return unknown_connector(&name);
    }
    write_down(&app, "restart connector".to_owned(), name, None, Asked::Nothing).await
}

fn knows(app: &App, name: &str) -> bool {
    app.board.views().iter().any(|view| view.name == name)
}

/// A connector reads a log, no topics.
pub(super) async fn topics(State(app): State<App>, Path(name): Path<String>) -> Response {
    if !knows(&app, &name) {
        return unknown_connector(&name);
    }
    Json(json!({ name: { "topics": [] } })).into_response()
}

pub(super) async fn offsets(State(app): State<App>, Path(name): Path<String>) -> Response {
    let views = app.board.views();
    let Some(view) = views.iter().find(|view| view.name == name) else {
        return unknown_connector(&name);
    };
    Json(status::offsets(view)).into_response()
}

/// Forgets the position: every table is read again under a new slot, once the connector is resumed.
pub(super) async fn forget_offsets(State(app): State<App>, Path(name): Path<String>) -> Response {
    let views = app.board.views();
    let Some(view) = views.iter().find(|view| view.name == name) else {
        return unknown_connector(&name);
    };
    if view.phase != Phase::Halted {
        let remedy = format!("PUT /connectors/{name}/stop first");
        let message = format!("{name} is {}, not stopped", view.phase.word());
        return failure(StatusCode::BAD_REQUEST, &message, Some(&remedy));
    }
    write_down(&app, "resync".to_owned(), name, None, Asked::Nothing).await
}

pub(super) async fn keep_offsets(State(app): State<App>, Path(name): Path<String>) -> Response {
    if !knows(&app, &name) {
        return unknown_connector(&name);
    }
    failure(
        StatusCode::BAD_REQUEST,
        "a position is moved by the data that it belongs to, in the same transaction",
        Some("DELETE it to read everything again, or POST /tables/{table}/resync for one table"),
    )
}

pub(super) async fn files_only(method: Method) -> Response {
    failure(
        StatusCode::METHOD_NOT_ALLOWED,
        &format!("{method}: connectors are files: write connectors/NAME.yaml and restart"),
        None,
    )
}
