//! How long a committed row takes until a reader of the warehouse sees it, and until a mart has it, under steady
//! traffic.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::error::SqlState;

use super::site::{Installation, Site};
use super::usage::Meter;
use super::{Options, Say};
use crate::error::{Error, Result};
use crate::postgres::{Endpoint, Session, Side, connect};

/// A transaction of ten changes this often: 2,000 changes a second.
const TRANSACTION: Duration = Duration::from_millis(5);
const PROBE: Duration = Duration::from_millis(50);
const POLL: Duration = Duration::from_millis(5);
const PROBES: usize = 400;

/// What is committed at the source, and where it is looked for.
pub(super) struct Probe {
    name: &'static str,
    shown: &'static str,
    /// prepares both sides
    source: &'static str,
    target: &'static str,
    mart: Option<&'static str>,
    /// the statement of a probe
    insert: fn(i64) -> String,
    /// the number of the newest one that is seen
    newest: &'static str,
}

/// A row of a mirrored table.
const ROW: Probe = Probe {
    name: "freshness",
    shown: "until seen",
    source: "create table public.probes (id bigint primary key)",
    target: "",
    mart: None,
    insert: |number| format!("insert into public.probes values ({number})"),
    newest: "select max(id) from mirror.probes",
};

/// A row of the table that changes all the time, in a mart that sums up its days: any change touches one of a
/// thousand, an update that moves a row two.
const MART: Probe = Probe {
    name: "marts",
    shown: "until in a mart",
    source: "",
    target: "create index on mirror.items (((placed_at at time zone 'UTC')::date))",
    mart: Some(include_str!("../../sql/bench/days.sql")),
    insert: |number| {
        format!(
            "insert into public.items values (1000000000000 + {number}, 1, 'probe', null, 1, '2099-01-01 12:00+00')"
        )
    },
    newest: "select max(newest) - 1000000000000 from bench.days where day = '2099-01-01'",
};

/// Every one.
pub(super) const PROBES_OF: [Probe; 2] = [ROW, MART];

impl Probe {
    /// What it is chosen by.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Measures.
    pub(super) async fn run(
        &'static self,
        site: &Site,
        options: &Options,
        say: Say<'_>,
    ) -> Result<()> {
        let rows = (options.rows / 10).max(40_000);
        let at = site.installation(&format!("bench_{}", self.name), rows, "").await?;
        at.at_source(self.source).await?;
        at.catch_up(None).await?;
        at.at_target(self.target).await?;
        if let Some(mart) = self.mart {
            at.mart("days", mart)?;
        }
        let mut running = at.spawn(&[])?;
        at.at_source(&(self.insert)(-1)).await?;
        let seen = format!("select ({}) is not null", self.newest);
        while !has_come(&at, &seen).await? {
            if !running.is_there()? {
                running.succeeded()?;
            }
            tokio::time::sleep(POLL).await;
        }
        let meter = Meter::start(site)?;
        let shop = site.source.endpoint(&format!("bench_{}_shop", self.name));
        let traffic = tokio::spawn(traffic(shop.clone(), rows));
        let probing = tokio::spawn(probe(shop, self.insert));
        let seen = watch(&at, &mut running, self.newest).await;
        let sent = joined(probing).await?;
        let changes = joined(traffic).await?;
        let took = meter.elapsed();
        let peak = running.stop().await?;
        let used = meter.used(site, took, peak)?;
        say(&super::report::line(&format!("{}, traffic", self.name), changes, &used));
        let mut waits: Vec<Duration> = sent
            .iter()
            .zip(seen?)
            .map(|(sent, seen)| seen.saturating_duration_since(*sent))
            .collect();
        waits.sort_unstable();
        let part = |percent: usize| {
            let at = (waits.len() * percent / 100).min(waits.len().saturating_sub(1));
            waits.get(at).map_or(f64::NAN, |wait| wait.as_secs_f64() * 1000.0)
        };
        say(&format!(
            "  freshness of {} rows, from before the INSERT {}: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            waits.len(),
            self.shown,
            part(50),
            part(99),
            part(100)
        ));
        at.end().await
    }
}

/// Whether the first probe is seen; what it is looked for in may not be there yet.
async fn has_come(at: &Installation<'_>, query: &str) -> Result<bool> {
    match at.target.query_one(query, &[]).await {
        Ok(row) => row.try_get(0).map_err(|error| Error::warehouse("looking for probes", error)),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(false),
        Err(error) => Err(Error::warehouse("looking for probes", error)),
    }
}

async fn joined<T>(task: JoinHandle<Result<T>>) -> Result<T> {
    task.await.map_err(|error| Error::bug("a part of the bench broke off").because(error))?
}

/// Changes rows at a steady pace for as long as there are probes; returns how many.
async fn traffic(shop: Endpoint, rows: u64) -> Result<u64> {
    let session = connect(Side::Source, &shop, "bench traffic").await?;
    let mut pace = interval(TRANSACTION);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let from = Instant::now();
    let mut transactions = 0_u64;
    while from.elapsed() < PROBE * u32::try_from(PROBES).unwrap_or(0) {
        pace.tick().await;
        transactions += 1;
        let call = format!("call bench.change({transactions}, {transactions}, {rows})");
        run_at(&session, &call).await?;
    }
    Ok(transactions * 10)
}

/// Inserts the probes; returns when each was begun.
async fn probe(shop: Endpoint, insert: fn(i64) -> String) -> Result<Vec<Instant>> {
    let session = connect(Side::Source, &shop, "bench probe").await?;
    let mut pace = interval(PROBE);
    let mut sent = Vec::with_capacity(PROBES);
    for number in 0..i64::try_from(PROBES).unwrap_or(0) {
        pace.tick().await;
        sent.push(Instant::now());
        run_at(&session, &insert(number)).await?;
    }
    Ok(sent)
}

async fn run_at(session: &Session, statement: &str) -> Result<()> {
    let done = session.batch_execute(statement).await;
    done.map_err(|error| Error::source("the bench's traffic", error))
}

/// Reads the warehouse until every probe is there; returns when each was seen.
async fn watch(
    at: &Installation<'_>,
    running: &mut super::site::Running,
    newest: &str,
) -> Result<Vec<Instant>> {
    let failed = |error| Error::warehouse("looking for probes", error);
    let query = at.target.prepare(newest).await.map_err(failed)?;
    let mut pace = interval(POLL);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = Vec::with_capacity(PROBES);
    while seen.len() < PROBES {
        pace.tick().await;
        let row = at.target.query_one(&query, &[]).await.map_err(failed)?;
        let newest: i64 = row.try_get(0).map_err(failed)?;
        let now = Instant::now();
        let count = usize::try_from(newest + 1).unwrap_or(0);
        seen.resize(seen.len().max(count), now);
        if !running.is_there()? {
            return Err(Error::bug("the service ended while it was measured"));
        }
    }
    Ok(seen)
}
