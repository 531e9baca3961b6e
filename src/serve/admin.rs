//! The admin HTTP server: what is going on, and a few verbs that are written down for the owner of a
//! connector to carry out.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::auth::{Tokens, Verdict};
use super::board::Board;
use super::body::Body;
use super::health::{Readiness, readiness};
use super::letters::{self, Letters};
use super::view::View;
use super::{alerts, checks, connectors, jobs, lineage, marts, status, verify};
use crate::error::{Error, Kind, Result};
use crate::names::TableName;

/// What will be there.
pub type Later<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// What is asked beside a verb and a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Nothing.
    Nothing,
    /// A condition over the source's columns.
    Condition(String),
}

/// What the server needs of the warehouse.
pub trait Books: Send + Sync {
    /// Writes a request down: the verb, the connector, the table, what is asked beside. Returns its number.
    fn ask(
        &self,
        verb: String,
        connector: String,
        table: Option<TableName>,
        argument: Asked,
    ) -> Later<i64>;

    /// Writes down what is asked for dead letters; the numbers of the requests, none where none is meant.
    fn settle(&self, verb: String, letters: Letters) -> Later<Vec<i64>>;

    /// What of a connector's file may be told, by Connect's names; none where no file has it.
    fn config(&self, connector: &str) -> Option<Value>;

    /// Why a table is as it is; none where no connector feeds it.
    fn why(&self, table: TableName) -> Later<Option<Value>>;

    /// Compares a table with its source, reading so many bytes a second of each at most; none where no connector
    /// feeds it.
    fn verify(&self, table: TableName, max_rate: Option<u64>) -> Later<Option<Value>>;

    /// Asks for a mart to be computed anew; false where there is none of this name.
    fn refresh(&self, mart: TableName) -> Later<bool>;

    /// The open dead letters, of one table or all of them, or the one of a number with its values.
    fn dead_letters(&self, table: Option<TableName>, id: Option<i64>) -> Later<Vec<Value>>;

    /// The jobs, and how they stand.
    fn jobs(&self) -> Later<Vec<Value>>;

    /// The last runs of a job; none where there is no such job.
    fn job_runs(&self, job: String) -> Later<Option<Vec<Value>>>;

    /// What people have been told of lately, and what is so now.
    fn alerts(&self) -> Later<Vec<Value>>;

    /// The checks of the files, each with what was found of it last.
    fn checks(&self) -> Later<Vec<Value>>;

    /// What a table comes from and what comes from it; none where nothing is known of it.
    fn lineage(&self, table: String) -> Later<Option<Value>>;

    /// Writes down what is asked of a job; the request's number, none where there is no such job.
    fn ask_job(&self, job: String, wish: Value) -> Later<Option<i64>>;
}

/// What every handler has.
#[derive(Clone)]
pub(super) struct App {
    pub(super) board: Board,
    tokens: Tokens,
    pub(super) books: Arc<dyn Books>,
    /// a comparison reads whole tables on both sides: one at a time
    pub(super) comparing: Arc<Semaphore>,
}

/// Listens and serves until `stop` turns true; the address tells the port where 0 was asked for.
pub async fn start(
    listen: SocketAddr,
    board: Board,
    tokens: Tokens,
    books: Arc<dyn Books>,
    mut stop: watch::Receiver<bool>,
) -> Result<SocketAddr> {
    let failed = |error: std::io::Error| {
        Error::new(Kind::Config, format!("the admin server cannot listen on {listen}"))
            .remedy("give admin.listen another address, or end what uses it")
            .because(error)
    };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let router = router(App { board, tokens, books, comparing: Arc::new(Semaphore::new(1)) });
    tokio::spawn(async move {
        let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
            tracing::error!(%error, "the admin server ended");
        }
    });
    Ok(address)
}

fn router(app: App) -> Router {
    Router::new()
        .route("/", get(root))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/status", get(show_status))
        .route("/openapi.json", get(openapi))
        .merge(connector_routes())
        .route("/tables", get(tables))
        .route("/tables/{table}", get(table))
        .route("/tables/{table}/verify", post(verify::verify).put(verify::verify))
        .route("/tables/{table}/{verb}", post(ask).put(ask))
        .route("/why/{table}", get(why))
        .merge(letters::routes())
        .merge(jobs::routes())
        .merge(marts::routes())
        .merge(alerts::routes())
        .merge(lineage::routes())
        .merge(checks::routes())
        .fallback(|| async { failure(StatusCode::NOT_FOUND, "there is no such path", None) })
        .method_not_allowed_fallback(|method: Method| async move {
            failure(StatusCode::METHOD_NOT_ALLOWED, &format!("{method} is not for this path"), None)
        })
        .layer(map_response(in_our_shape))
        .layer(from_fn_with_state(app.clone(), guard))
        .with_state(app)
}

