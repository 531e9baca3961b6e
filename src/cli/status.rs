//! `siltstone status` and `siltstone why`: how things stand, from the warehouse's control tables, with or
//! without a running service.

use std::process::ExitCode;

use serde_json::Value;

use super::Files;
use crate::error::{Error, Kind, Result};
use crate::names::{TableName, in_command};
use crate::postgres::{Session, Side, connect};
use crate::progress::account;
use crate::warehouse::refuse_unlike;

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
    table: String,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

impl Status {
    /// Exits with 65 where a table or a connector needs a person, with 75 where one waits.
    pub(super) async fn run(self, files: &Files) -> Result<ExitCode> {
        let known = files.known()?;
        let warehouse =
            connect(Side::Warehouse, &known.settings.warehouse, "siltstone status").await?;
        refuse_unlike(&*warehouse).await?;
        let mut code = 0;
        for connector in known.connectors(&warehouse).await? {
            let told = account::connector(&*warehouse, &connector).await?;
            code = worse(code, &told);
            if self.json {
                println!("{told}");
            } else {
                print_connector(&told);
            }
        }
        let refused = known.names.is_none() && code == 0;
        Ok(ExitCode::from(if refused { Kind::Config.exit_code() } else { code }))
    }
}

/// The exit code, where a connector stands so: that of what needs a person, else of what is waited for.
fn worse(code: u8, told: &Value) -> u8 {
    let some = |name: &str| told[name].as_array().is_some_and(|entries| !entries.is_empty());
    let needs = some("attention")
        || some("resting")
        || told["dead_letters"] != 0
        || told["lookups"].as_array().into_iter().flatten().any(|of| of["state"] == "stopped")
        || told["standing"]["state"] == "stopped";
    if needs {
        Kind::Differs.exit_code()
    } else if code == 0 && waits(told) {
        Kind::Busy.exit_code()
    } else {
        code
    }
}

/// Whether it waits for something, and has said so not long ago: longer than between two tries, a
/// service that was killed would have said nothing.
fn waits(told: &Value) -> bool {
    const LATELY: i64 = 60;
    let ago = told["standing"]["told_seconds_ago"].as_i64();
    told["standing"]["state"] == "waiting" && ago.is_some_and(|ago| ago <= LATELY)
}

/// What a connector does, in a few words.
fn doing(told: &Value) -> String {
    let alive = told["alive"] == true;
    let seconds = &told["standing"]["seconds"];
    if let Some(wanted) = told["wanted"].as_str() {
        let word = wanted.split(' ').next().unwrap_or_default();
        return if alive { word.to_owned() } else { format!("{word}, not running") };
    }
    if told["standing"]["state"] == "stopped" {
        return format!("not running: it stopped {seconds} s ago, and needs a person");
    }
    match (waits(told), alive) {
        (true, _) => format!("waiting for {seconds} s, and trying again"),
        (false, true) => "running".to_owned(),
        (false, false) => "not running".to_owned(),
    }
}

/// How far it is; none before it has begun.
fn place(told: &Value) -> Option<String> {
    let moved = told["moved_seconds_ago"].as_i64()?;
    let at = match told["position"].as_str() {
        Some(position) => format!("at {position}"),
        None => format!("partitions: {}", told["partitions"]),
    };
    Some(format!("{at}, moved {moved} s ago"))
}

/// What is done about the log that the slot keeps, where something is.
fn kept_log(told: &Value) -> Option<String> {
    let wal = &told["wal"];
    let step = wal["step"].as_str().filter(|step| *step != "calm")?;
    let (bytes, since) = (&wal["retained_bytes"], text(&wal["since"]));
    Some(format!("its slot kept {bytes} bytes of the source's log as it came to {step}, {since}"))
}

