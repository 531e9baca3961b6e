//! How a warehouse table takes rows of a shape that it has not: what it lacks is added, a type that is too
//! narrow is widened, nothing is ever taken away.
//!
//! Pure. Shapes of a topic's records come in no order: while one partition tells an old one, another may tell
//! a new one, and a restart tells the old one again. So it is not the last shape that counts, but what the
//! table has.

use std::collections::HashSet;
use std::sync::Arc;

use super::conform::nullable;
use super::define::{add_column, view_statement};
use super::standing::Standing;
use super::wider::union;
use crate::postgres::quote;
use crate::relation::{Column, Relation};
use crate::spec::{History, Model, NewColumns, mirror_column};

/// What a shape asks of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evolution {
    /// The model that fits the shape and what the table had before.
    pub model: Arc<Model>,
    /// Statements that make the table take it.
    pub statements: Vec<String>,
    /// Why it cannot, with what to do.
    pub stop: Option<(String, String)>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// What the shape of `relation` asks of the table of `model`.
pub fn evolve(
    model: &Arc<Model>,
    standing: &Standing,
    relation: &Relation,
    extensions: &HashSet<String>,
) -> Evolution {
    let mut evolution =
        Evolution { model: model.clone(), statements: Vec::new(), stop: None, notes: Vec::new() };
    if model.history == History::Raw {
        return evolution;
    }
    let mut grown = (**model).clone();
    for column in relation.columns.iter().filter(|column| !column.hidden) {
        take(&mut evolution, &mut grown, standing, (column, extensions));
    }
    let key: Vec<&str> = relation.key().collect();
    let known: Vec<&str> = model.key.iter().map(|name| from(&grown, name)).collect();
    let same = key.len() == known.len() && key.iter().all(|name| known.contains(name));
    if !same && !key.is_empty() && model.mirrored {
        let what = format!(
            "its records have the key ({}), and it has ({})",
            key.join(", "),
            model.key.join(", ")
        );
        let remedy = format!(
            "rename or drop table {0}, so that it is made anew, then siltstone table resume {0:#}",
            model.table
        );
        evolution.stop.get_or_insert((what, remedy));
    }
    let unfed = grown.columns.iter().filter(|column| relation.column(&column.from).is_none());
    for column in unfed {
        let required = standing.column(&column.name).is_some_and(|stored| stored.required);
        if required && !grown.physical_key().contains(&column.name.as_str()) {
            evolution.statements.push(nullable(&grown, &column.name));
            let (name, table) = (&column.from, &relation.table);
            let note = format!("{table} has no column {name} (any more): it is NULL in new rows");
            evolution.notes.push(note);
        }
    }
    if !evolution.statements.is_empty() && grown.history == History::Versions {
        evolution.statements.push(view_statement(&grown));
    }
    evolution.model = Arc::new(grown);
    evolution
}

/// The source column of a column of the key.
fn from<'m>(model: &'m Model, name: &'m str) -> &'m str {
    model.column(name).map_or(name, |column| column.from.as_str())
}

fn take(
    evolution: &mut Evolution,
    model: &mut Model,
    standing: &Standing,
    (column, extensions): (&Column, &HashSet<String>),
) {
    let known = model.columns.iter().position(|known| known.from == column.name);
    if !model.mirrored {
        if known.is_some() {
            return;
        }
        let (name, file) = (&column.name, &model.declared_in);
        match model.new_columns {
            NewColumns::Stop => {
                let what = format!("the source has a new column {name} (new_columns: stop)");
                let remedy =
                    format!("add it to {file}, then siltstone table resume {:#}", model.table);
                evolution.stop.get_or_insert((what, remedy));
            }
            NewColumns::Ignore => {
                let note = format!("the source has a column {name}; {file} does not take it");
                evolution.notes.push(note);
            }
            NewColumns::Add => add(evolution, model, standing, (column, extensions)),
        }
        return;
    }
    let Some(stored) = standing.column(&column.name) else {
        return match known {
            // it was asked for a moment ago
            Some(_) => {}
            None => add(evolution, model, standing, (column, extensions)),
        };
    };
    let wanted = mirror_column(column, extensions);
    let (there, wanted_type) = (plain(&stored.declared), plain(&wanted.ty));
    let mut wanted = wanted;
    let both = if stored.generated { Some(there.clone()) } else { union(&there, &wanted_type) };
    if both.as_ref() == Some(&there) {
        wanted.ty.clone_from(&stored.declared);
    } else if let Some(ty) = both {
        let (table, name) = (model.quoted(), quote::ident(&column.name));
        let alter = format!("alter table {table} alter column {name} type {ty} using {name}::{ty}");
        evolution.statements.push(alter);
        let note =
            format!("{} is {wanted_type} now; rows keep the values that they have", column.name);
        evolution.notes.push(note);
        wanted.ty = ty;
    } else {
        let what =
            format!("the source's {} is {wanted_type} now, and the table has {there}", column.name);
        let remedy = format!(
            "alter table {} alter column {} type {} using …, then siltstone table resume {:#}",
            model.quoted(),
            quote::ident(&column.name),
            wanted.ty,
            model.table
        );
        evolution.stop.get_or_insert((what, remedy));
    }
    match known.and_then(|at| model.columns.get_mut(at)) {
        Some(known) => known.ty = wanted.ty,
        None => model.columns.push(wanted),
    }
}

/// Adds a column, or takes one that is there.
fn add(
    evolution: &mut Evolution,
    model: &mut Model,
    standing: &Standing,
    (column, extensions): (&Column, &HashSet<String>),
) {
    let mut mirrored = mirror_column(column, extensions);
    mirrored.required = false;
    if !standing.has(&mirrored.name) {
        // rows that other partitions tell in an older shape have the default too: it stays
        evolution.statements.extend(add_column(model, &mirrored).into_iter().take(1));
    }
    model.columns.retain(|known| known.name != mirrored.name);
    model.columns.push(mirrored);
}

fn plain(ty: &str) -> String {
    ty.trim_matches('"').to_owned()
}
