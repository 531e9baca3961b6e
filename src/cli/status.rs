//! `siltstone status` and `siltstone why`: how things stand, from the warehouse's control tables, with or
//! without a running service.

use std::process::ExitCode;

use serde_json::Value;

use super::Files;
use crate::error::{Error, Kind, Result};
use crate::names::TableName;
use crate::postgres::{Side, connect};
use crate::progress::account;
use crate::warehouse::migrate;

/// How the connectors stand.
#[derive(clap::Args)]
pub(super) struct Status {
    /// As JSON, a connector a line.
    #[arg(long)]
    json: bool,
}

/// Why a table is as it is.
#[derive(clap::Args)]
pub(super) struct Why {
    /// The warehouse table, as schema.table.
    table: TableName,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

impl Status {
    /// Exits with 65 where a table needs a person.
    pub(super) async fn run(self, files: &Files) -> Result<ExitCode> {
        let spec = files.load()?;
        let mut warehouse =
            connect(Side::Warehouse, &spec.settings.warehouse, "siltstone status").await?;
        migrate(&mut warehouse).await?;
        let mut code = ExitCode::SUCCESS;
        for connector in &spec.connectors {
            let told = account::connector(&*warehouse, &connector.name).await?;
            if told["attention"].as_array().is_some_and(|tables| !tables.is_empty())
                || told["dead_letters"] != 0
            {
                code = ExitCode::from(Kind::Differs.exit_code());
            }
            if self.json {
                println!("{told}");
            } else {
                print_connector(&told);
            }
        }
        Ok(code)
    }
}

/// Prints how a connector stands.
pub(super) fn print_connector(told: &Value) {
    let owner = told["owner"].as_str().unwrap_or("nobody");
    let alive = if told["alive"] == true { "running" } else { "not running" };
    println!("{}: {alive}, owner {owner}", text(&told["connector"]));
    if let Some(wanted) = told["wanted"].as_str() {
        println!("    {wanted}; siltstone connector resume {}", text(&told["connector"]));
    }
    if let Some(position) = told["position"].as_str() {
        println!("    at {position}, moved {} s ago", told["moved_seconds_ago"]);
    }
    let tables = told["tables"].as_object().into_iter().flatten();
    let tables: Vec<String> = tables.map(|(state, many)| format!("{many} {state}")).collect();
    let tables = if tables.is_empty() { "none".to_owned() } else { tables.join(", ") };
    println!("    tables: {tables}");
    println!(
        "    kept changes: {} bytes, dead letters: {}",
        told["pending_bytes"], told["dead_letters"]
    );
    for table in told["attention"].as_array().into_iter().flatten() {
        println!("    {} is {}", text(&table["table"]), text(&table["state"]));
        print_because(table, "        ");
    }
}

fn print_because(told: &Value, indent: &str) {
    for (name, label) in [("reason", ""), ("remedy", "remedy: ")] {
        if let Some(text) = told[name].as_str() {
            println!("{indent}{label}{text}");
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

impl Why {
    pub(super) async fn run(self, files: &Files) -> Result<ExitCode> {
        let spec = files.load()?;
        let mut warehouse =
            connect(Side::Warehouse, &spec.settings.warehouse, "siltstone why").await?;
        migrate(&mut warehouse).await?;
        let table = &self.table;
        let told = account::table(&*warehouse, table).await?.ok_or_else(|| {
            Error::new(Kind::Usage, format!("no connector feeds {table}"))
                .remedy("siltstone table list shows the tables that are fed")
        })?;
        if self.json {
            println!("{told}");
            return Ok(ExitCode::SUCCESS);
        }
        println!(
            "{table} is {} since {}, fed by {} of {}",
            text(&told["state"]),
            text(&told["since"]),
            text(&told["source_table"]),
            text(&told["fed_by"]["connector"])
        );
        print_because(&told, "    ");
        let alive = if told["fed_by"]["alive"] == true { "runs" } else { "does not run" };
        println!(
            "    the connector {alive}; it is at {}, moved {} s ago",
            text(&told["fed_by"]["position"]),
            told["fed_by"]["moved_seconds_ago"]
        );
        if !told["is_read"].is_null() {
            println!("    its rows are (to be) read, since {}", text(&told["is_read"]["since"]));
        }
        println!(
            "    kept changes: {} ({} bytes), {} of them behind dead letters",
            told["kept"]["changes"],
            told["kept"]["bytes"],
            told["kept"]["waiting_behind_dead_letters"]
        );
        let lists = [("dead_letters", "dead letter"), ("gaps", "gap"), ("requests", "request")];
        for (name, label) in lists {
            for entry in told[name].as_array().into_iter().flatten() {
                println!("    {label}: {entry}");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
