//! Puts the stages together. The only place that knows their order: capture → decode → fold → merge →
//! progress.

mod adopt;
mod books;
mod chunks;
mod confirm;
mod connector;
mod control;
mod cutting;
mod drain;
mod fit;
mod fleet;
mod folding;
mod guard;
mod halt;
mod held;
mod hold;
mod inspect;
mod intake;
mod ladder;
mod lane;
mod owner;
mod pairs;
mod pass;
mod points;
mod refused;
mod remask;
mod rights;
mod router;
mod service;
mod session;
mod shared;
mod sift;
mod standby;
mod start;
mod streamed;
mod tables;
mod unseen;
mod wall;

pub use books::dead_letters_as_json;
pub use inspect::{Report, inspect, inspect_source};
pub use pairs::{Pairs, pairs, verify_connector};
pub use rights::replicated;
pub use service::{Options, Service};
