//! Judges checks. What is found is final: another attempt would find the same, so it is not made.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::{Hands, Outcome, Work};
use crate::error::{Error, Result};
use crate::postgres::Session;
use crate::schedule::calendar::Stretch;
use crate::spec::{Selection, TablePattern, Variable};

/// Which checks are judged, for which run.
pub struct Gate<'g> {
    /// What tasks work with.
    pub hands: &'g Hands,
    /// The checks.
    pub selection: &'g Selection,
    /// What of time the run is about.
    pub about: Stretch,
    /// Its day, by `zone`.
    pub day: Date,
    /// The job's zone.
    pub zone: &'g TimeZone,
    /// The run.
    pub run: i64,
    /// When it must be done.
    pub until: Instant,
}

/// A backup that was restored, whose checks are judged.
pub struct Restored<'c> {
    /// The tables whose checks are.
    pub tables: &'c [TablePattern],
    /// When it was taken.
    pub taken_at: Timestamp,
    /// The run's day.
    pub day: Date,
    /// When it must be done.
    pub until: Instant,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    /// How many checks were judged.
    pub all: usize,
    /// Those that fail, and how.
    pub failed: Vec<String>,
}

/// What will have been found.
pub type Judging<'j> = Pin<Box<dyn Future<Output = Result<Judged>> + Send + 'j>>;

/// Judges checks.
pub trait JudgesChecks: Send + Sync {
    /// Judges those of a gate, one after the other, and notes what it finds.
    fn judge<'j>(&'j self, session: &'j mut Session, gate: Gate<'j>) -> Judging<'j>;

    /// Judges those of the tables of a backup, and notes nothing. Not those that go by when rows came (freshness,
    /// volume, `scope: run`, `grace`): they would tell of its age.
    fn judge_restored<'j>(
        &'j self,
        session: &'j mut Session,
        restored: Restored<'j>,
    ) -> Judging<'j>;
}

/// How many that fail are named.
const NAMED: usize = 10;

pub(super) async fn run(work: &Work<'_>, selection: &Selection) -> Result<Outcome> {
    let (hands, attempt, started) = (work.hands, work.attempt, work.started);
    let mut session = work.session().await?;
    let day = attempt.variable(Variable::Ds).parse::<Date>();
    let day = day.map_err(|error| Error::bug("a run has no day").because(error))?;
    // time is left to say what was found
    let time = attempt.task.timeout.saturating_sub(Duration::from_secs(1));
    let until = started.checked_add(time).unwrap_or(started);
    let (about, zone, run) = (attempt.about, &attempt.timezone, attempt.run);
    let gate = Gate { hands, selection, about, day, zone, run, until };
    let Judged { all, failed } = hands.checks.judge(&mut session, gate).await?;
    if failed.is_empty() {
        return Ok(Outcome::Done(Some(u64::try_from(all).unwrap_or(u64::MAX))));
    }
    let mut why = format!("{} of {all} checks fail", failed.len());
    for one in failed.iter().take(NAMED) {
        why.push_str(&format!("\n{one}"));
    }
    if failed.len() > NAMED {
        why.push_str("\n… see siltstone check list");
    }
    Ok(Outcome::FailedForGood(why))
}
