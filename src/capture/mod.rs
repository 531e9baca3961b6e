//! What happens at the source: its catalogue, publications and slots, the snapshot, the stream.

pub mod catalog;
pub mod replication;
mod stream;
pub mod walsender;
