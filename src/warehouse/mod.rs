//! The warehouse: its control tables, who may write, and transactions that know their name.

mod fence;
mod migrate;
mod transaction;

pub use fence::{Fence, register, take_over};
pub use migrate::migrate;
pub use transaction::{Durations, Fenced};
