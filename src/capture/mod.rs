//! What happens at the source: its catalogue, publications and slots, the snapshot, the stream.

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

mod admin;
pub mod api;
pub mod bounds;
pub mod brokers;
pub mod catalog;
pub mod condition;
mod group;
pub mod leaves;
mod log;
pub mod outlet;
pub mod pages;
mod paused;
pub mod preflight;
pub mod publication;
pub mod ranges;
mod refusal;
pub mod replication;
pub mod role;
pub mod sample;
pub mod slot;
pub mod snapshot;
pub mod spool;
pub mod standby;
mod stream;
pub mod topics;
mod unfit;
pub mod walsender;

pub use log::LogEnd;
