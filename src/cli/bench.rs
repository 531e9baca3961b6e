//! `siltstone bench`.

use std::process::ExitCode;

use super::Files;
use crate::bench;
use crate::error::Result;
use crate::spec::Env;

/// Measures snapshot, catch-up and freshness on two throw-away Postgres clusters.
#[derive(clap::Args)]
pub(super) struct Bench {
    /// How many rows the table begins with.
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// How many changes the backlog has.
    #[arg(long, default_value_t = 1_000_000)]
    changes: u64,
    /// Measures only this.
    #[arg(long, value_parser = bench::NAMES)]
    only: Option<String>,
    /// Leaves Postgres' own replication out.
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
        let Bench { rows, changes, only, ours, batch } = self;
        let options = bench::Options { rows, changes, only, ours, batch };
        let env = Env::of_process(&files.clock);
        bench::run(&options, &env, &mut |line| println!("{line}")).await?;
        Ok(ExitCode::SUCCESS)
    }
}
