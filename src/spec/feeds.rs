//! Tasks that wait for what the service does anyway: `refresh` of marts, `load` and `extract` of tables that a
//! stream feeds. Which of them there is something to wait for shows when all files are seen together.

use super::check::Files;
use super::condition::{self, Condition};
use super::file::{File, Given, listed, nearest};
use super::model::{History, SourceName};
use super::tasks::TaskKind;
use super::upkeep::Retention;
use super::{Job, Spec};
use crate::error::Result;
use crate::names::TableName;

/// What is said of a table that topics feed.
const OF_TOPICS: &str = "its topics tell of no moment by which it is fresh";

/// Reads which marts a task waits for.
pub(super) fn refresh(file: &File<'_>, field: &str, given: Option<&[Given]>) -> Result<TaskKind> {
    let mut marts: Vec<TableName> = Vec::new();
    for given in given.unwrap_or_default() {
        let mart: TableName = file.parse(field, given)?;
        if marts.contains(&mart) {
            let why = format!("{mart} stands here twice");
            return Err(file.refuse_given(field, given, &why, "keep one"));
        }
        marts.push(mart);
    }
    if marts.is_empty() {
        let remedy = "write marts of sql/marts, such as [reports.sales]";
        return Err(file.refuse(field, "it names no mart", remedy));
    }
    Ok(TaskKind::Refresh(marts))
}

/// Reads which table a task waits for.
pub(super) fn load(file: &File<'_>, field: &str, given: Option<&Given>) -> Result<TaskKind> {
    match given {
        Some(given) => Ok(TaskKind::Load(file.parse(field, given)?)),
        None => Err(file.refuse(field, "it is missing", "add it")),
    }
}

/// Reads which raw table a task waits for, and what feeds it.
pub(super) fn extract(
    file: &File<'_>,
    field: &str,
    (from, into, condition): (Option<&Given>, Option<&Given>, Option<&Given>),
) -> Result<TaskKind> {
    let (extract, at) = (format!("{field}.extract"), format!("{field}.into"));
    let Some(into) = into else {
        let remedy = "add the raw table that its rows go to, such as into: events.users";
        return Err(file.refuse(&extract, "it does not say where to", remedy));
    };
    let Some(from) = from else {
        return Err(file.refuse(&extract, "it is missing", "add it"));
    };
    // an endpoint of an API has two parts, a table of a source three
    let from = file.text(&extract, from)?;
    let condition = condition
        .map(|given| condition::read(file, &format!("{field}.where"), given))
        .transpose()?;
    Ok(TaskKind::Extract { from, into: file.parse(&at, into)?, condition })
}

