//! Sending, one file a kind. What is said of a failure has no secret in it: no URL, no key, no password.

mod email;
mod http;
mod pagerduty;
mod slack;
mod webhook;

use std::time::Duration;

use serde_json::Value;

use super::message::Message;
use crate::error::{Error, Kind, Result};
use crate::spec::{Channel, ChannelKind, Secret};

/// A message has this long to arrive; then the channel is away.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Longer texts are cut: no channel takes endless ones.
const LONGEST: usize = 3000;

/// Sends messages.
#[derive(Clone)]
pub struct Sender {
    clients: http::Clients,
}

impl Sender {
    /// What sends.
    pub fn new() -> Result<Sender> {
        Ok(Sender { clients: http::Clients::new(TIMEOUT)? })
    }

    /// Sends a message. A failure that may pass has a kind that is tried again.
    pub async fn send(&self, channel: &Channel, message: &Message) -> Result<()> {
        let name = &channel.name;
        if !channel.is_set() {
            let what = format!("the channel {name} has no address");
            return Err(Error::new(Kind::Config, what)
                .remedy("set the variable that alerts.yaml names for it"));
        }
        let sent = tokio::time::timeout(TIMEOUT, self.deliver(&channel.kind, message)).await;
        let Ok(sent) = sent else {
            let what = format!("{name} does not answer within {} s", TIMEOUT.as_secs());
            return Err(Error::new(Kind::ChannelAway, what));
        };
        sent.map_err(|failure| {
            let error =
                Error::new(failure.kind, format!("{name} took no message: {}", failure.why));
            match failure.kind {
                Kind::ChannelAway => error,
                _ => error.remedy(format!("see channels.{name} in alerts.yaml")),
            }
        })
    }

    /// Posts JSON to a program, which is no channel.
    pub async fn post(&self, url: &Secret, bearer: Option<&Secret>, body: &Value) -> Result<()> {
        let secrets: Vec<&Secret> = std::iter::once(url).chain(bearer).collect();
        let posted = self.clients.post(url, bearer, body, &secrets).await;
        posted.map_err(|failure| {
            Error::new(failure.kind, format!("the webhook took nothing: {}", failure.why))
        })
    }

    async fn deliver(&self, kind: &ChannelKind, message: &Message) -> Result<(), Failure> {
        match kind {
            ChannelKind::Email { smtp, from, to, roots } => {
                email::send((smtp, roots.as_deref()), (from, to), message).await
            }
            ChannelKind::Slack { url } => {
                self.clients.post(url, None, &slack::body(message), &[url]).await
            }
            ChannelKind::PagerDuty { routing_key, url } => {
                let body = pagerduty::body(routing_key, message);
                self.clients.post(url, None, &body, &[url, routing_key]).await
            }
            ChannelKind::Webhook { url, bearer } => {
                let body = webhook::body(message);
                let secrets: Vec<_> = std::iter::once(url).chain(bearer).collect();
                self.clients.post(url, bearer.as_ref(), &body, &secrets).await
            }
        }
    }
}

/// Why a message was not sent, without secrets.
#[derive(Debug)]
struct Failure {
    kind: Kind,
    why: String,
}

impl Failure {
    fn new(kind: Kind, why: impl Into<String>) -> Failure {
        Failure { kind, why: why.into() }
    }
}

/// A text that is not too long.
fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}

/// What an error and those beneath it say.
fn chain(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        let more = cause.to_string();
        if !said.contains(&more) {
            said.push_str(&format!(": {more}"));
        }
        below = cause.source();
    }
    said
}
