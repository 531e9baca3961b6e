//! What names mean at a place of a statement.

use std::collections::BTreeSet;

use super::deps::{Cell, Deps, Kind};
use super::statement::Column;

/// Postgres has no wider rows; a query that would be wider is not followed.
pub(super) const WIDEST: usize = 1664;

/// Something in a FROM, or what a query answers.
#[derive(Clone, Debug, Default)]
pub(super) struct Relation {
    /// What it is called there.
    pub(super) name: String,
    /// The schema of a table that has no alias: it may stand in front of its name.
    pub(super) schema: Option<String>,
    /// Its columns, as far as they are known.
    pub(super) columns: Vec<Column>,
    /// What decides which rows it has.
    pub(super) rows: Deps,
    /// The tables whose rows it has.
    pub(super) tables: BTreeSet<String>,
    /// What a column is that is not among those known.
    pub(super) open: Option<Open>,
}

/// What columns are whose names nobody knows.
#[derive(Clone, Debug)]
pub(super) enum Open {
    /// Columns of this table.
    Table(String),
    /// All of the same origin.
    Alike(Deps),
}

impl Relation {
    /// One whose columns nobody can tell.
    pub(super) fn unresolved(name: &str, why: &str) -> Relation {
        let deps = Deps::unresolved(name, why);
        Relation { rows: deps.clone(), open: Some(Open::Alike(deps)), ..Relation::default() }
    }

    /// The same by another name, its first columns renamed.
    pub(super) fn named(mut self, name: String, columns: &[String]) -> Relation {
        for (column, name) in self.columns.iter_mut().zip(columns) {
            column.name.clone_from(name);
        }
        let more = columns.iter().skip(self.columns.len()).map(|name| self.beyond(name));
        let more: Vec<Column> = more.flatten().collect();
        self.columns.extend(more);
        (self.name, self.schema) = (name, None);
        self
    }

    /// A column that is not among those known.
    fn beyond(&self, name: &str) -> Option<Column> {
        let deps = match self.open.as_ref()? {
            Open::Table(table) => Deps::on(Cell::new(table, name)),
            Open::Alike(deps) => deps.clone(),
        };
        Some(Column { name: name.to_owned(), deps, logic: String::new() })
    }

    fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    fn answers_to(&self, schema: Option<&str>, name: &str) -> bool {
        self.name == name && (schema.is_none() || schema == self.schema.as_deref())
    }

    /// All of its columns together, as its rows are where they are used as values.
    fn whole(&self) -> Deps {
        let mut deps = Deps::default();
        self.columns.iter().for_each(|column| deps.add_as(&column.deps, Kind::Transformation));
        match &self.open {
            Some(Open::Table(table)) => {
                deps.add_as(&Deps::on(Cell::rows(table)), Kind::Transformation);
            }
            Some(Open::Alike(open)) => deps.add_as(open, Kind::Transformation),
            None => {}
        }
        deps
    }
}

/// The names of a query or of a FROM, inside others.
#[derive(Default)]
pub(super) struct Frame<'f> {
    pub(super) up: Option<&'f Frame<'f>>,
    pub(super) ctes: Vec<Relation>,
    pub(super) relations: Vec<Relation>,
    /// columns that a USING made one of two
    pub(super) merged: Vec<Column>,
}

