//! Proves source and warehouse equal while the stream flows: without a slot, without a pause.
//!
//! Checksums of buckets first, then the keys of buckets that differ. A key is reported only if the
//! source's row stood still around a moment that the stream has passed, and the warehouse has
//! something else, in several rounds: a row that is on its way is no difference.

mod bag;
mod keyed;
mod reader;
mod report;
mod sql;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, Kind, Result};
use crate::position::Lsn;
use crate::postgres::{Endpoint, Side, connect};
use crate::relation::Relation;
use crate::spec::{Deletes, History, Model};

use reader::Reader;
pub use report::{Difference, Report, TableReport};

/// A source table and the warehouse table that it feeds.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The warehouse table.
    pub model: Arc<Model>,
    /// The source table, in its present shape.
    pub relation: Arc<Relation>,
    /// Whether its rows are in leaves.
    pub partitioned: bool,
    /// Why it is not compared, where it is not: it is stopped, or being read.
    pub skipped: Option<String>,
}

impl Pair {
    /// The model's columns that a masked column of the source feeds.
    fn masked(&self) -> Vec<String> {
        let masked = |from: &str| self.relation.masked().any(|(_, column, _)| column.name == from);
        let columns = self.model.columns.iter().filter(|column| masked(&column.from));
        columns.map(|column| column.name.clone()).collect()
    }

    /// Whether the source can tell its rows apart as the warehouse does.
    fn has_clear_key(&self) -> bool {
        let masked = self.masked();
        !self.model.key.iter().any(|key| masked.contains(key))
    }
}

/// A difference must show in so many rounds; behind Debezium, which does not tell how far it is, for a minute.
const ROUNDS: u32 = 3;
const ROUNDS_OF_TOPICS: u32 = 8;

/// The pause between rounds, doubled each time.
const PAUSE: Duration = Duration::from_millis(300);

/// So many keys of a table that break a rule are named; the rest is counted.
const NAMED: usize = 100;

/// The stream must pass a position within this time.
const PASSED_WITHIN: Duration = Duration::from_secs(60);

/// The two sides of a comparison.
struct Sides {
    source: Reader,
    warehouse: Reader,
    connector: String,
    /// by which the stream comes; none where it comes by topics
    slot: Option<String>,
    /// that an operator lets it rest
    resting: Option<String>,
}

/// What a warehouse is compared with.
#[derive(Clone, Copy, Debug)]
pub struct Against<'a> {
    /// The connector.
    pub connector: &'a str,
    /// Its source.
    pub source: &'a Endpoint,
    /// Its slot; none where the source's changes come by topics.
    pub slot: Option<&'a str>,
    /// That an operator has paused or stopped it: who, and since when.
    pub resting: Option<&'a str>,
    /// How many bytes of rows are read a second at most, of each side.
    pub max_rate: Option<u64>,
}

/// Compares tables.
pub async fn compare(against: Against<'_>, warehouse: &Endpoint, pairs: &[Pair]) -> Result<Report> {
    let source = connect(Side::Source, against.source, "siltstone verify").await?;
    let warehouse = connect(Side::Warehouse, warehouse, "siltstone verify").await?;
    let sides = Sides {
        source: Reader::new((source, Side::Source), against.max_rate),
        warehouse: Reader::new((warehouse, Side::Warehouse), against.max_rate),
        connector: against.connector.to_owned(),
        slot: against.slot.map(str::to_owned),
        resting: against.resting.map(str::to_owned),
    };
    let mut report = Report::default();
    for pair in pairs {
        report.tables.push(sides.table(pair).await?);
    }
    Ok(report)
}

impl Sides {
    async fn table(&self, pair: &Pair) -> Result<TableReport> {
        let mut report = TableReport { table: pair.model.table.clone(), ..TableReport::default() };
        report.skipped.clone_from(&pair.skipped);
        if pair.skipped.is_some() {
            return Ok(report);
        }
        match pair.model.history {
            History::Append | History::Raw => {
                let why = "its rows are events, which the source does not keep";
                report.not_comparable = Some(why.to_owned());
            }
            History::Bag => self.bag(pair, &mut report).await?,
            // the source knows no hashes: rows are compared by what is not masked
            History::Overwrite | History::Versions if !pair.has_clear_key() => {
                match pair.model.deletes {
                    Deletes::Ignore => {
                        let why = "its key is masked, and it keeps what the source has deleted";
                        report.not_comparable = Some(why.to_owned());
                    }
                    _ => self.bag(pair, &mut report).await?,
                }
            }
            History::Overwrite | History::Versions => self.keyed(pair, &mut report).await?,
        }
        if pair.model.history == History::Versions {
            self.intervals(pair, &mut report).await?;
        }
        report.masked = pair.masked();
        if pair.model.has_locator() {
            let what = "its locator is wrong, or it stands twice";
            report.locator = self.broken(&sql::locator(&pair.model), what, &mut report).await?;
        }
        Ok(report)
    }

