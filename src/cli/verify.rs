//! `siltstone verify`: proves source and warehouse equal, beside a running service.

use std::process::ExitCode;

use super::Files;
use crate::demo::screen::{Verdict, verified};
use crate::error::{Error, Kind, Result};
use crate::names::TableName;
use crate::pipeline::{verify_connector, verify_topics};
use crate::spec::AtMost;
use crate::verify::Report;

/// Compares source and warehouse while the stream flows.
#[derive(clap::Args)]
pub(super) struct Verify {
    /// One warehouse table, as schema.table; all of them if none is named.
    table: Option<TableName>,
    /// Bytes of rows that are read a second at most, at the source and in the warehouse each, such as 20MiB. A
    /// slow comparison keeps a snapshot open at both for as long as it reads a table.
    #[arg(long, value_name = "SIZE", default_value = "none")]
    max_rate: AtMost,
}

impl Verify {
    pub(super) async fn run(self, files: &Files) -> Result<ExitCode> {
        let spec = files.load()?;
        if spec.commons().next().is_none() {
            let what = "no connector is enabled: there is nothing to compare";
            return Err(Error::new(Kind::Config, what).remedy("write connectors/NAME.yaml"));
        }
        let mut verdict = Verdict::default();
        let mut passed = true;
        let mut found = false;
        let mut reports = Vec::new();
        let what = (self.table.as_ref(), self.max_rate.0);
        for connector in &spec.connectors {
            reports.push(verify_connector(&spec, connector, what).await?);
        }
        for connector in &spec.kafka {
            if connector.endpoint.is_none() {
                let (name, file) = (&connector.name, &connector.file);
                tracing::warn!("{name} is not compared: write the url of its source in {file}");
                continue;
            }
            reports.push(verify_topics(&spec, connector, what).await?);
        }
        for report in reports {
            found |= !report.tables.is_empty();
            passed &= report.passed();
            for line in report.findings() {
                println!("{line}");
            }
            add(&mut verdict, &report);
        }
        if let Some(table) = self.table.filter(|_| !found) {
            let what = format!("no connector feeds {table}; see siltstone table list");
            return Err(Error::new(Kind::Usage, what));
        }
        if verdict.tables == 0 && passed {
            // no verdict is one: there are only events, or nothing was taken
            println!("VERIFY     nothing was compared");
            return Ok(ExitCode::from(65));
        }
        for line in verified(&verdict, 200) {
            println!("{line}");
        }
        Ok(if passed { ExitCode::SUCCESS } else { ExitCode::from(65) })
    }
}

/// Adds a connector's report to the verdict.
pub(super) fn add(verdict: &mut Verdict, report: &Report) {
    verdict.tables += report.compared();
    verdict.rows += report.rows();
    verdict.overlaps += report.overlaps();
    verdict.double_currents += report.double_currents();
    verdict.different.extend(report.different());
    verdict.skipped.extend(report.skipped());
}
