//! Finds the files of an installation and reads them all.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::alerts::{self, Alerts};
use super::check::Files;
use super::common::Common;
use super::connector::{self, Connector, Disabled, Read};
use super::database::Database;
use super::env::Env;
use super::extracts::Asked;
use super::file::File;
use super::http::Http;
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
    /// The enabled connectors of kind http.
    pub http: Vec<Http>,
    /// The enabled connectors of kind postgres without a stream.
    pub databases: Vec<Database>,
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
    /// Which folders and files were there, of those that may be absent.
    found: Vec<&'static str>,
}

const ALERTS: &str = "alerts.yaml";

const TOPICS: &str = "topics.yaml";

/// The folders that may be absent.
const FOLDERS: [&str; 4] = ["connectors", "schemas", "sql/marts", "jobs"];

/// Reads `siltstone.yaml` at `path` and everything below its folder.
pub fn load(path: &Path, env: &Env) -> Result<Spec> {
    let root = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().map(PathBuf::from).unwrap_or_default();
    let settings = settings::read(&open(root, &name, env)?, root)?;
    let found = found(root)?;
    let mut files = Vec::new();
    let Sources { connectors, kafka, http, databases, disabled } =
        read_sources(root, env, &mut files)?;
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
    let topics = read_topics(root, env, &mut files)?;
    let jobs = read_jobs(root, env, &settings, &mut files)?;
    let alerts = read_alerts(root, env, &mut files)?;
    let notes = unheeded(&models, &jobs);
    let mut spec = Spec {
        root: root.to_owned(),
        settings,
        connectors,
        kafka,
        http,
        databases,
        models,
        calendars,
        marts,
        checks,
        jobs,
        topics,
        alerts,
        disabled,
        notes,
        found,
    };
    Files(files).check(&spec)?;
    let resting = spec.models.iter().filter(|model| spec.rests(&model.from.source));
    let resting = resting.map(|model| {
        let (file, table, source) = (&model.declared_in, &model.table, &model.from.source);
        format!("{file}: nothing feeds {table}: the connector of {source} is disabled")
    });
    spec.notes.extend(resting.collect::<Vec<_>>());
    let Spec { settings, connectors, kafka, models, .. } = &mut spec;
    let commons = connectors.iter_mut().map(|connector| &mut connector.common);
    for common in commons.chain(kafka.iter_mut().map(|connector| &mut connector.common)) {
        let masks = Masks::of(&common.source, models, settings.mask_key.as_ref());
        *common = Arc::new(Common { masks, ..(**common).clone() });
    }
    Ok(spec)
}

/// The files of `connectors`.
#[derive(Default)]
struct Sources {
    connectors: Vec<Connector>,
    kafka: Vec<Kafka>,
    http: Vec<Http>,
    databases: Vec<Database>,
    disabled: Vec<Disabled>,
}

fn read_sources<'e>(root: &Path, env: &'e Env, files: &mut Vec<File<'e>>) -> Result<Sources> {
    let mut sources = Sources::default();
    for path in files_below(root, Path::new("connectors"), &YAML)? {
        let file = open(root, &path, env)?;
        match connector::read(&file)? {
            Read::Disabled(connector) => sources.disabled.push(connector),
            Read::Postgres(connector) => sources.connectors.push(*connector),
            Read::Kafka(connector) => sources.kafka.push(*connector),
            Read::Http(connector) => sources.http.push(*connector),
            Read::Database(connector) => sources.databases.push(*connector),
        }
        files.push(file);
    }
    Ok(sources)
}

/// Reads them again. A folder or file that is away now, of those that `was` read, is none that a person emptied:
/// what was declared in it must not count as gone while it is on its way.
pub fn load_again(path: &Path, env: &Env, was: &Spec) -> Result<Spec> {
    // before, for a clearer word than that a job names a table that nobody declares
    refuse_away(was, &found(&was.root)?)?;
    let spec = load(path, env)?;
    refuse_away(was, &found(&was.root)?)?;
    Ok(spec)
}

