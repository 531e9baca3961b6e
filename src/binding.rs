//! Binds a model to the relation that feeds it: which cell of a row goes into which column.
//!
//! Pure. Refuses a binding under which rows could be lost: a key that the source does not send with
//! every update and delete, or that does not tell its rows apart.

use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::journey::{Arrival, Feed, Target};
use crate::postgres::quote;
use crate::relation::{ColumnType, Identity, Mask, Relation, TypeKind, Wire};
use crate::spec::{Deletes, History, Model};

/// A binding and what a person should know about it.
#[derive(Debug)]
pub struct Binding {
    /// The target.
    pub target: Target,
    /// Model columns whose source column is not there (any more): they stay as they are.
    pub unfed: Vec<String>,
    /// Source columns that the model does not take.
    pub untaken: Vec<String>,
}

/// Binds `model` to `relation`. `binary` says in which form the connection's values arrive.
pub fn bind(
    index: usize,
    model: &Arc<Model>,
    relation: &Arc<Relation>,
    schema_id: i32,
    binary: bool,
) -> Result<Binding> {
    refuse_ageless(model, relation)?;
    let key = bind_key(model, relation)?;
    let wires: Vec<Wire> = relation.columns.iter().map(|column| Wire::of(column, binary)).collect();
    let (mut feeds, mut unfed) = (Vec::new(), Vec::new());
    for (column, modelled) in model.columns.iter().enumerate() {
        let from = relation.column(&modelled.from);
        match from.and_then(|from| wires.get(from).map(|wire| (from, *wire))) {
            Some((from, wire)) => feeds.push(Feed { column, from, wire }),
            None => unfed.push(modelled.name.clone()),
        }
    }
    let taken = |name: &str| model.columns.iter().any(|column| column.from == name);
    let all = model.history == History::Raw;
    let untaken =
        relation.columns.iter().filter(|column| !all && !column.hidden && !taken(&column.name));
    let untaken = untaken.map(|column| column.name.clone()).collect();
    let (model, relation) = (model.clone(), relation.clone());
    Ok(Binding {
        target: Target {
            index,
            model,
            relation,
            schema_id,
            key,
            wires,
            feeds,
            limits: Vec::new(),
            arrival: Arrival::default(),
            seen: None,
        },
        unfed,
        untaken,
    })
}

/// Refuses a mask by year of a column that has none at the source, of which nothing would be left.
fn refuse_ageless(model: &Model, relation: &Relation) -> Result<()> {
    const WITH_YEARS: [u32; 3] = [1082, 1114, 1184];
    let has_year = |ty: &ColumnType| match ty.kind {
        TypeKind::Builtin { oid, .. } => WITH_YEARS.contains(&oid),
        _ => false,
    };
    let mut masked = relation.masked();
    let ageless = masked.find(|(_, _, mask)| mask.by == Mask::Year && !has_year(&mask.ty));
    let Some((_, column, mask)) = ageless else { return Ok(()) };
    let (name, ty, from) = (&column.name, &mask.ty.name, &relation.table);
    let what = format!("{from}.{name} is masked by year, and is of type {ty} at the source");
    let remedy = format!("mask {from}.{name} by hash or null in schemas/");
    Err(Error::new(Kind::TableStops, what).on_table(model.table.to_string()).remedy(remedy))
}

/// The places of the key's cells. A raw table has the source's own key.
fn bind_key(model: &Model, relation: &Relation) -> Result<Vec<usize>> {
    let source_key = || {
        let columns = relation.columns.iter().enumerate();
        columns.filter(|(_, column)| column.in_key).map(|(at, _)| at)
    };
    if model.history == History::Raw {
        return Ok(source_key().collect());
    }
    let stop = |what: String| Error::new(Kind::TableStops, what).on_table(model.table.to_string());
    let mut key = Vec::new();
    for name in &model.key {
        let from = model.column(name).map_or(name.as_str(), |column| column.from.as_str());
        let at = relation.column(from).ok_or_else(|| {
            stop(format!("its key column {name} has no source column {from} in {}", relation.table))
                .remedy(format!("siltstone table resync {:#}", model.table))
        })?;
        key.push(at);
    }
    if model.history == History::Append {
        refuse_placeless_deletes(model, relation)?;
    }
    if model.history == History::Append || model.history == History::Bag {
        return Ok(key);
    }
    let same = source_key().count() == key.len() && source_key().all(|at| key.contains(&at));
    let vouched_for = relation.identity == Identity::Full && source_key().next().is_none();
    if same || vouched_for {
        return Ok(key);
    }
    let names: Vec<&str> = relation.key().collect();
    let what = format!(
        "its key ({}) is not the key of {} ({}), so the source's updates and deletes would not find \
         their rows",
        model.key.join(", "),
        relation.table,
        if names.is_empty() { "it has none".to_owned() } else { names.join(", ") }
    );
    let table = quote::table(&relation.table);
    Err(stop(what).remedy(format!(
        "name the source's key in {}, or let the source identify rows by that key: \
         alter table {table} replica identity using index …",
        model.declared_in
    )))
}

/// A deleted row of events goes to the leaf that its partition column names, which the source must send.
fn refuse_placeless_deletes(model: &Model, relation: &Relation) -> Result<()> {
    let Some(by) = model.partition.as_ref().and_then(|by| model.column(&by.by)) else {
        return Ok(());
    };
    let sent = relation.columns.iter().any(|column| column.name == by.from && column.in_key);
    let full = relation.identity == Identity::Full;
    if sent || full || model.deletes == Deletes::Ignore || relation.identity == Identity::Nothing {
        return Ok(());
    }
    let table = quote::table(&relation.table);
    let what = format!("the source's deletes do not carry {}, which partitions it", by.from);
    Err(Error::new(Kind::TableStops, what).on_table(model.table.to_string()).remedy(format!(
        "alter table {table} replica identity full, or write `delete: ignore` in {}",
        model.declared_in
    )))
}
