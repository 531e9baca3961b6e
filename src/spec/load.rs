//! Finds the files of an installation and reads them all.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::alerts::{self, Alerts};
use super::check::Files;
use super::common::Common;
use super::connector::{self, Connector, Disabled, Read};
use super::env::Env;
use super::file::File;
use super::jobs::{self, Job};
use super::kafka::Kafka;
use super::marts::{self, Mart};
use super::mask::Masks;
use super::model::{Calendar, Model};
use super::quality::Check;
use super::settings::{self, Settings};
use super::table::{self, Declared};
use super::tasks::{Task, TaskKind};
use super::topics::{self, Topics};
use crate::error::{Error, Kind, Result};

/// All files of an installation, validated.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The folder that all files lie below.
    pub root: PathBuf,
    /// `siltstone.yaml`.
    pub settings: Settings,
    /// The enabled connectors of kind postgres.
    pub connectors: Vec<Connector>,
    /// The enabled connectors of kind kafka.
    pub kafka: Vec<Kafka>,
    /// The declared tables.
    pub models: Vec<Model>,
    /// The declared calendars.
    pub calendars: Vec<Calendar>,
    /// The jobs.
    pub jobs: Vec<Job>,
    /// The declared marts.
    pub marts: Vec<Mart>,
    /// What must hold of the rows of tables and marts.
    pub checks: Vec<Check>,
    /// `topics.yaml`, where there is one.
    pub topics: Option<Topics>,
    /// `alerts.yaml`, where there is one.
    pub alerts: Option<Alerts>,
    /// The connectors that are disabled.
    pub disabled: Vec<Disabled>,
    /// What a person should know about the files, though nothing is wrong.
    pub notes: Vec<String>,
}

const ALERTS: &str = "alerts.yaml";

const TOPICS: &str = "topics.yaml";

/// Reads `siltstone.yaml` at `path` and everything below its folder.
pub fn load(path: &Path, env: &Env) -> Result<Spec> {
    let root = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().map(PathBuf::from).unwrap_or_default();
    let settings = settings::read(&open(root, &name, env)?, root)?;
    let (mut connectors, mut kafka, mut disabled) = (Vec::new(), Vec::new(), Vec::new());
    let mut files = Vec::new();
    for path in files_below(root, Path::new("connectors"), &YAML)? {
        let file = open(root, &path, env)?;
        match connector::read(&file)? {
            Read::Disabled(connector) => disabled.push(connector),
            Read::Postgres(connector) => connectors.push(*connector),
            Read::Kafka(connector) => kafka.push(*connector),
        }
        files.push(file);
    }
    let (mut models, mut calendars, mut checks) = (Vec::new(), Vec::new(), Vec::new());
    let below = |path: &str| fs::read_to_string(root.join(path));
    for path in files_below(root, Path::new("schemas"), &YAML)? {
        let file = open(root, &path, env)?;
        let folder = root.join(path.parent().unwrap_or(Path::new(".")));
        let beside = |name: &str| fs::read_to_string(folder.join(name));
        let (declared, of_table) = table::read(&file, &beside, &below)?;
        checks.extend(of_table);
        match declared {
            Declared::Model(model) => models.push(*model),
            Declared::Calendar(calendar) => calendars.push(calendar),
        }
        files.push(file);
    }
    let marts = read_marts(root, env, &mut files, &mut checks)?;
    let mut declared = None;
    if root.join(TOPICS).exists() {
        let file = open(root, Path::new(TOPICS), env)?;
        declared = Some(topics::read(&file)?);
        files.push(file);
    }
    let topics = declared;
    let jobs = read_jobs(root, env, &settings, &mut files)?;
    let alerts = read_alerts(root, env, &mut files)?;
    let notes = unheeded(&models, &jobs);
    let mut spec = Spec {
        root: root.to_owned(),
        settings,
        connectors,
        kafka,
        models,
        calendars,
        marts,
        checks,
        jobs,
        topics,
        alerts,
        disabled,
        notes,
    };
    Files(files).check(&spec)?;
    let Spec { settings, connectors, kafka, models, .. } = &mut spec;
    let commons = connectors.iter_mut().map(|connector| &mut connector.common);
    for common in commons.chain(kafka.iter_mut().map(|connector| &mut connector.common)) {
        let masks = Masks::of(&common.source, models, settings.mask_key.as_ref());
        *common = Arc::new(Common { masks, ..(**common).clone() });
    }
    Ok(spec)
}

