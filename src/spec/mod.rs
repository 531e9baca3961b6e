//! The declarative files as validated types.
//!
//! Files are found by themselves below the folder of `siltstone.yaml`. Each kind has one file here
//! with its raw and its validated form; what only shows when all files are seen together is checked
//! in `check`. Nothing here connects to anything.

#![warn(missing_docs)]

mod calendar;
mod check;
mod columns;
mod common;
mod connector;
mod debezium;
mod env;
mod file;
mod guard;
mod kafka;
mod load;
mod marts;
mod mask;
mod mirror;
mod model;
mod partition;
mod pattern;
mod scalar;
mod settings;
mod snapshot;
mod table;
mod topics;
mod tree;
mod units;
mod wal;

pub use columns::OURS;
pub use common::{Common, Truncates};
pub use connector::Connector;
pub use debezium::{BinaryMode, DecimalMode, IntervalMode, TimeMode, Types};
pub use env::Env;
pub use guard::DeleteGuard;
pub use kafka::{Format, Kafka, OffsetLost, StartAt, TopicPattern};
pub use load::{Spec, load};
pub use marts::{Mart, MartRead, tokens};
pub use mask::{MaskKey, Masks};
pub use mirror::{mirror, mirror_column};
pub use model::{
    Calendar, Deletes, HORIZON, History, Model, ModelColumn, NewColumns, Partition, SourceName,
    Step,
};
pub use pattern::{Exclusion, TablePattern};
pub use settings::{Admin, Secret, Settings};
pub use snapshot::Snapshot;
pub use topics::{Topic, Topics, same_policy};
pub use units::{Size, Span};
pub use wal::Wal;
