//! What an expression is made of. Its tree is walked by the parser's own visitor, so that no kind of expression is
//! forgotten; only those that mean something of their own are taken apart here.

use std::convert::Infallible;
use std::ops::ControlFlow;

use sqlparser::ast::{
    AccessExpr, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause,
    FunctionArguments, Query, Subscript, Visit, Visitor, WindowSpec, WindowType,
};

use super::deps::{Cell, Deps, Kind};
use super::heading::{folded, last};
use super::query::Deriver;
use super::scope::Frame;
use super::statement::{Column, parts};

/// Functions that make one value of many rows.
const AGGREGATES: [&str; 26] = [
    "any_value",
    "array_agg",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "every",
    "json_agg",
    "json_object_agg",
    "jsonb_agg",
    "jsonb_object_agg",
    "max",
    "min",
    "mode",
    "percentile_cont",
    "percentile_disc",
    "range_agg",
    "string_agg",
    "sum",
    "stddev",
    "variance",
    "xmlagg",
];

/// Beginnings of the names of others.
const AGGREGATE_FAMILIES: [&str; 5] = ["covar_", "regr_", "stddev_", "var_", "range_intersect_agg"];

/// Words that are no columns.
const WORDS: [&str; 6] =
    ["current_catalog", "current_role", "current_schema", "current_user", "session_user", "user"];

/// Where an expression stands: the names there, and the windows that its SELECT names.
#[derive(Clone, Copy)]
pub(super) struct Place<'p> {
    pub(super) frame: &'p Frame<'p>,
    pub(super) windows: &'p [(String, &'p WindowSpec)],
}

/// Collects what an expression depends on.
struct Walk<'w, 't> {
    deriver: &'w mut Deriver<'t>,
    place: Place<'w>,
    kind: Kind,
    deps: Deps,
    /// how deep we are in something that was taken apart already
    skipping: usize,
}

impl Deriver<'_> {
    /// The column that an expression makes, without its name.
    pub(super) fn expression(&mut self, expr: &Expr, place: Place<'_>) -> Column {
        let named = match expr {
            Expr::Identifier(name) => Some(vec![folded(name)]),
            Expr::CompoundIdentifier(names) => Some(names.iter().map(folded).collect()),
            _ => None,
        };
        if let Some(parts) = named {
            let mut found = self.name(&parts, place);
            if found.logic.is_empty() {
                found.logic = text(expr);
            }
            return found;
        }
        let deps = match expr {
            Expr::Nested(inner) => return self.expression(inner, place),
            Expr::Subquery(query) => self.scalar(query, place, Kind::Identity),
            _ => self.deps(expr, place, Kind::Transformation),
        };
        Column { name: String::new(), deps, logic: text(expr) }
    }

    /// What any part of a tree depends on, used in the way of `kind`.
    pub(super) fn deps(&mut self, part: &impl Visit, place: Place<'_>, kind: Kind) -> Deps {
        let mut walk = Walk { deriver: self, place, kind, deps: Deps::default(), skipping: 0 };
        // it never breaks off
        let ControlFlow::Continue(()) = part.visit(&mut walk);
        walk.deps
    }

    fn name(&mut self, parts: &[String], place: Place<'_>) -> Column {
        if !self.goes_on() {
            let deps = Deps::unresolved(parts.join("."), "the statement is too large to follow");
            return Column { name: String::new(), deps, logic: String::new() };
        }
        let found = place.frame.find(parts);
        if let [name] = parts {
            self.whole.extend(place.frame.tables_of(name).cloned());
        }
        match parts {
            [name] if found.deps.iter().all(|(_, kind, _)| kind == Kind::Unresolved) => {
                let deps = match WORDS.contains(&name.as_str()) {
                    true => Deps::default(),
                    false => found.deps,
                };
                Column { deps, ..found }
            }
            _ => found,
        }
    }

    /// The value of a subquery: its columns, and what decides which row it has.
    fn scalar(&mut self, query: &Query, place: Place<'_>, kind: Kind) -> Deps {
        let relation = self.query(query, place.frame);
        let mut deps = Deps::default();
        relation.columns.iter().for_each(|column| deps.add_as(&column.deps, kind));
        deps.add(&relation.rows);
        deps
    }
}

