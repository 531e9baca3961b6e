//! Live traffic on the demo's shop, until it is told to stop.
//!
//! Several connections draw one kind of transaction after the other, by weight, from a generator with
//! a seed; what a kind does is in `sql/demo/traffic.sql`. What the database refuses for a moment is
//! tried again, and a lost connection is replaced. Nothing here knows who reads the changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::{Client, Statement};

use crate::error::{Error, Kind, Result};
use crate::postgres::{Endpoint, Session, Side, connect};

/// What a transaction does, and what becomes of it.
struct Work {
    /// How often it is drawn, of all weights together.
    weight: u64,
    /// A call with two numbers from 0 on that returns how many rows it changed.
    call: &'static str,
    end: End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Commit,
    /// The whole transaction is rolled back.
    Rollback,
}

const fn work(weight: u64, call: &'static str) -> Work {
    Work { weight, call, end: End::Commit }
}

const WORK: [Work; 19] = [
    work(300, "select traffic.place_order($1, $2)"),
    work(180, "select traffic.confirm_payment($1, $2)"),
    work(160, "select traffic.change_product($1, $2)"),
    work(140, "select traffic.change_user($1, $2)"),
    work(20, "select traffic.change_user_thrice($1, $2)"),
    work(15, "select traffic.leave_user($1, $2)"),
    work(20, "select traffic.return_user($1, $2)"),
    work(15, "select traffic.renew_product($1, $2)"),
    work(15, "select traffic.delete_payment($1, $2)"),
    work(10, "select traffic.renumber_order($1, $2)"),
    work(5, "select traffic.renumber_user($1, $2)"),
    work(5, "select traffic.swap_products($1, $2)"),
    work(5, "select traffic.swap_users($1, $2)"),
    work(30, "select traffic.move_order($1, $2)"),
    work(15, "select traffic.half_rolled_back($1, $2)"),
    work(30, "select traffic.add_event($1, $2)"),
    work(10, "select traffic.change_event($1, $2)"),
    work(20, "select traffic.delete_event($1, $2)"),
    Work { weight: 5, call: "select traffic.place_order($1, $2)", end: End::Rollback },
];

/// The large transaction, and how often one of the connections makes it.
const LARGE: Work = work(0, "select traffic.change_many($1, $2)");
const LARGE_EVERY: Duration = Duration::from_secs(20);
const LARGE_FIRST: Duration = Duration::from_secs(5);

/// Transactions in a second where nothing else is asked for.
pub const DEFAULT_RATE: u32 = 2_000;

/// What one connection is meant to do in a second; more connections share a higher rate.
const RATE_OF_ONE: u32 = 250;
const MOST_CONNECTIONS: u32 = 8;

/// Work that a connection could not do in time is not made up for beyond this.
const CATCH_UP: Duration = Duration::from_secs(1);

/// What has been done so far. A transaction whose connection was lost in its commit is not counted,
/// though it may be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrafficCounts {
    /// Transactions that changed something and are committed.
    pub transactions: u64,
    /// Rows inserted, updated or deleted by them.
    pub changes: u64,
    /// Transactions that were rolled back on purpose.
    pub rolled_back: u64,
    /// Deadlocks and serialization failures, each tried again.
    pub retries: u64,
    /// Connections made after the first ones.
    pub reconnects: u64,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    transactions: AtomicU64,
    changes: AtomicU64,
    rolled_back: AtomicU64,
    retries: AtomicU64,
    reconnects: AtomicU64,
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// Running traffic. Dropping it without [`Traffic::stop`] lets every connection end after its present
/// transaction.
pub struct Traffic {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<Result<()>>>,
}

impl Traffic {
    /// Starts some `rate` transactions a second against a shop made by [`super::shop`]. Equal seeds
    /// draw equal transactions on each connection; how the connections mix is up to the machine.
    pub fn start(endpoint: Endpoint, rate: u32, seed: u64) -> Traffic {
        let rate = rate.max(1);
        let connections = rate.div_ceil(RATE_OF_ONE).clamp(1, MOST_CONNECTIONS);
        let shared = Arc::new(Shared::default());
        let pause = Duration::from_secs(1) * connections / rate;
        let start = |at: u32| {
            let worker = Worker {
                endpoint: endpoint.clone(),
                shared: shared.clone(),
                dice: Dice::new(seed.wrapping_add(u64::from(at))),
                pause,
                large: (at == 0).then(|| Instant::now() + LARGE_FIRST),
            };
            tokio::spawn(worker.run())
        };
        let workers = (0..connections).map(start).collect();
        Traffic { shared, workers }
    }

    /// What has been done so far.
    pub fn counts(&self) -> TrafficCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TrafficCounts {
            transactions: read(&self.shared.transactions),
            changes: read(&self.shared.changes),
            rolled_back: read(&self.shared.rolled_back),
            retries: read(&self.shared.retries),
            reconnects: read(&self.shared.reconnects),
        }
    }

    /// Lets every connection finish its transaction, and tells what was done. Fails with the first
    /// error that trying again would not have helped.
    pub async fn stop(mut self) -> Result<TrafficCounts> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut first = Ok(());
        for worker in std::mem::take(&mut self.workers) {
            let ended = worker
                .await
                .unwrap_or_else(|error| Err(Error::bug("the traffic panicked").because(error)));
            first = first.and(ended);
        }
        first.map(|()| self.counts())
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// One connection.
struct Worker {
    endpoint: Endpoint,
    shared: Arc<Shared>,
    dice: Dice,
    /// Between the starts of two transactions.
    pause: Duration,
    /// When the next large transaction is due, on the one connection that makes them.
    large: Option<Instant>,
}

