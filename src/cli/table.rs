//! `siltstone table`: what tables are doing, and what an operator asks of them. Asking writes a row of
//! `audit.requests`, which the running service carries out, or the next start.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use super::{Files, ready};
use crate::error::{Error, Kind, Result};
use crate::names::TableName;
use crate::pipeline::check_resync;
use crate::postgres::{Session, Side, connect};
use crate::progress::extracts::{self, Listed};
use crate::progress::requests::{self, About, Argument, Verb};
use crate::progress::standing::left_out;
use crate::progress::tables::{self, State, TableRecord};
use crate::spec::Spec;

/// What tables are doing, and what to do with them.
#[derive(clap::Subcommand)]
pub(super) enum Table {
    /// Lists the tables with their state.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Keeps a table's changes until it is resumed; the others go on.
    Pause(Ask),
    /// Lets a stopped or paused table go on with the changes kept for it.
    Resume(Ask),
    /// Reads a table again, or all of a connector's tables under a new slot.
    Resync(Resync),
}

/// What is read again of which table.
#[derive(clap::Args)]
pub(super) struct Resync {
    #[command(flatten)]
    ask: Ask,
    /// Reads again only the rows that meet this condition over the source's columns, at the source or in
    /// the warehouse as they are now: each of these is then as the source has it, or gone if it is gone
    /// there. All others stay. It is judged at the source; names of functions take their schema.
    #[arg(long = "where", value_name = "SQL", conflicts_with = "all")]
    condition: Option<String>,
    /// What its rows are taken from. `raw`: from the events that the raw table of its source table keeps,
    /// without reading the source, history included; or why raw cannot tell all of it.
    #[arg(long, value_name = "WHAT", default_value = "source", conflicts_with_all = ["condition", "all"])]
    from: From,
}

/// What a table's rows are taken from.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum From {
    Source,
    Raw,
}

/// What is asked of which table.
#[derive(clap::Args)]
pub(super) struct Ask {
    /// The warehouse table, as schema.table.
    #[arg(required_unless_present = "all")]
    table: Option<TableName>,
    /// Every table.
    #[arg(long, conflicts_with = "table")]
    all: bool,
    /// The connector, where there are several.
    #[arg(long)]
    connector: Option<String>,
    /// Does not ask whether it is meant.
    #[arg(long)]
    yes: bool,
    /// Waits until the service has answered.
    #[arg(long)]
    wait: bool,
}

impl Table {
    pub(super) async fn run(self, files: &Files) -> Result<ExitCode> {
        let known = files.known()?;
        let mut warehouse =
            connect(Side::Warehouse, &known.settings.warehouse, "siltstone table").await?;
        let looks = matches!(self, Table::List { .. });
        ready(&mut warehouse, looks).await?;
        if let Table::List { json } = self {
            return list(&known.connectors(&warehouse).await?, &warehouse, json).await;
        }
        let spec = files.load()?;
        match self {
            Table::List { .. } => Ok(ExitCode::SUCCESS),
            Table::Pause(ask) => request(&spec, &warehouse, Verb::Pause, (ask, None)).await,
            Table::Resume(ask) => request(&spec, &warehouse, Verb::Resume, (ask, None)).await,
            Table::Resync(Resync { ask, condition, from }) => {
                let verb = match (from, &condition) {
                    (From::Raw, _) => Verb::Rebuild,
                    (From::Source, Some(_)) => Verb::ResyncWhere,
                    (From::Source, None) => Verb::Resync,
                };
                request(&spec, &warehouse, verb, (ask, condition)).await
            }
        }
    }
}

async fn list(connectors: &[String], warehouse: &Session, json: bool) -> Result<ExitCode> {
    for connector in connectors {
        let mut records = tables::read(&**warehouse, connector).await?;
        records.sort_by(|a, b| a.table.cmp(&b.table));
        for record in records {
            if json {
                println!("{}", as_json(connector, &record));
                continue;
            }
            println!("{:<40} {}", record.table.to_string(), record.state.word());
            if let Some(reason) = &record.reason {
                println!("    {reason}");
            }
            if let Some(remedy) = &record.remedy {
                println!("    remedy: {remedy}");
            }
        }
        for out in left_out(&**warehouse, connector).await? {
            if json {
                let told = serde_json::json!({
                    "connector": connector, "name": out.table.to_string(), "state": "left_out",
                    "reason": out.why, "remedy": out.remedy,
                });
                println!("{told}");
                continue;
            }
            println!("{:<40} left out\n    {}", out.table.to_string(), out.why);
            if let Some(remedy) = &out.remedy {
                println!("    remedy: {remedy}");
            }
        }
    }
    for Listed { table, source, up_to } in extracts::listed(&**warehouse).await? {
        let reason = match up_to {
            Some(up_to) => {
                format!("tasks of jobs bring it from {source}; it has what was up to {up_to}")
            }
            None => format!("tasks of jobs bring it from {source}; none has yet"),
        };
        if json {
            let told = serde_json::json!({
                "connector": null, "name": table, "state": "loaded", "reason": reason, "remedy": null,
            });
            println!("{told}");
            continue;
        }
        println!("{table:<40} loaded\n    {reason}");
    }
    Ok(ExitCode::SUCCESS)
}

/// All connectors, whatever they read.
fn names(spec: &Spec) -> impl Iterator<Item = &str> {
    let logs = spec.connectors.iter().map(|connector| connector.name.as_str());
    logs.chain(spec.kafka.iter().map(|connector| connector.name.as_str()))
}