impl Visitor for Walk<'_, '_> {
    type Break = Infallible;

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Infallible> {
        if self.skipping > 0 || self.takes(expr) {
            self.skipping += 1;
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, _: &Expr) -> ControlFlow<Infallible> {
        self.skipping = self.skipping.saturating_sub(1);
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Infallible> {
        if self.skipping == 0 {
            let found = self.deriver.scalar(query, self.place, self.kind);
            self.deps.add_as(&found, self.kind);
        }
        self.skipping += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<Infallible> {
        self.skipping = self.skipping.saturating_sub(1);
        ControlFlow::Continue(())
    }
}

impl Walk<'_, '_> {
    /// Takes an expression apart that means something of its own; its parts are not looked at again then.
    fn takes(&mut self, expr: &Expr) -> bool {
        match expr {
            Expr::Identifier(name) => self.name(&[folded(name)]),
            Expr::CompoundIdentifier(names) => {
                self.name(&names.iter().map(folded).collect::<Vec<_>>());
            }
            Expr::Function(function) => self.function(function),
            Expr::Case { operand, conditions, else_result, .. } => {
                self.part(operand, Kind::Condition);
                for when in conditions {
                    self.part(&when.condition, Kind::Condition);
                    self.part(&when.result, self.kind);
                }
                self.part(else_result, self.kind);
            }
            Expr::Exists { subquery, .. } => self.exists(subquery),
            Expr::CompoundFieldAccess { root, access_chain } => {
                self.part(root, self.kind);
                for access in access_chain {
                    match access {
                        AccessExpr::Subscript(Subscript::Index { index }) => {
                            self.part(index, self.kind);
                        }
                        AccessExpr::Subscript(slice) => self.part(slice, self.kind),
                        // a field of what it is a field of
                        AccessExpr::Dot(_) => {}
                    }
                }
            }
            _ => return false,
        }
        true
    }

    fn part(&mut self, part: &impl Visit, kind: Kind) {
        // what decides about something that decides is no more than that
        let kind = if self.kind.is_direct() { kind } else { self.kind };
        let found = self.deriver.deps(part, self.place, kind);
        self.deps.add(&found);
    }

    fn name(&mut self, parts: &[String]) {
        let found = self.deriver.name(parts, self.place);
        self.deps.add_as(&found.deps, self.kind);
    }

    /// Whether there are rows: no value of theirs counts.
    fn exists(&mut self, query: &Query) {
        let relation = self.deriver.query(query, self.place.frame);
        self.rows_of(relation.tables.iter(), Kind::Condition);
        self.deps.add_as(&relation.rows, Kind::Condition);
    }

    fn rows_of<'n>(&mut self, tables: impl Iterator<Item = &'n String>, kind: Kind) {
        let kind = if self.kind.is_direct() { kind } else { self.kind };
        tables.for_each(|table| self.deps.add_as(&Deps::on(Cell::rows(table)), kind));
    }

    fn function(&mut self, function: &Function) {
        let name = last(&function.name);
        let family = AGGREGATE_FAMILIES.iter().any(|family| name.starts_with(family));
        let mut aggregates = AGGREGATES.contains(&name.as_str()) || family;
        aggregates |= !function.within_group.is_empty() || function.filter.is_some();
        let kind = if aggregates { self.kind.max(Kind::Aggregation) } else { self.kind };
        let kind = if self.kind.is_direct() { kind } else { self.kind };
        match &function.args {
            FunctionArguments::None => {}
            FunctionArguments::Subquery(query) => {
                let found = self.deriver.scalar(query, self.place, kind);
                self.deps.add(&found);
            }
            FunctionArguments::List(list) => {
                list.args.iter().for_each(|arg| self.argument(arg, kind));
                for clause in &list.clauses {
                    let way = match clause {
                        FunctionArgumentClause::OrderBy(_) => Kind::Sort,
                        _ => kind,
                    };
                    self.part(clause, way);
                }
            }
        }
        self.part(&function.within_group, kind);
        self.part(&function.filter, Kind::Condition);
        match &function.over {
            None => {}
            Some(WindowType::WindowSpec(spec)) => self.window(spec),
            Some(WindowType::NamedWindow(name)) => self.named_window(&folded(name)),
        }
    }

    fn argument(&mut self, arg: &FunctionArg, kind: Kind) {
        let (FunctionArg::Unnamed(arg)
        | FunctionArg::Named { arg, .. }
        | FunctionArg::ExprNamed { arg, .. }) = arg;
        match arg {
            FunctionArgExpr::Expr(expr) => self.part(expr, kind),
            FunctionArgExpr::Wildcard | FunctionArgExpr::WildcardWithOptions(_) => {
                let tables = self.place.frame.tables();
                self.rows_of(tables.iter(), kind);
            }
            FunctionArgExpr::QualifiedWildcard(name) => {
                let of = parts(name)
                    .map(|(schema, name)| schema.into_iter().chain([name]).collect::<Vec<_>>());
                let named = of.iter().flat_map(|of| of.last());
                named.for_each(|name| {
                    self.deriver.whole.extend(self.place.frame.tables_of(name).cloned());
                });
                for column in self.place.frame.all(Some(&of.unwrap_or_default())) {
                    self.deps.add_as(&column.deps, kind);
                }
            }
        }
    }

    fn window(&mut self, spec: &WindowSpec) {
        self.part(&spec.partition_by, Kind::Window);
        self.part(&spec.order_by, Kind::Window);
        self.part(&spec.window_frame, Kind::Window);
        if let Some(name) = &spec.window_name {
            self.named_window(&folded(name));
        }
    }

    /// A window that its SELECT names; each may build upon one before it alone.
    fn named_window(&mut self, name: &str) {
        let windows = self.place.windows;
        let Some(at) = windows.iter().position(|(known, _)| known == name) else { return };
        let (before, rest) = windows.split_at(at);
        let Some((_, spec)) = rest.first() else { return };
        let whole = std::mem::replace(&mut self.place.windows, before);
        self.window(spec);
        self.place.windows = whole;
    }
}

/// An expression as it is written, cut where it is too long to be read.
pub(super) fn text(part: &impl std::fmt::Display) -> String {
    const LONGEST: usize = 1_000;
    let text = part.to_string();
    match text.char_indices().nth(LONGEST) {
        None => text,
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}
