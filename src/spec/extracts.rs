//! Tables without a stream, whose rows tasks of jobs bring: what of their files only shows when all are seen
//! together.

use std::collections::HashSet;

use super::check::Files;
use super::condition::Condition;
use super::database::Database;
use super::file::{listed, nearest};
use super::http::{Http, HttpEndpoint};
use super::model::{History, Model, ModelColumn, SourceName};
use super::{Job, Spec, TaskKind};
use crate::error::Result;
use crate::names::TableName;

/// A source without a stream, which jobs ask.
#[derive(Clone, Copy, Debug)]
pub enum Asked<'s> {
    /// An API.
    Http(&'s Http),
    /// A Postgres.
    Database(&'s Database),
}

/// Why something is refused, and what to write.
type Refusal = (String, String);

impl<'s> Asked<'s> {
    /// The logical source, and the file that it stands in.
    fn place(self) -> (&'s str, &'s str) {
        match self {
            Asked::Http(http) => (&http.source, &http.file),
            Asked::Database(database) => (&database.source, &database.file),
        }
    }

    /// Refuses what it does not have.
    fn has(self, from: &SourceName) -> Result<(), Refusal> {
        match self {
            Asked::Http(http) => endpoint(http, from).map(|_| ()),
            Asked::Database(database) => table(database, from),
        }
    }
}

fn endpoint<'a>(api: &'a Http, from: &SourceName) -> Result<&'a HttpEndpoint, Refusal> {
    let known: Vec<&str> = api.endpoints.iter().map(|of| of.name.as_str()).collect();
    let wanted = if from.is_endpoint() { from.table.name.clone() } else { from.table.to_string() };
    api.endpoint(&wanted).ok_or_else(|| {
        let near = nearest(&wanted, &known).map_or_else(|| listed(&known), str::to_owned);
        let remedy = format!("write {}.{near}, or add the endpoint", from.source);
        (format!("{} has no endpoint {wanted}", api.file), remedy)
    })
}

fn table(database: &Database, from: &SourceName) -> Result<(), Refusal> {
    if from.is_endpoint() {
        let remedy =
            format!("write {}.SCHEMA.TABLE, such as {}.public.users", from.source, from.source);
        return Err((format!("{:?} is not a table of a source", from.to_string()), remedy));
    }
    if !database.takes(&from.table) {
        let remedy = "add it to the connector's tables, or remove it from its exclude".to_owned();
        return Err((format!("{} does not take {}", database.file, from.table), remedy));
    }
    Ok(())
}

