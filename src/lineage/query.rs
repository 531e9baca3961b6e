//! What a query answers: its CTEs, its SELECTs and what puts them together.

use std::collections::BTreeSet;

use sqlparser::ast::{
    Cte, Distinct, Expr, GroupByExpr, NamedWindowExpr, OrderBy, OrderByKind, Query, Select,
    SelectItem, SelectItemQualifiedWildcardKind, SetExpr, SetOperator, TableAlias, Value,
    WindowSpec,
};

use super::deps::{Cell, Deps, Kind};
use super::expression::{Place, text};
use super::heading::{folded, heading};
use super::scope::{Frame, Relation, WIDEST};
use super::statement::{Column, Tables, parts};

/// Subqueries may stand within each other so deep.
const DEEPEST: usize = 100;

/// What is looked at before a statement counts as too large to follow.
const MOST_STEPS: usize = 500_000;

/// A recursive CTE is followed until it tells nothing new, and no longer than this.
const ROUNDS: usize = 12;

/// Follows a statement within limits.
pub(super) struct Deriver<'t> {
    pub(super) tables: &'t Tables,
    /// The tables whose rows are used as values, as a whole.
    pub(super) whole: BTreeSet<String>,
    depth: usize,
    steps: usize,
}

impl<'t> Deriver<'t> {
    pub(super) fn new(tables: &'t Tables) -> Deriver<'t> {
        Deriver { tables, whole: BTreeSet::new(), depth: 0, steps: 0 }
    }

    /// Counts a step; whether there are any left.
    pub(super) fn goes_on(&mut self) -> bool {
        self.steps = self.steps.saturating_add(1);
        self.steps < MOST_STEPS
    }

    /// What a query answers, among the names around it.
    pub(super) fn query(&mut self, query: &Query, up: &Frame<'_>) -> Relation {
        if self.depth >= DEEPEST || !self.goes_on() {
            return Relation::unresolved(Cell::ROWS, "the statement is too large to follow");
        }
        self.depth += 1;
        let mut frame = Frame::within(up);
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            let recursive = query.with.as_ref().is_some_and(|with| with.recursive);
            let relation = match recursive {
                true => self.recursive(cte, &frame),
                false => aliased(self.query(&cte.query, &frame), &cte.alias),
            };
            frame.ctes.push(relation);
        }
        let limited = query.limit_clause.is_some() || query.fetch.is_some();
        let order = query.order_by.as_ref().filter(|_| limited);
        let relation = self.body(&query.body, &frame, order);
        self.depth -= 1;
        relation
    }

    /// A CTE that reads itself: what it is made of when looking again tells nothing new.
    fn recursive(&mut self, cte: &Cte, up: &Frame<'_>) -> Relation {
        let first = match cte.query.body.as_ref() {
            SetExpr::SetOperation { left, .. } => self.body(left, up, None),
            _ => return aliased(self.query(&cte.query, up), &cte.alias),
        };
        let empty = |column: Column| Column { deps: Deps::default(), ..column };
        let columns = first.columns.into_iter().map(empty).collect();
        let mut known = aliased(Relation { columns, ..Relation::default() }, &cte.alias);
        for _ in 0..ROUNDS {
            let mut frame = Frame::within(up);
            frame.ctes.push(known.clone());
            let next = aliased(self.query(&cte.query, &frame), &cte.alias);
            let same = next.columns == known.columns && next.rows == known.rows;
            known = next;
            if same {
                break;
            }
        }
        known
    }

    fn body(&mut self, body: &SetExpr, up: &Frame<'_>, order: Option<&OrderBy>) -> Relation {
        match body {
            SetExpr::Select(select) => self.select(select, up, order),
            SetExpr::Query(query) => self.query(query, up),
            SetExpr::SetOperation { left, op, right, .. } => {
                let left = self.body(left, up, None);
                let right = self.body(right, up, None);
                self.together(left, *op, &right)
            }
            SetExpr::Values(values) => {
                let frame = Frame::within(up);
                let place = Place { frame: &frame, windows: &[] };
                let mut columns: Vec<Column> = Vec::new();
                for row in &values.rows {
                    for (at, expr) in row.content.iter().enumerate() {
                        let deps = self.expression(expr, place).deps;
                        match columns.get_mut(at) {
                            Some(column) => column.deps.add(&deps),
                            None => {
                                let name = format!("column{}", at + 1);
                                columns.push(Column { name, deps, logic: String::new() });
                            }
                        }
                    }
                }
                Relation { columns, ..Relation::default() }
            }
            SetExpr::Table(table) => {
                let name = table.table_name.as_ref().map(folded).unwrap_or_default();
                self.table(table.schema_name.as_ref().map(folded).as_deref(), &name, up)
            }
            _ => Relation::unresolved(Cell::ROWS, "it writes rows instead of selecting them"),
        }
    }

    /// Two queries as one.
    fn together(&mut self, mut left: Relation, op: SetOperator, right: &Relation) -> Relation {
        left.rows.add(&right.rows);
        let union = op == SetOperator::Union;
        for (column, other) in left.columns.iter_mut().zip(&right.columns) {
            self.steps = self.steps.saturating_add(other.deps.len());
            match union {
                true => column.deps.add(&other.deps),
                false => left.rows.add_as(&other.deps, Kind::Filter),
            }
        }
        if union {
            left.tables.extend(right.tables.iter().cloned());
            left.open = left.open.or_else(|| right.open.clone());
        }
        left
    }