fn connector_routes() -> Router<App> {
    use connectors::{connector, connector_status, files_only, forget_offsets, keep_offsets};
    let offsets = get(connectors::offsets).delete(forget_offsets).patch(keep_offsets);
    Router::new()
        .route("/connectors", get(connectors::connectors).post(files_only))
        .route("/connectors/{name}", get(connector).put(files_only).delete(files_only))
        .route("/connectors/{name}/status", get(connector_status))
        .route("/connectors/{name}/topics", get(connectors::topics))
        .route("/connectors/{name}/config", get(connectors::config).put(files_only))
        .route("/connectors/{name}/tasks", get(connectors::tasks))
        .route("/connectors/{name}/tasks/{task}/status", get(connectors::task_status))
        .route("/connectors/{name}/tasks/{task}/restart", post(connectors::restart_task))
        .route("/connectors/{name}/offsets", offsets)
        .route("/connectors/{name}/restart", post(connectors::restart))
        .route("/connectors/{name}/{verb}", put(connectors::ask_connector))
}

/// Lets a request through that may do what it asks.
async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    match app.tokens.judge(request.method(), request.uri().path(), request.headers()) {
        Verdict::Allowed => next.run(request).await,
        Verdict::Unknown => failure(
            StatusCode::UNAUTHORIZED,
            "a token is needed",
            Some("send Authorization: Bearer TOKEN"),
        ),
        Verdict::ReadOnly => {
            failure(StatusCode::FORBIDDEN, "this token is for reading", Some("use admin.token"))
        }
    }
}

/// A request that is refused before one of us sees it is answered as we answer.
async fn in_our_shape(response: Response) -> Response {
    let status = response.status();
    let json = response.headers().get(header::CONTENT_TYPE);
    let json = json.is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if !status.is_client_error() || json {
        return response;
    }
    failure(status, "the path or the query cannot be read", Some("see /openapi.json"))
}

/// What can be asked, as an OpenAPI document.
async fn openapi() -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (kind, include_str!("openapi.json")).into_response()
}

pub(super) fn failure(code: StatusCode, message: &str, remedy: Option<&str>) -> Response {
    let body = json!({ "error_code": code.as_u16(), "message": message, "remedy": remedy });
    (code, Json(body)).into_response()
}

/// What Kafka Connect answers to a machine; a page for a person.
async fn root(State(app): State<App>, headers: HeaderMap) -> Response {
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    if !accepts.unwrap_or_default().contains("text/html") {
        let version = env!("CARGO_PKG_VERSION");
        let body =
            json!({ "version": version, "commit": version, "kafka_cluster_id": "siltstone" });
        return Json(body).into_response();
    }
    let status = status::status(&app.board.views(), app.board.now());
    let pretty = serde_json::to_string_pretty(&status).unwrap_or_default();
    let escaped = pretty.replace('&', "&amp;").replace('<', "&lt;");
    Html(format!(
        "<!doctype html><meta charset=utf-8><title>Siltstone</title>\
         <style>body{{font:16px/1.5 system-ui;margin:2rem auto;max-width:60rem}}\
         pre{{background:#f4f2ee;padding:1rem;overflow:auto}}</style>\
         <h1>Siltstone</h1><p><a href=/status>status</a> · <a href=/readyz>ready</a> · \
         <a href=/metrics>metrics</a> · <a href=/tables>tables</a> · \
         <a href=/openapi.json>API</a></p><pre>{escaped}</pre>"
    ))
    .into_response()
}