impl Files<'_> {
    /// Refuses tasks that wait for what nothing brings.
    pub(super) fn feeds(&self, spec: &Spec) -> Result<()> {
        for job in &spec.jobs {
            for task in &job.tasks {
                let field = format!("tasks.{}", task.name);
                match &task.kind {
                    TaskKind::Refresh(marts) => self.marts_of(spec, job, &field, marts)?,
                    TaskKind::Load(table) => self.fed(spec, job, &field, table)?,
                    TaskKind::Extract { from, into, condition } => {
                        let extract = (from.as_str(), into, condition.as_ref());
                        self.extracted(spec, job, &field, extract)?;
                    }
                    TaskKind::Retention(retention) => {
                        self.kept(spec, job, &field, retention)?;
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn marts_of(&self, spec: &Spec, job: &Job, field: &str, marts: &[TableName]) -> Result<()> {
        let known: Vec<String> = spec.marts.iter().map(|mart| mart.table.to_string()).collect();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        for mart in marts.iter().map(ToString::to_string) {
            if known.contains(&mart.as_str()) {
                continue;
            }
            let why = format!("no file in sql/marts declares {mart}");
            let remedy = match (nearest(&mart, &known), known.is_empty()) {
                (Some(near), _) => format!("write {near}"),
                (None, true) => "add its file, or remove the task".to_owned(),
                (None, false) => format!("write {}", listed(&known)),
            };
            return Err(self.refuse(&job.file, &format!("{field}.refresh"), &why, &remedy));
        }
        Ok(())
    }

    /// Refuses a retention that means tables and drops nothing of any.
    fn kept(&self, spec: &Spec, job: &Job, field: &str, retention: &Retention) -> Result<()> {
        let ends = |model: &&super::Model| model.history == History::Raw && model.keep.is_some();
        let meant = |model: &super::Model| retention.means(&model.table);
        if retention.tables.is_empty() || spec.models.iter().filter(ends).any(meant) {
            return Ok(());
        }
        let why = "no raw table with keep is meant";
        let remedy = "write keep in the file of one, such as keep: 365d, or retention: [] for our own books alone";
        Err(self.refuse(&job.file, &format!("{field}.retention"), why, remedy))
    }

    /// Refuses a table that no stream of a Postgres feeds.
    fn fed(&self, spec: &Spec, job: &Job, field: &str, table: &TableName) -> Result<()> {
        let refuse = |why: &str, remedy: &str| {
            Err(self.refuse(
                &job.file,
                &format!("{field}.load"),
                &format!("{table}: {why}"),
                remedy,
            ))
        };
        if spec.marts.iter().any(|mart| mart.table == *table) {
            return refuse("it is a mart", &format!("write refresh: [{table}]"));
        }
        if spec.calendars.iter().any(|calendar| calendar.table == *table) {
            return refuse("it is a calendar, which fills itself", "remove the task");
        }
        let kept = "remove the task: the table follows its topics by itself";
        if let Some(model) = spec.models.iter().find(|model| model.table == *table) {
            if model.history == History::Raw {
                let remedy = format!("write extract: {}, into: {table}", model.from);
                return refuse("it is a raw table", &remedy);
            }
            if spec.is_extracted(model) {
                return self.load_of_asked(spec, (job, field), model);
            }
            return match spec.kafka.iter().any(|kafka| kafka.source == model.from.source) {
                true => refuse(OF_TOPICS, kept),
                false => Ok(()),
            };
        }
        let mirrors = |common: &super::Common| {
            common.mirror && common.target_schema.as_ref() == Some(&table.schema)
        };
        if spec.connectors.iter().any(|connector| mirrors(connector)) {
            return Ok(());
        }
        if spec.kafka.iter().any(|kafka| mirrors(kafka)) {
            return refuse(OF_TOPICS, kept);
        }
        if !spec.disabled.is_empty() {
            // it may mirror into that schema once it is enabled again
            return Ok(());
        }
        let remedy = "declare it in schemas/ with the source table that feeds it (from), or write sql: \
                      a table of nobody's stream is filled by statements";
        refuse("no stream feeds it", remedy)
    }

    fn extracted(
        &self,
        spec: &Spec,
        job: &Job,
        field: &str,
        (from, into, condition): (&str, &TableName, Option<&Condition>),
    ) -> Result<()> {
        let refuse = |below: &str, why: &str, remedy: &str| {
            Err(self.refuse(&job.file, &format!("{field}.{below}"), why, remedy))
        };
        let source = from.split('.').next().unwrap_or_default();
        if spec.kafka.iter().any(|kafka| kafka.source == source) {
            let remedy = "remove the task: the table follows its topics by itself";
            return refuse("extract", &format!("{from}: {OF_TOPICS}"), remedy);
        }
        if spec.rests(source) {
            return Ok(());
        }
        if let Some(asked) = spec.asked(source) {
            return self.extract_of_asked(spec, (job, field), asked, (from, into, condition));
        }
        if condition.is_some() {
            let why = "a stream brings all rows of its tables";
            return refuse("where", why, "remove the field");
        }
        let Some(connector) = spec.connectors.iter().find(|known| known.source == source) else {
            let why = format!("{from}: no enabled connector has the source {source}");
            let remedy = format!(
                "add a connector of kind postgres or http with source: {source}; \
                 slot: none in one of kind postgres lets jobs read its tables without a stream"
            );
            return refuse("extract", &why, &remedy);
        };
        let parsed = from.parse::<SourceName>().ok().filter(|from| !from.is_endpoint());
        let Some(from) = parsed else {
            let why = format!("{from:?} is not a table of a source");
            return refuse("extract", &why, "write SOURCE.SCHEMA.TABLE, such as shop.public.users");
        };
        if !connector.takes(&from.table) {
            let why = format!("{} does not take {}", connector.file, from.table);
            let remedy = "add it to the connector's tables, or remove it from its exclude; to read it without a stream, \
                          add a connector with slot: none and a source of its own";
            return refuse("extract", &why, remedy);
        }
        self.to_raw_table(spec, (job, field), (&from, into))
    }

    /// Refuses what is no raw table of this source table.
    pub(super) fn to_raw_table(
        &self,
        spec: &Spec,
        (job, field): (&Job, &str),
        (from, into): (&SourceName, &TableName),
    ) -> Result<()> {
        let refuse = |below: &str, why: &str, remedy: &str| {
            Err(self.refuse(&job.file, &format!("{field}.{below}"), why, remedy))
        };
        match spec.models.iter().find(|model| model.table == *into) {
            Some(model) if model.history != History::Raw => {
                let why = format!("{into} of {} is no raw table", model.declared_in);
                refuse("into", &why, &format!("write load: {into}"))
            }
            Some(model) if model.from != *from => {
                let why = format!("{into} of {} is fed by {}", model.declared_in, model.from);
                refuse("into", &why, &format!("write extract: {}", model.from))
            }
            Some(_) => Ok(()),
            None => {
                let remedy = format!(
                    "add a file in schemas/ with table: {into}, from: {from} and layout: raw"
                );
                refuse("into", &format!("no file declares {into}"), &remedy)
            }
        }
    }
}
