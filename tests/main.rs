//! One test binary: what spans modules, reads files or needs servers. Unit tests lie beside the code.

#![allow(
    clippy::expect_used,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::string_slice,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a helper of a test may fail its test"
)]

mod adopt;
mod alerts;
mod alters;
mod anew;
mod archive;
mod binlog;
mod compose;
mod databases;
mod dead_letters;
mod debezium;
mod drift;
mod extracts;
mod failover;
mod faults;
mod flat;
mod guard;
mod holds;
mod init;
mod init_debezium;
mod jobs;
mod journey;
mod kafka_environment;
mod late;
mod lineage;
mod lookups;
mod marts;
mod marts_files;
mod marts_told;
mod mask;
mod model;
mod moves;
mod mysql;
mod offsets;
mod openapi;
mod operator;
mod parts;
mod plan;
mod poison;
mod quality;
mod races;
mod ranges;
mod readagain;
mod readings;
mod rebuild;
mod recordings;
mod reference;
mod reshape;
mod resting;
mod rights;
mod secure_topics;
mod service;
mod sources;
mod specs;
mod standby;
mod streaming;
mod support;
mod takeover;
mod tasks;
mod tidy;
mod tls;
mod topics;
mod turns;
mod types;
mod verify;
mod wal;
