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

mod alike;
mod answer;
mod beside;
mod composite;
mod convert;
mod declared;
mod document;
mod envelope;
mod extracted;
mod fields;
mod hints;
mod memory;
mod order;
mod pgoutput;
mod placeholder;
mod plan;
mod schemas;
mod semantic;
mod survey;
mod times;
mod transaction;
mod veil;
mod written;

pub use alike::{not_told, read_as_told};
pub use answer::{Answer, Documents, Wanted, read_answer};
pub use declared::DeclaredType;
pub use document::{Image, Layout};
pub use envelope::{Boundary, Form, RowChange, Shapes, Told, Topic, Unreadable};
pub use extracted::Extracted;
pub use hints::Hints;
pub use memory::{Memory, Reading};
pub use order::{Origin, OtherSource, Place};
pub use pgoutput::{Message, Old, RelationColumn, RelationMessage, Streamed, halves, read_message};
pub use plan::{Plan, Poison};
pub use survey::{Declared, Loss, Misread, Survey};
pub use transaction::{Decoded, Decoder};
pub use veil::Veil;
pub use written::{delete_message, insert_message};
