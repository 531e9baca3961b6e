//! Dependences between columns of tables, as they are kept.

use super::deps::{Cell, Deps, Kind};
use super::statement::{Derived, Tables, derive};
use crate::postgres::quote;
use crate::spec::{History, Mart, Model};

/// A column of a table depends on one of another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// What it depends on.
    pub source: Cell,
    /// The column; `*` for the rows of its table.
    pub target: Cell,
    /// How.
    pub kind: Kind,
    /// What makes it so: the expression, or why it cannot be told.
    pub logic: String,
}

/// What a mart and the view of its columns that depend on the day are made of. `columns` are those that the mart has
/// in the warehouse, where it is there.
pub fn of_mart(mart: &Mart, tables: &Tables, columns: Option<&[(String, String)]>) -> Vec<Edge> {
    let mut derived = derive(&mart.query, tables);
    if let Some(columns) = columns.filter(|columns| columns.len() == derived.columns.len()) {
        // the warehouse knows best what it calls a column that has no name
        for (column, (name, _)) in derived.columns.iter_mut().zip(columns) {
            column.name.clone_from(name);
        }
    }
    let mut edges = edges(&mart.table.to_string(), &derived);
    if !mart.today.is_empty() {
        let mut of_mart = Tables::default();
        let names = derived.columns.iter().map(|column| column.name.clone());
        of_mart.add_visible("m", &mart.table, names.collect());
        let query = format!("select m.*, {} from m", mart.today_list());
        edges.extend(self::edges(&mart.today_view().to_string(), &derive(&query, &of_mart)));
    }
    edges
}

/// What the columns of a table that are looked up are made of.
pub(super) fn of_lookups(model: &Model, tables: &Tables) -> Vec<Edge> {
    let mut found = Vec::new();
    for lookup in &model.lookups {
        let name = quote::ident(&lookup.name);
        let query =
            format!("select (\n{}\n) as {name} from {} as \"row\"", lookup.query, model.quoted());
        let mut derived = derive(&query, tables);
        // which rows there are is not decided by it
        derived.rows = Deps::default();
        for column in &mut derived.columns {
            column.logic.clone_from(&lookup.query);
        }
        let mut edges = edges(&model.table.to_string(), &derived);
        if model.history == History::Versions {
            let (table, view) = (model.table.to_string(), model.current_view().to_string());
            let (source, target) =
                (Cell::new(&table, &lookup.name), Cell::new(&view, &lookup.name));
            edges.push(Edge { source, target, kind: Kind::Identity, logic: lookup.name.clone() });
        }
        found.extend(edges);
    }
    found
}

fn edges(table: &str, derived: &Derived) -> Vec<Edge> {
    let mut edges = Vec::new();
    let mut add = |target: Cell, deps: &Deps, logic: &str| {
        for (source, kind, note) in deps.iter() {
            let logic = if note.is_empty() { logic } else { note };
            let (source, logic) = (source.clone(), logic.to_owned());
            edges.push(Edge { source, target: target.clone(), kind, logic });
        }
    };
    for column in &derived.columns {
        add(Cell::new(table, &column.name), &column.deps, &column.logic);
    }
    add(Cell::rows(table), &derived.rows, "");
    edges
}
