//! `siltstone validate`: reads all files; with `--connect` also asks source and warehouse what they
//! lack. Changes nothing.

use std::process::ExitCode;

use super::Files;
use crate::capture::preflight::Finding;
use crate::error::Result;
use crate::pipeline::{
    Report, inspect, inspect_database, inspect_marts, inspect_topics, refuse_unheeded,
};

/// Checks the files; with --connect also the source and the warehouse.
#[derive(clap::Args)]
pub(super) struct Validate {
    /// Also asks source and warehouse what they lack.
    #[arg(long)]
    connect: bool,
}

impl Validate {
    pub(super) async fn run(self, files: &Files) -> Result<ExitCode> {
        let spec = files.load()?;
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        println!(
            "files: {}, {}, {}",
            count(spec.commons().count() + spec.asked_count(), "connector"),
            count(spec.models.len(), "declared table"),
            count(spec.calendars.len(), "calendar")
        );
        refuse_unheeded(&spec)?;
        if !self.connect {
            return Ok(ExitCode::SUCCESS);
        }
        let mut fatal = false;
        let mut print = |report: &Report| {
            for line in &report.tables {
                println!("    {line}");
            }
            fatal |= report.findings.iter().any(|finding| finding.fatal);
            print_findings(&report.findings);
        };
        for connector in &spec.connectors {
            println!("{} ({}):", connector.name, connector.endpoint.shown());
            print(&inspect(&spec, connector).await?);
        }
        for connector in &spec.kafka {
            println!("{} ({}):", connector.name, connector.brokers);
            print(&inspect_topics(&spec, connector).await?);
        }
        for database in &spec.databases {
            println!("{} ({}):", database.name, database.rows_endpoint().shown());
            print(&inspect_database(&spec, database).await?);
        }
        if !spec.marts.is_empty() {
            println!("marts:");
            print(&inspect_marts(&spec).await?);
        }
        Ok(if fatal { ExitCode::from(78) } else { ExitCode::SUCCESS })
    }
}

/// Prints what was found, each with what to do.
pub(super) fn print_findings(findings: &[Finding]) {
    for finding in findings {
        let word = if finding.fatal { "error" } else { "warning" };
        println!("    {word}: {}\n        {}", finding.what, finding.remedy);
    }
}
