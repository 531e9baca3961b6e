//! What a column is made of, and how.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// A column of a table. `*` stands for its rows as such.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell {
    /// The table: `schema.table` of the warehouse, or `source.schema.table`.
    pub table: String,
    /// The column.
    pub column: String,
}

impl Cell {
    /// A column of a table.
    pub fn new(table: impl Into<String>, column: impl Into<String>) -> Cell {
        Cell { table: table.into(), column: column.into() }
    }

    /// The rows of a table.
    pub fn rows(table: impl Into<String>) -> Cell {
        Cell::new(table, Cell::ROWS)
    }

    /// What stands for rows.
    pub const ROWS: &'static str = "*";

    /// What stands in the place of a table that nobody knows.
    pub const NOBODY_KNOWS: &'static str = "?";
}

/// How a column depends on another one. Those before [`Kind::Condition`] say where its values come from, those behind
/// it what decides about them, or about which rows there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Its values are there as they are.
    Identity,
    /// They are computed from it, row by row.
    Transformation,
    /// Something stands in their place.
    Masking,
    /// They are computed from it over many rows.
    Aggregation,
    /// It decides which value there is.
    Condition,
    /// It decides which rows a window has, and in which order.
    Window,
    /// It decides which rows there are.
    Filter,
    /// It decides which rows stand side by side.
    Join,
    /// It decides which rows are one.
    GroupBy,
    /// It decides which rows come first, of which only some are taken.
    Sort,
    /// Something that could not be told.
    Unresolved,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 11] = [
        Kind::Identity,
        Kind::Transformation,
        Kind::Masking,
        Kind::Aggregation,
        Kind::Condition,
        Kind::Window,
        Kind::Filter,
        Kind::Join,
        Kind::GroupBy,
        Kind::Sort,
        Kind::Unresolved,
    ];

    /// The word in tables and answers.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Identity => "identity",
            Kind::Transformation => "transformation",
            Kind::Masking => "masking",
            Kind::Aggregation => "aggregation",
            Kind::Condition => "condition",
            Kind::Window => "window",
            Kind::Filter => "filter",
            Kind::Join => "join",
            Kind::GroupBy => "group_by",
            Kind::Sort => "sort",
            Kind::Unresolved => "unresolved",
        }
    }

    /// The kind of a word.
    pub fn of(word: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// Whether values come from there.
    pub fn is_direct(self) -> bool {
        self < Kind::Condition
    }

    /// What becomes of a dependence when the column that has it is used in the way of `outer`.
    fn within(self, outer: Kind) -> Kind {
        match (self, outer) {
            (Kind::Unresolved, _) => self,
            (inner, outer) if !inner.is_direct() && outer.is_direct() => inner,
            (inner, outer) => inner.max(outer),
        }
    }
}

/// What something depends on. A note says what of the SQL makes it so, or why it cannot be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deps(BTreeMap<(Cell, Kind), String>);

impl Deps {
    /// A column as it is.
    pub fn on(cell: Cell) -> Deps {
        Deps(BTreeMap::from([((cell, Kind::Identity), String::new())]))
    }

    /// A name that could not be told, and why.
    pub fn unresolved(name: impl Into<String>, why: impl Into<String>) -> Deps {
        let cell = Cell::new(Cell::NOBODY_KNOWS, name);
        Deps(BTreeMap::from([((cell, Kind::Unresolved), why.into())]))
    }

    /// Adds others as they are.
    pub fn add(&mut self, others: &Deps) {
        for ((cell, kind), note) in &others.0 {
            self.put(cell.clone(), *kind, note);
        }
    }

    /// Adds others, used in the way of `outer`.
    pub fn add_as(&mut self, others: &Deps, outer: Kind) {
        self.add_noted(others, outer, "");
    }

    /// Adds others, used in the way of `outer` by what the note says.
    pub fn add_noted(&mut self, others: &Deps, outer: Kind, note: &str) {
        for ((cell, kind), own) in &others.0 {
            let note = if *kind == Kind::Unresolved || note.is_empty() { own } else { note };
            self.put(cell.clone(), kind.within(outer), note);
        }
    }

    /// A direct dependence takes the place of a weaker one on the same column.
    fn put(&mut self, cell: Cell, kind: Kind, note: &str) {
        let direct = [Kind::Aggregation, Kind::Masking, Kind::Transformation, Kind::Identity];
        if kind.is_direct() {
            for other in direct {
                let key = (cell.clone(), other);
                if other > kind && self.0.contains_key(&key) {
                    return;
                }
                if other < kind {
                    self.0.remove(&key);
                }
            }
        }
        if let Entry::Vacant(entry) = self.0.entry((cell, kind)) {
            entry.insert(note.to_owned());
        }
    }

    /// Each dependence with its note.
    pub fn iter(&self) -> impl Iterator<Item = (&Cell, Kind, &str)> {
        self.0.iter().map(|((cell, kind), note)| (cell, *kind, note.as_str()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}
