//! A channel of `alerts.yaml`: how somebody is reached.
//!
//! One whose address is empty is known and silent, so that an installation without its variables still runs.
//! Addresses may hold secrets: none is ever quoted.

use lettre::message::Mailbox;
use lettre::{AsyncSmtpTransport, Tokio1Executor};
use serde::Deserialize;

use super::file::{File, Given};
use super::scalar::Scalar;
use super::settings::Secret;
use super::tasks::Open;
use crate::error::{Error, Result};

/// Somebody who is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Channel {
    /// Its name.
    pub name: String,
    /// How it is reached.
    pub kind: ChannelKind,
}

/// How somebody is reached.
#[derive(Clone, Debug, PartialEq)]
pub enum ChannelKind {
    /// A mail.
    Email {
        /// The server: `smtps://user:password@host`, or `smtp://`.
        smtp: Secret,
        /// Who writes.
        from: Mailbox,
        /// Who reads.
        to: Vec<Mailbox>,
        /// Roots that sign the server's certificate beside the public ones, as PEM.
        roots: Option<String>,
    },
    /// An incoming webhook of Slack.
    Slack {
        /// The webhook's URL.
        url: Secret,
    },
    /// Events v2 of PagerDuty.
    PagerDuty {
        /// The service's key.
        routing_key: Secret,
        /// Where events go.
        url: Secret,
    },
    /// Any server that takes JSON.
    Webhook {
        /// Where it goes.
        url: Secret,
        /// What is shown to it.
        bearer: Option<Secret>,
    },
}

