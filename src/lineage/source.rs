//! What stands in a FROM.

use sqlparser::ast::{
    Expr, FunctionArg, JoinConstraint, JoinOperator, ObjectName, TableAlias, TableFactor,
    TableWithJoins,
};

use super::deps::{Cell, Deps, Kind};
use super::expression::{Place, text};
use super::heading::{folded, last};
use super::query::{Deriver, aliased};
use super::scope::{Frame, Open, Relation};
use super::statement::{Column, parts};

/// Functions that read nothing but what they are given.
const PURE: [&str; 22] = [
    "generate_series",
    "generate_subscripts",
    "json_array_elements",
    "json_array_elements_text",
    "json_each",
    "json_each_text",
    "json_object_keys",
    "json_populate_recordset",
    "json_to_record",
    "json_to_recordset",
    "jsonb_array_elements",
    "jsonb_array_elements_text",
    "jsonb_each",
    "jsonb_each_text",
    "jsonb_object_keys",
    "jsonb_path_query",
    "jsonb_to_record",
    "jsonb_to_recordset",
    "regexp_matches",
    "regexp_split_to_table",
    "string_to_table",
    "unnest",
];

impl Deriver<'_> {
    /// Takes an item of a FROM, with what is joined to it, into the frame.
    pub(super) fn from(&mut self, item: &TableWithJoins, frame: &mut Frame<'_>, rows: &mut Deps) {
        let start = frame.relations.len();
        self.factor(&item.relation, frame, rows);
        for join in &item.joins {
            let middle = frame.relations.len();
            let merged = std::mem::take(&mut frame.merged);
            self.factor(&join.relation, frame, rows);
            let inner = std::mem::replace(&mut frame.merged, merged);
            self.join(&join.join_operator, (start, middle), inner, frame, rows);
        }
    }

    /// Joins what stands behind `middle` to what stands before it; `inner` has what was merged behind it.
    fn join(
        &mut self,
        operator: &JoinOperator,
        (start, middle): (usize, usize),
        inner: Vec<Column>,
        frame: &mut Frame<'_>,
        rows: &mut Deps,
    ) {
        let (JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)
        | JoinOperator::Right(constraint)
        | JoinOperator::RightOuter(constraint)
        | JoinOperator::FullOuter(constraint)
        | JoinOperator::CrossJoin(constraint)) = operator
        else {
            return frame.merged.extend(inner);
        };
        let left = frame.relations.get(start..middle).unwrap_or_default();
        let right = frame.relations.get(middle..).unwrap_or_default();
        let names: Vec<String> = match constraint {
            JoinConstraint::Using(names) | JoinConstraint::UsingAlias(names, _) => {
                names.iter().map(last).collect()
            }
            JoinConstraint::Natural => common((&frame.merged, left), (&inner, right)),
            JoinConstraint::On(expr) => {
                frame.merged.extend(inner);
                let place = Place { frame, windows: &[] };
                let deps = self.deps(expr, place, Kind::Join);
                return rows.add_noted(&deps, Kind::Join, &text(expr));
            }
            JoinConstraint::None => return frame.merged.extend(inner),
        };
        let mut merged = Vec::new();
        for name in names {
            let (one, other) = (side(&name, &frame.merged, left), side(&name, &inner, right));
            let note = format!("using ({name})");
            rows.add_noted(&one.deps, Kind::Join, &note);
            rows.add_noted(&other.deps, Kind::Join, &note);
            merged.push(match operator {
                JoinOperator::Right(_) | JoinOperator::RightOuter(_) => other,
                JoinOperator::FullOuter(_) => {
                    let mut deps = Deps::default();
                    deps.add_as(&one.deps, Kind::Transformation);
                    deps.add_as(&other.deps, Kind::Transformation);
                    Column { deps, ..one }
                }
                _ => one,
            });
        }
        let before = std::mem::take(&mut frame.merged);
        for column in before.into_iter().chain(inner) {
            if !merged.iter().any(|known: &Column| known.name == column.name) {
                merged.push(column);
            }
        }
        frame.merged = merged;
    }

    fn factor(&mut self, factor: &TableFactor, frame: &mut Frame<'_>, rows: &mut Deps) {
        let relation = match factor {
            TableFactor::Table { name, alias, args: None, .. } => {
                let found = match parts(name) {
                    Some((schema, name)) => self.table(schema.as_deref(), &name, frame),
                    None => Relation::unresolved(&name.to_string(), "it is no name of a table"),
                };
                maybe(found, alias.as_ref())
            }
            TableFactor::Table { name, alias, args: Some(args), .. } => {
                self.function(name, &args.args, alias.as_ref(), frame)
            }
            TableFactor::Function { name, args, alias, .. } => {
                self.function(name, args, alias.as_ref(), frame)
            }
            TableFactor::Derived { lateral, subquery, alias, .. } => {
                let found = match (lateral, frame.up) {
                    (false, Some(up)) => self.query(subquery, up),
                    _ => self.query(subquery, frame),
                };
                maybe(found, alias.as_ref())
            }
            TableFactor::UNNEST { array_exprs, alias, .. } => {
                self.alike("unnest", array_exprs, alias.as_ref(), frame)
            }
            TableFactor::NestedJoin { table_with_joins, alias } => {
                let mut inner = Frame::within(frame);
                self.from(table_with_joins, &mut inner, rows);
                let (relations, merged) = match alias {
                    None => (inner.relations, inner.merged),
                    Some(alias) => {
                        let (columns, tables) = (inner.all(None), inner.tables());
                        let whole = Relation { columns, tables, ..Relation::default() };
                        (vec![aliased(whole, alias)], Vec::new())
                    }
                };
                frame.relations.extend(relations);
                return frame.merged.extend(merged);
            }
            TableFactor::JsonTable { json_expr, alias, .. } => {
                self.alike("json_table", json_expr, alias.as_ref(), frame)
            }
            TableFactor::XmlTable { row_expression, passing, alias, .. } => {
                let passed: Vec<&Expr> = passing.arguments.iter().map(|arg| &arg.expr).collect();
                let mut found = self.alike("xmltable", row_expression, alias.as_ref(), frame);
                for expr in passed {
                    let place = Place { frame, windows: &[] };
                    let deps = self.deps(expr, place, Kind::Transformation);
                    if let Some(Open::Alike(open)) = &mut found.open {
                        open.add(&deps);
                    }
                }
                found
            }
            other => Relation::unresolved(&text(other), "this kind of table is not followed"),
        };
        rows.add(&relation.rows);
        frame.relations.push(relation);
    }

    /// A table or a CTE by its name.
    pub(super) fn table(&self, schema: Option<&str>, name: &str, frame: &Frame<'_>) -> Relation {
        if let Some(cte) = schema.is_none().then(|| frame.cte(name)).flatten() {
            return cte.clone();
        }
        let (table, columns) = match self.tables.find(schema, name) {
            Some((table, columns)) => (table.to_string(), Some(columns)),
            None => (schema.iter().copied().chain([name]).collect::<Vec<_>>().join("."), None),
        };
        let column = |name: &String| Column {
            name: name.clone(),
            deps: Deps::on(Cell::new(&table, name)),
            logic: String::new(),
        };
        Relation {
            name: name.to_owned(),
            schema: schema.map(str::to_owned),
            columns: columns.into_iter().flatten().map(column).collect(),
            open: columns.is_none().then(|| Open::Table(table.clone())),
            tables: [table].into(),
            ..Relation::default()
        }
    }

    /// A function that answers rows.
    fn function(
        &mut self,
        name: &ObjectName,
        args: &Vec<FunctionArg>,
        alias: Option<&TableAlias>,
        frame: &Frame<'_>,
    ) -> Relation {
        let called = last(name);
        let mut relation = self.alike(&called, args, alias, frame);
        if !PURE.contains(&called.as_str())
            && let Some(Open::Alike(deps)) = &mut relation.open
        {
            let why = "what the function reads is not known";
            let unknown = Deps::unresolved(format!("{called}()"), why);
            deps.add(&unknown);
            relation.columns.iter_mut().for_each(|column| column.deps.add(&unknown));
        }
        relation
    }

    /// Rows whose columns are all made of the same.
    fn alike(
        &mut self,
        name: &str,
        of: &impl sqlparser::ast::Visit,
        alias: Option<&TableAlias>,
        frame: &Frame<'_>,
    ) -> Relation {
        let deps = self.deps(of, Place { frame, windows: &[] }, Kind::Transformation);
        let called = alias.map_or_else(|| name.to_owned(), |alias| folded(&alias.name));
        // of plain values its name is their column's too
        let value = Column { name: called.clone(), deps: deps.clone(), logic: String::new() };
        let open = Some(Open::Alike(deps));
        maybe(Relation { name: called, columns: vec![value], open, ..Relation::default() }, alias)
    }
}

