//! What becomes of a target whose source table has another shape.

use std::sync::Arc;

use tokio_postgres::{GenericClient, Transaction};

use super::core::Core;
use crate::binding::bind;
use crate::capture::catalog;
use crate::decode::RelationMessage;
use crate::error::{Error, Kind, Result};
use crate::journey::{Arrival, Target};
use crate::merge::{Standing, compare, evolve, follow};
use crate::names::TableName;
use crate::relation::{Column, Fill, Identity, Relation};

/// The key under which a kept change is hashed: the relation's own, whatever the model says.
pub(super) fn held_key(old: &Target, relation: &Relation) -> Vec<usize> {
    let columns = relation.columns.iter().enumerate();
    match old.key.is_empty() {
        true => Vec::new(),
        false => columns.filter(|(_, column)| column.in_key).map(|(at, _)| at).collect(),
    }
}

/// The target in a relation's new shape, and the statements that make its table follow. An error of
/// kind Reread or TableStops where it cannot follow by itself.
pub(super) async fn reshape(
    old: &Target,
    relation: &Arc<Relation>,
    schema_id: i32,
    (shared, warehouse): (&Core, Option<&Transaction<'_>>),
) -> Result<(Target, Vec<String>)> {
    if old.arrival != Arrival::InOrder {
        return evolved(old, relation, schema_id, (shared, warehouse)).await;
    }
    let table = old.model.table.to_string();
    let changes = compare(&old.relation, relation);
    let effect = follow(&old.model, &changes, relation, &shared.extensions);
    if let Some(why) = effect.stop {
        let remedy = match old.model.mirrored {
            true => format!("siltstone table resync {:#}", old.model.table),
            false => format!(
                "where that takes an edit of {}, make it and let the service read it (kill -HUP, or a restart); \
                 then siltstone table resync {:#}",
                old.model.declared_in, old.model.table
            ),
        };
        return Err(Error::new(Kind::TableStops, why).remedy(remedy).on_table(table));
    }
    if let Some(why) = effect.reread {
        return Err(Error::new(Kind::Reread, why).on_table(table));
    }
    for note in &effect.notes {
        tracing::warn!(table, "{note}");
    }
    let binding = bind(old.index, &effect.model, relation, schema_id, shared.binary)?;
    Ok((binding.target.standing_as(old), effect.statements))
}

/// The same for a table of topics, whose shapes come in no order: by what the warehouse has.
async fn evolved(
    old: &Target,
    relation: &Arc<Relation>,
    schema_id: i32,
    (shared, warehouse): (&Core, Option<&Transaction<'_>>),
) -> Result<(Target, Vec<String>)> {
    let table = &old.model.table;
    let standing = match warehouse {
        Some(transaction) => Standing::of(transaction, table).await?,
        None => Standing::of(&**shared.side_session().await.session(), table).await?,
    };
    let evolution = evolve(&old.model, &standing, relation, &shared.extensions);
    if let Some((why, remedy)) = evolution.stop {
        return Err(Error::new(Kind::TableStops, why).remedy(remedy).on_table(table.to_string()));
    }
    for note in &evolution.notes {
        tracing::warn!(%table, "{note}");
    }
    let binding = bind(old.index, &evolution.model, relation, schema_id, shared.binary)?;
    Ok((binding.target.standing_as(old), evolution.statements))
}

/// The relation behind a Relation message. The catalogue tells what the message does not: attnums,
/// what rows of an added column hold. It may be ahead of the stream: where it does not fit, the message
/// wins, with what the known shape lends.
pub(super) async fn resolve(
    source: &impl GenericClient,
    shared: &Core,
    (message, known_as): (&RelationMessage, &TableName),
    known: Option<&Arc<Relation>>,
) -> Result<Arc<Relation>> {
    let table = TableName::new(message.schema.clone(), message.name.clone());
    let catalogued = catalog::table(source, message.oid).await?.map(|found| found.relation);
    let catalogued = catalogued.map(|mut relation| {
        shared.connector().shape(known_as, &mut relation);
        relation
    });
    if let Some(relation) = catalogued.as_ref().filter(|relation| fits(relation, message)) {
        return Ok(Arc::new(relation.clone()));
    }
    if let Some(known) = known.filter(|known| fits(known, message)) {
        return Ok(known.clone());
    }
    let wanted: Vec<(u32, i32)> =
        message.columns.iter().map(|column| (column.type_oid, column.typmod)).collect();
    let types = catalog::types(source, &wanted).await?;
    let lent = |name: &str| {
        let of = |relation: &Relation| relation.columns.iter().find(|c| c.name == name).cloned();
        known.and_then(|known| of(known)).or_else(|| catalogued.as_ref().and_then(of))
    };
    let identity = identity(message.identity);
    let columns = message.columns.iter().zip(types).map(|(column, ty)| {
        let lent = lent(&column.name);
        Column {
            name: column.name.clone(),
            attnum: lent.as_ref().map_or(0, |lent| lent.attnum),
            ty,
            in_key: match identity {
                Identity::Full => lent.as_ref().is_some_and(|lent| lent.in_key),
                _ => column.in_identity,
            },
            fill: lent.as_ref().map_or(Fill::Unknown, |lent| lent.fill.clone()),
            mask: None,
            hidden: shared.connector().excludes(&table, &column.name),
            as_text: false,
            comment: lent.and_then(|lent| lent.comment),
        }
    });
    let mut relation = Relation {
        oid: message.oid,
        identity,
        columns: columns.collect(),
        attnums: catalogued.as_ref().map_or(0, |relation| relation.attnums),
        filenode: catalogued.as_ref().map_or(0, |relation| relation.filenode),
        comment: catalogued.and_then(|relation| relation.comment),
        table,
    };
    shared.connector().masks.dress(known_as, &mut relation);
    Ok(Arc::new(relation))
}

fn identity(relreplident: u8) -> Identity {
    match relreplident {
        b'f' => Identity::Full,
        b'n' => Identity::Nothing,
        _ => Identity::Key,
    }
}

/// Whether a relation is the one that a message describes.
fn fits(relation: &Relation, message: &RelationMessage) -> bool {
    let column = |(known, told): (&Column, &crate::decode::RelationColumn)| {
        known.name == told.name
            && known.source_type().oid == told.type_oid
            && known.source_type().typmod == told.typmod
            && (relation.identity != Identity::Key || known.in_key == told.in_identity)
    };
    relation.oid == message.oid
        && relation.table.schema == message.schema
        && relation.table.name == message.name
        && relation.identity == identity(message.identity)
        && relation.columns.len() == message.columns.len()
        && relation.columns.iter().zip(&message.columns).all(column)
}
