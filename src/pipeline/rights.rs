//! What the connector's role may do at the source: a table that it may not publish is left out and named, one
//! that somebody has locked comes later, and the others flow.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::awaited::tell;
use super::note::Then;
use super::resolve::{Fed, Feeders, LeftOut, Resolved, resolve};
use super::shared::Shared;
use super::tables::Planned;
use crate::capture::catalog::SourceTable;
use crate::capture::preflight::Finding;
use crate::capture::publication::{self, Locker, Untold, Wanted};
use crate::error::{Error, Kind, Result};
use crate::journey::Target;
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
    let resolved = resolve(connector, models, catalogue, &HashSet::new(), &Feeders::new());
    if let Some(out) = resolved.left_out.iter().find(|out| out.refused) {
        let what = format!("{}: {}: {}", connector.file, out.table, out.why);
        return Err(Error::new(Kind::Config, what).remedy(&out.remedy));
    }
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
    untold: &mut Untold,
) -> Result<()> {
    for wanted in &resolved.publications {
        if !publication::is_there(source, &wanted.name).await? {
            let what = format!("there is no publication {}, and --no-ddl makes none", wanted.name);
            return Err(Error::new(Kind::SourceLacks, what).remedy("siltstone apply"));
        }
    }
    let Resolved { fed, left_out, publications, .. } = resolved;
    let mut tables: Vec<TableName> = untold.drain().map(|(table, _)| table).collect();
    tables.sort_unstable();
    for table in tables {
        publications.iter_mut().for_each(|wanted| wanted.leave(&table));
        fed.retain(|fed| fed.source.relation.table != table);
        left_out.push(LeftOut {
            table,
            why: "it is not published as its file asks, and --no-ddl changes no publication"
                .to_owned(),
            remedy: "siltstone apply".to_owned(),
            refused: false,
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
        let of =
            |fed: &&Fed| wanted.tables.iter().any(|(table, _)| *table == fed.source.relation.table);
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

/// Leaves out the tables that are not published as they should be and that only their owner, or that of the
/// publication, may publish. What is published of them stays: without rights nothing could be given back that was
/// taken.
pub(super) async fn leave_out_unowned(
    resolved: &mut Resolved,
    source: &Session,
    (untold, connector): (&Untold, &str),
) -> Result<()> {
    let Resolved { fed, left_out, publications, .. } = resolved;
    let mut others = HashMap::new();
    for wanted in publications.iter() {
        if !publication::is_ours(source, &wanted.name).await? {
            let tables =
                wanted.tables.iter().map(|(table, _)| (table.clone(), wanted.name.clone()));
            others.extend(tables);
        }
    }
    fed.retain(|fed| {
        let table = &fed.source.relation.table;
        let Some(statement) = untold.get(table) else { return true };
        let what = match (fed.source.owned, others.get(table)) {
            (true, None) => return true,
            (true, Some(publication)) => format!("publication {publication}"),
            (false, _) => "it".to_owned(),
        };
        left_out.push(LeftOut {
            table: table.clone(),
            why: format!(
                "its role does not own {what}, and so may not publish it as its file asks"
            ),
            remedy: format!(
                "run as its owner or a superuser: {statement}; then siltstone connector restart \
                 {connector}"
            ),
            refused: false,
        });
        publications.iter_mut().for_each(|wanted| wanted.leave(table));
        false
    });
    Ok(())
}

/// A source table that is not published as it should be, because somebody has locked it.
pub(super) struct Locked {
    pub(super) table: TableName,
    /// what it feeds
    fed: Vec<String>,
    by: Locker,
}

/// Publishes what is to be published, but for what somebody has locked: that comes later, and the others
/// flow meanwhile.
pub(super) async fn publish(
    shared: &Shared,
    source: &Session,
    (resolved, planned): (&mut Resolved, &mut Vec<Planned>),
) -> Result<Vec<Locked>> {
    let mut locked = Vec::new();
    for wanted in resolved.publications.iter_mut().filter(|_| !shared.setup.no_ddl) {
        if !publication::is_ours(source, &wanted.name).await? {
            name_superfluous(shared, source, wanted).await?;
            continue;
        }
        for table in publication::ensure(source, wanted, shared.source.version).await? {
            let by = locker(source, &table).await?;
            let fed = planned.iter().filter(|planned| planned.source.relation.table == table);
            for Planned { target, record, .. } in fed.clone() {
                if target.model.history.logs_events() && shared.was_read(record) {
                    // what it misses meanwhile is read by nobody: the gap begins here
                    let reason = format!("it waits for the source: {}", by.what);
                    let (remedy, again) = (Some(by.remedy.as_str()), record.is_shelved());
                    let then = Then::Shelve { reason: &reason, remedy, again };
                    shared.define(&[], &record.table, then).await?;
                }
            }
            let fed = fed.map(|planned| planned.record.table.to_string()).collect();
            planned.retain(|planned| planned.source.relation.table != table);
            wanted.leave(&table);
            locked.push(Locked { table, fed, by });
        }
    }
    for (index, table) in planned.iter_mut().enumerate().filter(|_| !locked.is_empty()) {
        table.target = Arc::new(Target { index, ..(*table.target).clone() });
    }
    Ok(locked)
}

/// Names what another role's publication holds and should not: the shop's own updates of it may fail for that.
async fn name_superfluous(shared: &Shared, source: &Session, wanted: &Wanted) -> Result<()> {
    for remedy in publication::statements(source, wanted, shared.source.version).await? {
        let name = &wanted.name;
        tracing::warn!(
            remedy,
            "publication {name} holds what it should not, and is another role's"
        );
    }
    Ok(())
}

/// Tells the tables whose sources are locked what they wait for.
pub(super) async fn tell_locked(shared: &Shared, locked: &[Locked]) -> Result<()> {
    for Locked { table, fed, by: Locker { what, remedy } } in locked {
        tracing::warn!(%table, remedy, "it is published later, for it waits for {what}");
        tell(shared, fed, Some((&format!("the source: {what}"), Some(remedy)))).await?;
    }
    Ok(())
}

/// Whose lock a table waits for.
pub(super) async fn locker(source: &Session, table: &TableName) -> Result<Locker> {
    let found = publication::locker(source, table).await?;
    Ok(found.unwrap_or_else(|| Locker {
        what: format!("a lock that was on {table}"),
        remedy: "nothing: it is tried again".to_owned(),
    }))
}
