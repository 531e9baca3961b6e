//! What only shows when all files are seen together.

use std::collections::HashMap;

use super::columns::OURS;
use super::file::{File, listed, nearest};
use super::marts::Mart;
use super::model::{History, Model};
use super::scalar::is_reserved;
use super::{Common, Connector, Job, Schedule, Signal, Spec, TaskKind};
use crate::error::{Error, Kind, Result};
use crate::names::TableName;

/// The files that a spec was read from, for the lines of refusals.
pub(super) struct Files<'e>(pub(super) Vec<File<'e>>);

impl Files<'_> {
    pub(super) fn refuse(&self, path: &str, field: &str, why: &str, remedy: &str) -> Error {
        match self.0.iter().find(|file| file.path == path) {
            Some(file) => file.refuse(field, why, remedy),
            None => Error::new(Kind::Config, format!("{path}: {field}: {why}")).remedy(remedy),
        }
    }

    /// Refuses files that contradict each other.
    pub(super) fn check(&self, spec: &Spec) -> Result<()> {
        self.connectors(spec)?;
        self.asked(spec)?;
        self.tables(spec)?;
        spec.marts.iter().try_for_each(|mart| self.mart(spec, mart))?;
        self.topics(spec)?;
        self.jobs(&spec.jobs)?;
        self.notices(spec)?;
        self.feeds(spec)?;
        self.quality(spec)?;
        self.archives(spec)?;
        self.masks(&spec.models, spec.settings.mask_key.as_ref())?;
        spec.models.iter().try_for_each(|model| self.source(spec, model))
    }

    fn connectors(&self, spec: &Spec) -> Result<()> {
        for (at, connector) in spec.connectors.iter().enumerate() {
            let others = spec.connectors.iter().take(at);
            if let Some((field, what, other)) =
                others.filter_map(|other| shared(connector, other)).next()
            {
                let why = format!("{what} is taken by {other}");
                let remedy = format!("write another {field}, or enabled: false in one of them");
                return Err(self.refuse(&connector.file, field, &why, &remedy));
            }
        }
        let commons: Vec<&Common> = spec.commons().map(|common| &**common).collect();
        for (at, connector) in commons.iter().enumerate().skip(spec.connectors.len()) {
            for other in commons.iter().take(at) {
                let fields = [
                    ("name", &connector.name, &other.name),
                    ("source", &connector.source, &other.source),
                ];
                let Some((field, value, _)) = fields.iter().find(|(_, a, b)| a == b) else {
                    continue;
                };
                let why = format!("{value} is taken by {}", other.file);
                let remedy = format!("write another {field}, or enabled: false in one of them");
                return Err(self.refuse(&connector.file, field, &why, &remedy));
            }
        }
        Ok(())
    }

    fn tables(&self, spec: &Spec) -> Result<()> {
        let calendars = spec.calendars.iter().map(|c| (&c.table, c.declared_in.as_str()));
        let models = spec.models.iter().map(|model| (&model.table, model.declared_in.as_str()));
        let marts = spec.marts.iter().map(|mart| (&mart.table, mart.declared_in.as_str()));
        let mut names: HashMap<&TableName, &str> = HashMap::new();
        for (table, file) in calendars.chain(models).chain(marts) {
            if is_reserved(&table.schema) {
                let why = format!("schema {} is kept for the service and Postgres", table.schema);
                return Err(self.refuse(file, "table", &why, "write another schema"));
            }
            if let Some(other) = names.insert(table, file) {
                let why = format!("{table} is declared by {other} already");
                return Err(self.refuse(file, "table", &why, "write another name, or remove one"));
            }
        }
        let versions = spec.models.iter().filter(|model| model.history == History::Versions);
        for model in versions {
            for name in [model.current_view(), model.current_leaf()] {
                if let Some(file) = names.get(&name) {
                    let why = format!("{name} comes with {} of {}", model.table, model.declared_in);
                    return Err(self.refuse(file, "table", &why, "write another name"));
                }
            }
        }
        Ok(())
    }

    /// Refuses a mart that reads itself, or columns that a declared table does not have.
    fn mart(&self, spec: &Spec, mart: &Mart) -> Result<()> {
        for read in &mart.reads {
            let (file, field) = (mart.declared_in.as_str(), format!("reads.{}", read.table));
            if spec.marts.iter().any(|other| other.table == read.table) {
                let why = "a mart cannot read a mart";
                let remedy = "read the tables that it is computed from";
                return Err(self.refuse(file, &field, why, remedy));
            }
            let Some(model) = spec.models.iter().find(|model| model.table == read.table) else {
                continue;
            };
            let unknown = |name: &&String| {
                model.history != History::Raw
                    && model.column(name).is_none()
                    && !model.has_lookup(name)
                    && !OURS.contains(&name.as_str())
            };
            if let Some(name) = read.when.iter().find(unknown) {
                let why = format!("{} of {} has no column {name}", read.table, model.declared_in);
                let known: Vec<&str> = model.columns.iter().map(|c| c.name.as_str()).collect();
                let remedy = match nearest(name, &known) {
                    Some(near) => format!("write {near}"),
                    None => format!("write one of {}", known.join(", ")),
                };
                return Err(self.refuse(file, &format!("{field}.when"), &why, &remedy));
            }
        }
        Ok(())
    }

    /// Refuses topics of a cluster that no connector reaches. One that is disabled may be named: its
    /// topics are there before it is.
    fn topics(&self, spec: &Spec) -> Result<()> {
        let Some(topics) = &spec.topics else { return Ok(()) };
        let name = &topics.connector;
        let disabled = spec.disabled.iter().any(|connector| connector.name == *name);
        if disabled || spec.kafka.iter().any(|kafka| kafka.name == *name) {
            return Ok(());
        }
        let why = match spec.connectors.iter().any(|postgres| postgres.name == *name) {
            true => format!("{name} is a connector of kind postgres"),
            false => format!("there is no connector {name}"),
        };
        let known: Vec<&str> = spec.kafka.iter().map(|kafka| kafka.name.as_str()).collect();
        let remedy = match known.is_empty() {
            true => "name a connector of kind kafka, such as connectors/shop-kafka.yaml".to_owned(),
            false => format!("write {}", listed(&known)),
        };
        Err(self.refuse(&topics.file, "connector", &why, &remedy))
    }

    /// Refuses jobs of one name, and those that wait for a job that is not there or for each other.
    fn jobs(&self, jobs: &[Job]) -> Result<()> {
        let names: Vec<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
        for (at, job) in jobs.iter().enumerate() {
            if let Some(other) = jobs.iter().take(at).find(|other| other.name == job.name) {
                let why = format!("{} is taken by {}", job.name, other.file);
                return Err(self.refuse(&job.file, "name", &why, "write another name"));
            }
            let mut waits: Vec<(String, &str)> = Vec::new();
            if let Schedule::After(before) = &job.schedule {
                waits.push(("schedule.after".to_owned(), before));
            }
            for task in &job.tasks {
                if let TaskKind::Sensor { signal: Signal::Job(of), .. } = &task.kind {
                    waits.push((format!("tasks.{}.sensor.job", task.name), of));
                }
            }
            let unknown = waits.iter().find(|(_, of)| !names.contains(of) || *of == job.name);
            if let Some((field, of)) = unknown {
                let why = match *of == job.name {
                    true => "a job does not wait for itself".to_owned(),
                    false => format!("there is no job {of}"),
                };
                let others: Vec<&str> =
                    names.iter().copied().filter(|name| *name != job.name).collect();
                let remedy = match others.is_empty() {
                    true if *of == job.name => "remove it".to_owned(),
                    true => format!("add jobs/{of}.yaml"),
                    false => format!("write {}", listed(&others)),
                };
                return Err(self.refuse(&job.file, field, &why, &remedy));
            }
            let after = |name: &str| match &jobs.iter().find(|job| job.name == name)?.schedule {
                Schedule::After(before) => Some(before.as_str()),
                _ => None,
            };
            let chain = std::iter::successors(after(&job.name), |name| after(name));
            if chain.take(jobs.len()).any(|name| name == job.name) {
                let why = "the jobs follow each other in a circle";
                let remedy = "give one of them another schedule";
                return Err(self.refuse(&job.file, "schedule.after", why, remedy));
            }
        }
        Ok(())
    }

    /// Refuses a table that no connector feeds, or not with all its columns.
    fn source(&self, spec: &Spec, model: &Model) -> Result<()> {
        let (file, from) = (model.declared_in.as_str(), &model.from);
        if let Some(asked) = spec.asked(&from.source) {
            return self.extracted_table(spec, model, asked);
        }
        if from.is_endpoint() && !spec.rests(&from.source) {
            let remedy = "write source.schema.table, such as shop.public.users, where source is a connector's; \
                          an endpoint of a connector of kind http has two parts";
            return Err(self.refuse(
                file,
                "from",
                &format!("{:?} is not a table of a source", from.to_string()),
                remedy,
            ));
        }
        let of_topics = spec.kafka.iter().any(|connector| connector.source == from.source);
        if of_topics || spec.rests(&from.source) {
            // topics tell what tables they are of; a connector is disabled without touching its tables' files
            return Ok(());
        }
        let Some(connector) = spec.connectors.iter().find(|c| c.source == from.source) else {
            let why = format!("no enabled connector has the source {}", from.source);
            let remedy = match spec.commons().map(|c| c.source.as_str()).collect::<Vec<_>>() {
                known if known.is_empty() => {
                    format!("add connectors/{0}.yaml with source: {0}", from.source)
                }
                known => format!(
                    "add a connector with source: {}, or write one of {}",
                    from.source,
                    known.join(", ")
                ),
            };
            return Err(self.refuse(file, "from", &why, &remedy));
        };
        if !connector.takes(&from.table) {
            let why = format!("{} does not take {}", connector.file, from.table);
            let remedy = "add it to the connector's tables, or remove it from its exclude";
            return Err(self.refuse(file, "from", &why, remedy));
        }
        let hidden = model.columns.iter().find(|c| connector.excludes(&from.table, &c.from));
        if let Some(column) = hidden {
            let field = format!("columns.{}", column.name);
            let why = format!("{} excludes {}.{}", connector.file, from.table, column.from);
            let remedy = "remove the column here, or from the connector's exclude";
            return Err(self.refuse(file, &field, &why, remedy));
        }
        if model.horizon.is_some() {
            let why =
                "only tables that topics feed have one: a Postgres tells its changes in order";
            return Err(self.refuse(file, "horizon", why, "remove the field"));
        }
        Ok(())
    }
}

/// What two connectors both claim: the field, its value, and the other's file.
fn shared<'c>(
    connector: &'c Connector,
    other: &'c Connector,
) -> Option<(&'static str, String, &'c str)> {
    // slots belong to a server, publications to a database
    let same_server = connector.endpoint.hosts() == other.endpoint.hosts();
    let same_database = same_server && connector.endpoint.database() == other.endpoint.database();
    let claims = [
        ("name", true, &connector.name, &other.name),
        ("source", true, &connector.source, &other.source),
        ("slot", same_server, &connector.slot, &other.slot),
        ("publication", same_database, &connector.publication, &other.publication),
    ];
    let shared = claims.into_iter().find(|(_, comparable, a, b)| *comparable && a == b);
    shared.map(|(field, _, value, _)| (field, value.clone(), other.file.as_str()))
}
