//! Kafka Connect's REST interface on this machine. While a worker settles who does what, it answers 409
//! and is asked again.

use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use tokio::time::Instant;

use crate::demo::central;
use crate::error::{Error, Kind, Result};

/// How long a worker may be busy with itself.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

pub(super) struct Rest {
    client: Client,
    port: u16,
}

impl Rest {
    pub(super) fn new() -> Result<Rest> {
        Ok(Rest { client: central::local_client()?, port: 0 })
    }

    pub(super) fn listen_at(&mut self, port: u16) {
        self.port = port;
    }

    pub(super) async fn get(&self, path: &str) -> Result<String> {
        self.ask(Method::GET, path, "").await
    }

    pub(super) async fn put(&self, path: &str, json: &str) -> Result<()> {
        self.ask(Method::PUT, path, json).await.map(drop)
    }

    pub(super) async fn post(&self, path: &str) -> Result<()> {
        self.ask(Method::POST, path, "").await.map(drop)
    }

    pub(super) async fn delete(&self, path: &str) -> Result<()> {
        self.ask(Method::DELETE, path, "").await.map(drop)
    }

    async fn ask(&self, method: Method, path: &str, json: &str) -> Result<String> {
        let deadline = Instant::now() + SETTLES_WITHIN;
        let failed = |what: &str| {
            Error::new(Kind::SourceLacks, format!("Kafka Connect: {method} {path}: {what}"))
        };
        loop {
            let url = format!("http://127.0.0.1:{}{path}", self.port);
            let mut request = self.client.request(method.clone(), url);
            if !json.is_empty() {
                request = request.header("content-type", "application/json").body(json.to_owned());
            }
            let reply = request.send().await.map_err(|e| failed("no answer").because(e))?;
            let status = reply.status();
            let text = reply.text().await.map_err(|e| failed("no whole answer").because(e))?;
            if status.is_success() {
                return Ok(text);
            }
            if status != StatusCode::CONFLICT || Instant::now() > deadline {
                return Err(failed(&format!("{status}: {text}")));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
