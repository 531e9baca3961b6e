//! What is durable: how far a log is applied, what each table is doing, which changes are kept for
//! later. All of it in the control tables of schema `audit`, moved in the same transaction as the rows
//! it speaks of.

// what must not be lost is never trusted to an index or a narrowing
#![cfg_attr(
    not(test),
    deny(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        clippy::indexing_slicing,
    )
)]

pub mod account;
pub mod chunks;
pub mod dead_letters;
pub mod extracts;
pub mod feeds;
pub mod gaps;
pub mod held_back;
pub mod holds;
pub mod leaves;
pub mod listed;
pub mod masks;
pub mod partitions;
pub mod parts;
pub mod pending;
pub mod poison;
pub mod requests;
pub mod resting;
pub mod schemas;
pub mod seen;
pub mod source_leaves;
pub mod standing;
mod store;
pub mod tables;
pub mod tried;
pub mod turns;
pub mod unfed;
pub mod waiting;
pub mod wanted;

pub use store::{
    Checkpoint, Ledger, SlotRecord, forget, record_creating, record_ready, record_step, slot_record,
};