/// Prints how a connector stands.
pub(super) fn print_connector(told: &Value) {
    let owner = told["owner"].as_str().unwrap_or("nobody");
    println!("{}: {}, owner {owner}", text(&told["connector"]), doing(told));
    print_because(&told["standing"], "    ");
    if let Some(wanted) = told["wanted"].as_str() {
        println!("    {wanted}; siltstone connector resume {}", text(&told["connector"]));
    }
    if let Some(place) = place(told) {
        println!("    {place}");
    }
    if let Some(kept) = kept_log(told) {
        println!("    {kept}");
    }
    let tables = told["tables"].as_object().into_iter().flatten();
    let tables: Vec<String> = tables.map(|(state, many)| format!("{many} {state}")).collect();
    let tables = if tables.is_empty() { "none".to_owned() } else { tables.join(", ") };
    let as_left = if told["alive"] == true { "" } else { ", as it left them" };
    println!("    tables: {tables}{as_left}");
    println!(
        "    kept changes: {} bytes, dead letters: {}",
        told["pending_bytes"], told["dead_letters"]
    );
    for table in told["attention"].as_array().into_iter().flatten() {
        println!("    {} is {}", text(&table["table"]), state(table));
        print_because(table, "        ");
    }
    for lookups in told["lookups"].as_array().into_iter().flatten() {
        println!("    lookups of {} are {}", text(&lookups["table"]), text(&lookups["state"]));
        print_because(lookups, "        ");
    }
    told["resting"].as_array().into_iter().flatten().for_each(print_rest);
}

/// Prints that a topic rests; nothing where none does.
fn print_rest(rest: &Value) {
    let Some(reason) = rest["reason"].as_str() else { return };
    println!("    since {}: {reason}", text(&rest["since"]));
    if let Some(until) = rest["kept_until"].as_str() {
        println!("        its retention may take its next record from {until} on");
    }
    println!("        remedy: {}", text(&rest["remedy"]));
}

fn print_because(told: &Value, indent: &str) {
    for (name, label) in [("reason", ""), ("remedy", "remedy: ")] {
        if let Some(text) = told[name].as_str() {
            println!("{indent}{label}{text}");
        }
    }
}

/// A table's state, as a person says it.
fn state(told: &Value) -> &str {
    if told["state"] == "left_out" { "left out" } else { text(&told["state"]) }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

impl Why {
    /// The table that is meant; of one without a schema, those that may be are named.
    async fn named(&self, warehouse: &Session) -> Result<TableName> {
        let name = &self.table;
        let unclear = match name.parse() {
            Ok(table) => return Ok(table),
            Err(unclear) => Error::new(Kind::Usage, format!("{unclear}")),
        };
        let known = account::named(&**warehouse, name).await?;
        let ask: Vec<String> =
            known.iter().map(|table| format!("siltstone why {}", in_command(table))).collect();
        Err(match ask.is_empty() {
            true => unclear.remedy("siltstone table list shows the tables that are fed"),
            false => unclear.remedy(ask.join(", or ")),
        })
    }

    pub(super) async fn run(self, files: &Files) -> Result<ExitCode> {
        let known = files.known()?;
        let warehouse =
            connect(Side::Warehouse, &known.settings.warehouse, "siltstone why").await?;
        refuse_unlike(&*warehouse).await?;
        let table = &self.named(&warehouse).await?;
        let told = account::table(&*warehouse, table).await?.ok_or_else(|| {
            Error::new(Kind::Usage, format!("no connector feeds {table}"))
                .remedy("siltstone table list shows the tables that are fed")
        })?;
        if self.json {
            println!("{told}");
            return Ok(ExitCode::SUCCESS);
        }
        if told["fed_by"]["connector"].is_null() {
            // a mart
            println!("{} is {} since {}", text(&told["table"]), state(&told), text(&told["since"]));
            print_because(&told, "    ");
            return Ok(ExitCode::SUCCESS);
        }
        println!(
            "{} is {} since {}, fed by {} of {}",
            text(&told["table"]),
            state(&told),
            text(&told["since"]),
            told["source_table"].as_str().filter(|name| !name.is_empty()).unwrap_or("nothing"),
            text(&told["fed_by"]["connector"])
        );
        print_because(&told, "    ");
        let feeding = &told["fed_by"];
        let place = place(feeding).map_or_else(String::new, |place| format!("; {place}"));
        println!("    the connector is {}{place}", doing(feeding));
        print_because(&feeding["standing"], "        ");
        if let Some(kept) = kept_log(feeding) {
            println!("        {kept}");
        }
        print_rest(&told["topic_rests"]);
        let lookups = &told["lookups"];
        if !lookups.is_null() {
            println!(
                "    its lookups are {} since {}",
                text(&lookups["state"]),
                text(&lookups["since"])
            );
            print_because(lookups, "        ");
        }
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
