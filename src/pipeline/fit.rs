//! Makes a table that is about to be read fit what a snapshot shows: the model, and the statements for
//! the transaction that brings the rows in. Nothing is changed before that: a crash leaves all as it was.

use std::collections::HashSet;
use std::sync::Arc;

use tokio_postgres::Transaction;

use super::follow::not_ours;
use super::shared::Shared;
use crate::binding::{Binding, bind};
use crate::error::{Error, Kind, Result};
use crate::journey::Target;
use crate::merge::{
    Change, Standing, compare, conform, is_ours, key_statement, missing_indexes, requirements,
};
use crate::names::TableName;
use crate::postgres::quote;
use crate::relation::Relation;
use crate::spec::{Connector, Model, mirror};

/// How a table fits a snapshot.
pub(super) struct Fitted {
    /// The target in the snapshot's shape.
    pub(super) target: Arc<Target>,
    /// What its table needs first.
    pub(super) statements: Vec<String>,
    /// Whether that empties it.
    pub(super) empties: bool,
    /// The key that a table whose first rows these are gets behind them.
    pub(super) key: Option<String>,
    /// What comes behind all of its rows: the indexes that it lacks, and the NULLs that it refuses.
    pub(super) last: Vec<String>,
}

/// Fits the target, which has the shape that was applied last, to the shape `now`.
pub(super) async fn fit(
    shared: &Shared,
    transaction: &Transaction<'_>,
    (old, fresh): (&Target, bool),
    now: &Arc<Relation>,
) -> Result<Fitted> {
    let schema_id = shared.number_shape(now).await?;
    let name = &old.model.table;
    let mut standing = Standing::of(transaction, name).await?;
    if !standing.is_there() {
        return Err(Error::new(Kind::TableStops, "somebody dropped it")
            .on_table(name.to_string())
            .remedy(format!("siltstone table resync {name:#}")));
    }
    let model = present_model(shared.connector(), &shared.extensions, &old.model, now)?;
    let mut statements = renames(&compare(&old.relation, now), &model, &mut standing)?;
    let mut key = None;
    if fresh && standing.is_unkeyed(&model) {
        key = key_statement(&model);
        standing.give_key(&model);
    }
    let target = bind(old.index, &model, now, schema_id, shared.binary)?.target;
    let target = target.with_limits(standing.limits(&model));
    let conform = conform(&model, &standing, &target.unfed())?;
    statements.extend(conform.statements);
    let mut last = missing_indexes(transaction, &model).await?;
    last.extend(requirements(&model, &standing, &target.unfed()));
    let empties = conform.empties;
    if shared.setup.no_ddl && !(statements.is_empty() && key.is_none()) {
        return Err(not_ours("it does not have the shape of its source").on_table(name.to_string()));
    }
    if shared.setup.no_ddl {
        last.clear();
    }
    Ok(Fitted { target: Arc::new(target), statements, empties, key, last })
}

/// What comes behind all rows of a table that has its model's columns already: the indexes that it lacks,
/// and the NULLs that it refuses.
pub(super) async fn behind_rows(
    shared: &Shared,
    transaction: &Transaction<'_>,
    target: &Target,
) -> Result<Vec<String>> {
    if shared.setup.no_ddl {
        return Ok(Vec::new());
    }
    let standing = Standing::of(transaction, &target.model.table).await?;
    let mut last = missing_indexes(transaction, &target.model).await?;
    last.extend(requirements(&target.model, &standing, &target.unfed()));
    Ok(last)
}

/// The model of a table as the source has it now: a declared table's is its file's.
pub(super) fn present_model(
    connector: &Connector,
    extensions: &HashSet<String>,
    model: &Arc<Model>,
    now: &Relation,
) -> Result<Arc<Model>> {
    if !model.mirrored {
        return Ok(model.clone());
    }
    let mirrored = mirror(connector, now, extensions);
    mirrored.map(Arc::new).ok_or_else(|| keyless(&model.table, &now.table))
}

/// Binds a model whose table is yet to be made: every column of it must be fed.
pub(super) fn suit(
    index: usize,
    model: &Arc<Model>,
    relation: &Arc<Relation>,
    binary: bool,
) -> Result<Binding> {
    let stop = |what: String| Error::new(Kind::TableStops, what).on_table(model.table.to_string());
    let file = &model.declared_in;
    if relation.columns.is_empty() {
        let remedy = format!("exclude {} in the connector's file", relation.table);
        return Err(stop("it has no columns that are published".to_owned()).remedy(remedy));
    }
    if let Some(column) = model.columns.iter().find(|column| is_ours(model, &column.name)) {
        let (what, from) = (&column.name, &relation.table);
        // what is of its identity cannot be left out
        let exclude = if model.key.contains(what) {
            String::new()
        } else {
            format!("exclude {from}.{what}, or ")
        };
        return Err(stop(format!("its column {what} has a name that we need ourselves"))
            .remedy(format!("{exclude}declare the table in schemas/ with another name for it")));
    }
    let binding = bind(index, model, relation, 0, binary)?;
    if let Some(column) = binding.unfed.first() {
        let from = model.column(column).map_or(column.as_str(), |column| column.from.as_str());
        let has: Vec<&str> = relation.columns.iter().map(|c| c.name.as_str()).collect();
        let what = format!(
            "columns.{column}: {} has no column {from}; it has {}",
            relation.table,
            has.join(", ")
        );
        return Err(stop(what).remedy(format!("name the source column in {file} with `from`")));
    }
    Ok(binding)
}

/// The statements by which the columns of a mirrored table take the names that their source gave them.
pub(super) fn renames(
    changes: &[Change],
    model: &Model,
    standing: &mut Standing,
) -> Result<Vec<String>> {
    let mut statements = Vec::new();
    for change in changes {
        let Change::Renamed { from, to } = change else { continue };
        let to = to.name.as_str();
        if !model.mirrored {
            refuse_unnamed(model, from, to)?;
        } else if standing.has(from) && !standing.has(to) {
            let (table, old, new) = (model.quoted(), quote::ident(from), quote::ident(to));
            statements.push(format!("alter table {table} rename column {old} to {new}"));
            standing.rename(from, to);
        }
    }
    Ok(statements)
}

/// A file that still names a column by the name it had would leave it as it stands for ever.
fn refuse_unnamed(model: &Model, from: &str, to: &str) -> Result<()> {
    let Some(column) = model.columns.iter().find(|column| column.from == from) else {
        return Ok(());
    };
    let (table, file) = (&model.table, &model.declared_in);
    let what = format!("columns.{}: the source renamed {from} to {to}", column.name);
    Err(Error::new(Kind::TableStops, what).on_table(table.to_string()).remedy(format!(
        "write `from: {to}` at columns.{} in {file}, let the service read it (kill -HUP, or a restart), then siltstone \
         table resync {table:#}",
        column.name
    )))
}

fn keyless(table: &TableName, source: &TableName) -> Error {
    let source = quote::table(source);
    Error::new(Kind::TableStops, "the source can no longer tell its rows apart")
        .on_table(table.to_string())
        .remedy(format!(
            "alter table {source} replica identity full, then siltstone table resync {table:#}"
        ))
}
