//! `siltstone mart`: how marts stand, asking for one to be computed anew, and comparing them with a full rebuild.

use std::process::ExitCode;
use std::time::Duration;

use super::{Files, ready};
use crate::error::{Error, Kind, Result};
use crate::names::TableName;
use crate::postgres::{Session, Side, connect};
use crate::refresh::{self, Finding, Standing, Verdict};
use crate::spec::Spec;

/// Marts.
#[derive(clap::Subcommand)]
pub(super) enum Mart {
    /// Lists the marts with their state, and how far they are.
    List {
        /// As JSON, one mart a line.
        #[arg(long)]
        json: bool,
    },
    /// Computes marts anew, all of their rows; only what differs is written.
    Refresh {
        /// The mart, as schema.table; all of them if none is named.
        mart: Option<TableName>,
        /// Waits until the service has done it.
        #[arg(long)]
        wait: bool,
    },
    /// Compares marts with a full rebuild, while the stream flows; exits with 65 where one differs.
    Verify {
        /// The mart, as schema.table; all of them if none is named.
        mart: Option<TableName>,
    },
}

/// How often it is looked whether a refresh is done, and for how long.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const LOOKS: u32 = 3_000;

impl Mart {
    pub(super) async fn run(self, files: &Files) -> Result<ExitCode> {
        let spec = files.load()?;
        let mut session =
            connect(Side::Warehouse, &spec.settings.warehouse, "siltstone mart").await?;
        let looks = matches!(self, Mart::List { .. } | Mart::Verify { .. });
        ready(&mut session, looks).await?;
        match self {
            Mart::List { json } => list(&spec, &session, json).await,
            Mart::Refresh { mart, wait } => request(&spec, &session, mart.as_ref(), wait).await,
            Mart::Verify { mart } => compare(&spec, &mut session, mart.as_ref()).await,
        }
    }
}

async fn list(spec: &Spec, session: &Session, json: bool) -> Result<ExitCode> {
    let standings = refresh::standings(&**session, None).await?;
    for standing in &standings {
        if json {
            let line = serde_json::to_string(standing);
            println!("{}", line.map_err(|error| Error::bug("a mart is no JSON").because(error))?);
        } else {
            print(standing);
        }
    }
    let unknown = |name: &&TableName| standings.iter().all(|known| known.mart != name.to_string());
    for name in spec.marts.iter().map(|mart| &mart.table).filter(unknown) {
        if json {
            println!("{}", serde_json::json!({ "mart": name.to_string(), "state": "waiting" }));
        } else {
            println!("{:<40} waiting: a service that runs makes it", name.to_string());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(standing: &Standing) {
    let as_of = standing.as_of.as_deref().unwrap_or("never");
    let mut line = format!("{:<40} {:<9} as of {as_of}", standing.mart, standing.state);
    if standing.lag_seconds > 0.0 {
        line.push_str(&format!(", {:.1} s behind", standing.lag_seconds));
    }
    if standing.stale_groups > 0 {
        line.push_str(&format!(", {} groups stale", standing.stale_groups));
    }
    println!("{line}");
    if let Some(reason) = &standing.reason {
        println!("    {reason}");
    }
    if let Some(remedy) = &standing.remedy {
        println!("    remedy: {remedy}");
    }
}

/// The marts that are meant.
fn meant<'s>(spec: &'s Spec, name: Option<&TableName>) -> Result<Vec<&'s crate::spec::Mart>> {
    let found: Vec<_> =
        spec.marts.iter().filter(|mart| name.is_none_or(|name| mart.table == *name)).collect();
    match name {
        Some(name) if found.is_empty() => {
            let what = format!("no file in sql/marts declares {name}");
            Err(Error::new(Kind::Usage, what).remedy("siltstone mart list names those that are"))
        }
        _ => Ok(found),
    }
}

async fn request(
    spec: &Spec,
    session: &Session,
    name: Option<&TableName>,
    wait: bool,
) -> Result<ExitCode> {
    let mut asked = Vec::new();
    for mart in meant(spec, name)? {
        let table = &mart.table;
        match refresh::ask(&**session, table).await? {
            true => println!("{table}: asked for"),
            false => println!("{table}: a service that runs makes it first"),
        }
        asked.push(table.to_string());
    }
    if wait {
        done(session, &asked).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until nothing is due for these marts.
async fn done(session: &Session, asked: &[String]) -> Result<()> {
    for _ in 0..LOOKS {
        let standings = refresh::standings(&**session, None).await?;
        let open = |standing: &&Standing| standing.due && asked.contains(&standing.mart);
        match standings.iter().find(open) {
            None => return Ok(()),
            Some(open) if open.state == "stopped" || open.state == "held" => break,
            Some(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
    let error = Error::new(Kind::Busy, "not all marts were refreshed");
    Err(error.remedy("siltstone mart list says why; a service has to run"))
}

async fn compare(spec: &Spec, session: &mut Session, name: Option<&TableName>) -> Result<ExitCode> {
    let (mut differs, mut changing) = (false, false);
    for mart in meant(spec, name)? {
        match refresh::verify(session, mart).await? {
            Verdict::Equal { rows, pending: 0 } => println!("{}: equal, {rows} rows", mart.table),
            Verdict::Equal { rows, pending } => {
                println!(
                    "{}: equal, {rows} rows; {pending} groups are yet to be computed",
                    mart.table
                );
            }
            Verdict::Differs(findings) => {
                differs = true;
                println!("{}: differs from a full rebuild", mart.table);
                findings.iter().for_each(tell);
                println!("    remedy: siltstone mart refresh {:#}", mart.table);
            }
            Verdict::Changing => {
                changing = true;
                println!(
                    "{}: all of it was to be computed anew at every look; ask again",
                    mart.table
                );
            }
        }
    }
    Ok(ExitCode::from(match (differs, changing) {
        (true, _) => 65,
        (false, true) => 75,
        (false, false) => 0,
    }))
}

fn tell(finding: &Finding) {
    println!("    {} {}", if finding.surplus { "surplus" } else { "missing" }, finding.row);
}
