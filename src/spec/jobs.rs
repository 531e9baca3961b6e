//! `jobs/*.yaml`: when a job runs, what of time each run is about, and what it waits for.

use std::time::Duration;

use indexmap::IndexMap;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::cron::Cron;
use super::file::{File, Given};
use super::notices::{self, JobAlerts, RawJobAlerts};
use super::scalar::{Identifier, Scalar};
use super::tasks::{self, RawTask, Task};
use super::units::Span;
use crate::error::Result;
use crate::names::TableName;

/// A job: tasks that depend on each other, and when they run.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Its name, in commands, metrics and control tables.
    pub name: String,
    /// What starts a run.
    pub schedule: Schedule,
    /// The zone whose days it counts.
    pub timezone: TimeZone,
    /// What happens to a run that is due while another one goes on.
    pub overlap: Overlap,
    /// How many of a run's tasks go on at once.
    pub parallel: usize,
    /// What a run waits for before it begins.
    pub requires: Option<JobRequires>,
    /// Who is told how its runs end; none where the rule `job_failed` says it.
    pub alerts: Option<JobAlerts>,
    /// The tasks, each behind those it depends on.
    pub tasks: Vec<Task>,
    /// The file it stands in, for messages.
    pub file: String,
}

/// What starts a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// Times of day; each run is about an interval of the calendar.
    Cron(Calendared),
    /// Every so often, counted from 1970 on.
    Every {
        /// How often.
        every: Duration,
        /// The first day that a run is about.
        start: Option<Date>,
        /// Whether intervals that were missed are run as well.
        catchup: bool,
    },
    /// A run of another job that went well.
    After(String),
    /// Rows of these tables changed.
    Changes(Vec<TableName>),
    /// Nothing but a person.
    Asked,
}

/// A schedule of times of day.
#[derive(Clone, Debug, PartialEq)]
pub struct Calendared {
    /// The times.
    pub cron: Cron,
    /// What of time a run is about; without it the time since the run before.
    pub interval: Option<Interval>,
    /// The first day that a run is about.
    pub start: Option<Date>,
    /// Whether intervals that were missed are run as well.
    pub catchup: bool,
}

/// An interval of the calendar, in the job's zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interval {
    /// From one full hour to the next.
    Hour,
    /// From midnight to midnight.
    Day,
    /// From Monday to Monday.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

/// What happens to a run that is due while another one goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// It is left out.
    Skip,
    /// It begins when the other one has ended.
    Queue,
    /// The other one is given up.
    Replace,
    /// Both go on.
    Allow,
}

/// What a run waits for before it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRequires {
    /// The data.
    pub data: Requires,
    /// How long, from when the run was queued; it has failed then.
    pub timeout: Duration,
}

/// A table that must be fresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requires {
    /// The table.
    pub table: TableName,
    /// Up to where.
    pub fresh_to: FreshTo,
}

