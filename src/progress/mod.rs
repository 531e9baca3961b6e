//! What is durable: how far a log is applied, what each table is doing, which changes are kept for
//! later. All of it in the control tables of schema `audit`, moved in the same transaction as the rows
//! it speaks of.

#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
#![cfg_attr(test, allow(clippy::indexing_slicing))]

pub mod pending;
pub mod requests;
pub mod schemas;
mod store;
pub mod tables;

pub use store::{Checkpoint, SlotRecord, forget, record_creating, record_ready, slot_record};
