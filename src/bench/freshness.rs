//! How long a committed row takes until a reader of the warehouse sees it, under steady traffic.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::site::{Installation, Site, is_true};
use super::usage::Meter;
use super::{Options, Say};
use crate::error::{Error, Result};
use crate::postgres::{Endpoint, Session, Side, connect};

/// A transaction of ten changes this often: 2,000 changes a second.
const TRANSACTION: Duration = Duration::from_millis(5);
const PROBE: Duration = Duration::from_millis(50);
const POLL: Duration = Duration::from_millis(5);
const PROBES: usize = 400;

/// Measures.
pub(super) async fn run(site: &Site, options: &Options, say: Say<'_>) -> Result<()> {
    let rows = (options.rows / 10).max(40_000);
    let at = site.installation("bench_fresh", rows, "").await?;
    at.at_source("create table public.probes (id bigint primary key)").await?;
    at.catch_up(None).await?;
    let mut running = at.spawn(&[])?;
    at.at_source("insert into public.probes values (-1)").await?;
    while !is_true(&at.target, "select count(*) > 0 from mirror.probes").await? {
        running.is_there()?;
        tokio::time::sleep(POLL).await;
    }
    let meter = Meter::start(site)?;
    let shop = site.source.endpoint("bench_fresh_shop");
    let traffic = tokio::spawn(traffic(shop.clone(), rows));
    let probing = tokio::spawn(probe(shop));
    let seen = watch(&at, &mut running).await;
    let sent = joined(probing).await?;
    let changes = joined(traffic).await?;
    let took = meter.elapsed();
    let peak = running.stop().await?;
    let used = meter.used(site, took, peak)?;
    say(&super::report::line("freshness, traffic", changes, &used));
    let mut waits: Vec<Duration> =
        sent.iter().zip(seen?).map(|(sent, seen)| seen.saturating_duration_since(*sent)).collect();
    waits.sort_unstable();
    let part = |percent: usize| {
        let at = (waits.len() * percent / 100).min(waits.len().saturating_sub(1));
        waits.get(at).map_or(f64::NAN, |wait| wait.as_secs_f64() * 1000.0)
    };
    say(&format!(
        "  freshness of {} rows, from before the INSERT until seen: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
        waits.len(),
        part(50),
        part(99),
        part(100)
    ));
    at.end().await
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
async fn probe(shop: Endpoint) -> Result<Vec<Instant>> {
    let session = connect(Side::Source, &shop, "bench probe").await?;
    let mut pace = interval(PROBE);
    let mut sent = Vec::with_capacity(PROBES);
    for number in 0..PROBES {
        pace.tick().await;
        sent.push(Instant::now());
        run_at(&session, &format!("insert into public.probes values ({number})")).await?;
    }
    Ok(sent)
}

async fn run_at(session: &Session, statement: &str) -> Result<()> {
    let done = session.batch_execute(statement).await;
    done.map_err(|error| Error::source("the bench's traffic", error))
}

/// Reads the warehouse until every probe is there; returns when each was seen.
async fn watch(at: &Installation<'_>, running: &mut super::site::Running) -> Result<Vec<Instant>> {
    let failed = |error| Error::warehouse("looking for probes", error);
    let query = at.target.prepare("select max(id) from mirror.probes").await.map_err(failed)?;
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
