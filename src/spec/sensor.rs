//! `sensor` of a task: what it waits for.

use std::time::Duration;

use serde::Deserialize;

use super::file::{File, Given};
use super::jobs::{self, Requires};
use super::scalar::Identifier;
use super::script::Script;
use super::tasks::{self, Open, TaskKind};
use super::units::Span;
use crate::error::Result;

/// What a sensor waits for.
#[derive(Clone, Debug, PartialEq)]
pub enum Signal {
    /// A run of another job about the same time that went well.
    Job(String),
    /// A table that is fresh.
    Fresh(Requires),
    /// A file.
    File(String),
    /// A query whose first value is true.
    Sql(Script),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSignal {
    job: Option<Given>,
    table: Option<Given>,
    fresh_to: Option<Given>,
    file: Option<Given>,
    sql: Option<Given>,
}

/// Reads what a task waits for.
pub(super) fn read(
    file: &File<'_>,
    field: &str,
    ((raw, poll), soft_fail): ((Option<&RawSignal>, Option<&Given>), bool),
    open: Open<'_>,
) -> Result<TaskKind> {
    const POLL: Span = Span(Duration::from_secs(30));
    let at = |below: &str| format!("{field}.{below}");
    let Some(RawSignal { job, table, fresh_to, file: path, sql: query }) = raw else {
        return Err(file.refuse(field, "it does nothing", "add a sensor"));
    };
    if fresh_to.is_some() && table.is_none() {
        let why = "only a table is fresh to a time";
        return Err(file.refuse(&at("sensor.fresh_to"), why, "remove the field"));
    }
    let signal = match (job, table, path, query) {
        (Some(job), None, None, None) => {
            Signal::Job(file.parse::<Identifier>(&at("sensor.job"), job)?.0)
        }
        (None, Some(table), None, None) => {
            Signal::Fresh(jobs::requires(file, &at("sensor"), (table, fresh_to.as_ref()))?)
        }
        (None, None, Some(path), None) => Signal::File(file.text(&at("sensor.file"), path)?),
        (None, None, None, Some(query)) => {
            match tasks::sql(file, &at("sensor.sql"), Some(query), open)? {
                TaskKind::Sql { script, .. } if script.statements.len() == 1 => Signal::Sql(script),
                _ => {
                    let why = "a sensor asks one question";
                    return Err(file.refuse(&at("sensor.sql"), why, "write one query"));
                }
            }
        }
        _ => {
            let remedy = "write one of job, table, file and sql";
            return Err(file.refuse(&at("sensor"), "it does not wait for one thing", remedy));
        }
    };
    let poll = tasks::wait(file, &at("poll"), poll, POLL)?;
    if poll < Duration::from_millis(100) {
        return Err(file.refuse(&at("poll"), "that is too often", "write at least 100ms"));
    }
    Ok(TaskKind::Sensor { signal, poll, soft_fail })
}
