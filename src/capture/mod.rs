//! What happens at the source: its catalogue, publications and slots, the snapshot, the stream.

pub mod catalog;
pub mod preflight;
pub mod publication;
pub mod replication;
pub mod slot;
pub mod snapshot;
mod stream;
pub mod walsender;
