//! Alerts: what people should know now, and telling them of it once.
//!
//! `facts` reads how things stand, `rules` says what of it is worth a word, `book` whether somebody is to be told
//! now; both are pure. `store` keeps what was told and what is on its way as rows, so that another instance goes on
//! from there; `channels` sends, one file a kind. Nothing here waits for a channel while it holds a transaction, and
//! no channel that fails stops anything.

#![warn(missing_docs)]

mod book;
mod channels;
mod facts;
mod message;
mod rules;
mod store;

pub use book::{Entry, State, Step, decide};
pub use channels::Sender;
pub use facts::{Facts, Gatherer, MartFact, Sign, tell, unsay};
pub use message::{Message, MessageKind};
pub use rules::{Condition, Verdicts, judge};
pub use store::{Due, Sent, as_json, clean, due, entries, forget, note, queue, write};
