//! From a source's bytes to change events. Pure: nothing here does I/O.

// what arrives from outside is never trusted with an index or a narrowing
#![cfg_attr(
    not(test),
    deny(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        clippy::indexing_slicing,
    )
)]

mod document;
mod pgoutput;
mod transaction;
mod veil;

pub use document::{Image, Layout};
pub use pgoutput::{
    Message, Old, RelationColumn, RelationMessage, Streamed, delete_message, halves,
    insert_message, read_message,
};
pub use transaction::{Decoded, Decoder};
pub use veil::Veil;
