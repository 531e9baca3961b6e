//! How long an event takes from when the broker took it until a reader of the warehouse sees its row, under
//! steady traffic.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::change::{A_TRANSACTION, Changes, Kind};
use super::ground::{Ground, Target};
use super::log::{Topic, blocking};
use super::meter::{Meter, line};
use crate::bench::site::Running;
use crate::bench::{Options, Say};
use crate::clock::Clock;
use crate::error::{Error, Result};

/// Ten events this often: 2,000 a second.
const TRANSACTION: Duration = Duration::from_millis(5);
const LASTS: Duration = Duration::from_secs(30);
/// What comes before, so that nothing is new to the service.
const BEFORE: u64 = 2_000;
const POLL: Duration = Duration::from_millis(2);

/// Measures.
pub(super) async fn run(ground: &Ground, options: &Options, say: Say<'_>) -> Result<()> {
    let rows = options.rows;
    let changes = Changes { rows, deletes: true };
    let (topic, _) = ground.backlog(("latency", 1, true), (changes, BEFORE)).await?;
    let target = Target::new(ground, "bench_latency", &topic, rows).await?;
    let mut running = [target.spawn("log", &[])?];
    target.until(&target.applied().await?, &mut running).await?;
    let from = topic.ends().await?.first().copied().unwrap_or(0);
    let count = BEFORE
        + u64::try_from(LASTS.as_micros() / TRANSACTION.as_micros()).unwrap_or(0) * A_TRANSACTION;
    let meter = Meter::start(ground, None)?;
    let writing = tokio::spawn(write(topic.clone(), changes, count));
    let last = (0..count).rev().map(|at| changes.at(at)).find(|change| change.kind == Kind::Insert);
    let last = last.map_or(0, |change| change.transaction);
    let seen = watch(&target, &mut running, (rows, last)).await?;
    writing.await.map_err(|e| Error::bug("a part of the bench broke off").because(e))??;
    let took = meter.elapsed();
    let [service] = running;
    let used = meter.used(took, service.stop().await?)?;
    say(&line("traffic of 2,000 events/s", count - BEFORE, &used));
    let mut waits: Vec<i64> = topic
        .taken(from)
        .await?
        .into_iter()
        .filter_map(|(key, at)| {
            let transaction = (id_of(&key)?.checked_sub(rows)?).div_ceil(4);
            Some(seen.get(&transaction)? - at)
        })
        .collect();
    waits.sort_unstable();
    let part = |percent: usize| waits.get((waits.len().max(1) - 1) * percent / 100).copied();
    let [p50, p99, most] = [50, 99, 100].map(|percent| part(percent).unwrap_or(-1));
    say(&format!(
        "  {} rows, from the broker's time until seen: p50 {p50} ms, p99 {p99} ms, max {most} ms",
        waits.len()
    ));
    target.expect((changes, count)).await?;
    let digest = target.compare("mirror.items i").await?;
    say(&format!("  as expected: {digest}"));
    target.end().await
}

fn id_of(key: &str) -> Option<u64> {
    let (_, id) = key.rsplit_once("\"id\":")?;
    id.trim_end_matches('}').parse().ok()
}

/// Writes at a steady pace.
async fn write(topic: Topic, changes: Changes, count: u64) -> Result<()> {
    blocking(move || {
        let mut writer = topic.writer()?;
        let from = std::time::Instant::now();
        for at in BEFORE..count {
            let due = (at - BEFORE) / A_TRANSACTION;
            let due = TRANSACTION * u32::try_from(due).unwrap_or(0);
            if at % A_TRANSACTION == 0 {
                std::thread::sleep(due.saturating_sub(from.elapsed()));
            }
            writer.send(&changes.at(at))?;
            writer.poll();
        }
        writer.flush()
    })
    .await
}

/// Reads the warehouse until the last insert is there; when each transaction's first was seen, in
/// milliseconds.
async fn watch(
    target: &Target<'_>,
    running: &mut [Running],
    (rows, last): (u64, u64),
) -> Result<HashMap<u64, i64>> {
    let failed = |error| Error::warehouse("looking for rows", error);
    let query = "select max(id) from mirror.items";
    let query = target.session.prepare(query).await.map_err(failed)?;
    let clock = Clock::system();
    let mut pace = interval(POLL);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = HashMap::new();
    let mut reached = BEFORE / A_TRANSACTION;
    while reached < last {
        pace.tick().await;
        let row = target.session.query_one(&query, &[]).await.map_err(failed)?;
        let newest: i64 = row.try_get(0).map_err(failed)?;
        let now = clock.now().as_millisecond();
        // the first of a transaction has its highest key: the one before is whole
        let newest = u64::try_from(newest).unwrap_or(0).saturating_sub(rows).div_ceil(4);
        for transaction in reached + 1..=newest {
            seen.insert(transaction, now);
        }
        reached = reached.max(newest);
        for service in &mut *running {
            if !service.is_there()? {
                return Err(Error::bug("the service ended while it was measured"));
            }
        }
    }
    Ok(seen)
}