    /// The rules of history that no constraint can hold across leaves.
    async fn intervals(&self, pair: &Pair, report: &mut TableReport) -> Result<()> {
        let (overlaps, doubles) = (sql::overlaps(&pair.model), sql::double_currents(&pair.model));
        report.overlaps = self.broken(&overlaps, "its versions overlap", report).await?;
        report.double_currents =
            self.broken(&doubles, "it has two current versions", report).await?;
        Ok(())
    }

    /// Names the keys that break a rule; how often it is broken.
    async fn broken(&self, rule: &sql::Rule, what: &str, report: &mut TableReport) -> Result<u64> {
        const DOING: &str = "verifying";
        let (mut keys, mut count) = (Vec::<Vec<String>>::new(), 0_i64);
        if self.warehouse.is_paced() {
            self.warehouse
                .one_by_one(DOING, (&rule.each, &[]), |row| {
                    if !row.try_get::<_, bool>(1)? {
                        return Ok(());
                    }
                    count += 1;
                    let key = row.try_get(0)?;
                    if keys.len() < NAMED && keys.last() != Some(&key) {
                        keys.push(key);
                    }
                    Ok(())
                })
                .await?;
        } else {
            let failed = self.warehouse.failed(DOING);
            let named = i64::try_from(NAMED).unwrap_or(i64::MAX);
            for row in self.warehouse.at_once(DOING, (&rule.broken, &[&named])).await? {
                keys.push(row.try_get(0).map_err(&failed)?);
                count = row.try_get(1).map_err(&failed)?;
            }
        }
        let named = |key: Vec<String>| Difference { key: key.join(", "), what: what.to_owned() };
        report.broken.extend(keys.into_iter().map(named));
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// How many rounds a difference must show in.
    fn rounds(&self) -> u32 {
        if self.slot.is_some() { ROUNDS } else { ROUNDS_OF_TOPICS }
    }

    /// Waits until everything that is visible at the source now has been applied, where that can be known.
    async fn pass_now(&self) -> Result<()> {
        let Some(slot) = &self.slot else { return self.refuse_at_rest() };
        let failed = |error| Error::source("asking for the end of its log", error);
        let now = "select (pg_current_wal_insert_lsn() - '0/0')::int8";
        let row = self.source.session.query_one(now, &[]).await.map_err(failed)?;
        let goal = Lsn::from_i64(row.try_get(0).map_err(failed)?);
        let mut last = Lsn(0);
        let mut moved = Instant::now();
        loop {
            let stored = self.stored(slot).await?;
            if stored >= goal {
                return Ok(());
            }
            self.refuse_at_rest()?;
            if stored != last {
                (last, moved) = (stored, Instant::now());
            }
            if moved.elapsed() > PASSED_WITHIN {
                let what = format!(
                    "the stream of {} stands at {stored} and does not reach {goal}",
                    self.connector
                );
                let remedy = match self.is_owned().await? {
                    true => "siltstone status says what it does",
                    false => "siltstone run",
                };
                return Err(Error::new(Kind::Busy, what).remedy(remedy));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Nothing comes while an operator lets the connector rest: it would be waited for in vain.
    fn refuse_at_rest(&self) -> Result<()> {
        let Some(resting) = &self.resting else { return Ok(()) };
        let connector = &self.connector;
        let what =
            format!("{connector} is {resting}: what has changed at its source is yet to come");
        let remedy = format!("siltstone connector resume {connector}");
        Err(Error::new(Kind::Busy, what).remedy(remedy))
    }

    /// Whether an instance of the service has the connector.
    async fn is_owned(&self) -> Result<bool> {
        let failed = |error| Error::warehouse("asking who owns the connector", error);
        let query = "select exists (select from audit.owner \
                      where resource = 'connector:' || $1 and lease_until > clock_timestamp())";
        let row =
            self.warehouse.session.query_one(query, &[&self.connector]).await.map_err(failed)?;
        row.try_get(0).map_err(failed)
    }

    async fn stored(&self, slot: &str) -> Result<Lsn> {
        let failed = |error| Error::warehouse("reading the stored position", error);
        let query = "select position from audit.progress where connector = $1 and partition = $2";
        let row = self.warehouse.session.query_opt(query, &[&self.connector, &slot]).await;
        let row = row.map_err(failed)?.ok_or_else(|| {
            let what = format!("connector {} has no stored position yet", self.connector);
            Error::new(Kind::Busy, what).remedy("siltstone run")
        })?;
        Ok(Lsn::from_i64(row.try_get(0).map_err(failed)?))
    }
}
