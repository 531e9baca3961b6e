//! The declarative files as validated types.
//!
//! Files are found by themselves below the folder of `siltstone.yaml`. Each kind has one file here
//! with its raw and its validated form; what only shows when all files are seen together is checked
//! in `check`. Nothing here connects to anything.

#![warn(missing_docs)]

mod alerts;
mod backups;
mod calendar;
mod channel;
mod check;
mod check_kinds;
mod checks;
mod clocks;
mod columns;
mod common;
mod condition;
mod connector;
mod cron;
mod database;
mod debezium;
mod env;
mod extracts;
mod feeds;
mod file;
mod gates;
mod guard;
mod http;
mod jobs;
mod kafka;
mod lexer;
mod load;
mod lookup;
mod marts;
mod mask;
mod mirror;
mod model;
mod notices;
mod openlineage;
mod order;
mod paging;
mod partition;
mod pattern;
mod quality;
mod report;
mod scalar;
mod script;
mod sensor;
mod settings;
mod snapshot;
mod table;
mod tasks;
mod template;
mod topics;
mod tree;
mod units;
mod upkeep;
mod wal;

pub use alerts::{AlertRule, Alerts, When};
pub use backups::{Backup, BackupKind, Drill};
pub use channel::{Channel, ChannelKind};
pub use columns::OURS;
pub use common::{Common, Truncates};
pub use condition::Condition;
pub use connector::{Connector, Disabled};
pub use cron::Cron;
pub use database::Database;
pub use debezium::{BinaryMode, DecimalMode, IntervalMode, TimeMode, Types};
pub use env::Env;
pub use extracts::Asked;
pub use gates::Selection;
pub use guard::DeleteGuard;
pub use http::{Auth, Http, HttpEndpoint, HttpLimits, JsonPath};
pub use jobs::{Calendared, FreshTo, Interval, Job, JobRequires, Overlap, Requires, Schedule};
pub use kafka::{Format, Kafka, OffsetLost, StartAt, TopicPattern};
pub use load::{Spec, load, load_again, load_settings};
pub use marts::{Mart, MartRead, tokens};
pub use mask::{MaskKey, Masks};
pub use mirror::{mirror, mirror_column};
pub use model::{
    Calendar, Deletes, HORIZON, History, Lookup, Model, ModelColumn, NewColumns, Partition,
    SourceName, Step,
};
pub use notices::{JobAlerts, Webhook};
pub use openlineage::OpenLineage;
pub use paging::{By, Paging};
pub use pattern::{Exclusion, TablePattern};
pub use quality::{
    Bounds, CHECK_KINDS, Check, CheckKind, Freshness, Limits, Relationship, Season, Severity,
    Threshold, Volume,
};
pub use report::{Report, ReportForm};
pub use script::{Script, Statement, Variable};
pub use sensor::Signal;
pub use settings::{Admin, Secret, Settings};
pub use snapshot::{AtMost, Snapshot};
pub use tasks::{Task, TaskKind, TriggerRule};
pub use template::Template;
pub use topics::{Topic, Topics, same_policy};
pub use units::{Size, Span};
pub use upkeep::{Partitions, Retention};
pub use wal::Wal;
