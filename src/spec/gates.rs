//! Who names checks: tasks that judge some of them, marts that wait for them; and what of checks only shows when
//! all files are seen together.

use serde::Deserialize;

use super::Spec;
use super::check::Files;
use super::common;
use super::file::{File, Given, listed, nearest};
use super::model::{History, Model};
use super::pattern::TablePattern;
use super::quality::{CHECK_KINDS, Check, CheckKind, Relationship};
use super::scalar::Identifier;
use super::tasks::TaskKind;
use crate::error::Result;

/// Which checks a gate or a person means.
#[derive(Clone, Debug, PartialEq)]
pub enum Selection {
    /// Those of a tag.
    Tag(String),
    /// Those of tables, of some kinds or all of them.
    Tables {
        /// The tables.
        tables: Vec<TablePattern>,
        /// The kinds' words; all where there are none.
        kinds: Vec<String>,
    },
}

impl Selection {
    /// Whether it means this one.
    pub fn means(&self, check: &Check) -> bool {
        match self {
            Selection::Tag(tag) => check.tag.as_ref() == Some(tag),
            Selection::Tables { tables, kinds } => {
                tables.iter().any(|pattern| pattern.matches(&check.table))
                    && (kinds.is_empty() || kinds.iter().any(|kind| kind == check.kind.word()))
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSelection {
    tag: Option<Given>,
    tables: Option<Vec<Given>>,
    #[serde(default)]
    kinds: Vec<Given>,
}

/// Reads which checks a task means.
pub(super) fn selection(
    file: &File<'_>,
    field: &str,
    raw: Option<&RawSelection>,
) -> Result<TaskKind> {
    let at = |below: &str| format!("{field}.{below}");
    let refuse = |why: &str| {
        let remedy = "write one of tag: NAME and tables: [schema.table]";
        Err(file.refuse(field, why, remedy))
    };
    let kinds = raw.map_or(&[][..], |raw| &raw.kinds);
    match raw.map(|raw| (&raw.tag, &raw.tables)) {
        Some((Some(_), None)) if !kinds.is_empty() => {
            let why = "only the checks of tables are told apart by kinds";
            Err(file.refuse(&at("kinds"), why, "remove the field"))
        }
        Some((Some(tag), None)) => {
            let Identifier(tag) = file.parse(&at("tag"), tag)?;
            Ok(TaskKind::Checks(Selection::Tag(tag)))
        }
        Some((None, Some(tables))) => {
            let kinds = kinds.iter().map(|given| {
                file.choice(&at("kinds"), Some(given), &CHECK_KINDS).map(str::to_owned)
            });
            Ok(TaskKind::Checks(Selection::Tables {
                tables: common::list(file, &at("tables"), tables)?,
                kinds: kinds.collect::<Result<_>>()?,
            }))
        }
        Some((Some(_), Some(_))) => refuse("it names checks in two ways"),
        _ => refuse("it names no check"),
    }
}

impl Files<'_> {
    /// Refuses checks that cannot be judged, and gates and marts that name none.
    pub(super) fn quality(&self, spec: &Spec) -> Result<()> {
        for check in &spec.checks {
            self.freshness(spec, check)?;
            self.relationships(spec, check)?;
        }
        let tags: Vec<&str> = spec.checks.iter().filter_map(|check| check.tag.as_deref()).collect();
        for mart in &spec.marts {
            let Some(tag) = &mart.hold_on else { continue };
            if let Some((why, remedy)) = unknown(tag, &tags) {
                return Err(self.refuse(&mart.declared_in, "hold_on", &why, &remedy));
            }
            let own = |check: &&Check| check.table == mart.table && check.tag.as_ref() == Some(tag);
            if spec.checks.iter().any(|check| own(&check)) {
                let why = format!("{tag} is of a check of its own rows: it would hold for ever");
                let remedy = "give the mart's own checks another tag";
                return Err(self.refuse(&mart.declared_in, "hold_on", &why, remedy));
            }
        }
        for job in &spec.jobs {
            for task in &job.tasks {
                let TaskKind::Checks(selection) = &task.kind else { continue };
                if spec.checks.iter().any(|check| selection.means(check)) {
                    continue;
                }
                let field = format!("tasks.{}.checks", task.name);
                let (why, remedy) = match selection {
                    Selection::Tag(tag) => unknown(tag, &tags).unwrap_or_default(),
                    Selection::Tables { .. } => (
                        "no check is meant".to_owned(),
                        "name tables whose files have checks, and kinds of these".to_owned(),
                    ),
                };
                return Err(self.refuse(&job.file, &field, &why, &remedy));
            }
        }
        Ok(())
    }

    /// Topics do not tell how fresh their tables are; and only a calendar of the files is known to have days off.
    fn freshness(&self, spec: &Spec, check: &Check) -> Result<()> {
        let CheckKind::Freshness(freshness) = &check.kind else { return Ok(()) };
        let known: Vec<_> =
            spec.calendars.iter().map(|calendar| calendar.table.to_string()).collect();
        if let Some(table) = freshness.calendar.as_ref().map(ToString::to_string)
            && !known.contains(&table)
        {
            let why = format!("freshness.calendar: {table} is no calendar");
            let remedy = match known.is_empty() {
                true => format!("add a file to schemas/ with table: {table} and layout: calendar"),
                false => format!("write one of {}", known.join(", ")),
            };
            return Err(self.refuse(&check.declared_in, "checks", &why, &remedy));
        }
        let of_topics = |model: &&Model| {
            model.table == check.table
                && spec.kafka.iter().any(|kafka| kafka.source == model.from.source)
        };
        match spec.models.iter().find(of_topics) {
            None => Ok(()),
            Some(model) => {
                let why = format!("{} is fed by topics, which do not tell it", model.table);
                let remedy = "remove the check; the alert stream_stalled tells of a standstill";
                Err(self.refuse(&check.declared_in, "checks", &why, remedy))
            }
        }
    }

    /// A declared table is known by its columns.
    fn relationships(&self, spec: &Spec, check: &Check) -> Result<()> {
        let CheckKind::Relationships(all) = &check.kind else { return Ok(()) };
        for Relationship { table, other, .. } in all {
            let Some(model) = spec.models.iter().find(|model| model.table == *table) else {
                continue;
            };
            if model.history == History::Raw
                || model.column(other).is_some()
                || model.has_lookup(other)
            {
                continue;
            }
            let why = format!("{table} of {} has no column {other}", model.declared_in);
            let known: Vec<&str> = model.columns.iter().map(|c| c.name.as_str()).collect();
            let remedy = match nearest(other, &known) {
                Some(near) => format!("write {table}.{near}"),
                None => format!("write one of {}", known.join(", ")),
            };
            return Err(self.refuse(&check.declared_in, "checks", &why, &remedy));
        }
        Ok(())
    }
}

/// What is wrong with a tag, and what to write; none where a check has it.
fn unknown(tag: &str, tags: &[&str]) -> Option<(String, String)> {
    if tags.contains(&tag) {
        return None;
    }
    let mut known = tags.to_vec();
    known.sort_unstable();
    known.dedup();
    let remedy = match (nearest(tag, &known), known.is_empty()) {
        (Some(near), _) => format!("write {near}, or add tag: {tag} to a check"),
        (None, true) => format!("add tag: {tag} to a check"),
        (None, false) => format!("write {}, or add tag: {tag} to a check", listed(&known)),
    };
    Some((format!("no check has the tag {tag}"), remedy))
}
