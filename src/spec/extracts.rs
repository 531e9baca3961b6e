//! Tables without a stream, whose rows tasks of jobs bring: what of their files only shows when all are seen
//! together.

use std::collections::HashSet;

use super::check::Files;
use super::file::{listed, nearest};
use super::http::{Http, HttpEndpoint};
use super::model::{History, Model, SourceName};
use super::{Job, Spec, TaskKind};
use crate::error::Result;
use crate::names::TableName;

impl Files<'_> {
    /// Refuses an API of a name or source that another connector has.
    pub(super) fn apis(&self, spec: &Spec) -> Result<()> {
        let streams = spec.commons().map(|common| (&common.name, &common.source, &common.file));
        let apis = spec.http.iter().map(|http| (&http.name, &http.source, &http.file));
        let known: Vec<_> = streams.chain(apis).collect();
        for http in &spec.http {
            for (name, source, file) in known.iter().filter(|(_, _, file)| **file != http.file) {
                let fields = [("name", &http.name, *name), ("source", &http.source, *source)];
                let Some((field, value, _)) = fields.iter().find(|(_, a, b)| a == b) else {
                    continue;
                };
                let why = format!("{value} is taken by {file}");
                let remedy = format!("write another {field}, or enabled: false in one of them");
                return Err(self.refuse(&http.file, field, &why, &remedy));
            }
        }
        Ok(())
    }

    /// Refuses a table of an API that it cannot be, or that no raw table stands before.
    pub(super) fn extracted_table(&self, spec: &Spec, model: &Model, api: &Http) -> Result<()> {
        let refuse = |field: &str, why: &str, remedy: &str| {
            Err(self.refuse(&model.declared_in, field, why, remedy))
        };
        let endpoint = match self.endpoint(api, &model.from) {
            Ok(endpoint) => endpoint,
            Err((why, remedy)) => return refuse("from", &why, &remedy),
        };
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
            let why = "this version does not mask what an API brings";
            return refuse(&format!("columns.{}.mask", column.name), why, "remove the column");
        }
        let key = model.key.iter().filter_map(|name| model.column(name));
        let key: HashSet<&str> = key.map(|column| column.from.as_str()).collect();
        if key != endpoint.key.iter().map(String::as_str).collect() {
            let why = format!(
                "its rows are told apart by {} in {}",
                listed(&strs(&endpoint.key)),
                api.file
            );
            return refuse(
                "key",
                &why,
                "name the columns that these feed, or mend the endpoint's key",
            );
        }
        if raw_of(spec, &model.from).is_none() {
            let why = format!("no raw table keeps what {} brings", model.from);
            let remedy =
                format!("add a file in schemas/ with from: {} and layout: raw", model.from);
            return refuse("from", &why, &remedy);
        }
        Ok(())
    }

    fn endpoint<'a>(
        &self,
        api: &'a Http,
        from: &SourceName,
    ) -> Result<&'a HttpEndpoint, (String, String)> {
        let known: Vec<&str> = api.endpoints.iter().map(|of| of.name.as_str()).collect();
        let wanted =
            if from.is_endpoint() { from.table.name.clone() } else { from.table.to_string() };
        api.endpoint(&wanted).ok_or_else(|| {
            let near = nearest(&wanted, &known).map_or_else(|| listed(&known), str::to_owned);
            let remedy = format!("write {}.{near}, or add the endpoint", from.source);
            (format!("{} has no endpoint {wanted}", api.file), remedy)
        })
    }

    /// Refuses an extract that does not bring what its raw table is for, or that another task brings as well.
    pub(super) fn extract_of_api(
        &self,
        spec: &Spec,
        (job, field): (&Job, &str),
        (api, from, into): (&Http, &str, &TableName),
    ) -> Result<()> {
        let refuse = |below: &str, why: &str, remedy: &str| {
            Err(self.refuse(&job.file, &format!("{field}.{below}"), why, remedy))
        };
        let parsed = from.parse::<SourceName>().map_err(|_| {
            (format!("{from:?} names no endpoint"), format!("write {}.ENDPOINT", api.source))
        });
        let from = match parsed.and_then(|from| self.endpoint(api, &from).map(|_| from)) {
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
    pub(super) fn load_of_api(
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

/// The raw table of an endpoint.
fn raw_of<'s>(spec: &'s Spec, from: &SourceName) -> Option<&'s Model> {
    spec.models.iter().find(|model| model.from == *from && model.history == History::Raw)
}

fn strs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}
