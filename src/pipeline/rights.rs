//! What the connector's role may do at the source: a table that it may not publish is left out and named,
//! and the others flow.

use std::collections::HashSet;

use super::tables::{LeftOut, Resolved, resolve};
use crate::capture::catalog::SourceTable;
use crate::capture::preflight::Finding;
use crate::capture::publication::{self, Wanted};
use crate::error::{Error, Kind, Result};
use crate::names::TableName;
use crate::postgres::Session;
use crate::spec::{Connector, Model};

/// A table with the columns of it that are taken, where not all are.
type Taken = (TableName, Option<Vec<String>>);

/// The publications that a connector needs, and the tables that it reads.
pub fn replicated(
    connector: &Connector,
    models: &[Model],
    catalogue: Vec<SourceTable>,
) -> Result<(Vec<Wanted>, Vec<Taken>)> {
    let resolved = resolve(connector, models, catalogue, &HashSet::new())?;
    let tables = resolved.publications.iter().flat_map(|wanted| wanted.tables.clone()).collect();
    Ok((resolved.publications, tables))
}

/// What keeps the role from making a publication, where one is missing.
pub(super) async fn unmade(
    source: &Session,
    cannot_publish: Option<&Finding>,
    publications: &[Wanted],
) -> Result<Option<Finding>> {
    let Some(finding) = cannot_publish else { return Ok(None) };
    for wanted in publications {
        if !publication::is_there(source, &wanted.name).await? {
            return Ok(Some(finding.clone()));
        }
    }
    Ok(None)
}

/// Leaves out the tables that are not published as they should be, where that is not for us to change.
pub(super) async fn leave_out_untold(
    resolved: &mut Resolved,
    source: &Session,
    untold: &mut Vec<TableName>,
) -> Result<()> {
    for wanted in &resolved.publications {
        if !publication::is_there(source, &wanted.name).await? {
            let what = format!("there is no publication {}, and --no-ddl makes none", wanted.name);
            return Err(Error::new(Kind::SourceLacks, what).remedy("siltstone apply"));
        }
    }
    let Resolved { fed, left_out, publications, .. } = resolved;
    for table in untold.drain(..) {
        for wanted in publications.iter_mut() {
            wanted.tables.retain(|(of, _)| *of != table);
        }
        fed.retain(|fed| fed.source.relation.table != table);
        left_out.push(LeftOut {
            table,
            why: "it is not published as its file asks, and --no-ddl changes no publication"
                .to_owned(),
            remedy: "siltstone apply".to_owned(),
        });
    }
    Ok(())
}

/// Says what keeps the role from making a publication, where one is missing.
pub(super) async fn name_unmade(
    source: &Session,
    cannot_publish: Option<&Finding>,
    publications: &[Wanted],
) -> Result<()> {
    if let Some(finding) = unmade(source, cannot_publish, publications).await? {
        tracing::warn!(remedy = finding.remedy, "the source: {}", finding.what);
    }
    Ok(())
}

/// Refuses a publication that is not there and that the connector's role may not make, for all of its tables are
/// other roles': with the statement that makes it.
pub(super) async fn refuse_unmade(
    resolved: &Resolved,
    source: &Session,
    (version, connector): (i32, &str),
) -> Result<()> {
    for wanted in &resolved.publications {
        let of = |fed: &&super::tables::Fed| {
            wanted.tables.iter().any(|(table, _)| *table == fed.source.relation.table)
        };
        let mut fed = resolved.fed.iter().filter(of).peekable();
        // what it may publish it does, and leaves out the others
        let unowned = fed.peek().is_some() && fed.all(|fed| !fed.source.owned);
        if !unowned || publication::is_there(source, &wanted.name).await? {
            continue;
        }
        let statements = publication::statements(source, wanted, version).await?;
        let what = format!("there is no publication {}, and its role may not make it", wanted.name);
        return Err(Error::new(Kind::SourceLacks, what).remedy(format!(
            "run at the source as the owner of the tables or a superuser: {}; then siltstone connector restart \
             {connector}",
            statements.join("; ")
        )));
    }
    Ok(())
}

/// Leaves out the tables that are not published yet and that only their owner may publish.
pub(super) fn leave_out_unowned(resolved: &mut Resolved, untold: &[TableName], connector: &str) {
    let Resolved { fed, left_out, publications, .. } = resolved;
    fed.retain(|fed| {
        let table = &fed.source.relation.table;
        if fed.source.owned || !untold.contains(table) {
            return true;
        }
        let of = |wanted: &Wanted| publication::add_statement(wanted, table);
        let statement = publications.iter().find_map(of).unwrap_or_default();
        left_out.push(LeftOut {
            table: table.clone(),
            why: "its role does not own it, and so may not publish it".to_owned(),
            remedy: format!(
                "run as its owner or a superuser: {statement}; then siltstone connector restart \
                 {connector}"
            ),
        });
        for wanted in publications.iter_mut() {
            wanted.tables.retain(|(of, _)| of != table);
        }
        false
    });
}
