//! The model of a table without a file: an upsert table with the source's own columns, types, key
//! and comments.
//!
//! Pure. A type that the warehouse cannot have (an enum, a composite, an extension that is not
//! installed) is kept as text, in which nothing is lost.

use std::collections::HashSet;

use super::common::Common;
use super::model::{Deletes, History, Model, ModelColumn, NewColumns, SourceName};
use crate::names::TableName;
use crate::relation::{Column, Fill, Identity, Relation, TypeKind};

/// The model that mirrors `relation`; none where its rows cannot be told apart, or where the
/// connector names no schema for such tables. `extensions` are the extension types of the warehouse.
pub fn mirror(
    connector: &Common,
    relation: &Relation,
    extensions: &HashSet<String>,
) -> Option<Model> {
    let schema = connector.target_schema.as_ref().filter(|_| connector.mirror)?;
    let table = TableName::new(schema.clone(), relation.table.name.clone());
    let key: Vec<String> = relation.key().map(str::to_owned).collect();
    let history = match (key.is_empty(), relation.identity) {
        (false, Identity::Key | Identity::Full) => History::Overwrite,
        (true, Identity::Full) => History::Bag,
        _ => return None,
    };
    let taken = relation.columns.iter();
    let taken = taken.filter(|column| !connector.excludes(&relation.table, &column.name));
    Some(Model {
        from: SourceName { source: connector.source.clone(), table: relation.table.clone() },
        history,
        track: Vec::new(),
        since: None,
        columns: taken.map(|column| mirror_column(column, extensions)).collect(),
        lookups: Vec::new(),
        partition: None,
        indexes: Vec::new(),
        deletes: Deletes::Hard,
        new_columns: NewColumns::Add,
        horizon: None,
        keep: None,
        mirrored: true,
        comment: relation.comment.clone(),
        declared_in: connector.file.clone(),
        table,
        key,
    })
}

/// The warehouse column that mirrors a source column.
pub fn mirror_column(column: &Column, extensions: &HashSet<String>) -> ModelColumn {
    ModelColumn {
        name: column.name.clone(),
        from: column.name.clone(),
        ty: mirror_type(&column.ty.kind, extensions),
        mask: None,
        required: column.in_key,
        fill: match &column.fill {
            Fill::Constant(constant) => Some(constant.clone()),
            Fill::Null | Fill::Unknown => None,
        },
        comment: column.comment.clone(),
    }
}

fn mirror_type(kind: &TypeKind, extensions: &HashSet<String>) -> String {
    match kind {
        TypeKind::Builtin { name, .. } => name.clone(),
        TypeKind::Extension { name } if extensions.contains(name) => {
            crate::postgres::quote::ident(name)
        }
        TypeKind::EnumArray => "text[]".to_owned(),
        TypeKind::Enum | TypeKind::Extension { .. } | TypeKind::Other => "text".to_owned(),
    }
}
