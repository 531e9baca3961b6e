//! The tasks of a job: what each does, what it depends on, and what becomes of one that fails.

use std::time::Duration;

use indexmap::IndexMap;
use serde::Deserialize;

use super::backups::{self, Backup, Drill, RawBackup, RawDrill};
use super::condition::Condition;
use super::feeds;
use super::file::{File, Given, NotYet, listed, nearest};
use super::gates::{RawSelection, Selection, selection};
use super::notices::{self, RawWebhook, Webhook};
use super::order::in_order;
use super::pattern::TablePattern;
use super::report::{self, Report};
use super::scalar::{Identifier, Retries, Scalar};
use super::script::{self, Script};
use super::sensor::{self, RawSignal, Signal};
use super::units::{LONGEST, Span};
use super::upkeep::{self, Partitions, Retention};
use crate::error::{Error, Kind, Result};
use crate::names::TableName;

/// A task.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its name in the job.
    pub name: String,
    /// What it does.
    pub kind: TaskKind,
    /// The tasks before it.
    pub depends_on: Vec<String>,
    /// What of those lets it begin.
    pub rule: TriggerRule,
    /// How often it is tried again.
    pub retries: u32,
    /// How long it waits before that.
    pub retry_delay: Duration,
    /// Whether that grows twice as long each time, up to an hour.
    pub backoff: bool,
    /// How long an attempt may take; a sensor, all in all.
    pub timeout: Duration,
    /// Whether the run, and what depends on it, go on as if it had gone well.
    pub allow_failure: bool,
}

/// What a task does.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskKind {
    /// Runs the statements of a file in one transaction.
    Sql {
        /// The file.
        path: String,
        /// Its statements.
        script: Script,
    },
    /// Waits for something.
    Sensor {
        /// What for.
        signal: Signal,
        /// How often it looks.
        poll: Duration,
        /// Whether it is skipped, and not failed, where it has waited long enough.
        soft_fail: bool,
    },
    /// Vacuums tables.
    Vacuum(Vec<TablePattern>),
    /// Gathers the planner's statistics.
    Analyze(Vec<TablePattern>),
    /// Builds indexes anew, without a lock that writers wait for.
    Reindex(Vec<TablePattern>),
    /// Makes the leaves of declared tables that are due, and takes old leaves off others.
    Partitions(Partitions),
    /// Drops what is kept no longer.
    Retention(Retention),
    /// Makes a backup of the warehouse.
    Backup(Backup),
    /// Restores the newest backup elsewhere and looks at it.
    RestoreDrill(Drill),
    /// Runs a program.
    Command(Vec<String>),
    /// Waits until marts have all that the warehouse had when it began.
    Refresh(Vec<TableName>),
    /// Waits until a table that a stream feeds has all that its source had when it began.
    Load(TableName),
    /// The same of a raw table.
    Extract {
        /// What feeds it.
        from: String,
        /// The raw table.
        into: TableName,
        /// Which rows, of a Postgres without a stream; none for all.
        condition: Option<Condition>,
    },
    /// Tells channels of the run.
    Notify(Vec<String>),
    /// Tells a program of the run.
    Webhook(Webhook),
    /// Judges checks.
    Checks(Selection),
    /// Writes down what became of the run's tasks and checks.
    Report(Report),
}

impl TaskKind {
    /// The word in files.
    pub fn word(&self) -> &'static str {
        match self {
            TaskKind::Sql { .. } => "sql",
            TaskKind::Sensor { .. } => "sensor",
            TaskKind::Vacuum(_) => "vacuum",
            TaskKind::Analyze(_) => "analyze",
            TaskKind::Reindex(_) => "reindex",
            TaskKind::Partitions(_) => "partitions",
            TaskKind::Retention(_) => "retention",
            TaskKind::Backup(_) => "backup",
            TaskKind::RestoreDrill(_) => "restore_drill",
            TaskKind::Command(_) => "command",
            TaskKind::Refresh(_) => "refresh",
            TaskKind::Load(_) => "load",
            TaskKind::Extract { .. } => "extract",
            TaskKind::Notify(_) => "notify",
            TaskKind::Webhook(_) => "webhook",
            TaskKind::Checks(_) => "checks",
            TaskKind::Report(_) => "report",
        }
    }
}

