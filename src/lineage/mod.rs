//! Lineage to the column: what each column of a table is made of.
//!
//! Pure. `statement` reads a SELECT by a parser, `query`, `source`, `expression` and `scope` derive from its tree what
//! each of its columns comes from; `models` does the same for declared and mirrored tables. What cannot be told is
//! named `unresolved`, with the reason; it is never guessed, and stops nothing. `store` keeps what was derived as rows,
//! `openlineage` writes it down in the words of that standard.

#![warn(missing_docs)]

mod deps;
mod edges;
mod expression;
mod gather;
mod heading;
mod models;
mod openlineage;
mod query;
mod scope;
mod source;
mod statement;
mod store;
#[cfg(test)]
mod tests;
mod tree;

pub use deps::{Cell, Deps, Kind};
pub use edges::{Edge, of_mart};
pub use gather::{Facts, derive_all, gather};
pub use models::{Known, MaskedColumns, columns_of, of_model};
pub use openlineage::{Catalogue, Happening, events};
pub use statement::{Column, Derived, Tables, derive, reads, tables_of};
pub use store::{Written, read, write};
pub use tree::{Lineage, Way};
