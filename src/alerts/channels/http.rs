//! JSON by POST.

use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use serde_json::Value;

use super::{Failure, chain};
use crate::error::{Error, Kind, Result};
use crate::spec::Secret;

/// What speaks HTTP: to this machine by no proxy.
#[derive(Clone)]
pub(super) struct Clients {
    far: Client,
    near: Client,
}

impl Clients {
    pub(super) fn new(timeout: Duration) -> Result<Clients> {
        // a message follows nobody elsewhere
        let builder = || Client::builder().timeout(timeout).redirect(Policy::none());
        let build = |builder: reqwest::ClientBuilder| {
            builder.build().map_err(|error| Error::bug("no HTTP client can be made").because(error))
        };
        Ok(Clients { far: build(builder())?, near: build(builder().no_proxy())? })
    }

    /// Posts a body; any answer but 2xx is a failure. `secrets` are kept out of what is said of it.
    pub(super) async fn post(
        &self,
        url: &Secret,
        bearer: Option<&Secret>,
        body: &Value,
        secrets: &[&Secret],
    ) -> Result<(), Failure> {
        let Ok(parsed) = Url::parse(url.expose()) else {
            return Err(Failure::new(Kind::Config, "its address is no URL"));
        };
        let near = matches!(parsed.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let client = if near { &self.near } else { &self.far };
        let mut request = client.post(parsed).header(CONTENT_TYPE, "application/json");
        request = request.body(body.to_string());
        if let Some(bearer) = bearer {
            request = request.bearer_auth(bearer.expose());
        }
        match request.send().await {
            Ok(response) => judge(response, secrets).await,
            Err(error) => {
                let kind = if error.is_builder() { Kind::Config } else { Kind::ChannelAway };
                Err(Failure::new(kind, chain(&error.without_url())))
            }
        }
    }
}

async fn judge(response: Response, secrets: &[&Secret]) -> Result<(), Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let kind = match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Kind::ChannelAway
        }
        status if status.is_server_error() => Kind::ChannelAway,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Kind::Rights,
        _ => Kind::Config,
    };
    let mut why = format!("it answers {}", status.as_u16());
    let said = beginning(response).await;
    let said = said.trim();
    // a bare word, such as Slack's `channel_is_archived`: who repeats what we sent must bring no secret into a log
    let word = said.chars().all(|c| c.is_ascii_lowercase() || c == '_') && said.len() <= 40;
    let told = secrets.iter().any(|secret| secret.expose().contains(said));
    if word && !told {
        why.push_str(&format!(": {said}"));
    }
    Err(Failure::new(kind, why))
}

/// The beginning of an answer; an endless one is not read.
async fn beginning(mut response: Response) -> String {
    const ENOUGH: usize = 4096;
    let mut read = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        read.extend(chunk.iter().take(ENOUGH));
        if read.len() >= ENOUGH {
            break;
        }
    }
    String::from_utf8_lossy(&read).into_owned()
}
