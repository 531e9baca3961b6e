//! The dead letters: which there are, and what is asked for them.

use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::admin::{App, failure, no_answer};
use super::body::Body;
use crate::error::{Error, Kind};
use crate::names::TableName;

/// Which dead letters are meant; all of them where nothing is said.
#[derive(Clone, Debug, Default)]
pub struct Letters {
    /// Those of this table.
    pub table: Option<TableName>,
    /// The one of this number.
    pub id: Option<i64>,
    /// Those that were noticed then or later.
    pub since: Option<Timestamp>,
    /// Those that were noticed before then.
    pub until: Option<Timestamp>,
    /// What is put in the place of a record's own, before it is tried again.
    pub edited: Edited,
}

/// The key and value that a record should have had.
#[derive(Clone, Debug, Default)]
pub struct Edited {
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
}

/// A value may be as long as a record of a topic.
const BODY: usize = 128 << 20;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/dead-letters", get(all))
        // of a POST the verb is all there is
        .route("/dead-letters/{id}", get(one).post(settle_many))
        .route("/dead-letters/{id}/{verb}", post(settle_one))
        .layer(DefaultBodyLimit::max(BODY))
}

#[derive(Deserialize)]
struct OfTable {
    table: Option<String>,
}

async fn all(State(app): State<App>, Query(query): Query<OfTable>) -> Response {
    let table = match table(query.table) {
        Ok(table) => table,
        Err(why) => return bad(&why),
    };
    match app.books.dead_letters(table, None).await {
        Ok(letters) => Json(letters).into_response(),
        Err(error) => no_answer(&error),
    }
}

fn bad(message: &str) -> Response {
    failure(StatusCode::BAD_REQUEST, message, None)
}

fn table(name: Option<String>) -> Result<Option<TableName>, String> {
    let table = name.map(|table| table.parse::<TableName>()).transpose();
    table.map_err(|error| error.to_string())
}

async fn one(State(app): State<App>, Path(id): Path<String>) -> Response {
    let Ok(number) = id.parse() else { return unknown(&id) };
    match app.books.dead_letters(None, Some(number)).await {
        Ok(letters) => match letters.into_iter().next() {
            Some(letter) => Json(letter).into_response(),
            None => unknown(&id),
        },
        Err(error) => no_answer(&error),
    }
}

fn unknown(id: &str) -> Response {
    let message = format!("there is no open dead letter {id}");
    failure(StatusCode::NOT_FOUND, &message, Some("see /dead-letters"))
}

fn unknown_verb(verb: &str) -> Response {
    let message = format!("{verb} is no verb of a dead letter: replay, drop");
    failure(StatusCode::NOT_FOUND, &message, None)
}

/// What another key and value are given as: a text, or `{"base64": "…"}`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Given {
    Text(String),
    Coded { base64: String },
}

impl Given {
    fn bytes(self) -> Result<Vec<u8>, String> {
        match self {
            Given::Text(text) => Ok(text.into_bytes()),
            Given::Coded { base64 } => STANDARD
                .decode(base64)
                .map_err(|_| "the base64 of a key or value is none".to_owned()),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    key: Option<Given>,
    value: Option<Given>,
}

fn edited(body: &[u8]) -> Result<Edited, String> {
    let edit = match body.is_empty() {
        true => Edit::default(),
        false => serde_json::from_slice(body).map_err(|_| {
            "the body is not {\"value\": …, \"key\": …}, each a text or {\"base64\": …}".to_owned()
        })?,
    };
    Ok(Edited {
        key: edit.key.map(Given::bytes).transpose()?,
        value: edit.value.map(Given::bytes).transpose()?,
    })
}

async fn settle_one(
    State(app): State<App>,
    Path((id, verb)): Path<(String, String)>,
    Body(body): Body,
) -> Response {
    let edited = match verb.as_str() {
        "replay" => edited(&body),
        "drop" => Ok(Edited::default()),
        _ => return unknown_verb(&verb),
    };
    let edited = match edited {
        Ok(edited) => edited,
        Err(why) => return bad(&why),
    };
    let Ok(number) = id.parse() else { return unknown(&id) };
    let letters = Letters { id: Some(number), edited, ..Letters::default() };
    match app.books.settle(verb, letters).await {
        Ok(asked) => match asked.first() {
            Some(request) => accepted(json!({ "request": request })),
            None => unknown(&id),
        },
        Err(error) => in_vain(&error),
    }
}

#[derive(Deserialize)]
struct Meant {
    table: Option<String>,
    since: Option<String>,
    until: Option<String>,
    #[serde(default)]
    all: bool,
}

/// Several at once: of a table, of a span of time, or all.
async fn settle_many(
    State(app): State<App>,
    Path(verb): Path<String>,
    Query(meant): Query<Meant>,
) -> Response {
    if !matches!(verb.as_str(), "replay" | "drop") {
        return unknown_verb(&verb);
    }
    let time = |text: Option<String>| text.map(|text| crate::clock::written(&text)).transpose();
    let (table, since, until) = match (table(meant.table), time(meant.since), time(meant.until)) {
        (Ok(table), Ok(since), Ok(until)) => (table, since, until),
        (Err(why), ..) | (_, Err(why), _) | (.., Err(why)) => return bad(&why),
    };
    if table.is_none() && since.is_none() && until.is_none() && !meant.all {
        return bad("say which: ?table=schema.table, ?since=TIME, ?until=TIME, or ?all=true");
    }
    let letters = Letters { table, since, until, ..Letters::default() };
    match app.books.settle(verb, letters).await {
        Ok(asked) => accepted(json!({ "requests": asked })),
        Err(error) => in_vain(&error),
    }
}

fn accepted(body: Value) -> Response {
    (StatusCode::ACCEPTED, Json(body)).into_response()
}

fn in_vain(error: &Error) -> Response {
    match error.kind() {
        Kind::Usage => failure(StatusCode::BAD_REQUEST, &error.reason(), error.remedy_text()),
        _ => no_answer(error),
    }
}
