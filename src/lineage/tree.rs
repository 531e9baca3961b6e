//! Lineage as people look at it: what one table or column comes from, or what comes from it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::deps::{Cell, Kind};
use super::edges::Edge;

/// Which way is looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// What it comes from.
    Up,
    /// What comes from it.
    Down,
}

/// No tree has more lines: it is cut then, and says so.
const MOST_LINES: usize = 2_000;

/// Lineage that can be looked at from any column.
pub struct Lineage {
    edges: Vec<Edge>,
    /// by the column that is looked from: places in `edges`
    up: BTreeMap<Cell, Vec<usize>>,
    down: BTreeMap<Cell, Vec<usize>>,
}

impl Lineage {
    /// All of it.
    pub fn new(edges: Vec<Edge>) -> Lineage {
        let (mut up, mut down) = (BTreeMap::new(), BTreeMap::new());
        for (at, edge) in edges.iter().enumerate() {
            up.entry(edge.target.clone()).or_insert_with(Vec::new).push(at);
            down.entry(edge.source.clone()).or_insert_with(Vec::new).push(at);
        }
        Lineage { edges, up, down }
    }

    fn from(&self, way: Way) -> &BTreeMap<Cell, Vec<usize>> {
        match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        }
    }

    /// The columns of a table from which something can be seen that way, its rows last.
    pub fn columns(&self, table: &str, way: Way) -> Vec<Cell> {
        let all = self.from(way).keys().filter(|cell| cell.table == table);
        let (rows, mut columns): (Vec<Cell>, Vec<Cell>) =
            all.cloned().partition(|cell| cell.column == Cell::ROWS);
        columns.extend(rows);
        columns
    }

    /// Whether anything is known of a table.
    pub fn knows(&self, table: &str) -> bool {
        let known = |way| !self.columns(table, way).is_empty();
        known(Way::Up) || known(Way::Down)
    }

    /// The tables of which something is known.
    pub fn tables(&self) -> Vec<&str> {
        let cells = self.up.keys().chain(self.down.keys());
        let mut tables: Vec<&str> = cells.map(|cell| cell.table.as_str()).collect();
        tables.sort_unstable();
        tables.dedup();
        tables.retain(|table| *table != Cell::NOBODY_KNOWS);
        tables
    }

    /// A tree of lines: each column, and below it what it comes from, or what comes from it.
    pub fn lines(&self, cells: &[Cell], way: Way) -> Vec<String> {
        let mut lines = Vec::new();
        for cell in cells {
            lines.push(format!("{}.{}", cell.table, cell.column));
            self.below(cell, way, &mut vec![cell.clone()], &mut lines);
        }
        if lines.len() >= MOST_LINES {
            lines.truncate(MOST_LINES);
            lines.push("… it goes on: name one column".to_owned());
        }
        lines
    }

    fn below(&self, cell: &Cell, way: Way, path: &mut Vec<Cell>, lines: &mut Vec<String>) {
        let found = self.from(way).get(cell).into_iter().flatten();
        let edges: Vec<&Edge> = found.filter_map(|at| self.edges.get(*at)).collect();
        let indent = "    ".repeat(path.len());
        for edge in edges {
            if lines.len() >= MOST_LINES {
                return;
            }
            let other = match way {
                Way::Up => &edge.source,
                Way::Down => &edge.target,
            };
            let turns = path.contains(other);
            lines.push(format!("{indent}{}", told(edge, other)));
            if !turns {
                path.push(other.clone());
                self.below(other, way, path, lines);
                path.pop();
            }
        }
    }

    /// What a table comes from and what comes from it, one step far, for machines.
    pub fn as_json(&self, table: &str) -> Value {
        let of = |way: Way| {
            let cells = self.columns(table, way);
            let places = cells.iter().filter_map(|cell| self.from(way).get(cell)).flatten();
            let edges = places.filter_map(|at| self.edges.get(*at));
            edges.map(edge_as_json).collect::<Vec<Value>>()
        };
        json!({ "table": table, "upstream": of(Way::Up), "downstream": of(Way::Down) })
    }

    /// The dependences that the tree of these columns is made of, each once.
    pub fn edges(&self, cells: &[Cell], way: Way) -> Vec<Value> {
        let (mut seen, mut open) = (BTreeMap::new(), cells.to_vec());
        while let Some(cell) = open.pop() {
            let found = self.from(way).get(&cell).into_iter().flatten();
            for (at, edge) in found.filter_map(|at| Some((*at, self.edges.get(*at)?))) {
                if seen.insert(at, edge).is_none() {
                    open.push(match way {
                        Way::Up => edge.source.clone(),
                        Way::Down => edge.target.clone(),
                    });
                }
            }
        }
        seen.into_values().map(edge_as_json).collect()
    }
}

/// A line of a tree.
fn told(edge: &Edge, other: &Cell) -> String {
    const LONGEST: usize = 60;
    let logic = edge.logic.split_whitespace().collect::<Vec<_>>().join(" ");
    let logic = match logic.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", logic.get(..end).unwrap_or_default()),
        None => logic,
    };
    let says = !logic.is_empty() && edge.kind != Kind::Identity;
    let logic = if says { format!(": {logic}") } else { String::new() };
    format!("{}.{}  {}{logic}", other.table, other.column, edge.kind.word())
}

/// A dependence as JSON, by the names of `audit.data_lineage`.
fn edge_as_json(edge: &Edge) -> Value {
    json!({
        "source_table": edge.source.table,
        "source_column": edge.source.column,
        "target_table": edge.target.table,
        "target_column": edge.target.column,
        "transformation_type": edge.kind.word(),
        "transformation_logic": edge.logic,
    })
}