impl<'f> Frame<'f> {
    pub(super) fn within(up: &'f Frame<'f>) -> Frame<'f> {
        Frame { up: Some(up), ..Frame::default() }
    }

    /// This frame and those around it.
    fn outward(&self) -> impl Iterator<Item = &Frame<'f>> {
        std::iter::successors(Some(self), |frame| frame.up)
    }

    /// The CTE of a name.
    pub(super) fn cte(&self, name: &str) -> Option<&Relation> {
        self.outward().find_map(|frame| frame.ctes.iter().rev().find(|cte| cte.name == name))
    }

    /// What a name is: a column, or a whole row.
    pub(super) fn find(&self, parts: &[String]) -> Column {
        let unresolved = |why: &str| Column {
            name: parts.last().cloned().unwrap_or_default(),
            deps: Deps::unresolved(parts.join("."), why),
            logic: String::new(),
        };
        let found = match parts {
            [name] => self.plain(name),
            [table, name] => self.qualified(None, table, name),
            [schema, table, name] => self.qualified(Some(schema), table, name),
            _ => Err("it is no name of a column"),
        };
        found.unwrap_or_else(unresolved)
    }

    fn plain(&self, name: &str) -> Result<Column, &'static str> {
        for (at, frame) in self.outward().enumerate() {
            if let Some(found) = frame.own(name)? {
                return Ok(found);
            }
            let mut open = frame.relations.iter().filter(|relation| relation.open.is_some());
            let Some(first) = open.next() else { continue };
            let rows = frame.relations.iter().any(|relation| relation.name == name);
            let around = self.outward().skip(at + 1);
            let elsewhere = around.flat_map(|frame| &frame.relations).next().is_some();
            if open.next().is_some() || elsewhere || rows {
                return Err("the columns of a table that may have it are not known");
            }
            if let Some(found) = first.beyond(name) {
                return Ok(found);
            }
        }
        // no column of this name: the row of a table
        let mut tables = self.outward().flat_map(|frame| &frame.relations);
        let row = tables.find(|relation| relation.name == name).ok_or("no table here has it")?;
        Ok(Column { name: name.to_owned(), deps: row.whole(), logic: String::new() })
    }

    /// A column of this frame alone.
    fn own(&self, name: &str) -> Result<Option<Column>, &'static str> {
        if let Some(merged) = self.merged.iter().find(|column| column.name == name) {
            return Ok(Some(merged.clone()));
        }
        let mut found = self.relations.iter().filter_map(|relation| relation.column(name));
        let first = found.next();
        if found.next().is_some() {
            return Err("more than one table here has it");
        }
        Ok(first.cloned())
    }

    fn qualified(
        &self,
        schema: Option<&str>,
        table: &str,
        name: &str,
    ) -> Result<Column, &'static str> {
        let relation = self.relation(schema, table).ok_or("no table here has this name")?;
        let found = relation.column(name).cloned().or_else(|| relation.beyond(name));
        found.ok_or("the table has no such column")
    }

    /// The relation that a name in front of a column or of `*` means.
    fn relation(&self, schema: Option<&str>, name: &str) -> Option<&Relation> {
        let mut relations = self.outward().flat_map(|frame| &frame.relations);
        relations.find(|relation| relation.answers_to(schema, name))
    }

    /// All columns, as `*` lists them; or those of one table.
    pub(super) fn all(&self, of: Option<&[String]>) -> Vec<Column> {
        let relations: Vec<&Relation> = match of {
            None => self.relations.iter().collect(),
            Some([table]) => self.relation(None, table).into_iter().collect(),
            Some([schema, table]) => self.relation(Some(schema), table).into_iter().collect(),
            Some(_) => Vec::new(),
        };
        let mut columns = if of.is_none() { self.merged.clone() } else { Vec::new() };
        let merged = columns.len();
        for relation in &relations {
            let is_merged =
                |name: &str| columns.iter().take(merged).any(|column| column.name == name);
            let own = relation.columns.iter().filter(|column| !is_merged(&column.name));
            let own: Vec<Column> = own.cloned().collect();
            columns.extend(own);
            if let Some(open) = &relation.open {
                columns.push(Column {
                    name: Cell::ROWS.to_owned(),
                    deps: match open {
                        Open::Table(table) => {
                            Deps::unresolved(format!("{table}.*"), "its columns are not known")
                        }
                        Open::Alike(deps) => deps.clone(),
                    },
                    logic: String::new(),
                });
            }
        }
        if relations.is_empty() {
            let deps = Deps::unresolved(Cell::ROWS, "no table here has this name");
            columns.push(Column { name: Cell::ROWS.to_owned(), deps, logic: String::new() });
        }
        columns
    }

    /// The tables whose rows a name may mean.
    pub(super) fn tables_of<'r>(&'r self, name: &str) -> impl Iterator<Item = &'r String> {
        let relation = self.relation(None, name);
        relation.into_iter().flat_map(|relation| &relation.tables)
    }

    /// The tables whose rows are here.
    pub(super) fn tables(&self) -> BTreeSet<String> {
        self.relations.iter().flat_map(|relation| relation.tables.iter().cloned()).collect()
    }
}
