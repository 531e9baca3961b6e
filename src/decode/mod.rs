//! From a source's bytes to change events. Pure: nothing here does I/O.

mod pgoutput;
mod transaction;

pub use pgoutput::{Message, Old, RelationColumn, RelationMessage, read_message};
pub use transaction::{Decoded, Decoder};