async fn readyz(State(app): State<App>) -> Response {
    match readiness(&app.board.views(), app.board.now()) {
        Readiness::Ready => Json(json!({ "ready": true })).into_response(),
        Readiness::NotReady(reasons) => {
            let body = json!({ "ready": false, "reasons": reasons });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

async fn metrics(State(app): State<App>) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, app.board.metrics_text()).into_response()
}

async fn show_status(State(app): State<App>) -> Json<Value> {
    let mut status = status::status(&app.board.views(), app.board.now());
    status["marts"] = json!(app.board.marts());
    Json(status)
}

async fn tables(State(app): State<App>) -> Json<Value> {
    let views = app.board.views();
    let all = views.iter().flat_map(|view| {
        view.tables.iter().map(move |(name, report)| status::table(view, name, report))
    });
    Json(all.collect())
}

async fn table(State(app): State<App>, Path(name): Path<String>) -> Response {
    let views = app.board.views();
    let found = views.iter().find_map(|view| {
        let (table, report) = view.tables.iter().find(|(table, _)| table.to_string() == name)?;
        Some(status::table(view, table, report))
    });
    found.map_or_else(|| unknown_table(&name), |found| Json(found).into_response())
}

pub(super) fn unknown_table(name: &str) -> Response {
    let message = format!("no connector feeds {name}");
    failure(StatusCode::NOT_FOUND, &message, Some("see /tables"))
}

/// What a table is to be resynced by.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resync {
    r#where: Option<String>,
    #[serde(default)]
    from: From,
}

/// What a table is read from.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum From {
    #[default]
    Source,
    Raw,
}

async fn ask(
    State(app): State<App>,
    Path((name, verb)): Path<(String, String)>,
    Body(body): Body,
) -> Response {
    if !matches!(verb.as_str(), "pause" | "resume" | "resync") {
        let message = format!("{verb} is no verb of a table: pause, resume, resync");
        return failure(StatusCode::NOT_FOUND, &message, None);
    }
    let views = app.board.views();
    let found = views.iter().find_map(|view| {
        let table = view.tables.keys().find(|table| table.to_string() == name)?;
        Some((view.name.clone(), table.clone()))
    });
    let Some((connector, table)) = found else { return unknown_table(&name) };
    let resync: Resync = match verb.as_str() {
        "resync" if !body.trim_ascii().is_empty() => match serde_json::from_slice(&body) {
            Ok(resync) => resync,
            Err(_) => {
                let message = "the body is no JSON object as the document names it";
                return failure(StatusCode::BAD_REQUEST, message, Some("see /openapi.json"));
            }
        },
        _ => Resync::default(),
    };
    let (verb, argument) = match (resync.r#where, resync.from) {
        (Some(_), From::Raw) => {
            let message = "a table is rebuilt from raw as a whole: `where` is for the source";
            return failure(StatusCode::BAD_REQUEST, message, Some("leave one of the two out"));
        }
        (Some(condition), From::Source) => ("resync where".to_owned(), Asked::Condition(condition)),
        (None, From::Raw) => ("resync from raw".to_owned(), Asked::Nothing),
        (None, From::Source) => (verb, Asked::Nothing),
    };
    write_down(&app, verb, connector, Some(table), argument).await
}

pub(super) async fn write_down(
    app: &App,
    verb: String,
    connector: String,
    table: Option<TableName>,
    argument: Asked,
) -> Response {
    match app.books.ask(verb, connector, table, argument).await {
        Ok(id) => (StatusCode::ACCEPTED, Json(json!({ "request": id }))).into_response(),
        Err(error) if error.kind() == Kind::Usage => {
            failure(StatusCode::BAD_REQUEST, &error.reason(), error.remedy_text())
        }
        Err(error) => no_answer(&error),
    }
}

pub(super) fn no_answer(error: &Error) -> Response {
    tracing::warn!("asked in vain: {}", error.reason());
    failure(StatusCode::SERVICE_UNAVAILABLE, &in_words(error), error.remedy_text())
}

/// Who did not answer; the reason where it is something else. Where a server is said to be is for the log.
fn in_words(error: &Error) -> String {
    match error.kind() {
        Kind::SourceAway => "the source does not answer".to_owned(),
        Kind::WarehouseAway => "the warehouse does not answer".to_owned(),
        _ => error.reason(),
    }
}

async fn why(State(app): State<App>, Path(name): Path<String>) -> Response {
    let Ok(table) = name.parse::<TableName>() else { return unknown_table(&name) };
    match app.books.why(table).await {
        Ok(Some(mut told)) => {
            let views = app.board.views();
            let feeds =
                |view: &&View| Some(view.name.as_str()) == told["fed_by"]["connector"].as_str();
            if let Some(wal) = views.iter().find(feeds).map(status::wal) {
                told["fed_by"]["wal"] = wal;
            }
            Json(told).into_response()
        }
        Ok(None) => unknown_table(&name),
        Err(error) => no_answer(&error),
    }
}

#[cfg(test)]
mod tests;