/// What of the tasks before it lets a task begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TriggerRule {
    /// All went well.
    AllSuccess,
    /// All have failed.
    AllFailed,
    /// All are at an end.
    AllDone,
    /// One went well.
    OneSuccess,
    /// One has failed.
    OneFailed,
    /// One is at an end, by itself.
    OneDone,
    /// All are at an end, and none has failed.
    NoneFailed,
    /// None has failed, and one went well.
    NoneFailedMinOneSuccess,
    /// All are at an end, and none was skipped.
    NoneSkipped,
    /// Nothing: it begins with the run.
    Always,
}

const RULES: [(&str, TriggerRule); 10] = [
    ("all_success", TriggerRule::AllSuccess),
    ("all_failed", TriggerRule::AllFailed),
    ("all_done", TriggerRule::AllDone),
    ("one_success", TriggerRule::OneSuccess),
    ("one_failed", TriggerRule::OneFailed),
    ("one_done", TriggerRule::OneDone),
    ("none_failed", TriggerRule::NoneFailed),
    ("none_failed_min_one_success", TriggerRule::NoneFailedMinOneSuccess),
    ("none_skipped", TriggerRule::NoneSkipped),
    ("always", TriggerRule::Always),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTask {
    sql: Option<Given>,
    sensor: Option<RawSignal>,
    vacuum: Option<Vec<Given>>,
    analyze: Option<Vec<Given>>,
    reindex: Option<Vec<Given>>,
    partitions: Option<Vec<Given>>,
    command: Option<Vec<Given>>,
    extract: Option<Given>,
    into: Option<Given>,
    r#where: Option<Given>,
    load: Option<Given>,
    refresh: Option<Vec<Given>>,
    checks: Option<RawSelection>,
    enrich: Option<NotYet>,
    retention: Option<Vec<Given>>,
    audit: Option<Given>,
    backup: Option<RawBackup>,
    restore_drill: Option<RawDrill>,
    report: Option<Given>,
    notify: Option<Vec<Given>>,
    webhook: Option<RawWebhook>,
    depends_on: Option<Vec<Given>>,
    trigger_rule: Option<Given>,
    retries: Option<Given>,
    retry_delay: Option<Given>,
    backoff: Option<Given>,
    timeout: Option<Given>,
    allow_failure: Option<bool>,
    poll: Option<Given>,
    soft_fail: Option<bool>,
    keep: Option<Given>,
    old: Option<Given>,
}

pub(super) type Open<'o> = &'o dyn Fn(&str) -> std::io::Result<String>;

/// Reads a job's tasks, and puts each behind those it depends on.
pub(super) fn read(
    file: &File<'_>,
    raw: &IndexMap<String, RawTask>,
    open: Open<'_>,
) -> Result<Vec<Task>> {
    if raw.is_empty() {
        return Err(file.refuse("tasks", "there is none", "write at least one task"));
    }
    let mut tasks = Vec::new();
    for (name, raw) in raw {
        let field = format!("tasks.{name}");
        if let Err(why) = Identifier::read(name) {
            return Err(file.refuse(&field, &why, Identifier::REMEDY));
        }
        tasks.push(task(file, &field, (name, raw), open)?);
    }
    let names: Vec<&str> = raw.keys().map(String::as_str).collect();
    for task in &tasks {
        let field = format!("tasks.{}.depends_on", task.name);
        for before in &task.depends_on {
            if !names.contains(&before.as_str()) {
                let remedy = match nearest(before, &names) {
                    Some(near) => format!("write {near}, or remove it"),
                    None => format!("write {}", listed(&names)),
                };
                let why = format!("there is no task {before}");
                return Err(file.refuse(&field, &why, &remedy));
            }
        }
    }
    in_order(file, tasks)
}

fn task(
    file: &File<'_>,
    field: &str,
    (name, raw): (&str, &RawTask),
    open: Open<'_>,
) -> Result<Task> {
    const RETRY_DELAY: Span = Span(Duration::from_mins(5));
    const TIMEOUT: Span = Span(Duration::from_hours(1));
    let at = |below: &str| format!("{field}.{below}");
    let words = RULES.map(|(word, _)| word);
    let rule = file.choice(&at("trigger_rule"), raw.trigger_rule.as_ref(), &words)?;
    let rule = RULES.iter().find(|(word, _)| *word == rule).map(|(_, rule)| *rule);
    let depends_on = raw.depends_on.iter().flatten();
    let depends_on = depends_on.map(|given| file.text(&at("depends_on"), given));
    let backoff =
        file.choice(&at("backoff"), raw.backoff.as_ref(), &["constant", "exponential"])?;
    Ok(Task {
        name: name.to_owned(),
        kind: kind(file, field, raw, open)?,
        depends_on: depends_on.collect::<Result<_>>()?,
        rule: rule.unwrap_or(TriggerRule::AllSuccess),
        retries: file.parse_or(&at("retries"), raw.retries.as_ref(), Retries(3))?.0,
        retry_delay: wait(file, &at("retry_delay"), raw.retry_delay.as_ref(), RETRY_DELAY)?,
        backoff: backoff == "exponential",
        timeout: wait(file, &at("timeout"), raw.timeout.as_ref(), TIMEOUT)?,
        allow_failure: raw.allow_failure.unwrap_or(false),
    })
}

/// How long something is waited for.
pub(super) fn wait(
    file: &File<'_>,
    field: &str,
    given: Option<&Given>,
    default: Span,
) -> Result<Duration> {
    let Span(wait) = file.parse_or(field, given, default)?;
    match given.filter(|_| wait > LONGEST) {
        Some(given) => {
            let remedy = "write at most 3650d";
            Err(file.refuse_given(field, given, "that is longer than ten years", remedy))
        }
        None => Ok(wait),
    }
}

/// The one thing that a task does, by its word; refuses two of them, and what belongs to another.
fn word(file: &File<'_>, field: &str, raw: &RawTask) -> Result<&'static str> {
    let at = |below: &str| format!("{field}.{below}");
    if raw.enrich.is_some() {
        let why = "this version does not run such tasks yet";
        return Err(file.refuse(&at("enrich"), why, "remove the task"));
    }
    let kinds = [
        ("sql", raw.sql.is_some()),
        ("sensor", raw.sensor.is_some()),
        ("vacuum", raw.vacuum.is_some()),
        ("analyze", raw.analyze.is_some()),
        ("reindex", raw.reindex.is_some()),
        ("partitions", raw.partitions.is_some()),
        ("retention", raw.retention.is_some()),
        ("backup", raw.backup.is_some()),
        ("restore_drill", raw.restore_drill.is_some()),
        ("command", raw.command.is_some()),
        ("refresh", raw.refresh.is_some()),
        ("load", raw.load.is_some()),
        ("extract", raw.extract.is_some()),
        ("notify", raw.notify.is_some()),
        ("webhook", raw.webhook.is_some()),
        ("checks", raw.checks.is_some()),
        ("report", raw.report.is_some()),
    ];
    let mut given = kinds.iter().filter(|(_, given)| *given).map(|(name, _)| *name);
    let (one, other) = (given.next(), given.next());
    if let Some(other) = other {
        let why = format!("a task does one thing, and this one has {} as well", one.unwrap_or(""));
        return Err(file.refuse(&at(other), &why, "write two tasks"));
    }
    let only = [
        ("poll", raw.poll.is_some(), "sensor"),
        ("soft_fail", raw.soft_fail.is_some(), "sensor"),
        ("keep", raw.keep.is_some(), "partitions"),
        ("old", raw.old.is_some(), "partitions"),
        ("into", raw.into.is_some(), "extract"),
        ("where", raw.r#where.is_some(), "extract"),
        ("audit", raw.audit.is_some(), "retention"),
    ];
    if let Some((name, _, of)) = only.iter().find(|(_, given, of)| *given && one != Some(of)) {
        let why = format!("only a task of {of} has it");
        return Err(file.refuse(&at(name), &why, "remove the field"));
    }
    one.ok_or_else(|| {
        let names = kinds.map(|(name, _)| name);
        let remedy = format!("add what it does: {}", listed(&names));
        file.refuse(field, "it does nothing", &remedy)
    })
}

fn kind(file: &File<'_>, field: &str, raw: &RawTask, open: Open<'_>) -> Result<TaskKind> {
    let at = |below: &str| format!("{field}.{below}");
    let tables = |name: &str, given: &Option<Vec<Given>>| {
        super::common::list(file, &at(name), given.as_deref().unwrap_or_default())
    };
    match word(file, field, raw)? {
        "sql" => sql(file, &at("sql"), raw.sql.as_ref(), open),
        "sensor" => {
            let given = (raw.sensor.as_ref(), raw.poll.as_ref());
            sensor::read(file, field, (given, raw.soft_fail.unwrap_or(false)), open)
        }
        "vacuum" => Ok(TaskKind::Vacuum(tables("vacuum", &raw.vacuum)?)),
        "analyze" => Ok(TaskKind::Analyze(tables("analyze", &raw.analyze)?)),
        "reindex" => Ok(TaskKind::Reindex(tables("reindex", &raw.reindex)?)),
        "partitions" => {
            let tables = raw.partitions.as_deref().unwrap_or_default();
            upkeep::partitions(file, field, (tables, raw.keep.as_ref(), raw.old.as_ref()))
        }
        "retention" => {
            let tables = raw.retention.as_deref().unwrap_or_default();
            upkeep::retention(file, field, (tables, raw.audit.as_ref()))
        }
        "backup" => backups::backup(file, &at("backup"), raw.backup.as_ref()),
        "restore_drill" => backups::drill(file, &at("restore_drill"), raw.restore_drill.as_ref()),
        "command" => upkeep::command(file, &at("command"), raw.command.as_deref()),
        "refresh" => feeds::refresh(file, &at("refresh"), raw.refresh.as_deref()),
        "load" => feeds::load(file, &at("load"), raw.load.as_ref()),
        "extract" => {
            let given = (raw.extract.as_ref(), raw.into.as_ref(), raw.r#where.as_ref());
            feeds::extract(file, field, given)
        }
        "notify" => notices::notify(file, &at("notify"), raw.notify.as_deref()),
        "report" => report::report(file, &at("report"), raw.report.as_ref()),
        "checks" => selection(file, &at("checks"), raw.checks.as_ref()),
        _ => notices::webhook(file, &at("webhook"), raw.webhook.as_ref()),
    }
}

pub(super) fn sql(
    file: &File<'_>,
    field: &str,
    given: Option<&Given>,
    open: Open<'_>,
) -> Result<TaskKind> {
    let Some(given) = given else { return Err(file.refuse(field, "it is missing", "add it")) };
    let path = file.text(field, given)?;
    let text = open(&path).map_err(|error| {
        let why = format!("{path} cannot be read: {error}");
        file.refuse_given(field, given, &why, "write a path from the folder of siltstone.yaml")
    })?;
    let script = script::read(&text).map_err(|flaw| {
        let what = format!("{path}:{}: sql: {}", flaw.line, flaw.why);
        Error::new(Kind::Config, what).remedy(flaw.remedy)
    })?;
    Ok(TaskKind::Sql { path, script })
}
