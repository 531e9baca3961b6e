//! Marts: tables of results that follow the tables they are computed from.
//!
//! A trigger notes the rows that a statement changed, in the transaction that changed them (`watch`); a mark is
//! expanded to the groups it touches (`stale`); these are computed anew and the difference is written (`write`).
//! Nothing here knows who feeds the tables: whatever changes them leaves its marks.
//!
//! A table with columns that are looked up reads other tables as a mart does: `lookup` puts in place what sets them,
//! `sweep` goes through its rows when a mark says that what they were looked up in changed.

#![warn(missing_docs)]

mod books;
mod define;
mod lookup;
mod shape;
mod stale;
mod sweep;
mod turn;
mod verify;
mod watch;
mod write;

pub use books::{Standing, any_watched, ask, forget, gather, note, standings};
pub use define::{Definition, define};
pub use lookup::{
    Looks, describe_lookups, is_made, is_placed, mark, place, placing, settings, unplace, unplacing,
};
pub use shape::{Input, Shape, describe};
pub use sweep::{
    Begin, LookupStanding, Swath, Which, Writers, forget_marks, lookups, marks, note_lookups,
    swaths, sweep, writers,
};
pub use turn::{Turn, Turned};
pub use verify::{Finding, Verdict, verify};
pub use watch::{Reader, unwatched, watch, watching};

use crate::error::{Error, Kind};
use crate::names::TableName;

/// What is wrong with a mart's file as the warehouse sees it.
fn unfit(mart: &TableName, what: &str, remedy: impl Into<String>) -> Error {
    Error::new(Kind::TableStops, format!("{mart}: {what}"))
        .on_table(mart.to_string())
        .remedy(remedy)
}