fn found(root: &Path) -> Result<Vec<&'static str>> {
    let mut found = Vec::new();
    for name in FOLDERS.into_iter().chain([TOPICS, ALERTS]) {
        if is_there(root, Path::new(name))? {
            found.push(name);
        }
    }
    Ok(found)
}

fn refuse_away(was: &Spec, found: &[&str]) -> Result<()> {
    let Some(away) = was.found.iter().find(|name| !found.contains(name)) else { return Ok(()) };
    let what = format!("{} was there and is not now", was.root.join(away).display());
    let remedy = match FOLDERS.contains(away) {
        true => "put it back; where nothing of it is meant any more, make an empty folder",
        false => "put it back; where nothing of it is meant any more, restart",
    };
    Err(Error::new(Kind::Config, what).remedy(remedy))
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

    /// Whether a source has connectors that are disabled, and no other: its tables stay as they are.
    pub(super) fn rests(&self, source: &str) -> bool {
        self.disabled.iter().any(|disabled| disabled.source == source)
            && self.commons().all(|common| common.source != source)
            && self.asked(source).is_none()
    }

    /// The source of this name, if it has no stream and jobs ask it.
    pub fn asked(&self, source: &str) -> Option<Asked<'_>> {
        let http = self.http.iter().find(|http| http.source == source).map(Asked::Http);
        let database = || self.databases.iter().find(|database| database.source == source);
        http.or_else(|| database().map(Asked::Database))
    }

    /// Whether tasks of jobs bring the rows of a declared table, and no stream does.
    pub fn is_extracted(&self, model: &Model) -> bool {
        self.asked(&model.from.source).is_some()
    }

    /// How many connectors have no stream.
    pub fn asked_count(&self) -> usize {
        self.http.len() + self.databases.len()
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

fn read_topics<'e>(root: &Path, env: &'e Env, files: &mut Vec<File<'e>>) -> Result<Option<Topics>> {
    if !is_there(root, Path::new(TOPICS))? {
        return Ok(None);
    }
    let file = open(root, Path::new(TOPICS), env)?;
    let topics = topics::read(&file)?;
    files.push(file);
    Ok(Some(topics))
}

fn read_alerts<'e>(root: &Path, env: &'e Env, files: &mut Vec<File<'e>>) -> Result<Option<Alerts>> {
    if !is_there(root, Path::new(ALERTS))? {
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

/// The files below a folder that end so, in the order of their names. Links are followed; names that begin
/// with a dot are not ours: a mounted ConfigMap keeps every file a second time below `..data`. Only a folder
/// that is not there has no files: of one that cannot be read nobody knows, and what was declared in it must
/// not count as gone.
fn files_below(root: &Path, folder: &Path, ends: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if !is_there(root, folder)? {
        return Ok(found);
    }
    let failed = |error| unreadable(root, folder, error);
    for entry in fs::read_dir(root.join(folder)).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = folder.join(name);
        match fs::metadata(root.join(&path)) {
            Ok(of) if of.is_dir() => found.extend(files_below(root, &path, ends)?),
            // a link that leads nowhere is refused when it is opened
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(unreadable(root, &path, error));
            }
            _ if path.extension().is_some_and(|end| ends.iter().any(|e| end == *e)) => {
                found.push(path);
            }
            _ => {}
        }
    }
    found.sort();
    Ok(found)
}

/// Whether there is something at a path, be it a link that leads nowhere.
fn is_there(root: &Path, path: &Path) -> Result<bool> {
    match fs::symlink_metadata(root.join(path)) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(unreadable(root, path, error)),
    }
}

fn unreadable(root: &Path, path: &Path, error: std::io::Error) -> Error {
    Error::new(Kind::Config, format!("{} cannot be read", root.join(path).display()))
        .remedy("let the user that siltstone runs as read it, and all below it")
        .because(error)
}
