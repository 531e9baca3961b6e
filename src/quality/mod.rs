//! Checks: what must hold of the rows of tables and marts, and what was found.
//!
//! A check becomes one statement that changes nothing (`render`, pure), its answer a verdict (`judge`, and `volume`
//! for what is learned; pure). `books` keeps verdicts and rows that have failed. Nothing here writes a table of the
//! user's, and nothing here knows who asks.

#![warn(missing_docs)]

mod books;
mod judge;
mod render;
mod run;
mod volume;

pub use books::{Failing, as_json, failing, note};
pub use judge::{Status, Verdict};
pub use run::{Occasion, judge};