fn as_json(connector: &str, record: &TableRecord) -> serde_json::Value {
    serde_json::json!({
        "connector": connector,
        "name": record.table.to_string(),
        "state": record.state.word(),
        "reason": record.reason,
        "remedy": record.remedy,
    })
}

async fn request(
    spec: &Spec,
    warehouse: &Session,
    verb: Verb,
    (ask, condition): (Ask, Option<String>),
) -> Result<ExitCode> {
    let connector = connector_of(spec, warehouse, &ask).await?;
    let table = ask.table.as_ref();
    check_resync(spec, (verb, &connector), table, condition.as_deref()).await?;
    if verb == Verb::Rebuild && !ask.yes {
        println!("{} will be rebuilt from raw", table.map(ToString::to_string).unwrap_or_default());
        confirmed()?;
    } else if matches!(verb, Verb::Resync | Verb::ResyncWhere) && !ask.yes {
        confirm(warehouse, &connector, (table, condition.as_deref())).await?;
    }
    let argument = condition.as_deref().map_or(Argument::Nothing, Argument::Condition);
    let about = About { table, argument, ..About::default() };
    let id = requests::ask(&**warehouse, verb, &connector, &about).await?;
    let code = wait_for(warehouse, &[id], ask.wait).await?;
    if ask.wait && verb == Verb::Resync && code == ExitCode::SUCCESS {
        return until_streaming(warehouse, &connector, table).await;
    }
    Ok(code)
}

/// Waits until a table that is read again streams, or all of a connector's do; says what it waits for. One
/// that somebody holds meanwhile is waited for no longer.
async fn until_streaming(
    warehouse: &Session,
    connector: &str,
    table: Option<&TableName>,
) -> Result<ExitCode> {
    let mut told = None;
    loop {
        let records = tables::read(&**warehouse, connector).await?;
        let mut ours = records.iter().filter(|of| table.is_none_or(|table| of.table == *table));
        let at_work = |of: &&TableRecord| of.state != State::Streaming && !of.is_held();
        let Some(record) = ours.find(|of| at_work(of) && !of.is_shelved()) else {
            let held: Vec<&TableRecord> = records
                .iter()
                .filter(|of| table.is_none_or(|table| of.table == *table) && of.is_held())
                .collect();
            for record in &held {
                let reason = record.reason.as_deref().unwrap_or("no reason is known");
                println!("{} is {}: {reason}", record.table, record.state.word());
            }
            if held.is_empty() {
                println!(
                    "{} again",
                    table.map_or("all stream".to_owned(), |t| format!("{t} streams"))
                );
            }
            return Ok(ExitCode::from(if held.is_empty() { 0 } else { 65 }));
        };
        let now = format!("waiting for {}, which is {}", record.table, record.state.word());
        if told.as_ref() != Some(&now) {
            println!("{now}");
            told = Some(now);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Says what was asked; with `wait` what became of it.
pub(super) async fn wait_for(warehouse: &Session, asked: &[i64], wait: bool) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for id in asked {
        if !wait {
            println!(
                "asked (request {id}); the running service, or its next start, carries it out, and \
                 --wait tells what became of it"
            );
            continue;
        }
        loop {
            if let Some((done, answer)) = requests::answered(&**warehouse, *id).await? {
                println!("{answer}");
                if !done {
                    code = ExitCode::from(65);
                }
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    Ok(code)
}

/// The connector that feeds the table, or the only one.
async fn connector_of(spec: &Spec, warehouse: &Session, ask: &Ask) -> Result<String> {
    let named = ask.connector.as_ref();
    let mut found = Vec::new();
    for connector in names(spec) {
        if named.is_some_and(|name| *name != connector) {
            continue;
        }
        let feeds = match &ask.table {
            None => true,
            Some(table) => {
                let records = tables::read(&**warehouse, connector).await?;
                records.iter().any(|record| record.table == *table)
            }
        };
        if feeds {
            found.push(connector.to_owned());
        }
    }
    let refuse = |what: String| Err(Error::new(Kind::Usage, what));
    match (found.as_slice(), &ask.table) {
        ([one], _) => Ok(one.clone()),
        ([], Some(table)) => {
            refuse(format!("no connector feeds {table}; see siltstone table list"))
        }
        ([], None) => refuse("there is no such connector".to_owned()),
        _ => refuse(format!("say which with --connector: {}", found.join(", "))),
    }
}

/// Shows what is at stake and asks.
async fn confirm(
    warehouse: &Session,
    connector: &str,
    (table, condition): (Option<&TableName>, Option<&str>),
) -> Result<()> {
    if let (Some(table), Some(condition)) = (table, condition) {
        println!("the rows of {table} will be read again from the source that meet this:");
        println!("    {condition}");
        return confirmed();
    }
    let records = tables::read(&**warehouse, connector).await?;
    let concerned: Vec<&TableRecord> =
        records.iter().filter(|record| table.is_none_or(|table| record.table == *table)).collect();
    println!("{} of {connector} will be read again from the source:", count(concerned.len()));
    for record in concerned {
        println!("    {}", record.table);
    }
    confirmed()
}

/// Asks whether it is meant.
pub(super) fn confirmed() -> Result<()> {
    if !std::io::stdin().is_terminal() {
        return Err(Error::new(Kind::Usage, "not on a terminal: say --yes if it is meant"));
    }
    println!("Go on? [y/N]");
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    read.map_err(|error| Error::new(Kind::Usage, "no answer").because(error))?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Error::new(Kind::Usage, "nothing was done")),
    }
}

fn count(tables: usize) -> String {
    if tables == 1 { "1 table".to_owned() } else { format!("{tables} tables") }
}
