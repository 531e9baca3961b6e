//! What of a job goes to people and other programs: `alerts` of a job, and the tasks `notify` and `webhook`.

use serde::Deserialize;

use super::alerts::{self, unknown};
use super::channel;
use super::check::Files;
use super::file::{File, Given};
use super::settings::Secret;
use super::tasks::TaskKind;
use super::{Job, Spec};
use crate::error::Result;

/// Who is told how a job's runs end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobAlerts {
    /// That one has failed.
    pub failure: Vec<String>,
    /// That one goes well again.
    pub recovery: Vec<String>,
}

/// Where a run is told to a program.
#[derive(Clone, Debug, PartialEq)]
pub struct Webhook {
    /// Where it goes.
    pub url: Secret,
    /// What is shown there.
    pub bearer: Option<Secret>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawJobAlerts {
    #[serde(default)]
    failure: Vec<Given>,
    #[serde(default)]
    recovery: Vec<Given>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWebhook {
    url: Given,
    bearer: Option<Given>,
}

/// Reads `alerts` of a job.
pub(super) fn job_alerts(file: &File<'_>, raw: Option<&RawJobAlerts>) -> Result<Option<JobAlerts>> {
    let Some(raw) = raw else { return Ok(None) };
    Ok(Some(JobAlerts {
        failure: alerts::names(file, "alerts.failure", &raw.failure)?,
        recovery: alerts::names(file, "alerts.recovery", &raw.recovery)?,
    }))
}

/// Reads who is told by a task.
pub(super) fn notify(file: &File<'_>, field: &str, given: Option<&[Given]>) -> Result<TaskKind> {
    let channels = alerts::names(file, field, given.unwrap_or_default())?;
    if channels.is_empty() {
        let remedy = "write channels of alerts.yaml, such as [ops, slack]";
        return Err(file.refuse(field, "nobody is told", remedy));
    }
    Ok(TaskKind::Notify(channels))
}

/// Reads where a task tells of its run.
pub(super) fn webhook(file: &File<'_>, field: &str, raw: Option<&RawWebhook>) -> Result<TaskKind> {
    let Some(raw) = raw else { return Err(file.refuse(field, "it is missing", "add it")) };
    let at = |below: &str| format!("{field}.{below}");
    Ok(TaskKind::Webhook(Webhook {
        url: channel::secret_url(file, &at("url"), &raw.url)?,
        bearer: channel::token(file, &at("bearer"), raw.bearer.as_ref())?,
    }))
}

impl Files<'_> {
    /// Refuses jobs that tell channels which are not there.
    pub(super) fn notices(&self, spec: &Spec) -> Result<()> {
        let channels = spec.alerts.iter().flat_map(|alerts| &alerts.channels);
        let channels: Vec<&str> = channels.map(|channel| channel.name.as_str()).collect();
        for job in &spec.jobs {
            for (field, name) in told(job) {
                if let Some((why, remedy)) = unknown(name, &channels) {
                    return Err(self.refuse(&job.file, &field, &why, &remedy));
                }
            }
        }
        Ok(())
    }
}

/// The channels that a job names, and where.
fn told(job: &Job) -> Vec<(String, &str)> {
    let mut told = Vec::new();
    if let Some(JobAlerts { failure, recovery }) = &job.alerts {
        told.extend(failure.iter().map(|name| ("alerts.failure".to_owned(), name.as_str())));
        told.extend(recovery.iter().map(|name| ("alerts.recovery".to_owned(), name.as_str())));
    }
    for task in &job.tasks {
        if let TaskKind::Notify(channels) = &task.kind {
            let field = format!("tasks.{}.notify", task.name);
            told.extend(channels.iter().map(|name| (field.clone(), name.as_str())));
        }
    }
    told
}
