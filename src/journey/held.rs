//! Changes that wait, and those that become dead letters.

use std::sync::Arc;

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
    /// The record in which a dead letter came.
    pub letter: Option<Box<Letter>>,
    /// Whether the message is a change; else it is what nobody could read.
    pub readable: bool,
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
