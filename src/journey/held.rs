//! Changes that wait, and those that become dead letters.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Mark, Target};
use crate::position::Order;

/// A change that is kept for a table that cannot take it now.
#[derive(Debug)]
pub struct Held {
    /// The table.
    pub target: Arc<Target>,
    /// The change's order.
    pub order: Order,
    /// Where it stands in the log it came by.
    pub place: Order,
    /// Its transaction.
    pub mark: Mark,
    /// The former key, as a JSON array of texts, of a row that waits for its delete there.
    pub comes_from: Option<String>,
    /// Its keys; nothing where the whole table waits.
    pub digests: Digests,
    /// Whether it waits behind a dead letter, while the others of its table go on.
    pub waits: bool,
    /// The message as it arrived.
    pub message: Vec<u8>,
    /// Why it becomes a dead letter, if it does.
    pub refused: Option<Refused>,
    /// The record in which it came by a topic, where that is kept.
    pub letter: Option<Box<Letter>>,
    /// Whether the message is a change; else it is what nobody could read.
    pub readable: bool,
}

impl Held {
    /// The bytes that it takes where it is kept.
    pub fn weight(&self) -> usize {
        self.message.len() + self.letter.as_deref().map_or(0, Letter::weight)
    }
}

/// A record of a topic as a dead letter keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// The record's place there.
    pub offset: i64,
    /// When it was written, milliseconds since 1970-01-01 UTC.
    pub at: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its headers, as a JSON array of pairs: the name, and the value in base64.
    pub headers: String,
}

impl Letter {
    /// The bytes that it takes where it is kept.
    pub fn weight(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        length(&self.key) + length(&self.value) + self.headers.len()
    }
}

/// Headers as a [`Letter`] keeps them.
pub fn written_headers(headers: &[(&str, Option<&[u8]>)]) -> String {
    let header = |(name, value): &(&str, Option<&[u8]>)| {
        // a JSON text of Postgres has no place for it
        let name = name.replace('\0', "\u{fffd}");
        serde_json::json!([name, value.map(|value| STANDARD.encode(value))])
    };
    serde_json::Value::Array(headers.iter().map(header).collect()).to_string()
}

/// The headers that a [`Letter`] keeps; none where they are none of ours.
pub fn read_headers(kept: &str) -> Vec<(String, Option<Vec<u8>>)> {
    let headers: Vec<(String, Option<String>)> = serde_json::from_str(kept).unwrap_or_default();
    let decoded = |value: Option<String>| value.and_then(|value| STANDARD.decode(value).ok());
    headers.into_iter().map(|(name, value)| (name, decoded(value))).collect()
}

/// A change that its table would refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub reason: String,
    /// Its key as people read it, as a JSON object.
    pub key: Option<String>,
}

/// Digests of the key that a change gives a row, and of the one it had. Equal keys have equal digests,
/// in whatever form their values arrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// Of the key behind the change.
    pub new: i64,
    /// Of the key before it.
    pub old: i64,
}

impl Digests {
    /// Those of a change that has nothing to do with the key before it any more.
    pub fn alone(self) -> Digests {
        Digests { new: self.new, old: self.new }
    }
}
