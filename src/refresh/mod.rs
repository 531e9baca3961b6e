//! Marts: tables of results that follow the tables they are computed from.
//!
//! A trigger notes the rows that a statement changed, in the transaction that changed them (`watch`); a mark is
//! expanded to the groups it touches (`stale`); these are computed anew and the difference is written (`write`).
//! Nothing here knows who feeds the tables: whatever changes them leaves its marks.

#![warn(missing_docs)]

mod books;
mod define;
mod shape;
mod stale;
mod turn;
mod verify;
mod watch;
mod write;

pub use books::{Standing, any_watched, ask, forget, gather, note, standings};
pub use define::{Definition, define};
pub use shape::{Input, Shape, describe};
pub use turn::{Turn, Turned};
pub use verify::{Finding, Verdict, verify};
pub use watch::{unwatched, watch, watching};

use crate::error::{Error, Kind};
use crate::names::TableName;

/// What is wrong with a mart's file as the warehouse sees it.
fn unfit(mart: &TableName, what: &str, remedy: impl Into<String>) -> Error {
    Error::new(Kind::TableStops, format!("{mart}: {what}"))
        .on_table(mart.to_string())
        .remedy(remedy)
}
