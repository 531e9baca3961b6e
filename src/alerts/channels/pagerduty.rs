//! PagerDuty's Events v2: an event opens an incident or joins the one of its key, and its end closes that.

use serde_json::{Value, json};

use super::{LONGEST, cut};
use crate::alerts::message::{Message, MessageKind};
use crate::spec::{Secret, When};

/// The longest summary and key that it takes.
const SUMMARY: usize = 1000;
const KEY: usize = 250;

pub(super) fn body(routing_key: &Secret, message: &Message) -> Value {
    let key = cut(&message.key(), KEY);
    if message.kind == MessageKind::Resolved {
        return json!({
            "routing_key": routing_key.expose(),
            "event_action": "resolve",
            "dedup_key": key,
        });
    }
    let summary = match message.kind {
        MessageKind::Firing => format!("{}: {}", message.title(), message.text),
        _ => message.title(),
    };
    json!({
        "routing_key": routing_key.expose(),
        "event_action": "trigger",
        "dedup_key": key,
        "client": "Siltstone",
        "payload": {
            "summary": cut(&summary, SUMMARY),
            "source": message.subject,
            "severity": severity(message),
            "timestamp": message.at.to_string(),
            "component": message.rule,
            "custom_details": {
                "text": cut(&message.text, LONGEST),
                "remedy": message.remedy,
                "since": message.since.map(|since| since.to_string()),
            },
        },
    })
}

fn severity(message: &Message) -> &'static str {
    match (message.kind, When::of(&message.rule)) {
        (MessageKind::Firing, Some(When::StreamStalled | When::WalRetained)) => "critical",
        (MessageKind::Firing, Some(When::MartLate | When::DeadLetters)) => "warning",
        (MessageKind::Firing, _) => "error",
        (MessageKind::Notice, _) if message.bad => "error",
        _ => "info",
    }
}
