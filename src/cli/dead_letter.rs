//! `siltstone dead-letter`: changes that their tables refuse, and what becomes of them. Verbs write rows
//! of `audit.requests`, which the running service carries out, or the next start.

use std::process::ExitCode;

use serde_json::Value;

use super::Files;
use super::table::{confirmed, wait_for};
use crate::error::{Error, Kind, Result};
use crate::names::TableName;
use crate::pipeline::dead_letters_as_json;
use crate::postgres::{Session, Side, connect};
use crate::progress::requests::{self, Argument, Verb};
use crate::warehouse::migrate;

/// Changes that their tables refuse.
#[derive(clap::Subcommand)]
pub(super) enum DeadLetter {
    /// Lists the open ones.
    List {
        /// Only those of this warehouse table, as schema.table.
        table: Option<TableName>,
        /// As JSON, one a line.
        #[arg(long)]
        json: bool,
    },
    /// Shows one with its values.
    Show {
        /// Its number.
        id: i64,
    },
    /// Tries them again, each at its place among the changes of its key.
    Replay(Which),
    /// Leaves them out for good; what waits behind them goes on.
    Drop(Which),
}

/// Which dead letters are meant.
#[derive(clap::Args)]
pub(super) struct Which {
    /// The number of one, or the table of several, as schema.table.
    #[arg(required_unless_present = "all")]
    which: Option<String>,
    /// All of them.
    #[arg(long, conflicts_with = "which")]
    all: bool,
    /// Does not ask whether it is meant.
    #[arg(long)]
    yes: bool,
    /// Waits until the service has answered.
    #[arg(long)]
    wait: bool,
}

impl DeadLetter {
    pub(super) async fn run(self, files: &Files) -> Result<ExitCode> {
        let spec = files.load()?;
        let mut warehouse =
            connect(Side::Warehouse, &spec.settings.warehouse, "siltstone dead-letter").await?;
        migrate(&mut warehouse).await?;
        match self {
            DeadLetter::List { table, json } => list(&warehouse, table.as_ref(), json).await,
            DeadLetter::Show { id } => show(&warehouse, id).await,
            DeadLetter::Replay(which) => settle(&warehouse, Verb::Replay, which).await,
            DeadLetter::Drop(which) => settle(&warehouse, Verb::Drop, which).await,
        }
    }
}

async fn list(warehouse: &Session, table: Option<&TableName>, json: bool) -> Result<ExitCode> {
    let letters = dead_letters_as_json(&**warehouse, table, None).await?;
    for letter in &letters {
        if json {
            println!("{letter}");
            continue;
        }
        println!(
            "{:<8} {:<32} {}  at {}/{}, noticed {}",
            letter["id"].to_string(),
            text(&letter["table"]),
            letter["key"],
            text(&letter["position"]),
            letter["ordinal"],
            text(&letter["noticed_at"])
        );
        println!("         {}", text(&letter["reason"]));
    }
    if letters.is_empty() && !json {
        println!("there are no dead letters");
    }
    Ok(ExitCode::SUCCESS)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

async fn show(warehouse: &Session, id: i64) -> Result<ExitCode> {
    let letters = dead_letters_as_json(&**warehouse, None, Some(id)).await?;
    let letter = letters.first().ok_or_else(|| unknown(&id.to_string()))?;
    println!("{letter:#}");
    Ok(ExitCode::SUCCESS)
}

fn unknown(which: &str) -> Error {
    Error::new(Kind::Usage, format!("there is no open dead letter {which}"))
        .remedy("siltstone dead-letter list")
}

async fn settle(warehouse: &Session, verb: Verb, which: Which) -> Result<ExitCode> {
    let letter: Option<i64> = which.which.as_deref().and_then(|which| which.parse().ok());
    let table = match (&which.which, letter) {
        (Some(table), None) => Some(
            table
                .parse::<TableName>()
                .map_err(|_| unknown(table).remedy("name a number or a schema.table"))?,
        ),
        _ => None,
    };
    let letters = dead_letters_as_json(&**warehouse, table.as_ref(), letter).await?;
    if letters.is_empty() {
        return Err(unknown(which.which.as_deref().unwrap_or("at all")));
    }
    if verb == Verb::Drop && !which.yes {
        println!("{} of these changes will never be in the warehouse:", letters.len());
        for letter in &letters {
            println!("    {} {} {}", letter["id"], text(&letter["table"]), letter["key"]);
        }
        confirmed()?;
    }
    let place = |letter: &Value| {
        let table = text(&letter["table"]).parse::<TableName>().ok()?;
        Some((text(&letter["connector"]).to_owned(), table))
    };
    let mut places: Vec<_> = letters.iter().filter_map(place).collect();
    places.sort();
    places.dedup();
    let mut asked = Vec::new();
    for (connector, table) in places {
        let argument = letter.map_or(Argument::Nothing, Argument::Letter);
        asked.push(requests::ask(&**warehouse, verb, &connector, (Some(&table), argument)).await?);
    }
    wait_for(warehouse, &asked, which.wait).await
}
