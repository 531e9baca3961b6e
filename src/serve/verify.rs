//! A table compared with its source, when somebody asks.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::admin::{App, failure, unknown_table};
use super::body::Body;
use crate::error::Kind;
use crate::names::TableName;
use crate::spec::AtMost;

/// How a table is to be compared.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    max_rate: Option<String>,
}

impl Wish {
    /// Reads a body; none is a wish for nothing.
    fn of(body: &[u8]) -> Result<AtMost, String> {
        if body.trim_ascii().is_empty() {
            return Ok(AtMost(None));
        }
        let wish: Wish = serde_json::from_slice(body)
            .map_err(|_| "the body is no JSON object as the document names it".to_owned())?;
        let rate = wish.max_rate.as_deref().unwrap_or("none");
        rate.parse().map_err(|why| format!("max_rate: {why}"))
    }
}

/// Compares a table with its source, and answers when that is done.
pub(super) async fn verify(
    State(app): State<App>,
    Path(name): Path<String>,
    Body(body): Body,
) -> Response {
    let Ok(table) = name.parse::<TableName>() else { return unknown_table(&name) };
    let max_rate = match Wish::of(&body) {
        Ok(AtMost(max_rate)) => max_rate,
        Err(message) => {
            return failure(StatusCode::BAD_REQUEST, &message, Some("see /openapi.json"));
        }
    };
    let Ok(_alone) = app.comparing.try_acquire() else {
        let message = "another table is being compared";
        return failure(StatusCode::TOO_MANY_REQUESTS, message, Some("ask again when it is done"));
    };
    match app.books.verify(table, max_rate).await {
        Ok(Some(report)) => Json(report).into_response(),
        Ok(None) => unknown_table(&name),
        Err(error) if error.kind() == Kind::Usage => {
            failure(StatusCode::BAD_REQUEST, &error.reason(), error.remedy_text())
        }
        Err(error) => {
            tracing::warn!("{name} was not compared: {}", error.reason());
            let message = format!("{name} was not compared: {}", error.reason());
            failure(StatusCode::SERVICE_UNAVAILABLE, &message, error.remedy_text())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_size_and_nothing_else_is_taken() {
        for none in ["", " \n", "{}", "{\"max_rate\": null}", "{\"max_rate\": \"none\"}"] {
            assert_eq!(Wish::of(none.as_bytes()), Ok(AtMost(None)), "{none}");
        }
        let twenty = AtMost(Some(20 << 20));
        assert_eq!(Wish::of(b"{\"max_rate\": \"20MiB\"}"), Ok(twenty));
        for wrong in [
            "{\"max_rate\": \"20MB\"}",
            "{\"max_rate\": \"0B\"}",
            "{\"max_rate\": 5}",
            "{\"rate\": 5}",
            "[",
        ] {
            assert!(Wish::of(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
