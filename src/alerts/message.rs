//! What somebody is told.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Why somebody is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageKind {
    /// Something is so that should not be.
    Firing,
    /// It is so no more.
    Resolved,
    /// A task of a job tells of its run.
    Notice,
    /// Somebody tries the channel.
    Test,
}

/// What somebody is told. A generic webhook gets it as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Why.
    pub kind: MessageKind,
    /// The rule; of a notice `notify`.
    pub rule: String,
    /// What it is about: a connector, a table, a mart, a job.
    pub subject: String,
    /// What is so, in a sentence or a few.
    pub text: String,
    /// What to do.
    pub remedy: Option<String>,
    /// Since when.
    pub since: Option<Timestamp>,
    /// When this was written.
    pub at: Timestamp,
    /// Whether it is bad news.
    pub bad: bool,
    /// What else a program may want to know.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub details: Value,
}

impl Message {
    /// A message that tries a channel.
    pub fn test(channel: &str, at: Timestamp) -> Message {
        Message {
            kind: MessageKind::Test,
            rule: "test".to_owned(),
            subject: channel.to_owned(),
            text: "This is a test: messages of Siltstone arrive here.".to_owned(),
            remedy: None,
            since: None,
            at,
            bad: false,
            details: Value::Null,
        }
    }

    /// What belongs together, at the other side as well.
    pub fn key(&self) -> String {
        format!("siltstone/{}/{}", self.rule, self.subject)
    }

    /// In one line.
    pub fn title(&self) -> String {
        let Message { rule, subject, .. } = self;
        let title = match self.kind {
            MessageKind::Firing => format!("{rule}: {subject}"),
            MessageKind::Resolved => format!("Resolved: {rule}: {subject}"),
            MessageKind::Notice => {
                let how = if self.bad { "failed" } else { "went well" };
                format!("{subject} {how}")
            }
            MessageKind::Test => format!("Test of {subject}"),
        };
        // a header has one line
        title.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// As plain text.
    pub fn body(&self) -> String {
        let mut body = format!("{}\n", self.text);
        if let Some(remedy) = &self.remedy {
            body.push_str(&format!("\nWhat to do: {remedy}\n"));
        }
        if let Some(since) = self.since {
            body.push_str(&format!("\nSince {}\n", whole_seconds(since)));
        }
        body.push_str(&format!("Written {}\n", whole_seconds(self.at)));
        body
    }
}

/// A time as people read it.
fn whole_seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_is_one_line_and_a_message_survives_its_row() {
        let mut message = Message::test("ops", "2024-03-10T02:00:00.5Z".parse().unwrap());
        message.subject = "a\r\nBcc: x".to_owned();
        assert_eq!(message.title(), "Test of a Bcc: x");
        assert!(message.body().ends_with("Written 2024-03-10 02:00:00 UTC\n"));
        let row = serde_json::to_value(&message).unwrap();
        assert_eq!(serde_json::from_value::<Message>(row).unwrap(), message);
    }
}
