//! Connectors over HTTP, in Kafka Connect's shape: what they are doing, and what scripts that know Connect
//! ask of them. Connectors themselves are files.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::admin::{App, Asked, failure, write_down};
use super::status;
use super::view::{Phase, View};

/// The names; with `expand`, which may come twice, an object by name.
pub(super) async fn connectors(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
) -> Json<Value> {
    let views = app.board.views();
    let asked = |what: &str| query.iter().any(|(name, value)| name == "expand" && value == what);
    let (with_status, with_info) = (asked("status"), asked("info"));
    if !with_status && !with_info {
        return Json(json!(views.iter().map(|view| &view.name).collect::<Vec<_>>()));
    }
    let entry = |view: &View| {
        let config = config_of(&app, &view.name);
        let mut entry = Map::new();
        if with_status {
            let told = status::connect_status(view, kind(&config));
            entry.insert("status".to_owned(), told);
        }
        if with_info {
            entry.insert("info".to_owned(), info(&view.name, config));
        }
        (view.name.clone(), Value::Object(entry))
    };
    Json(Value::Object(views.iter().map(entry).collect()))
}

/// What a connector is, in Connect's words.
fn info(name: &str, config: Value) -> Value {
    json!({
        "name": name,
        "type": kind(&config),
        "tasks": [{ "connector": name, "task": 0 }],
        "config": config,
    })
}

/// What of a connector's file may be told, as Connect tells configurations.
fn config_of(app: &App, name: &str) -> Value {
    app.books.config(name).unwrap_or_else(|| json!({ "name": name }))
}

/// Connect's word for where its rows come from.
fn kind(config: &Value) -> &'static str {
    let class = config["connector.class"].as_str().unwrap_or_default();
    if class.ends_with("kafka") { "sink" } else { "source" }
}

pub(super) async fn config(State(app): State<App>, Path(name): Path<String>) -> Response {
    match knows(&app, &name) {
        true => Json(config_of(&app, &name)).into_response(),
        false => unknown_connector(&name),
    }
}

/// A connector is one task.
pub(super) async fn tasks(State(app): State<App>, Path(name): Path<String>) -> Response {
    if !knows(&app, &name) {
        return unknown_connector(&name);
    }
    let task = json!({
        "id": { "connector": name, "task": 0 },
        "config": config_of(&app, &name),
    });
    Json(json!([task])).into_response()
}

pub(super) async fn task_status(
    State(app): State<App>,
    Path((name, task)): Path<(String, String)>,
) -> Response {
    let views = app.board.views();
    let Some(view) = views.iter().find(|view| view.name == name) else {
        return unknown_connector(&name);
    };
    if task != TASK {
        return unknown_task(&name, &task);
    }
    let told = status::connect_status(view, kind(&config_of(&app, &name)));
    Json(told["tasks"][0].clone()).into_response()
}

/// Its one task is the connector itself.
pub(super) async fn restart_task(
    app: State<App>,
    Path((name, task)): Path<(String, String)>,
) -> Response {
    if knows(&app, &name) && task != TASK {
        return unknown_task(&name, &task);
    }
    restart(app, Path(name)).await
}

/// The only task there is.
const TASK: &str = "0";

fn unknown_task(name: &str, task: &str) -> Response {
    let message = format!("{name} has no task {task}");
    failure(StatusCode::NOT_FOUND, &message, Some("its one task is 0"))
}

pub(super) async fn connector(State(app): State<App>, Path(name): Path<String>) -> Response {
    let status = status::status(&app.board.views(), app.board.now());
    let all = status["connectors"].as_array();
    match all.and_then(|all| all.iter().find(|connector| connector["name"] == *name)) {
        Some(found) => {
            let mut found = found.clone();
            if let (Some(found), Value::Object(info)) =
                (found.as_object_mut(), info(&name, config_of(&app, &name)))
            {
                found.extend(info);
            }
            Json(found).into_response()
        }
        None => unknown_connector(&name),
    }
}

pub(super) async fn connector_status(State(app): State<App>, Path(name): Path<String>) -> Response {
    match app.board.views().iter().find(|view| view.name == name) {
        Some(view) => {
            let told = status::connect_status(view, kind(&config_of(&app, &name)));
            Json(told).into_response()
        }
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
