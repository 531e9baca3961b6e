//! What a change of a source table's shape means for its warehouse table.
//!
//! Pure: two shapes in, the statements and their consequence out. A mirrored table follows; a
//! declared one keeps the columns its file lists. Rows that the source rewrote without an event are
//! read again.
//!
//! Source of the rules: a column keeps its attnum through a rename; ALTER TABLE … TYPE rewrites the
//! rows unless the types are binary coercible (PostgreSQL documentation, ALTER TABLE, Notes).

use std::collections::HashSet;
use std::sync::Arc;

use super::define::add_column;
use crate::postgres::quote;
use crate::relation::{Column, Fill, Relation};
use crate::spec::{History, Model, NewColumns, mirror_column};

/// A difference between two shapes of a source table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A column came.
    Added(Column),
    /// A column went.
    Dropped(String),
    /// A column has another name.
    Renamed {
        /// The name it had.
        from: String,
        /// The column now.
        to: Column,
    },
    /// A column has another type.
    Retyped {
        /// The column now.
        column: Column,
        /// Whether stored values stay as they are.
        widened: bool,
    },
    /// Other columns tell rows apart.
    KeyChanged,
    /// The table was dropped and made again.
    Recreated,
}

/// What follows from a change of shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// The model that fits the new shape.
    pub model: Arc<Model>,
    /// Statements that make the warehouse table follow.
    pub statements: Vec<String>,
    /// Why the rows must be read again, if they must.
    pub reread: Option<String>,
    /// Why the table cannot go on by itself, if it cannot.
    pub stop: Option<String>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// The differences between the shape that was applied last and the one that is there now.
pub fn compare(old: &Relation, new: &Relation) -> Vec<Change> {
    let mut changes = Vec::new();
    if old.oid != new.oid {
        changes.push(Change::Recreated);
    }
    let same = |a: &Column, b: &Column| match (a.attnum, b.attnum) {
        (0, _) | (_, 0) => a.name == b.name,
        (a, b) => a == b,
    };
    let recreated = old.oid != new.oid;
    let same = |a: &Column, b: &Column| if recreated { a.name == b.name } else { same(a, b) };
    // a volatile default that was dropped since then has left no other trace
    let rewritten = old.filenode != 0 && new.filenode != 0 && old.filenode != new.filenode;
    let added = |column: &Column| {
        let mut column = column.clone();
        let was_there = column.attnum > 0 && column.attnum <= old.attnums;
        if (rewritten || was_there) && column.fill == Fill::Null {
            column.fill = Fill::Unknown;
        }
        Change::Added(column)
    };
    let named = |columns: &[Column], name: &str| columns.iter().any(|column| column.name == name);
    for column in &old.columns {
        let kept = new.columns.iter().any(|candidate| same(column, candidate));
        if !kept && !named(&new.columns, &column.name) {
            changes.push(Change::Dropped(column.name.clone()));
        }
    }
    for column in &new.columns {
        let Some(before) = old.columns.iter().find(|candidate| same(candidate, column)) else {
            // dropped and made again under its name: the stored values are those of the old one
            let gone = old.columns.iter().any(|old| {
                old.name == column.name && !new.columns.iter().any(|column| same(old, column))
            });
            changes.push(match gone {
                true => Change::Retyped { column: column.clone(), widened: false },
                false => added(column),
            });
            continue;
        };
        if before.name != column.name {
            changes.push(Change::Renamed { from: before.name.clone(), to: column.clone() });
        }
        if before.ty != column.ty {
            let widened = is_widened(before, column);
            changes.push(Change::Retyped { column: column.clone(), widened });
        }
    }
    let renamed = |name: &str| {
        let of = |change: &Change| match change {
            Change::Renamed { from, to } if from == name => Some(to.name.clone()),
            _ => None,
        };
        changes.iter().find_map(of).unwrap_or_else(|| name.to_owned())
    };
    let before: Vec<String> = old.key().map(renamed).collect();
    if !before.iter().map(String::as_str).eq(new.key()) {
        changes.push(Change::KeyChanged);
    }
    changes
}

/// Whether a type change keeps the stored values, as the source itself did without a rewrite.
fn is_widened(before: &Column, after: &Column) -> bool {
    const TEXT: u32 = 25;
    const VARCHAR: u32 = 1043;
    const NUMERIC: u32 = 1700;
    const HEADER: i32 = 4;
    let (old, new) = (&before.ty, &after.ty);
    match (old.oid, new.oid) {
        (VARCHAR | TEXT, TEXT) => true,
        (TEXT, VARCHAR) => new.typmod < 0,
        (VARCHAR, VARCHAR) => new.typmod < 0 || (old.typmod >= 0 && new.typmod >= old.typmod),
        (NUMERIC, NUMERIC) => {
            let scale = |typmod: i32| (typmod - HEADER) & 0xffff;
            let precision = |typmod: i32| (typmod - HEADER) >> 16;
            new.typmod < 0
                || (old.typmod >= 0
                    && scale(old.typmod) == scale(new.typmod)
                    && precision(new.typmod) >= precision(old.typmod))
        }
        _ => false,
    }
}

