//! One, two and three services in one consumer group, over a topic of several partitions.

use super::change::Changes;
use super::ground::{Ground, Target};
use super::meter::{Meter, line};
use crate::bench::{Options, Say};
use crate::error::Result;

const PARTITIONS: i32 = 6;
const MOST: usize = 3;

/// Measures.
pub(super) async fn run(ground: &Ground, options: &Options, say: Say<'_>) -> Result<()> {
    let (rows, count) = (options.rows, options.events);
    let changes = Changes { rows, deletes: true };
    let (topic, _) = ground.backlog(("members", PARTITIONS, true), (changes, count)).await?;
    for members in 1..=MOST {
        let target = Target::new(ground, &format!("bench_members_{members}"), &topic, rows).await?;
        target.expect((changes, count)).await?;
        let applied = target.applied().await?;
        target.settle().await?;
        let meter = Meter::start(ground, None)?;
        let spawn = |number: usize| target.spawn(&format!("log{number}"), &[]);
        let mut running = (1..=members).map(spawn).collect::<Result<Vec<_>>>()?;
        target.until(&applied, &mut running).await?;
        let took = meter.elapsed();
        let mut peak = 0;
        for service in running {
            peak = peak.max(service.stop().await?);
        }
        let used = meter.used(took, peak)?;
        say(&line(&format!("{PARTITIONS} partitions, {members} in the group"), count, &used));
        let digest = target.compare("mirror.items i").await?;
        say(&format!("  as expected: {digest}"));
        target.end().await?;
    }
    Ok(())
}
