//! Tasks that make backups, and those that try them.

use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::time::Duration;

use serde::Deserialize;

use super::Spec;
use super::check::Files;
use super::file::{File, Given};
use super::pattern::TablePattern;
use super::scalar::Scalar;
use super::tasks::{TaskKind, wait};
use super::units::Span;
use crate::error::Result;

/// A backup.
#[derive(Clone, Debug, PartialEq)]
pub struct Backup {
    /// What of the warehouse it is.
    pub kind: BackupKind,
    /// The folder of the root that it goes to.
    pub folder: String,
    /// How many are kept.
    pub keep: usize,
    /// The folder of the root that has the log of the server from the oldest copy on.
    pub wal: Option<String>,
}

/// What of the warehouse a backup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupKind {
    /// Its database, as pg_dump writes it.
    Dump,
    /// Its whole server, as pg_basebackup copies it.
    Base,
}

/// A try of the newest backup.
#[derive(Clone, Debug, PartialEq)]
pub struct Drill {
    /// The folder of the root that has the backups.
    pub folder: String,
    /// The tables whose rows are counted.
    pub compare: Vec<TablePattern>,
    /// The folder of the root that has the log which is replayed.
    pub wal: Option<String>,
    /// How long before now that ends; all of it where none is given.
    pub ago: Option<Duration>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBackup {
    dump: Option<Given>,
    base: Option<Given>,
    keep: Option<Given>,
    wal: Option<Given>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDrill {
    from: Given,
    compare: Option<Vec<Given>>,
    wal: Option<Given>,
    ago: Option<Given>,
}

/// How many backups are kept.
struct Many(usize);

impl Scalar for Many {
    const REMEDY: &'static str = "write a whole number from 1 to 1000";

    fn read(text: &str) -> Result<Many, String> {
        let number = text.parse().ok().filter(|number| (1..=1000).contains(number));
        number.map(Many).ok_or_else(|| format!("{text:?} is not a number that fits"))
    }
}

/// Reads what a task backs up.
pub(super) fn backup(file: &File<'_>, field: &str, raw: Option<&RawBackup>) -> Result<TaskKind> {
    const KEEP: Many = Many(7);
    let at = |below: &str| format!("{field}.{below}");
    let Some(raw) = raw else { return Err(file.refuse(field, "it is missing", "add it")) };
    let (kind, below, given) = match (&raw.dump, &raw.base) {
        (Some(given), None) => (BackupKind::Dump, at("dump"), given),
        (None, Some(given)) => (BackupKind::Base, at("base"), given),
        _ => {
            let remedy = "write one of dump and base with a folder, such as dump: backups";
            return Err(file.refuse(field, "it does not say what is backed up", remedy));
        }
    };
    let wal = raw.wal.as_ref().map(|given| folder(file, &at("wal"), given)).transpose()?;
    let folder = folder(file, &below, given)?;
    if let (Some(given), BackupKind::Dump) = (&raw.wal, kind) {
        let why = "a dump has no use for the server's log";
        let remedy = "write base in place of dump, or remove the field";
        return Err(file.refuse_given(&at("wal"), given, why, remedy));
    }
    if let Some(given) = raw.wal.as_ref().filter(|_| wal.as_ref() == Some(&folder)) {
        let why = "the copies lie there";
        return Err(file.refuse_given(&at("wal"), given, why, "name another folder"));
    }
    let keep = file.parse_or(&at("keep"), raw.keep.as_ref(), KEEP)?.0;
    Ok(TaskKind::Backup(Backup { kind, folder, keep, wal }))
}

/// Reads which backups a task tries.
pub(super) fn drill(file: &File<'_>, field: &str, raw: Option<&RawDrill>) -> Result<TaskKind> {
    let at = |below: &str| format!("{field}.{below}");
    let Some(raw) = raw else { return Err(file.refuse(field, "it is missing", "add it")) };
    let compare = raw.compare.as_deref().unwrap_or_default();
    let mut compare: Vec<TablePattern> = super::common::list(file, &at("compare"), compare)?;
    if compare.is_empty() {
        compare.extend("*.*".parse::<TablePattern>());
    }
    let wal = raw.wal.as_ref().map(|given| folder(file, &at("wal"), given)).transpose()?;
    let ago =
        raw.ago.as_ref().map(|given| wait(file, &at("ago"), Some(given), Span(Duration::ZERO)));
    let ago = ago.transpose()?;
    if let Some(given) = raw.ago.as_ref().filter(|_| wal.is_none()) {
        let why = "only the server's log tells what was when";
        return Err(file.refuse_given(&at("ago"), given, why, "add wal, or remove the field"));
    }
    let folder = folder(file, &at("from"), &raw.from)?;
    Ok(TaskKind::RestoreDrill(Drill { folder, compare, wal, ago }))
}

/// A folder below the root.
fn folder(file: &File<'_>, field: &str, given: &Given) -> Result<String> {
    let path = file.text(field, given)?;
    let parts: Option<Vec<&str>> = Path::new(&path)
        .components()
        .map(|part| match part {
            Component::Normal(part) => part.to_str(),
            _ => None,
        })
        .collect();
    // however it is written, it is one folder
    let Some(parts) = parts.filter(|parts| !parts.is_empty()) else {
        let why = format!("{path:?} is not a folder below the one of siltstone.yaml");
        return Err(file.refuse_given(field, given, &why, "write one, such as backups"));
    };
    Ok(parts.join("/"))
}

impl Files<'_> {
    /// Refuses an archive of the log that two folders of copies have: each would let go what the other needs.
    pub(super) fn archives(&self, spec: &Spec) -> Result<()> {
        let mut known: BTreeMap<&str, &str> = BTreeMap::new();
        for job in &spec.jobs {
            for task in &job.tasks {
                let TaskKind::Backup(Backup { folder, wal: Some(wal), .. }) = &task.kind else {
                    continue;
                };
                let copies = known.entry(wal).or_insert(folder);
                if copies != folder {
                    let field = format!("tasks.{}.backup.wal", task.name);
                    let why = format!("{wal} goes back as far as the copies in {copies} need it");
                    let remedy = "name the same folder of copies, or another one for the log";
                    return Err(self.refuse(&job.file, &field, &why, remedy));
                }
            }
        }
        Ok(())
    }
}