/// What the warehouse table of `model` has to do about `changes`, which lead to `new`.
pub fn follow(
    model: &Arc<Model>,
    changes: &[Change],
    new: &Relation,
    extensions: &HashSet<String>,
) -> Effect {
    let mut follower = Follower {
        model: (**model).clone(),
        effect: Effect {
            model: model.clone(),
            statements: Vec::new(),
            reread: None,
            stop: None,
            notes: Vec::new(),
        },
        extensions,
    };
    // a new column may have the name that another one had until now
    let (renames, others): (Vec<_>, Vec<_>) =
        changes.iter().partition(|change| matches!(change, Change::Renamed { .. }));
    for change in renames.into_iter().chain(others) {
        follower.take(change);
    }
    let Follower { mut model, mut effect, .. } = follower;
    let reshaped = changes.iter().any(|c| {
        matches!(c, Change::Added(column) if !column.hidden) || matches!(c, Change::Dropped(_))
    });
    if reshaped && model.history == History::Bag {
        let why = "its rows are told apart by all their columns, which are others now";
        effect.reread.get_or_insert_with(|| why.to_owned());
    }
    if model.mirrored {
        // the order of the source, as a table that is made anew would have it
        let place = |name: &str| new.column(name).unwrap_or(usize::MAX);
        model.columns.sort_by_key(|column| place(&column.from));
    }
    if matches!(model.history, History::Raw | History::Append) {
        // their rows are events: what was rewritten without one is not theirs to tell
        effect.reread = None;
    }
    effect.model = Arc::new(model);
    effect
}

struct Follower<'e> {
    model: Model,
    effect: Effect,
    extensions: &'e HashSet<String>,
}

impl Follower<'_> {
    fn take(&mut self, change: &Change) {
        match change {
            Change::Added(column) => self.added(column),
            Change::Dropped(name) => self.dropped(name),
            Change::Renamed { from, to } => self.renamed(from, to),
            Change::Retyped { column, widened } => self.retyped(column, *widened),
            Change::KeyChanged if self.model.history == History::Raw => {}
            Change::KeyChanged => self.stop("its key changed at the source"),
            Change::Recreated => self.stop("its source table was dropped and made again"),
        }
    }

    fn stop(&mut self, why: &str) {
        self.effect.stop.get_or_insert_with(|| why.to_owned());
    }

    fn reread(&mut self, why: String) {
        self.effect.reread.get_or_insert(why);
    }

    /// The model's column that a source column feeds.
    fn fed_by(&mut self, from: &str) -> Option<&mut crate::spec::ModelColumn> {
        self.model.columns.iter_mut().find(|column| column.from == from)
    }

    fn added(&mut self, column: &Column) {
        if column.hidden {
            return;
        }
        let name = column.name.clone();
        let taken = self.fed_by(&name).is_some();
        match self.model.new_columns {
            NewColumns::Stop => {
                let declared = &self.model.declared_in;
                let why = format!(
                    "the source has a new column {name} (new_columns: stop): add it to {declared}"
                );
                return self.stop(&why);
            }
            NewColumns::Ignore if self.model.history == History::Raw => return,
            NewColumns::Ignore if !taken => {
                let declared = &self.model.declared_in;
                let note =
                    format!("the source has a new column {name}; {declared} does not take it");
                return self.effect.notes.push(note);
            }
            // whatever the table has in it is of another column, or nothing
            NewColumns::Ignore => self.reread(format!("the source has the column {name} now")),
            NewColumns::Add => {
                // where a column of that name is left from one that was dropped, the statement fails
                self.model.columns.retain(|known| known.name != name);
                let mut mirrored = mirror_column(column, self.extensions);
                mirrored.required = false;
                self.effect.statements.extend(add_column(&self.model, &mirrored));
                self.model.columns.push(mirrored);
            }
        }
        if column.fill == Fill::Unknown {
            self.reread(format!(
                "the source filled the new column {name} without telling its rows"
            ));
        }
    }

    fn dropped(&mut self, name: &str) {
        let table = self.model.quoted();
        let key = self.model.key.clone();
        let Some(column) = self.fed_by(name) else { return };
        if key.contains(&column.name) {
            return;
        }
        let required = std::mem::take(&mut column.required);
        let column = column.name.clone();
        if required {
            let column = quote::ident(&column);
            let nullable = format!("alter table {table} alter column {column} drop not null");
            self.effect.statements.push(nullable);
        }
        let note =
            format!("the source dropped its column {name}; {column} stays and is NULL from now on");
        self.effect.notes.push(note);
    }

    fn renamed(&mut self, from: &str, to: &Column) {
        let (table, mirrored) = (self.model.quoted(), self.model.mirrored);
        let declared = self.model.declared_in.clone();
        let Some(column) = self.fed_by(from) else { return };
        if !mirrored {
            let column = column.name.clone();
            return self.stop(&format!(
                "the source renamed {from} to {}: write columns.{column}.from: {} in {declared}",
                to.name, to.name
            ));
        }
        let (old, new) = (quote::ident(&column.name), quote::ident(&to.name));
        let before = std::mem::replace(&mut column.name, to.name.clone());
        column.from.clone_from(&to.name);
        for key in self.model.key.iter_mut().filter(|key| **key == before) {
            key.clone_from(&to.name);
        }
        self.effect.statements.push(format!("alter table {table} rename column {old} to {new}"));
    }

    fn retyped(&mut self, to: &Column, widened: bool) {
        let (table, mirrored) = (self.model.quoted(), self.model.mirrored);
        let raw = self.model.history == History::Raw;
        let mirrored_type = mirror_column(to, self.extensions).ty;
        let Some(column) = self.fed_by(&to.name) else { return };
        if mirrored && column.ty != mirrored_type {
            let name = quote::ident(&column.name);
            column.ty.clone_from(&mirrored_type);
            self.effect.statements.push(format!(
                "alter table {table} alter column {name} type {mirrored_type} \
                 using {name}::{mirrored_type}"
            ));
        }
        if !widened && !raw {
            self.reread(format!("the source rewrote {} as {}", to.name, to.ty.name));
        }
    }
}