/// Reads `siltstone.yaml` at `path` alone: what is needed to reach the warehouse.
pub fn load_settings(path: &Path, env: &Env) -> Result<Settings> {
    let root = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().map(PathBuf::from).unwrap_or_default();
    settings::read(&open(root, &name, env)?, root)
}

impl Spec {
    /// What every enabled connector has, of whatever kind.
    pub fn commons(&self) -> impl Iterator<Item = &Arc<Common>> {
        let postgres = self.connectors.iter().map(|connector| &connector.common);
        postgres.chain(self.kafka.iter().map(|connector| &connector.common))
    }
}

/// Raw tables whose `keep` nothing heeds.
fn unheeded(models: &[Model], jobs: &[Job]) -> Vec<String> {
    let tasks = || jobs.iter().flat_map(|job| &job.tasks);
    let heeded = |model: &&Model| {
        let means = |task: &Task| match &task.kind {
            TaskKind::Retention(retention) => retention.means(&model.table),
            _ => false,
        };
        model.keep.is_none() || tasks().any(means)
    };
    let unheeded = models.iter().filter(|model| !heeded(model));
    let note = |model: &Model| {
        format!("{}: no job has a task of retention that means {}", model.declared_in, model.table)
    };
    unheeded.map(note).collect()
}

fn read_marts<'e>(
    root: &Path,
    env: &'e Env,
    files: &mut Vec<File<'e>>,
    checks: &mut Vec<Check>,
) -> Result<Vec<Mart>> {
    let below = |path: &str| fs::read_to_string(root.join(path));
    let mut marts = Vec::new();
    for path in files_below(root, Path::new("sql/marts"), &["sql"])? {
        let (shown, bytes) = (path.display().to_string(), bytes(root, &path)?);
        let (mart, of_mart, file) = marts::read(shown, bytes, env, &below)?;
        marts.push(mart);
        checks.extend(of_mart);
        files.push(file);
    }
    Ok(marts)
}

fn read_jobs<'e>(
    root: &Path,
    env: &'e Env,
    settings: &Settings,
    files: &mut Vec<File<'e>>,
) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    for path in files_below(root, Path::new("jobs"), &YAML)? {
        let file = open(root, &path, env)?;
        let below = |path: &str| fs::read_to_string(root.join(path));
        jobs.push(jobs::read(&file, &settings.timezone, &below)?);
        files.push(file);
    }
    Ok(jobs)
}

fn read_alerts<'e>(root: &Path, env: &'e Env, files: &mut Vec<File<'e>>) -> Result<Option<Alerts>> {
    if !root.join(ALERTS).exists() {
        return Ok(None);
    }
    let file = open(root, Path::new(ALERTS), env)?;
    let alerts = alerts::read(&file, &|path| fs::read_to_string(root.join(path)))?;
    files.push(file);
    Ok(Some(alerts))
}

fn open<'e>(root: &Path, path: &Path, env: &'e Env) -> Result<File<'e>> {
    File::new(path.display().to_string(), bytes(root, path)?, env)
}

fn bytes(root: &Path, path: &Path) -> Result<Vec<u8>> {
    fs::read(root.join(path)).map_err(|error| {
        let what = format!("{} cannot be read", root.join(path).display());
        Error::new(Kind::Config, what)
            .remedy("name the file with --config, or start from the README's example")
            .because(error)
    })
}

/// What YAML files end in.
const YAML: [&str; 2] = ["yaml", "yml"];

/// The files below a folder that end so, in the order of their names.
fn files_below(root: &Path, folder: &Path, ends: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(root.join(folder)) else { return Ok(found) };
    for entry in entries {
        let unreadable = |error: std::io::Error| {
            Error::new(Kind::Config, format!("{} cannot be read", folder.display())).because(error)
        };
        let entry = entry.map_err(unreadable)?;
        let path = folder.join(entry.file_name());
        if entry.file_type().map_err(unreadable)?.is_dir() {
            found.extend(files_below(root, &path, ends)?);
        } else if path.extension().is_some_and(|end| ends.iter().any(|e| end == *e)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
