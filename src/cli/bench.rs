//! `siltstone bench`.

use std::process::ExitCode;

use super::Files;
use crate::bench;
use crate::error::Result;
use crate::spec::Env;

/// Measures snapshot, catch-up and freshness on two throw-away Postgres clusters, or topics of a throw-away
/// Kafka.
#[derive(clap::Args)]
pub(super) struct Bench {
    /// How many rows the table begins with.
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// How many changes the backlog has.
    #[arg(long, default_value_t = 1_000_000)]
    changes: u64,
    /// Measures topics of a Kafka in place of a Postgres source; needs Java 17 or newer.
    #[arg(long)]
    kafka: bool,
    /// How many events the backlog of a topic has.
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// Measures only this: snapshot, stream, versions, raw, facts, lookups, freshness or marts; of topics json,
    /// plain, upserts, members or latency.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Leaves out what it is compared with: Postgres' own replication, Debezium's JDBC sink.
    #[arg(long)]
    ours: bool,
    /// Sets batch.max_rows.
    #[arg(long, value_name = "ROWS")]
    batch: Option<usize>,
}

impl Bench {
    pub(super) async fn run(self, files: &Files) -> Result<ExitCode> {
        let given: Vec<String> = std::env::args().skip(1).collect();
        println!("siltstone {}", given.join(" "));
        let Bench { rows, changes, kafka, events, only, ours, batch } = self;
        let options = bench::Options { rows, changes, kafka, events, only, ours, batch };
        let env = Env::of_process(&files.clock);
        bench::run(&options, &env, &mut |line| println!("{line}")).await?;
        Ok(ExitCode::SUCCESS)
    }
}
