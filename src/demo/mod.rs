//! What a trial of the service needs beside the service: a Postgres of its own, a shop to replicate,
//! traffic on it, the default files and the screen.
//!
//! - [`cluster`] starts a throw-away Postgres, for the demo, the tests and the benchmarks;
//!   [`binaries`] finds its programs and [`download`] fetches them where there are none.
//! - [`kafka`] starts a throw-away Kafka and a Kafka Connect with Debezium.
//! - [`shop`] fills the source database, [`traffic`] changes it until it is told to stop.
//! - [`files`] holds the default `siltstone.yaml`, connector and schemas, ready to be written out.
//! - [`screen`] turns a view of what is going on into lines; [`terminal`] writes them.
//!
//! Nothing here starts the service, and the service uses nothing of this.

pub mod binaries;
mod central;
pub mod cluster;
pub mod download;
pub mod files;
pub mod kafka;
mod place;
pub mod screen;
mod server;
pub mod shop;
pub mod terminal;
pub mod traffic;
