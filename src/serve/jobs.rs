//! The jobs: how they stand, their runs, and what is asked of them.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::civil::Date;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::admin::{App, failure, no_answer};
use super::body::Body;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/jobs", get(all))
        .route("/jobs/{job}", get(one))
        .route("/jobs/{job}/runs", get(runs))
        .route("/jobs/{job}/{verb}", post(ask).put(ask))
}

fn unknown(job: &str) -> Response {
    let message = format!("there is no job {job}");
    failure(StatusCode::NOT_FOUND, &message, Some("see /jobs"))
}

async fn all(State(app): State<App>) -> Response {
    match app.books.jobs().await {
        Ok(jobs) => Json(jobs).into_response(),
        Err(error) => no_answer(&error),
    }
}

async fn one(State(app): State<App>, Path(name): Path<String>) -> Response {
    match app.books.jobs().await {
        Ok(jobs) => match jobs.into_iter().find(|job| job["name"] == *name) {
            Some(job) => Json(job).into_response(),
            None => unknown(&name),
        },
        Err(error) => no_answer(&error),
    }
}

async fn runs(State(app): State<App>, Path(name): Path<String>) -> Response {
    match app.books.job_runs(name.clone()).await {
        Ok(Some(runs)) => Json(runs).into_response(),
        Ok(None) => unknown(&name),
        Err(error) => no_answer(&error),
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    date: Option<Date>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Backfill {
    from: Date,
    to: Date,
    #[serde(default)]
    again: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Clear {
    date: Date,
    task: Option<String>,
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    serde_json::from_slice(body).ok()
}

/// What a verb and its body ask for, as the schedule reads it; none where the body is another.
fn wish(verb: &str, body: &[u8]) -> Option<Value> {
    let nothing = body.trim_ascii().is_empty();
    Some(match verb {
        "run" if nothing => json!({ "run": null }),
        "run" => json!({ "run": read::<Run>(body)?.date }),
        "backfill" => {
            let Backfill { from, to, again } = read(body)?;
            json!({ "backfill": { "from": from, "to": to, "again": again } })
        }
        "clear" => {
            let Clear { date, task } = read(body)?;
            json!({ "clear": { "date": date, "task": task } })
        }
        verb => json!(verb),
    })
}

async fn ask(
    State(app): State<App>,
    Path((name, verb)): Path<(String, String)>,
    Body(body): Body,
) -> Response {
    if !matches!(verb.as_str(), "run" | "backfill" | "clear" | "pause" | "resume") {
        let message = format!("{verb} is no verb of a job: run, backfill, clear, pause, resume");
        return failure(StatusCode::NOT_FOUND, &message, None);
    }
    let Some(wish) = wish(&verb, &body) else {
        let message = "the body is no JSON object as the document names it";
        return failure(StatusCode::BAD_REQUEST, message, Some("see /openapi.json"));
    };
    match app.books.ask_job(name.clone(), wish).await {
        Ok(Some(id)) => (StatusCode::ACCEPTED, Json(json!({ "request": id }))).into_response(),
        Ok(None) => unknown(&name),
        Err(error) => no_answer(&error),
    }
}