    fn select(&mut self, select: &Select, up: &Frame<'_>, order: Option<&OrderBy>) -> Relation {
        let mut frame = Frame::within(up);
        let mut rows = Deps::default();
        for item in &select.from {
            self.from(item, &mut frame, &mut rows);
        }
        let windows = windows(select);
        let place = Place { frame: &frame, windows: &windows };
        if let Some(filter) = &select.selection {
            let deps = self.deps(filter, place, Kind::Filter);
            rows.add_noted(&deps, Kind::Filter, &text(filter));
        }
        let mut columns = Vec::new();
        for item in &select.projection {
            self.item(item, place, &mut columns);
        }
        if columns.len() > WIDEST || !self.goes_on() {
            return Relation::unresolved(Cell::ROWS, "the statement is too large to follow");
        }
        if let GroupByExpr::Expressions(exprs, _) = &select.group_by {
            for expr in exprs.iter().flat_map(grouped) {
                let deps = self.output(expr, place, &columns, false);
                rows.add_noted(&deps, Kind::GroupBy, &text(expr));
            }
        }
        if let Some(having) = &select.having {
            let deps = self.deps(having, place, Kind::Filter);
            rows.add_noted(&deps, Kind::Filter, &text(having));
        }
        if let Some(Distinct::On(exprs)) = &select.distinct {
            for expr in exprs {
                let deps = self.output(expr, place, &columns, true);
                rows.add_noted(&deps, Kind::GroupBy, &text(expr));
            }
        }
        if let Some(OrderByKind::Expressions(exprs)) = order.map(|order| &order.kind) {
            for by in exprs {
                let deps = self.output(&by.expr, place, &columns, true);
                rows.add_noted(&deps, Kind::Sort, &text(by));
            }
        }
        let weight: usize = columns.iter().map(|column| column.deps.len()).sum();
        self.steps = self.steps.saturating_add(weight + rows.len());
        Relation { columns, rows, tables: frame.tables(), ..Relation::default() }
    }

    /// What `group by` and `order by` name: an expression, or a column of the answer by its number or name.
    fn output(
        &mut self,
        expr: &Expr,
        place: Place<'_>,
        columns: &[Column],
        answer_first: bool,
    ) -> Deps {
        if let Expr::Value(value) = expr
            && let Value::Number(number, _) = &value.value
        {
            let at = number.parse::<usize>().ok().and_then(|at| at.checked_sub(1));
            let column = at.and_then(|at| columns.get(at));
            return column.map(|column| column.deps.clone()).unwrap_or_default();
        }
        let named = match expr {
            Expr::Identifier(name) => Some(folded(name)),
            _ => None,
        };
        let answer = named.and_then(|name| columns.iter().find(|column| column.name == name));
        match answer {
            Some(column) if answer_first => column.deps.clone(),
            Some(column) => {
                let own = self.deps(expr, place, Kind::Identity);
                let lost = own.iter().any(|(_, kind, _)| kind == Kind::Unresolved);
                if lost { column.deps.clone() } else { own }
            }
            None => self.deps(expr, place, Kind::Identity),
        }
    }

    fn item(&mut self, item: &SelectItem, place: Place<'_>, columns: &mut Vec<Column>) {
        match item {
            SelectItem::UnnamedExpr(expr) => {
                let column = self.expression(expr, place);
                columns.push(Column { name: heading(expr), ..column });
            }
            SelectItem::ExprWithAlias { expr, alias } => {
                let column = self.expression(expr, place);
                columns.push(Column { name: folded(alias), ..column });
            }
            SelectItem::Wildcard(_) => columns.extend(place.frame.all(None)),
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                let of = parts(name).unwrap_or_default();
                let of: Vec<String> = of.0.into_iter().chain([of.1]).collect();
                columns.extend(place.frame.all(Some(&of)));
            }
            _ => {
                let deps = Deps::unresolved(text(item), "the columns of a value are not known");
                let name = Cell::ROWS.to_owned();
                columns.push(Column { name, deps, logic: text(item) });
            }
        }
    }
}

/// A relation by its alias.
pub(super) fn aliased(relation: Relation, alias: &TableAlias) -> Relation {
    let columns: Vec<String> = alias.columns.iter().map(|column| folded(&column.name)).collect();
    relation.named(folded(&alias.name), &columns)
}

/// The windows that a SELECT names.
fn windows(select: &Select) -> Vec<(String, &WindowSpec)> {
    let named = select.named_window.iter().filter_map(|named| match &named.1 {
        NamedWindowExpr::WindowSpec(spec) => Some((folded(&named.0), spec)),
        NamedWindowExpr::NamedWindow(_) => None,
    });
    named.collect()
}

/// The expressions that rows are grouped by, of sets of them too.
fn grouped(expr: &Expr) -> Vec<&Expr> {
    match expr {
        Expr::GroupingSets(sets) | Expr::Cube(sets) | Expr::Rollup(sets) => {
            sets.iter().flatten().collect()
        }
        Expr::Tuple(exprs) => exprs.iter().collect(),
        _ => vec![expr],
    }
}
