//! Dependences between columns of tables, as they are kept.

use super::deps::{Cell, Deps, Kind};
use super::statement::{Derived, Tables, derive};
use crate::spec::Mart;

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
