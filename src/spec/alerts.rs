//! `alerts.yaml`: whom to tell, of what, and how often.
//!
//! The rules are built in: one that is written changes its limit or where it goes.

use std::time::Duration;

use indexmap::IndexMap;
use serde::Deserialize;

use super::channel::{self, Channel, RawChannel};
use super::file::{File, Given, listed, nearest};
use super::scalar::{Identifier, Scalar};
use super::tasks::{Open, wait};
use super::units::{Size, Span};
use crate::error::Result;

/// Whom to tell, of what, and how often.
#[derive(Clone, Debug, PartialEq)]
pub struct Alerts {
    /// Who is told.
    pub channels: Vec<Channel>,
    /// What of, every rule once.
    pub rules: Vec<AlertRule>,
    /// Of one thing nobody is told more often than this.
    pub dedupe: Duration,
}

/// Something that people are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum When {
    /// A connector has a backlog and does not move, has stopped, or nobody runs it.
    StreamStalled,
    /// A slot keeps much log at its source.
    WalRetained,
    /// A table takes no changes until a person has done something.
    TableStopped,
    /// A table refuses changes.
    DeadLetters,
    /// A mart is older than it may be.
    MartLate,
    /// The last result of a check is a failure.
    CheckFailed,
    /// The last run of a job has failed.
    JobFailed,
    /// The last backup that went well is old.
    BackupAge,
}

impl When {
    /// All of them.
    pub const ALL: [When; 8] = [
        When::StreamStalled,
        When::WalRetained,
        When::TableStopped,
        When::DeadLetters,
        When::MartLate,
        When::CheckFailed,
        When::JobFailed,
        When::BackupAge,
    ];

    /// The word in files, messages and metrics.
    pub fn word(self) -> &'static str {
        match self {
            When::StreamStalled => "stream_stalled",
            When::WalRetained => "wal_retained",
            When::TableStopped => "table_stopped",
            When::DeadLetters => "dead_letters",
            When::MartLate => "mart_late",
            When::CheckFailed => "check_failed",
            When::JobFailed => "job_failed",
            When::BackupAge => "backup_age",
        }
    }

    /// What a word means.
    pub fn of(word: &str) -> Option<When> {
        When::ALL.into_iter().find(|when| when.word() == word)
    }

    /// What `above` is counted in; none where the rule has no such limit.
    fn unit(self) -> Option<Unit> {
        match self {
            When::WalRetained => Some(Unit::Bytes),
            When::DeadLetters => Some(Unit::Letters),
            When::MartLate | When::BackupAge => Some(Unit::Time),
            _ => None,
        }
    }

    /// Whether it may be asked to last for a while.
    fn lasts(self) -> bool {
        !matches!(self, When::CheckFailed | When::JobFailed | When::BackupAge)
    }
}

#[derive(Clone, Copy)]
enum Unit {
    Bytes,
    Letters,
    Time,
}

/// When people are told of something, and who.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertRule {
    /// What.
    pub when: When,
    /// It must be so for this long.
    pub lasting: Duration,
    /// Only above this: bytes, letters or milliseconds, as the rule counts. None where it has no such limit, and for
    /// `mart_late` where a mart's own `max_age` counts.
    pub above: Option<u64>,
    /// The channels.
    pub send: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAlerts {
    #[serde(default)]
    channels: IndexMap<String, RawChannel>,
    #[serde(default)]
    rules: Vec<RawRule>,
    dedupe: Option<Given>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    when: Given,
    r#for: Option<Given>,
    above: Option<Given>,
    send: Option<Vec<Given>>,
}

/// How many dead letters.
struct Letters(u64);

impl Scalar for Letters {
    const REMEDY: &'static str = "write a whole number of dead letters, such as 0 or 100";

    fn read(text: &str) -> Result<Letters, String> {
        text.parse().map(Letters).map_err(|_| format!("{text:?} is not a number that fits"))
    }
}

