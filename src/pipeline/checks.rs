//! Judges checks one after the other and notes each verdict, in a transaction of its own that holds an epoch: what
//! was found before something failed stays found.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;

use crate::error::{Error, Kind, Result};
use crate::postgres::Session;
use crate::quality::{self, Occasion, Status, Verdict};
use crate::schedule::{Gate, Judged, JudgesChecks, Judging, Restored};
use crate::serve::Board;
use crate::spec::{Check, CheckKind, Mart, Spec};
use crate::warehouse::{Durations, Fence, Fenced};

/// How long one check may take.
const LONGEST: Duration = Duration::from_mins(15);

/// What checks are judged with.
pub struct Judge<'j> {
    /// The right to note what is found.
    pub fence: &'j Fence,
    /// Where the duration of transactions is told.
    pub durations: &'j Durations,
    /// The marts of the files.
    pub marts: &'j [Mart],
    /// What of time they are about.
    pub occasion: Occasion,
    /// When the last one must be done.
    pub until: Option<Instant>,
}

impl Judge<'_> {
    /// Judges a check and notes the verdict.
    pub async fn judge(&self, session: &mut Session, check: &Check) -> Result<Verdict> {
        let started = Instant::now();
        let limit = left(self.until)?;
        let mart = self.marts.iter().find(|mart| mart.table == check.table);
        let verdict = quality::judge(session, (check, mart), &self.occasion, limit).await?;
        let transaction = Fenced::begin(session, self.fence, "check", self.durations).await?;
        let told = (&verdict, started.elapsed());
        quality::note(&transaction, check, &self.occasion, told).await?;
        transaction.commit().await?;
        Ok(verdict)
    }
}

/// When a day turns, for checks.
pub fn zone(spec: &Spec) -> TimeZone {
    // the name was looked up as the file was read
    TimeZone::get(&spec.settings.timezone).unwrap_or(TimeZone::UTC)
}

/// Judges the checks of tasks.
pub(super) struct Checker {
    checks: Arc<[Check]>,
    marts: Arc<[Mart]>,
    zone: TimeZone,
    board: Board,
}

impl Checker {
    /// Those of the files.
    pub(super) fn of(spec: &Spec, board: &Board) -> Checker {
        Checker {
            checks: spec.checks.clone().into(),
            marts: spec.marts.clone().into(),
            zone: zone(spec),
            board: board.clone(),
        }
    }
}

impl JudgesChecks for Checker {
    fn judge<'j>(&'j self, session: &'j mut Session, gate: Gate<'j>) -> Judging<'j> {
        let Gate { hands, selection, about, day, zone, run, until } = gate;
        let judge = Judge {
            fence: &hands.fence,
            durations: &hands.durations,
            marts: &self.marts,
            occasion: Occasion {
                date: day,
                until: about.end,
                // a run that is about no stretch of time looks at all rows
                since: (about.start < about.end).then_some(about.start),
                zone: zone.clone(),
                run: Some(run),
            },
            until: Some(until),
        };
        Box::pin(async move {
            let mut judged = Judged::default();
            for check in self.checks.iter().filter(|check| selection.means(check)) {
                let verdict = judge.judge(session, check).await?;
                let (table, name) = (check.table.to_string(), check.name.as_str());
                self.board.check_judged(
                    (&table, name),
                    verdict.status.word(),
                    verdict.completeness,
                );
                add(&mut judged, check, verdict);
            }
            Ok(judged)
        })
    }

    fn judge_restored<'j>(
        &'j self,
        session: &'j mut Session,
        restored: Restored<'j>,
    ) -> Judging<'j> {
        let Restored { tables, taken_at, day, until } = restored;
        let zone = self.zone.clone();
        let occasion = Occasion { date: day, until: taken_at, since: None, zone, run: None };
        let meant = move |check: &&Check| {
            let of_its_age = matches!(check.kind, CheckKind::Freshness(_) | CheckKind::Volume(_))
                || check.of_run
                || check.grace.is_some();
            !of_its_age && tables.iter().any(|pattern| pattern.matches(&check.table))
        };
        Box::pin(async move {
            let mut judged = Judged::default();
            for check in self.checks.iter().filter(meant) {
                let limit = left(Some(until))?;
                let mart = self.marts.iter().find(|mart| mart.table == check.table);
                let verdict = quality::judge(session, (check, mart), &occasion, limit).await?;
                add(&mut judged, check, verdict);
            }
            Ok(judged)
        })
    }
}

/// How long a check may take; fails where no time is left.
fn left(until: Option<Instant>) -> Result<Duration> {
    let left = until.map_or(LONGEST, |until| until.saturating_duration_since(Instant::now()));
    match left.is_zero() {
        true => Err(Error::new(Kind::Busy, "there is no time left for the other checks")),
        false => Ok(left.min(LONGEST)),
    }
}

/// Adds a verdict to what was found.
fn add(judged: &mut Judged, check: &Check, verdict: Verdict) {
    judged.all += 1;
    let (table, name) = (&check.table, check.name.as_str());
    let Verdict { status, expected, actual, description, .. } = verdict;
    let told = description.unwrap_or_else(|| format!("{actual}, not {expected}"));
    match status {
        Status::Pass => {}
        Status::Warn => tracing::warn!(%table, check = name, "{told}"),
        Status::Fail => judged.failed.push(format!("{table}: {name}: {told}")),
    }
}
