//! `siltstone dead-letter`: changes that their tables refuse, and what becomes of them. Verbs write rows
//! of `audit.requests`, which the running service carries out, or the next start.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;

use super::table::{confirmed, wait_for};
use super::{Files, ready};
use crate::error::{Error, Kind, Result};
use crate::names::TableName;
use crate::pipeline::{ask_for_letters, dead_letters_as_json};
use crate::postgres::{Session, Side, connect};
use crate::progress::listed;
use crate::progress::requests::{Span, Verb};
use crate::progress::tried::{self, Tried};
use crate::serve::{Edited, Letters};

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
    Replay {
        #[command(flatten)]
        which: Which,
        /// Puts a file's content in the place of the record's value, which is kept beside it; of one that
        /// came by a topic.
        #[arg(long, value_name = "FILE", requires = "which")]
        value: Option<PathBuf>,
        /// The same for the record's key.
        #[arg(long, value_name = "FILE", requires = "which")]
        key: Option<PathBuf>,
    },
    /// Leaves them out for good; what waits behind them goes on.
    Drop(Which),
}

/// Which dead letters are meant.
#[derive(clap::Args)]
pub(super) struct Which {
    /// Their numbers, or a table, as schema.table, whose all are meant.
    #[arg(required_unless_present_any = ["all", "since", "until"], num_args = 0..=1000)]
    which: Vec<String>,
    /// All of them.
    #[arg(long, conflicts_with = "which")]
    all: bool,
    /// Those that were noticed then or later, as in "2026-01-31 10:00"; in UTC unless it says otherwise.
    #[arg(long, value_name = "TIME", value_parser = crate::clock::written)]
    since: Option<Timestamp>,
    /// Those that were noticed before then.
    #[arg(long, value_name = "TIME", value_parser = crate::clock::written)]
    until: Option<Timestamp>,
    /// Does not ask whether it is meant.
    #[arg(long)]
    yes: bool,
    /// Waits until the service has answered, and until what came of those that are tried again is known.
    #[arg(long)]
    wait: bool,
}

impl DeadLetter {
    pub(super) async fn run(self, files: &Files) -> Result<ExitCode> {
        let spec = files.load()?;
        let mut warehouse =
            connect(Side::Warehouse, &spec.settings.warehouse, "siltstone dead-letter").await?;
        let looks = matches!(self, DeadLetter::List { .. } | DeadLetter::Show { .. });
        ready(&mut warehouse, looks).await?;
        match self {
            DeadLetter::List { table, json } => list(&warehouse, table.as_ref(), json).await,
            DeadLetter::Show { id } => show(&warehouse, id).await,
            DeadLetter::Replay { which, value, key } => {
                let edited = Edited { key: content(key)?, value: content(value)? };
                settle(&warehouse, Verb::Replay, which, edited).await
            }
            DeadLetter::Drop(which) => {
                settle(&warehouse, Verb::Drop, which, Edited::default()).await
            }
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
        // a record has no ordinal, but a time
        let (ordinal, written) = (&letter["ordinal"], text(&letter["written_at"]));
        println!(
            "{:<8} {:<32} {}  at {}{}{}, noticed {}{}",
            letter["id"].to_string(),
            text(&letter["table"]),
            letter["key"],
            text(&letter["position"]),
            ordinal.as_i64().map_or(String::new(), |ordinal| format!("/{ordinal}")),
            if written.is_empty() { String::new() } else { format!(", written {written}") },
            text(&letter["noticed_at"]),
            if letter["edited"] == true { ", edited" } else { "" },
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

fn content(path: Option<PathBuf>) -> Result<Option<Vec<u8>>> {
    let Some(path) = path else { return Ok(None) };
    let bytes = std::fs::read(&path).map_err(|error| {
        Error::new(Kind::Usage, format!("{} cannot be read", path.display()))
            .remedy("name a file with the whole key or value as the topic would have it")
            .because(error)
    })?;
    Ok(Some(bytes))
}

async fn settle(warehouse: &Session, verb: Verb, which: Which, edited: Edited) -> Result<ExitCode> {
    let meant = which.letters(edited)?;
    if verb == Verb::Drop && !which.yes {
        let mut all = 0;
        for Letters { table, id, since, until, .. } in &meant {
            let span = Span { since: *since, until: *until };
            for (_, table, count) in
                listed::places(&**warehouse, (table.as_ref(), *id), &span).await?
            {
                println!("{count} of {table}");
                all += count;
            }
        }
        println!("{all} changes will never be in the warehouse");
        confirmed()?;
    }
    let mut asked = Vec::new();
    let mut unmet = None;
    for (at, letters) in meant.iter().enumerate() {
        let requests = ask_for_letters(&**warehouse, verb, letters).await?;
        if requests.is_empty() {
            let which = which.which.get(at).map_or("of these", String::as_str);
            let error = unknown(which);
            // the others are asked for all the same
            if meant.len() == 1 {
                return Err(error);
            }
            println!("{}", error.reason());
            unmet = Some(ExitCode::from(error.kind().exit_code()));
        }
        asked.extend(requests);
    }
    let answered = wait_for(warehouse, &asked, which.wait).await?;
    if which.wait && verb == Verb::Replay && !tell_tried(warehouse, &asked).await? {
        return Ok(ExitCode::from(65));
    }
    Ok(unmet.unwrap_or(answered))
}

impl Which {
    /// What is meant: one for each number or table, or one for all that a span or `--all` tells.
    fn letters(&self, edited: Edited) -> Result<Vec<Letters>> {
        let (since, until) = (self.since, self.until);
        let all = Letters { since, until, edited, ..Letters::default() };
        if self.which.is_empty() {
            return Ok(vec![all]);
        }
        if self.which.len() > 1 && (all.edited.key.is_some() || all.edited.value.is_some()) {
            let what = "a key or value can be put into one dead letter only";
            return Err(Error::new(Kind::Usage, what).remedy("name one, by its number"));
        }
        let one = |which: &String| match which.parse() {
            Ok(id) => Ok(Letters { id: Some(id), ..all.clone() }),
            Err(_) => match which.parse::<TableName>() {
                Ok(table) => Ok(Letters { table: Some(table), ..all.clone() }),
                Err(_) => Err(unknown(which).remedy("name a number or a schema.table")),
            },
        };
        self.which.iter().map(one).collect()
    }
}

/// Waits for what comes of dead letters that are tried again, and says it: whether none is one once more.
async fn tell_tried(warehouse: &Session, asked: &[i64]) -> Result<bool> {
    /// Many kept changes may be before them; whoever waits is told that much by then.
    const AT_MOST: Duration = Duration::from_secs(60);
    let began = Instant::now();
    let Tried { unknown, applied, refused, waiting } = loop {
        let mut all = Tried::default();
        for id in asked {
            all.add(&tried::tried(&**warehouse, *id).await?);
        }
        if all.unknown == 0 || began.elapsed() >= AT_MOST {
            break all;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let told = [
        (applied, "applied", ""),
        (refused, "dead letters again", " (siltstone dead-letter list)"),
        (waiting, "that wait behind others of their key, or for their table", ""),
        (unknown, "not tried yet, as their table catches up", " (siltstone status)"),
    ];
    for (count, what, see) in told.into_iter().filter(|(count, ..)| *count > 0) {
        println!("{what}: {count}{see}");
    }
    if refused > 0 {
        for request in asked {
            for (id, why) in tried::refused(&**warehouse, *request).await? {
                println!("  {id}: {why}");
            }
        }
    }
    Ok(refused + unknown == 0)
}
