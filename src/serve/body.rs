//! The body of a request, as far as we take one: what is too large or breaks off is answered as everything else.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::response::Response;

use super::admin::failure;

/// A body's bytes.
pub(super) struct Body(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Body, Response> {
        Bytes::from_request(request, state).await.map(Body).map_err(|refused| {
            match refused.status() {
                StatusCode::PAYLOAD_TOO_LARGE => {
                    let message = "the body is longer than is read";
                    failure(StatusCode::PAYLOAD_TOO_LARGE, message, Some("see /openapi.json"))
                }
                _ => failure(StatusCode::BAD_REQUEST, "the body breaks off", None),
            }
        })
    }
}
