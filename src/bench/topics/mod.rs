//! Topics: a backlog of Debezium's events from a broker into a table that is filled, beside Debezium's own
//! JDBC sink on the same topic; several services in one group; and the wait of single events.

mod change;
mod event;
mod ground;
mod latency;
mod log;
mod members;
mod meter;
mod sink;

use super::{Options, Say};
use crate::bench::site::{LOOK, is_true};
use crate::error::Result;
use crate::spec::Env;
use change::Changes;
use ground::{Ground, Target};
use meter::{Meter, head, line};

/// What is measured of topics.
pub(super) const NAMES: [&str; 5] = ["json", "plain", "upserts", "members", "latency"];

/// A backlog in one partition.
struct Backlog {
    name: &'static str,
    shown: &'static str,
    schemas: bool,
    deletes: bool,
}

const BACKLOGS: [Backlog; 3] = [
    Backlog { name: "json", shown: "with schema", schemas: true, deletes: true },
    Backlog { name: "plain", shown: "without schema", schemas: false, deletes: true },
    Backlog { name: "upserts", shown: "with schema, no deletes", schemas: true, deletes: false },
];

/// Measures, and says each line of the report.
pub(super) async fn run(options: &Options, env: &Env, say: Say<'_>) -> Result<()> {
    let ground = Ground::start(env, options.batch).await?;
    say(&format!(
        "{} cores, Kafka 4 and Postgres {} on them (fsync and synchronous_commit on), {} rows, {} events in \
         transactions of 10, lz4",
        std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        ground.warehouse.major(),
        options.rows,
        options.events
    ));
    say("CPU in seconds a million events; from the start of the reader to the last one applied");
    say(&head());
    for scenario in &BACKLOGS {
        if options.wants(scenario.name) {
            backlog(&ground, options, scenario, say).await?;
        }
    }
    if options.wants("members") {
        members::run(&ground, options, say).await?;
    }
    if options.wants("latency") {
        latency::run(&ground, options, say).await?;
    }
    Ok(())
}

async fn backlog(
    ground: &Ground,
    options: &Options,
    scenario: &Backlog,
    say: Say<'_>,
) -> Result<()> {
    let Backlog { name, shown, schemas, deletes } = *scenario;
    let (rows, count) = (options.rows, options.events);
    let changes = Changes { rows, deletes };
    let (topic, bytes) = ground.backlog((name, 1, schemas), (changes, count)).await?;
    let target = Target::new(ground, &format!("bench_{name}"), &topic, rows).await?;
    target.expect((changes, count)).await?;
    let applied = target.applied().await?;
    target.settle().await?;
    let meter = Meter::start(ground, None)?;
    let mut running = target.spawn("log", &["--until-caught-up"])?;
    let mut done = None;
    while running.is_there()? {
        if done.is_none() && is_true(&target.session, &applied).await? {
            done = Some(meter.elapsed());
        }
        tokio::time::sleep(LOOK).await;
    }
    running.succeeded()?;
    let took = done.unwrap_or_else(|| meter.elapsed());
    let used = meter.used(took, running.peak_kib)?;
    say(&line(&format!("{shown}, {bytes} bytes each"), count, &used));
    let digest = target.compare("mirror.items i").await?;
    say(&format!("  as expected: {digest}"));
    // it needs the schemas
    if schemas && !options.ours {
        let (theirs, digest) = sink::run(ground, &target, &topic, changes).await?;
        say(&line("  Debezium JDBC sink 3.5.0", count, &theirs));
        let ratio = theirs.took.as_secs_f64() / used.took.as_secs_f64();
        say(&format!("  as expected: {digest}; ours is {ratio:.2} times as fast"));
    }
    target.end().await
}
