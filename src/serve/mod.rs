//! What people and machines see: live state, metrics, readiness, the admin HTTP server.
//!
//! Reads what the pipeline writes to the [`Board`]; never asks source or warehouse, and never changes
//! anything but by a request that somebody else carries out.

mod admin;
mod alerts;
mod auth;
mod board;
mod body;
mod check_metrics;
mod checks;
mod connectors;
mod health;
mod job_metrics;
mod jobs;
mod letters;
mod lineage;
mod mart_metrics;
mod marts;
mod memory;
mod metrics;
mod status;
mod verify;
mod view;

pub use admin::{Asked, Books, Later, start};
pub use auth::Tokens;
pub use board::{Board, ConnectorBoard};
pub use health::{Readiness, readiness};
pub use letters::{Edited, Letters};
pub use marts::MartReport;
pub use view::{PartitionReport, Phase, TableReport, Totals, View};