impl Channel {
    /// Whether its address is known; else it is silent.
    pub fn is_set(&self) -> bool {
        let known = match &self.kind {
            ChannelKind::Email { smtp, .. } => smtp,
            ChannelKind::Slack { url } | ChannelKind::Webhook { url, .. } => url,
            ChannelKind::PagerDuty { routing_key, .. } => routing_key,
        };
        !known.expose().is_empty()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawChannel {
    kind: Given,
    smtp: Option<Given>,
    from: Option<Given>,
    to: Option<Vec<Given>>,
    roots: Option<Given>,
    url: Option<Given>,
    routing_key: Option<Given>,
    bearer: Option<Given>,
}

impl Scalar for Mailbox {
    const REMEDY: &'static str =
        "write an address, such as data-oncall@example.com or \"On call <oncall@example.com>\"";

    fn read(text: &str) -> Result<Mailbox, String> {
        text.parse().map_err(|_| format!("{text:?} is not a mail address"))
    }
}

/// Where PagerDuty takes events.
const PAGERDUTY: &str = "https://events.pagerduty.com/v2/enqueue";

const SMTP: &str = "write smtps://USER:PASSWORD@HOST, smtp://HOST?tls=required, or smtp://HOST";

const URL: &str = "write a URL that begins with https:// or http://";

/// Reads how somebody is reached; `open` reads a file below the root.
pub(super) fn read(
    file: &File<'_>,
    field: &str,
    raw: &RawChannel,
    open: Open<'_>,
) -> Result<ChannelKind> {
    const KINDS: [&str; 4] = ["email", "slack", "pagerduty", "webhook"];
    let at = |below: &str| format!("{field}.{below}");
    let kind = file.choice(&at("kind"), Some(&raw.kind), &KINDS)?;
    let fields = [
        ("smtp", raw.smtp.is_some(), "email"),
        ("from", raw.from.is_some(), "email"),
        ("to", raw.to.is_some(), "email"),
        ("roots", raw.roots.is_some(), "email"),
        ("url", raw.url.is_some() && kind == "email", "slack, pagerduty or webhook"),
        ("routing_key", raw.routing_key.is_some(), "pagerduty"),
        ("bearer", raw.bearer.is_some(), "webhook"),
    ];
    if let Some((name, _, of)) = fields.iter().find(|(_, given, of)| *given && *of != kind) {
        let why = format!("only a channel of kind {of} has it");
        return Err(file.refuse(&at(name), &why, "remove the field"));
    }
    let missing = |name: &str, example: &str| {
        file.refuse(&at(name), "the field is missing", &format!("add it, such as {example}"))
    };
    let url = |given: Option<&Given>| match given {
        Some(given) => secret_url(file, &at("url"), given),
        None => Err(missing("url", "url: \"${WEBHOOK_URL}\"")),
    };
    Ok(match kind {
        "slack" => ChannelKind::Slack { url: url(raw.url.as_ref())? },
        "webhook" => ChannelKind::Webhook {
            url: url(raw.url.as_ref())?,
            bearer: token(file, &at("bearer"), raw.bearer.as_ref())?,
        },
        "pagerduty" => {
            let Some(key) = &raw.routing_key else {
                return Err(missing("routing_key", "routing_key: \"${PAGERDUTY_KEY}\""));
            };
            ChannelKind::PagerDuty {
                routing_key: Secret::new(file.text(&at("routing_key"), key)?),
                url: match &raw.url {
                    Some(given) => secret_url(file, &at("url"), given)?,
                    None => Secret::new(PAGERDUTY.to_owned()),
                },
            }
        }
        _ => email(file, field, raw, (open, &missing))?,
    })
}

type Missing<'m> = &'m dyn Fn(&str, &str) -> Error;

fn email(
    file: &File<'_>,
    field: &str,
    raw: &RawChannel,
    (open, missing): (Open<'_>, Missing<'_>),
) -> Result<ChannelKind> {
    let at = |below: &str| format!("{field}.{below}");
    let Some(given) = &raw.smtp else { return Err(missing("smtp", "smtp: \"${SMTP_URL}\"")) };
    let smtp = file.text(&at("smtp"), given)?;
    if let Some(why) = unfit(&smtp) {
        // not quoted: a password may be in it
        return Err(file.refuse_given(&at("smtp"), given, why, SMTP));
    }
    let Some(from) = &raw.from else {
        return Err(missing("from", "from: siltstone@example.com"));
    };
    let to = super::common::list(file, &at("to"), raw.to.as_deref().unwrap_or_default())?;
    if to.is_empty() {
        return Err(missing("to", "to: [data-oncall@example.com]"));
    }
    let roots = match &raw.roots {
        None => None,
        Some(given) => {
            let path = file.text(&at("roots"), given)?;
            Some(open(&path).map_err(|error| {
                let why = format!("{path} cannot be read: {error}");
                let remedy = "write a path from the folder of siltstone.yaml";
                file.refuse_given(&at("roots"), given, &why, remedy)
            })?)
        }
    };
    Ok(ChannelKind::Email {
        smtp: Secret::new(smtp),
        from: file.parse(&at("from"), from)?,
        to,
        roots,
    })
}

/// Why an address is none of a mail server that we would speak to.
fn unfit(smtp: &str) -> Option<&'static str> {
    if smtp.is_empty() {
        return None;
    }
    let url = reqwest::Url::parse(smtp).ok();
    let Some(url) = url.filter(|_| AsyncSmtpTransport::<Tokio1Executor>::from_url(smtp).is_ok())
    else {
        return Some("it is no URL of a mail server");
    };
    let near = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    let clear = url.scheme() == "smtp" && !url.query_pairs().any(|(name, _)| name == "tls");
    (clear && !near && url.password().is_some()).then_some("the password would go in clear")
}

/// A URL that may hold a secret; an empty one stands for none.
pub(super) fn secret_url(file: &File<'_>, field: &str, given: &Given) -> Result<Secret> {
    let url = file.text(field, given)?;
    let known = url.starts_with("https://") || url.starts_with("http://");
    match url.is_empty() || known {
        true => Ok(Secret::new(url)),
        false => Err(file.refuse_given(field, given, "it is no URL", URL)),
    }
}

/// A token; an empty one stands for none.
pub(super) fn token(file: &File<'_>, field: &str, given: Option<&Given>) -> Result<Option<Secret>> {
    let Some(given) = given else { return Ok(None) };
    let token = file.text(field, given)?;
    Ok(Some(token).filter(|token| !token.is_empty()).map(Secret::new))
}