/// Reads `alerts.yaml`; `open` reads a file below the root.
pub(super) fn read(file: &File<'_>, open: Open<'_>) -> Result<Alerts> {
    let raw: RawAlerts = file.read()?;
    let mut channels = Vec::new();
    for (name, raw) in &raw.channels {
        let field = format!("channels.{name}");
        if let Err(why) = Identifier::read(name) {
            return Err(file.refuse(&field, &why, Identifier::REMEDY));
        }
        channels
            .push(Channel { name: name.clone(), kind: channel::read(file, &field, raw, open)? });
    }
    let names: Vec<&str> = raw.channels.keys().map(String::as_str).collect();
    let mut rules: Vec<AlertRule> = When::ALL.map(|when| built_in(when, &names)).into();
    let mut written = Vec::new();
    for (at, raw) in raw.rules.iter().enumerate() {
        let rule = rule(file, &format!("rules[{at}]"), raw, &names)?;
        if written.contains(&rule.when) {
            let why = format!("the rule {} stands here twice", rule.when.word());
            return Err(file.refuse_given(
                &format!("rules[{at}].when"),
                &raw.when,
                &why,
                "keep one",
            ));
        }
        written.push(rule.when);
        rules.retain(|other| other.when != rule.when);
        rules.push(rule);
    }
    const DEDUPE: Span = Span(Duration::from_hours(1));
    Ok(Alerts { channels, rules, dedupe: wait(file, "dedupe", raw.dedupe.as_ref(), DEDUPE)? })
}

/// A rule as it is where no file changes it: it goes to all.
fn built_in(when: When, channels: &[&str]) -> AlertRule {
    const MINUTES: Duration = Duration::from_mins(5);
    const DAY_AND_SLACK: u64 = 26 * 60 * 60 * 1000;
    let (lasting, above) = match when {
        When::StreamStalled | When::MartLate => (MINUTES, None),
        When::WalRetained => (Duration::ZERO, Some(5 << 30)),
        When::DeadLetters => (Duration::ZERO, Some(0)),
        When::BackupAge => (Duration::ZERO, Some(DAY_AND_SLACK)),
        When::TableStopped | When::CheckFailed | When::JobFailed => (Duration::ZERO, None),
    };
    let send = channels.iter().map(|name| (*name).to_owned()).collect();
    AlertRule { when, lasting, above, send }
}

fn rule(file: &File<'_>, field: &str, raw: &RawRule, channels: &[&str]) -> Result<AlertRule> {
    let at = |below: &str| format!("{field}.{below}");
    let word = file.text(&at("when"), &raw.when)?;
    let Some(when) = When::of(&word) else {
        let words = When::ALL.map(When::word);
        let remedy = match nearest(&word, &words) {
            Some(near) => format!("write {near}"),
            None => format!("write {}", listed(&words)),
        };
        return Err(file.refuse_given(&at("when"), &raw.when, "there is no such rule", &remedy));
    };
    let mut rule = built_in(when, channels);
    if let Some(given) = &raw.r#for {
        if !when.lasts() {
            let why = format!("{word} tells of what has happened, however long ago");
            return Err(file.refuse_given(&at("for"), given, &why, "remove the field"));
        }
        rule.lasting = wait(file, &at("for"), Some(given), Span(Duration::ZERO))?;
    }
    if let Some(given) = &raw.above {
        let Some(unit) = when.unit() else {
            let why = format!("{word} has no such limit");
            return Err(file.refuse_given(&at("above"), given, &why, "remove the field"));
        };
        rule.above = Some(match unit {
            Unit::Bytes => file.parse::<Size>(&at("above"), given)?.0,
            Unit::Letters => file.parse::<Letters>(&at("above"), given)?.0,
            Unit::Time => {
                let limit = wait(file, &at("above"), Some(given), Span(Duration::ZERO))?;
                u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)
            }
        });
    }
    if let Some(given) = &raw.send {
        rule.send = names(file, &at("send"), given)?;
        for (name, given) in rule.send.iter().zip(given) {
            if let Some((why, remedy)) = unknown(name, channels) {
                return Err(file.refuse_given(&at("send"), given, &why, &remedy));
            }
        }
    }
    Ok(rule)
}

/// The names of channels, as they stand in a list.
pub(super) fn names(file: &File<'_>, field: &str, given: &[Given]) -> Result<Vec<String>> {
    let names: Vec<Identifier> = super::common::list(file, field, given)?;
    Ok(names.into_iter().map(|Identifier(name)| name).collect())
}

/// What is wrong with a channel's name, and what to write; none where there is such a channel.
pub(super) fn unknown(name: &str, channels: &[&str]) -> Option<(String, String)> {
    if channels.contains(&name) {
        return None;
    }
    let remedy = match (nearest(name, channels), channels.is_empty()) {
        (Some(near), _) => format!("write {near}, or add {name} to the channels of alerts.yaml"),
        (None, true) => format!("add {name} to the channels of alerts.yaml"),
        (None, false) => {
            format!("write {}, or add {name} to the channels of alerts.yaml", listed(channels))
        }
    };
    Some((format!("there is no channel {name}"), remedy))
}
