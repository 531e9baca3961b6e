//! `siltstone check`: what must hold of the rows of tables and marts, what was found of it last, and judging it now.

use std::process::ExitCode;

use serde_json::Value;

use super::{Files, ready};
use crate::error::{Error, Kind, Result};
use crate::names::TableName;
use crate::pipeline::{Judge, zone};
use crate::postgres::{Session, Side, connect};
use crate::quality::{Occasion, Status, Verdict, as_json};
use crate::spec::Spec;
use crate::warehouse::{Claim, Durations, take_over};

/// What must hold of rows.
#[derive(clap::Subcommand)]
pub(super) enum Check {
    /// Lists the checks, each with what was found of it last.
    List {
        /// Those of one table or mart, as schema.table.
        table: Option<TableName>,
        /// Those of a tag.
        #[arg(long)]
        tag: Option<String>,
        /// As JSON, one check a line.
        #[arg(long)]
        json: bool,
    },
    /// Judges checks now and notes what is found; exits with 65 where one fails.
    Run {
        /// Those of one table or mart, as schema.table; all if none is named.
        table: Option<TableName>,
        /// Those of a tag.
        #[arg(long)]
        tag: Option<String>,
        /// As JSON, one check a line.
        #[arg(long)]
        json: bool,
    },
}

impl Check {
    pub(super) async fn run(self, files: &Files) -> Result<ExitCode> {
        let mut spec = files.load()?;
        let mut session =
            connect(Side::Warehouse, &spec.settings.warehouse, "siltstone check").await?;
        let looks = matches!(self, Check::List { .. });
        ready(&mut session, looks).await?;
        let (Check::List { table, tag, json } | Check::Run { table, tag, json }) = &self;
        spec.checks.retain(|check| {
            table.as_ref().is_none_or(|table| check.table == *table)
                && tag.as_ref().is_none_or(|tag| check.tag.as_ref() == Some(tag))
        });
        if spec.checks.is_empty() && (table.is_some() || tag.is_some()) {
            let what = "no file declares such a check";
            return Err(Error::new(Kind::Usage, what).remedy("siltstone check list names them"));
        }
        match self {
            Check::List { .. } => list(&spec, &session, *json).await,
            Check::Run { .. } => judge(files, &spec, &mut session, *json).await,
        }
    }
}

async fn list(spec: &Spec, session: &Session, json: bool) -> Result<ExitCode> {
    for check in as_json(&**session, &spec.checks).await? {
        if json {
            println!("{check}");
            continue;
        }
        let text = |name: &str| check[name].as_str().unwrap_or_default().to_owned();
        let status = if check["status"].is_null() { "-".to_owned() } else { text("status") };
        let mut line = format!("{status:<5} {}: {}", text("table"), text("name"));
        if let Some(tag) = check["tag"].as_str() {
            line.push_str(&format!(" [{tag}]"));
        }
        println!("{line}");
        if !check["status"].is_null() {
            let told = told(&text("expected"), &text("actual"), check["description"].as_str());
            println!("      {told}, {}", text("judged_at"));
        }
        if let Some(kept) = check["kept_rows"].as_i64().filter(|kept| *kept > 0) {
            println!("      rows kept in audit.data_quality_rows: {kept}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn told(expected: &str, actual: &str, description: Option<&str>) -> String {
    match description {
        Some(description) => format!("{actual}; {description}"),
        None => format!("{actual}, expected {expected}"),
    }
}

async fn judge(files: &Files, spec: &Spec, session: &mut Session, json: bool) -> Result<ExitCode> {
    let now = files.clock.now();
    let zone = zone(spec);
    let owner = format!("siltstone check, pid {}, since {now}", std::process::id());
    // one that was begun before, and is still at it, notes nothing more
    let fence = take_over(session, "checks", &owner, Claim::Anyway).await?;
    let judge = Judge {
        fence: &fence,
        durations: &Durations::unobserved(),
        marts: &spec.marts,
        occasion: Occasion {
            date: now.to_zoned(zone.clone()).date(),
            until: now,
            since: None,
            zone,
            run: None,
        },
        until: None,
    };
    let mut failed = false;
    for check in &spec.checks {
        let verdict = judge.judge(session, check).await?;
        failed |= verdict.status == Status::Fail;
        if json {
            let check = std::slice::from_ref(check);
            for line in as_json(&**session, check).await? {
                println!("{line}");
            }
        } else {
            let Verdict { status, expected, actual, description, .. } = &verdict;
            let told = told(expected, actual, description.as_deref());
            println!("{:<5} {}: {}: {told}", status.word(), check.table, check.name);
            for row in verdict.rows.iter().take(SHOWN) {
                println!("      {}", shortened(row));
            }
        }
    }
    fence.release(session, true).await?;
    Ok(ExitCode::from(if failed { 65 } else { 0 }))
}

/// How many of the rows that fail are shown; all that are kept stand in the warehouse.
const SHOWN: usize = 3;

fn shortened(row: &Value) -> String {
    const LONGEST: usize = 200;
    let text = row.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text,
    }
}
