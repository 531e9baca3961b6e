//! `siltstone bench`: measures on throw-away servers, beside Postgres' own logical replication and Debezium's
//! JDBC sink.
//!
//! Everything is measured, nothing is estimated; durability is on everywhere it can be.

mod freshness;
mod kinds;
mod mirror;
mod native;
mod report;
mod site;
mod topics;
mod usage;

use crate::error::{Error, Kind, Result};
use crate::spec::Env;
use site::Site;

/// What is measured of a Postgres source.
pub const NAMES: [&str; 8] =
    ["snapshot", "stream", "versions", "raw", "facts", "lookups", "freshness", "marts"];

/// What is measured of topics.
pub const TOPIC_NAMES: [&str; 5] = topics::NAMES;

/// How much is measured.
pub struct Options {
    /// Rows of the table at first.
    pub rows: u64,
    /// Changes of the backlog.
    pub changes: u64,
    /// Measures topics of a Kafka in place of a Postgres source.
    pub kafka: bool,
    /// Events of a topic's backlog.
    pub events: u64,
    /// One of [`NAMES`] or [`TOPIC_NAMES`]; everything where none is given.
    pub only: Option<String>,
    /// Leaves out what we are compared with.
    pub ours: bool,
    /// `batch.max_rows`, where it is not the default.
    pub batch: Option<usize>,
}

/// Takes the lines of the report, as they are known.
type Say<'s> = &'s mut dyn FnMut(&str);

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == name)
    }

    fn check(&self) -> Result<()> {
        let refuse = |what: &str| Err(Error::new(Kind::Usage, what.to_owned()));
        let (changes, option) = match self.kafka {
            true => (self.events, "--events"),
            false => (self.changes, "--changes"),
        };
        if changes > self.rows * 5 / 2 {
            return refuse(
                "a tenth of the changes deletes, and a quarter of the rows may go: give more --rows",
            );
        }
        if self.rows < 1000 || changes < 100 {
            return refuse(&format!("at least 1000 --rows and 100 {option} are needed"));
        }
        if let Some(only) = &self.only {
            let names: &[&str] = if self.kafka { &TOPIC_NAMES } else { &NAMES };
            if !names.contains(&only.as_str()) {
                return refuse(&format!("--only is one of {}", names.join(", ")));
            }
        }
        Ok(())
    }
}

/// Measures, and says each line of the report.
pub async fn run(options: &Options, env: &Env, say: Say<'_>) -> Result<()> {
    options.check()?;
    if options.kafka {
        return topics::run(options, env, say).await;
    }
    let site = Site::start(env, options.batch).await?;
    say(&format!(
        "{} cores, Postgres {} (fsync and synchronous_commit on), {} rows, {} changes in transactions of 10",
        std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        site.warehouse.major(),
        options.rows,
        options.changes
    ));
    say(
        "CPU in seconds; rows/s of a stream are source changes from the start of the consumer to the last one applied",
    );
    say(&report::head());
    if options.wants("snapshot") || options.wants("stream") {
        mirror::run(&site, options, say).await?;
    }
    for kind in kinds::KINDS {
        if options.wants(kind.0) {
            kinds::run(&site, options, kind, say).await?;
        }
    }
    for kind in kinds::LOOKUPS {
        if options.wants("lookups") {
            kinds::run(&site, options, kind, say).await?;
        }
    }
    for probe in &freshness::PROBES_OF {
        if options.wants(probe.name()) {
            probe.run(&site, options, say).await?;
        }
    }
    Ok(())
}
