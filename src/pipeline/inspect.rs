//! What a start would find: the tables it would feed, and what source and warehouse lack. Changes
//! nothing.

use std::collections::HashSet;
use std::sync::Arc;

use super::fit::suit;
use super::resolve::{Feeders, Resolved, feeders, resolve};
use super::rights::unmade;
use super::topics;
use crate::capture::preflight::{self, Finding};
use crate::capture::{catalog, publication, slot, standby};
use crate::error::{Error, Result};
use crate::merge::{extension_types, obstacles};
use crate::names::TableName;
use crate::postgres::{Session, Side, connect, quote};
use crate::progress::tables;
use crate::spec::{Connector, Kafka, Spec};

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// A line for each source table and what it feeds.
    pub tables: Vec<String>,
    /// What is lacking.
    pub findings: Vec<Finding>,
}

/// Looks at a connector's source and at the warehouse.
pub async fn inspect(spec: &Spec, connector: &Connector) -> Result<Report> {
    let source = connect(Side::Source, &connector.endpoint, "siltstone validate").await?;
    let warehouse =
        connect(Side::Warehouse, &spec.settings.warehouse, "siltstone validate").await?;
    crate::warehouse::refuse_unfit(&*warehouse, true).await?;
    let extensions = extension_types(&*warehouse).await?;
    let known = known(&warehouse, connector).await?;
    let (mut report, resolved) = look(spec, connector, &source, (&extensions, &known)).await?;
    for model in resolved.fed.iter().flat_map(|fed| &fed.models) {
        report.findings.extend(lacks(&warehouse, &model.table).await?);
    }
    report.findings.extend(unknown_readers(&warehouse, &spec.settings.readers).await?);
    Ok(report)
}

/// What feeds each table so far; nothing before the first start.
async fn known(warehouse: &Session, connector: &Connector) -> Result<Feeders> {
    let there = "select to_regclass('audit.tables') is not null";
    let there = warehouse.query_one(there, &[]).await.and_then(|row| row.try_get(0));
    match there.map_err(|error| Error::warehouse("looking for its control tables", error))? {
        true => Ok(feeders(&tables::read(&**warehouse, &connector.name).await?)),
        false => Ok(Feeders::new()),
    }
}

/// The readers that the warehouse does not know: nothing can be granted to them.
async fn unknown_readers(warehouse: &Session, readers: &[String]) -> Result<Vec<Finding>> {
    let failed = |error| Error::warehouse("looking at warehouse.readers", error);
    let query = "select r from unnest($1::text[]) r where to_regrole(quote_ident(r)) is null";
    let rows = warehouse.query(query, &[&readers]).await.map_err(failed)?;
    let finding = |row: &tokio_postgres::Row| -> Result<Finding> {
        let reader: String = row.try_get(0).map_err(failed)?;
        Ok(Finding {
            fatal: true,
            what: format!("warehouse.readers: the warehouse has no role {reader}"),
            remedy: format!("create role {}, or take it out of the file", quote::ident(&reader)),
        })
    };
    rows.iter().map(finding).collect()
}

/// What stands in the way of a table that is there.
pub(super) async fn lacks(warehouse: &Session, table: &TableName) -> Result<Vec<Finding>> {
    let obstacles = obstacles(&**warehouse, table).await?.into_iter();
    let finding =
        |(what, remedy)| Finding { fatal: true, what: format!("{table}: {what}"), remedy };
    Ok(obstacles.map(finding).collect())
}

/// Looks at the brokers of a connector that reads topics, and at the warehouse.
pub async fn inspect_topics(spec: &Spec, connector: &Kafka) -> Result<Report> {
    topics::inspect(spec, connector).await
}

/// Looks at a connector's source alone.
pub async fn inspect_source(
    spec: &Spec,
    connector: &Connector,
    source: &Session,
) -> Result<Report> {
    let nothing = (&HashSet::new(), &Feeders::new());
    Ok(look(spec, connector, source, nothing).await?.0)
}

async fn look(
    spec: &Spec,
    connector: &Connector,
    source: &Session,
    (extensions, known): (&HashSet<String>, &Feeders),
) -> Result<(Report, Resolved)> {
    let slots = i64::from(slot::inspect(source, &connector.slot).await?.is_none());
    let settings = preflight::inspect(source, slots).await?;
    let preflight::Source { mut findings, version, cannot_publish, .. } = settings;
    let catalogue = catalog::tables(&**source).await?;
    let resolved = resolve(connector, &spec.models, catalogue, extensions, known);
    let mut tables = Vec::new();
    for fed in &resolved.fed {
        for model in &fed.models {
            let mirrored = if model.mirrored { " (mirrored)" } else { "" };
            tables.push(format!("{} -> {}{mirrored}", fed.source.relation.table, model.table));
            let relation = Arc::new(fed.source.relation.clone());
            if let Err(error) = suit(0, model, &relation, true) {
                let what = format!("{}: {}", model.table, error.reason());
                let remedy = error.remedy_text().unwrap_or_default().to_owned();
                findings.push(Finding { fatal: !model.mirrored, what, remedy });
            }
        }
    }
    findings.extend(unmade(source, cannot_publish.as_ref(), &resolved.publications).await?);
    findings.extend(unpublishable(source, &resolved, version).await?);
    if let Some(standby) = &connector.snapshot.standby {
        findings.extend(standby::inspect(standby, &connector.endpoint).await?);
    }
    if let Some(because) = &resolved.text_because {
        tables.push(format!("values travel as text, because {because}"));
    }
    for out in &resolved.left_out {
        let what = format!("{} is left out: {}", out.table, out.why);
        findings.push(Finding { fatal: out.refused, what, remedy: out.remedy.clone() });
    }
    Ok((Report { tables, findings }, resolved))
}

/// Only who owns a table may add it to a publication.
async fn unpublishable(
    source: &Session,
    resolved: &Resolved,
    version: i32,
) -> Result<Option<Finding>> {
    let untold = publication::untold(source, &resolved.publications, version).await?;
    let of_others = resolved.fed.iter().filter(|fed| !fed.source.owned);
    let names: Vec<String> = of_others
        .map(|fed| &fed.source.relation.table)
        .filter(|table| untold.contains_key(table))
        .map(ToString::to_string)
        .collect();
    Ok((!names.is_empty()).then(|| Finding {
        fatal: false,
        what: format!(
            "its role does not own {}, and so may not publish it: it is left out",
            names.join(", ")
        ),
        remedy: "siltstone sql source-role tells what a superuser runs; or make the role a member of the \
                 one that owns it"
            .to_owned(),
    }))
}