/// Up to where a table must be fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreshTo {
    /// The begin of the run's data interval.
    IntervalStart,
    /// Its end.
    IntervalEnd,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawJob {
    name: Given,
    schedule: Option<RawSchedule>,
    overlap: Option<Given>,
    parallel: Option<Given>,
    requires: Option<RawRequires>,
    alerts: Option<RawJobAlerts>,
    tasks: IndexMap<String, RawTask>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSchedule {
    cron: Option<Given>,
    timezone: Option<Given>,
    interval: Option<Given>,
    start: Option<Given>,
    catchup: Option<bool>,
    every: Option<Given>,
    after: Option<Given>,
    changes: Option<Vec<Given>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRequires {
    table: Given,
    fresh_to: Option<Given>,
    timeout: Option<Given>,
}

impl Scalar for Cron {
    const REMEDY: &'static str = "write five fields: minute, hour, day of the month, month, day of \
                                  the week, such as \"0 2 * * *\"";

    fn read(text: &str) -> Result<Cron, String> {
        text.parse()
    }
}

impl Scalar for Date {
    const REMEDY: &'static str = "write a day, such as \"2024-03-01\"";

    fn read(text: &str) -> Result<Date, String> {
        text.parse().map_err(|_| format!("{text:?} is not a day"))
    }
}

/// How many tasks of a run go on at once.
struct Parallel(usize);

impl Scalar for Parallel {
    const REMEDY: &'static str = "write a whole number from 1 to 16";

    fn read(text: &str) -> Result<Parallel, String> {
        let number = text.parse().ok().filter(|number| (1..=16).contains(number));
        number.map(Parallel).ok_or_else(|| format!("{text:?} is not a number that fits"))
    }
}

/// Reads a job's file. `zone` is that of the settings; `open` reads a file below the root.
pub(super) fn read(
    file: &File<'_>,
    zone: &str,
    open: &dyn Fn(&str) -> std::io::Result<String>,
) -> Result<Job> {
    const PARALLEL: usize = 4;
    let raw: RawJob = file.read()?;
    let overlap =
        file.choice("overlap", raw.overlap.as_ref(), &["skip", "queue", "replace", "allow"]);
    let parallel = file.parse_or("parallel", raw.parallel.as_ref(), Parallel(PARALLEL))?;
    let requires = raw.requires.as_ref().map(|raw| job_requires(file, raw));
    let named = raw.schedule.as_ref().and_then(|schedule| schedule.timezone.as_ref());
    Ok(Job {
        name: file.parse::<Identifier>("name", &raw.name)?.0,
        timezone: timezone(file, named, zone)?,
        schedule: match &raw.schedule {
            Some(raw) => schedule(file, raw)?,
            None => Schedule::Asked,
        },
        overlap: match overlap? {
            "queue" => Overlap::Queue,
            "replace" => Overlap::Replace,
            "allow" => Overlap::Allow,
            _ => Overlap::Skip,
        },
        parallel: parallel.0,
        requires: requires.transpose()?,
        alerts: notices::job_alerts(file, raw.alerts.as_ref())?,
        tasks: tasks::read(file, &raw.tasks, open)?,
        file: file.path.clone(),
    })
}

fn timezone(file: &File<'_>, given: Option<&Given>, default: &str) -> Result<TimeZone> {
    let name = match given {
        Some(given) => file.text("schedule.timezone", given)?,
        None => default.to_owned(),
    };
    TimeZone::get(&name).map_err(|_| {
        let why = format!("there is no time zone {name:?}");
        let remedy = "write a name of the IANA database, such as Europe/Berlin or UTC";
        file.refuse("schedule.timezone", &why, remedy)
    })
}

fn job_requires(file: &File<'_>, raw: &RawRequires) -> Result<JobRequires> {
    const TIMEOUT: Span = Span(Duration::from_hours(24));
    Ok(JobRequires {
        data: requires(file, "requires", (&raw.table, raw.fresh_to.as_ref()))?,
        timeout: tasks::wait(file, "requires.timeout", raw.timeout.as_ref(), TIMEOUT)?,
    })
}

pub(super) fn requires(
    file: &File<'_>,
    field: &str,
    (table, fresh_to): (&Given, Option<&Given>),
) -> Result<Requires> {
    let choices = ["interval_end", "interval_start"];
    let fresh_to = file.choice(&format!("{field}.fresh_to"), fresh_to, &choices)?;
    Ok(Requires {
        table: file.parse(&format!("{field}.table"), table)?,
        fresh_to: match fresh_to {
            "interval_start" => FreshTo::IntervalStart,
            _ => FreshTo::IntervalEnd,
        },
    })
}

/// Refuses fields that say nothing beside the one that says when.
fn beside(file: &File<'_>, kind: &str, given: &[(&str, bool)]) -> Result<()> {
    match given.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((field, _)) => {
            let why = format!("a schedule by {kind} has none");
            Err(file.refuse(&format!("schedule.{field}"), &why, "remove the field"))
        }
    }
}

fn schedule(file: &File<'_>, raw: &RawSchedule) -> Result<Schedule> {
    let start = raw.start.as_ref().map(|given| file.parse("schedule.start", given)).transpose()?;
    let catchup = raw.catchup.unwrap_or(false);
    if catchup && start.is_none() {
        let why = "there is no first day to catch up from";
        let remedy = "add it, such as start: \"2024-03-01\", or remove catchup";
        return Err(file.refuse("schedule.catchup", why, remedy));
    }
    let every = ("every", raw.every.is_some());
    let after = ("after", raw.after.is_some());
    let changes = ("changes", raw.changes.is_some());
    let interval = ("interval", raw.interval.is_some());
    let span = [("start", raw.start.is_some()), ("catchup", raw.catchup.is_some()), interval];
    if let Some(given) = &raw.cron {
        beside(file, "cron", &[every, after, changes])?;
        return Ok(Schedule::Cron(Calendared {
            cron: file.parse("schedule.cron", given)?,
            interval: self::interval(file, raw.interval.as_ref())?,
            start,
            catchup,
        }));
    }
    if let Some(given) = &raw.every {
        beside(file, "every", &[after, changes, interval])?;
        let every = tasks::wait(file, "schedule.every", Some(given), Span(Duration::ZERO))?;
        if every < Duration::from_secs(1) {
            let remedy = "write at least 1s";
            return Err(file.refuse_given("schedule.every", given, "that is too often", remedy));
        }
        return Ok(Schedule::Every { every, start, catchup });
    }
    if let Some(given) = &raw.after {
        beside(file, "after", &span)?;
        beside(file, "after", &[changes])?;
        return Ok(Schedule::After(file.parse::<Identifier>("schedule.after", given)?.0));
    }
    if let Some(given) = &raw.changes {
        beside(file, "changes", &span)?;
        let tables = given.iter().map(|table| file.parse("schedule.changes", table));
        return Ok(Schedule::Changes(tables.collect::<Result<_>>()?));
    }
    let remedy = "add cron, every, after or changes, or remove schedule";
    Err(file.refuse("schedule", "it does not say when", remedy))
}

fn interval(file: &File<'_>, given: Option<&Given>) -> Result<Option<Interval>> {
    const CHOICES: [&str; 5] = ["day", "hour", "week", "month", "year"];
    if given.is_none() {
        return Ok(None);
    }
    Ok(Some(match file.choice("schedule.interval", given, &CHOICES)? {
        "hour" => Interval::Hour,
        "week" => Interval::Week,
        "month" => Interval::Month,
        "year" => Interval::Year,
        _ => Interval::Day,
    }))
}
