//! The text of a SELECT: read by the parser, within limits.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::thread::ScopedJoinHandle;

use sqlparser::ast::{ObjectName, Query, Statement, visit_relations};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, Tokenizer};

use super::deps::{Cell, Deps, Kind};
use super::heading::folded;
use super::query::Deriver;
use super::scope::Frame;
use crate::names::TableName;

/// A longer statement is not looked into: nobody writes one by hand.
const LONGEST: usize = 10_000;

/// Brackets and subqueries may be nested so deep.
const DEEPEST: usize = 150;

/// What a statement of the longest kind needs, each word inside the one before.
const STACK: usize = 64 << 20;

/// The columns of the tables that a statement may read.
#[derive(Clone, Debug, Default)]
pub struct Tables(HashMap<(Option<String>, String), (TableName, Vec<String>)>);

impl Tables {
    /// Adds a table, or what is known of it anew.
    pub fn add(&mut self, table: &TableName, columns: Vec<String>) {
        let key = (Some(table.schema.clone()), table.name.clone());
        self.0.insert(key, (table.clone(), columns));
    }

    /// Says which table a name without a schema means.
    pub fn add_visible(&mut self, name: &str, table: &TableName, columns: Vec<String>) {
        self.0.insert((None, name.to_owned()), (table.clone(), columns));
    }

    /// Says that a view by this name has the columns of a table, as they are.
    pub fn add_view(&mut self, view: &TableName, table: &TableName, columns: Vec<String>) {
        let key = (Some(view.schema.clone()), view.name.clone());
        self.0.insert(key, (table.clone(), columns));
    }

    pub(super) fn find(
        &self,
        schema: Option<&str>,
        name: &str,
    ) -> Option<&(TableName, Vec<String>)> {
        self.0.get(&(schema.map(str::to_owned), name.to_owned()))
    }
}

/// A column of a SELECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What it is made of.
    pub deps: Deps,
    /// The expression that makes it.
    pub logic: String,
}

/// What a SELECT is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Derived {
    /// Its columns, in their order.
    pub columns: Vec<Column>,
    /// What decides which rows it has.
    pub rows: Deps,
}

impl Derived {
    fn unresolved(why: &str) -> Derived {
        Derived { columns: Vec::new(), rows: Deps::unresolved(Cell::ROWS, why) }
    }

    /// A column by its name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// What each column of a SELECT is made of, of tables whose columns are known. Never fails: what cannot be told is
/// unresolved.
pub fn derive(sql: &str, tables: &Tables) -> Derived {
    apart(sql, |query| {
        let relation = Deriver::new(tables).query(query, &Frame::default());
        Derived { columns: relation.columns, rows: relation.rows }
    })
    .unwrap_or_else(|why| Derived::unresolved(&why))
}

/// The columns that a SELECT surely reads, of whatever decides about its rows or their values. Of a table that it uses
/// as whole rows nothing is told: `count(t)` reads none of its columns.
pub fn reads(sql: &str, tables: &Tables) -> BTreeSet<Cell> {
    let found = apart(sql, |query| {
        let mut deriver = Deriver::new(tables);
        let relation = deriver.query(query, &Frame::default());
        let all = relation.columns.iter().map(|column| &column.deps).chain([&relation.rows]);
        let told = all.flat_map(Deps::iter).filter(|(cell, kind, _)| {
            *kind != Kind::Unresolved
                && cell.column != Cell::ROWS
                && !deriver.whole.contains(&cell.table)
        });
        told.map(|(cell, _, _)| cell.clone()).collect()
    });
    // what the parser does not read is not judged
    found.unwrap_or_default()
}

/// The tables that a statement names, as it writes them: schema and name. Names of its own CTEs are among them.
pub fn tables_of(sql: &str) -> Vec<(Option<String>, String)> {
    let found = apart(sql, |query| {
        let mut found = BTreeSet::new();
        let ControlFlow::Continue(()) = visit_relations(query, |name| {
            found.extend(parts(name));
            ControlFlow::<Infallible>::Continue(())
        });
        found.into_iter().collect()
    });
    found.unwrap_or_default()
}

/// Schema and name of a table as it is written; none where it is anything else.
pub(super) fn parts(name: &ObjectName) -> Option<(Option<String>, String)> {
    let mut parts = name.0.iter().map(|part| part.as_ident().map(folded));
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Some(name)), None, None) => Some((None, name)),
        (Some(Some(schema)), Some(Some(name)), None) => Some((Some(schema), name)),
        _ => None,
    }
}

/// Does something with a statement's tree on a stack of its own: a tree may be as deep as its text is long, and a
/// stack that overflows ends the process.
fn apart<T: Send>(sql: &str, work: impl FnOnce(&Query) -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("lineage".to_owned()).stack_size(STACK);
        let thread = builder.spawn_scoped(scope, || parse(sql).map(|query| work(&query)));
        match thread.map(ScopedJoinHandle::join) {
            Ok(Ok(done)) => done,
            _ => Err("there was no room to look into it".to_owned()),
        }
    })
}

fn parse(sql: &str) -> Result<Box<Query>, String> {
    let dialect = PostgreSqlDialect {};
    let unread = |why: String| format!("the parser does not read it: {why}");
    let tokens = Tokenizer::new(&dialect, sql).tokenize_with_location();
    let tokens = tokens.map_err(|error| unread(error.to_string()))?;
    let words = tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_)));
    if words.count() > LONGEST {
        return Err(format!("it has more than {LONGEST} words"));
    }
    let mut parser =
        Parser::new(&dialect).with_recursion_limit(DEEPEST).with_tokens_with_locations(tokens);
    let mut statements = parser.parse_statements().map_err(|error| unread(error.to_string()))?;
    match (statements.pop(), statements.is_empty()) {
        (Some(Statement::Query(query)), true) => Ok(query),
        _ => Err("it is not one SELECT".to_owned()),
    }
}
