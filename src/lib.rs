//! Siltstone takes change events and keeps a Postgres warehouse exact and fresh.
//!
//! Data flows one way: capture → decode → fold → merge → progress, each stage a folder here; the
//! stages share [`journey`] and only `pipeline` knows their order. ARCHITECTURE.md is the map.

pub mod alerts;
pub mod bench;
pub mod binding;
pub mod capture;
pub mod cli;
pub mod clock;
pub mod decode;
pub mod demo;
pub mod error;
pub mod fold;
pub mod journey;
pub mod lineage;
pub mod merge;
pub mod names;
pub mod pipeline;
pub mod position;
pub mod postgres;
pub mod progress;
pub mod quality;
pub mod refresh;
pub mod relation;
pub mod schedule;
pub mod serve;
pub mod spec;
pub mod types;
pub mod value;
pub mod verify;
pub mod warehouse;