/// A connection with the statements of [`WORK`] and [`LARGE`] prepared.
struct Prepared {
    session: Session,
    statements: Vec<Statement>,
    large: Statement,
}

impl Worker {
    async fn run(mut self) -> Result<()> {
        let mut prepared = None;
        let mut due = Instant::now();
        while !self.stopping() {
            let Some(shop) = &mut prepared else {
                prepared = self.connect().await?;
                continue;
            };
            if let Err(error) = self.one(shop).await {
                if error.kind() != Kind::SourceAway {
                    return Err(error);
                }
                add(&self.shared.reconnects, 1);
                prepared = None;
            }
            due = (due + self.pause).max(Instant::now() - CATCH_UP);
            tokio::time::sleep_until(due).await;
        }
        Ok(())
    }

    fn stopping(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    /// A connection; none where the shop is away, after a moment.
    async fn connect(&self) -> Result<Option<Prepared>> {
        match prepare(&self.endpoint).await {
            Ok(prepared) => Ok(Some(prepared)),
            Err(error) if error.kind() == Kind::SourceAway => {
                tracing::debug!(%error, "the shop is away");
                tokio::time::sleep(Duration::from_millis(200)).await;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Draws a transaction and makes it, again where the database asks for that.
    async fn one(&mut self, shop: &mut Prepared) -> Result<()> {
        let (rows, b) = (self.dice.number(), self.dice.number());
        let drawn = self.dice.work().and_then(|at| Some((WORK.get(at)?, shop.statements.get(at)?)));
        let Some((mut work, mut statement)) = drawn else {
            return Err(Error::bug("a transaction was drawn that is not there"));
        };
        let large_is_due = self.large.is_some_and(|due| due <= Instant::now());
        if large_is_due {
            self.large = Some(Instant::now() + LARGE_EVERY);
            (work, statement) = (&LARGE, &shop.large);
        }
        loop {
            match make(&mut shop.session, statement, work.end, (rows, b)).await {
                Ok(changes) => {
                    self.count(work.end, changes);
                    return Ok(());
                }
                Err(error) if error.kind() == Kind::Busy && !self.stopping() => {
                    add(&self.shared.retries, 1);
                }
                Err(error) if error.kind() == Kind::Busy => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn count(&self, end: End, changes: u64) {
        if end == End::Rollback {
            add(&self.shared.rolled_back, 1);
        } else if changes > 0 {
            add(&self.shared.transactions, 1);
            add(&self.shared.changes, changes);
        }
    }
}

async fn prepare(endpoint: &Endpoint) -> Result<Prepared> {
    let session = connect(Side::Source, endpoint, "siltstone demo traffic").await?;
    let mut statements = Vec::with_capacity(WORK.len());
    for work in &WORK {
        statements.push(session.prepare(work.call).await.map_err(failed)?);
    }
    let large = session.prepare(LARGE.call).await.map_err(failed)?;
    Ok(Prepared { session, statements, large })
}

/// One transaction; how many rows it changed.
async fn make(
    session: &mut Client,
    statement: &Statement,
    end: End,
    (a, b): (i64, i64),
) -> Result<u64> {
    let row = if end == End::Commit {
        session.query_one(statement, &[&a, &b]).await
    } else {
        let transaction = session.transaction().await.map_err(failed)?;
        let row = transaction.query_one(statement, &[&a, &b]).await;
        transaction.rollback().await.map_err(failed)?;
        row
    };
    let changes: i32 = row.and_then(|row| row.try_get(0)).map_err(failed)?;
    Ok(u64::try_from(changes).unwrap_or_default())
}

/// A lost connection has no code, and neither has one that the server closed on us. A row that two
/// users want at once is a matter of chance, too.
fn failed(error: tokio_postgres::Error) -> Error {
    let code = error.code().map(|code| code.code().to_owned());
    let error = Error::source("its traffic was made", error);
    match code.as_deref() {
        None => error.with_kind(Kind::SourceAway),
        Some("23505") => error.with_kind(Kind::Busy),
        Some(_) => error,
    }
}

/// Random numbers from a seed: Steele, Lea and Flood's SplitMix64, whose constants these are.
struct Dice(u64);

impl Dice {
    /// Neighbouring seeds draw unlike numbers: the first draw decides where each starts.
    fn new(seed: u64) -> Dice {
        Dice(Dice(seed).next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to 2^48 - 1: the shop's functions may add to it without overflow.
    fn number(&mut self) -> i64 {
        i64::try_from(self.next() >> 16).unwrap_or_default()
    }

    /// A place in [`WORK`], by weight.
    fn work(&mut self) -> Option<usize> {
        let all: u64 = WORK.iter().map(|work| work.weight).sum();
        let mut left = self.next() % all;
        WORK.iter().position(|work| match left.checked_sub(work.weight) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        })
    }
}

#[cfg(test)]
mod tests;