fn maybe(relation: Relation, alias: Option<&TableAlias>) -> Relation {
    match alias {
        Some(alias) => aliased(relation, alias),
        None => relation,
    }
}

/// The column of a name on one side of a join.
fn side(name: &str, merged: &[Column], relations: &[Relation]) -> Column {
    let known = merged.iter().chain(relations.iter().flat_map(|relation| &relation.columns));
    if let Some(found) = known.clone().find(|column| column.name == name) {
        return found.clone();
    }
    let mut open = relations.iter().filter_map(|relation| relation.open.as_ref());
    let deps = match (open.next(), open.next()) {
        (Some(Open::Table(table)), None) => Deps::on(Cell::new(table, name)),
        (Some(Open::Alike(deps)), None) => deps.clone(),
        _ => Deps::unresolved(name, "neither side of the join is known to have it"),
    };
    Column { name: name.to_owned(), deps, logic: String::new() }
}

type Side<'s> = (&'s [Column], &'s [Relation]);

/// The names that both sides of a join have.
fn common(left: Side<'_>, right: Side<'_>) -> Vec<String> {
    let names = |(merged, relations): Side<'_>| {
        let all = merged.iter().chain(relations.iter().flat_map(|relation| &relation.columns));
        all.map(|column| column.name.clone()).collect::<Vec<_>>()
    };
    let right = names(right);
    let mut common = Vec::new();
    for name in names(left) {
        if right.contains(&name) && !common.contains(&name) {
            common.push(name);
        }
    }
    common
}