impl Files<'_> {
    /// Refuses a connector without a stream of a name or source that another one has.
    pub(super) fn asked(&self, spec: &Spec) -> Result<()> {
        let streams = spec.commons().map(|common| (&common.name, &common.source, &common.file));
        let apis = spec.http.iter().map(|http| (&http.name, &http.source, &http.file));
        let asked: Vec<_> =
            apis.chain(spec.databases.iter().map(|d| (&d.name, &d.source, &d.file))).collect();
        let known: Vec<_> = streams.chain(asked.iter().copied()).collect();
        for (name, source, file) in asked {
            for (other, other_source, other_file) in known.iter().filter(|(.., of)| *of != file) {
                let fields = [("name", name, *other), ("source", source, *other_source)];
                let Some((field, value, _)) = fields.iter().find(|(_, a, b)| a == b) else {
                    continue;
                };
                let why = format!("{value} is taken by {other_file}");
                let remedy = format!("write another {field}, or enabled: false in one of them");
                return Err(self.refuse(file, field, &why, &remedy));
            }
        }
        Ok(())
    }

    /// Refuses a table of a source without a stream that it cannot be, or that no raw table stands before.
    pub(super) fn extracted_table(
        &self,
        spec: &Spec,
        model: &Model,
        asked: Asked<'_>,
    ) -> Result<()> {
        let refuse = |field: &str, why: &str, remedy: &str| {
            Err(self.refuse(&model.declared_in, field, why, remedy))
        };
        if let Err((why, remedy)) = asked.has(&model.from) {
            return refuse("from", &why, &remedy);
        }
        if model.history == History::Raw {
            let same = |other: &&Model| other.from == model.from && other.history == History::Raw;
            let first = spec.models.iter().find(same).filter(|first| first.table != model.table);
            let Some(first) = first else { return Ok(()) };
            let why = format!(
                "{} of {} keeps what {} brings",
                first.table, first.declared_in, model.from
            );
            return refuse("from", &why, "keep one of them");
        }
        if model.history == History::Append {
            let why = "an extract brings rows as they are, and tells no events";
            return refuse("history", why, "write overwrite or versions");
        }
        if let Some(column) = model.columns.iter().find(|column| column.mask.is_some()) {
            let why = "this version does not mask what an extract brings";
            let remedy = match asked {
                Asked::Http(_) => "remove the column",
                Asked::Database(_) => "remove the column, and name it in the connector's exclude",
            };
            return refuse(&format!("columns.{}.mask", column.name), why, remedy);
        }
        self.columns_of(model, asked)?;
        if raw_of(spec, &model.from).is_none() {
            let why = format!("no raw table keeps what {} brings", model.from);
            let remedy =
                format!("add a file in schemas/ with from: {} and layout: raw", model.from);
            return refuse("from", &why, &remedy);
        }
        Ok(())
    }

    /// Refuses columns that it does not have, and a key by which its rows are not told apart, as far as files say.
    fn columns_of(&self, model: &Model, asked: Asked<'_>) -> Result<()> {
        let (api, endpoint) = match asked {
            Asked::Http(api) => match endpoint(api, &model.from) {
                Ok(endpoint) => (api, endpoint),
                Err(_) => return Ok(()),
            },
            Asked::Database(database) => {
                let excluded = |of: &&ModelColumn| database.excludes(&model.from.table, &of.from);
                let Some(column) = model.columns.iter().find(excluded) else { return Ok(()) };
                let field = format!("columns.{}", column.name);
                let why =
                    format!("{} excludes {}.{}", database.file, model.from.table, column.from);
                let remedy = "remove the column here, or from the connector's exclude";
                return Err(self.refuse(&model.declared_in, &field, &why, remedy));
            }
        };
        let key = model.key.iter().filter_map(|name| model.column(name));
        let key: HashSet<&str> = key.map(|column| column.from.as_str()).collect();
        if key == endpoint.key.iter().map(String::as_str).collect() {
            return Ok(());
        }
        let apart = listed(&strs(&endpoint.key));
        let why = format!("its rows are told apart by {apart} in {}", api.file);
        let remedy = "name the columns that these feed, or mend the endpoint's key";
        Err(self.refuse(&model.declared_in, "key", &why, remedy))
    }

    /// Refuses an extract that does not bring what its raw table is for, or that another task brings as well.
    pub(super) fn extract_of_asked(
        &self,
        spec: &Spec,
        (job, field): (&Job, &str),
        asked: Asked<'_>,
        (from, into, condition): (&str, &TableName, Option<&Condition>),
    ) -> Result<()> {
        let refuse = |below: &str, why: &str, remedy: &str| {
            Err(self.refuse(&job.file, &format!("{field}.{below}"), why, remedy))
        };
        let (source, _) = asked.place();
        if let (Asked::Http(http), Some(_)) = (asked, condition) {
            let remedy =
                format!("write what is asked for as params of the endpoint in {}", http.file);
            return refuse("where", "only what is read of a Postgres has it", &remedy);
        }
        let parsed = from.parse::<SourceName>().map_err(|_| match asked {
            Asked::Http(_) => {
                (format!("{from:?} names no endpoint"), format!("write {source}.ENDPOINT"))
            }
            Asked::Database(_) => {
                (format!("{from:?} names no table"), format!("write {source}.SCHEMA.TABLE"))
            }
        });
        let from = match parsed.and_then(|from| asked.has(&from).map(|()| from)) {
            Ok(from) => from,
            Err((why, remedy)) => return refuse("extract", &why, &remedy),
        };
        self.to_raw_table(spec, (job, field), (&from, into))?;
        let extracts =
            spec.jobs.iter().flat_map(|job| job.tasks.iter().map(move |task| (job, task)));
        let mut extracts = extracts.filter(
            |(_, task)| matches!(&task.kind, TaskKind::Extract { into: of, .. } if of == into),
        );
        match (extracts.next(), extracts.next()) {
            (Some((of, task)), Some(_))
                if of.name != job.name || field != format!("tasks.{}", task.name) =>
            {
                let why = format!("{into} is what {} of {} brings", task.name, of.file);
                refuse("into", &why, "remove one of the tasks, or write another raw table")
            }
            _ => Ok(()),
        }
    }

    /// Refuses a load before which its job has extracted nothing.
    pub(super) fn load_of_asked(
        &self,
        spec: &Spec,
        (job, field): (&Job, &str),
        model: &Model,
    ) -> Result<()> {
        let refuse = |why: &str, remedy: &str| {
            Err(self.refuse(&job.file, &format!("{field}.load"), why, remedy))
        };
        let Some(raw) = raw_of(spec, &model.from) else { return Ok(()) };
        let extract = job.tasks.iter().find(
            |task| matches!(&task.kind, TaskKind::Extract { into, .. } if *into == raw.table),
        );
        let (table, from) = (&model.table, &model.from);
        let Some(extract) = extract else {
            let why = format!("{table}: no task of this job extracts {from}");
            let remedy = format!("add a task with extract: {from}, into: {}", raw.table);
            return refuse(&why, &remedy);
        };
        let load = field.strip_prefix("tasks.").unwrap_or(field);
        if !depends(job, load, &extract.name) {
            let why =
                format!("{table}: it does not wait for {}, which extracts its rows", extract.name);
            return refuse(&why, &format!("add depends_on: [{}]", extract.name));
        }
        Ok(())
    }
}

/// Whether a task waits for another one, be it by others.
fn depends(job: &Job, task: &str, on: &str) -> bool {
    let (mut seen, mut open) = (HashSet::new(), vec![task]);
    while let Some(name) = open.pop() {
        let before = job.tasks.iter().find(|task| task.name == name);
        for before in before.into_iter().flat_map(|task| &task.depends_on) {
            if before == on {
                return true;
            }
            if seen.insert(before.as_str()) {
                open.push(before);
            }
        }
    }
    false
}

/// The raw table of what is asked for.
fn raw_of<'s>(spec: &'s Spec, from: &SourceName) -> Option<&'s Model> {
    spec.models.iter().find(|model| model.from == *from && model.history == History::Raw)
}

fn strs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}
