//! The names that Postgres gives to columns which have none of their own.

use sqlparser::ast::{Expr, Function, Ident, ObjectName, Query, SelectItem, SetExpr};

/// An identifier as the catalogue has it.
pub(super) fn folded(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_ascii_lowercase(),
    }
}

/// The last part of a name.
pub(super) fn last(name: &ObjectName) -> String {
    name.0.last().and_then(|part| part.as_ident()).map(folded).unwrap_or_default()
}

/// The name of a column that is an expression without an alias.
pub(super) fn heading(expr: &Expr) -> String {
    strong(expr).or_else(|| weak(expr)).unwrap_or_else(|| "?column?".to_owned())
}

/// A name that an expression has of itself: of a column or a function.
fn strong(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(name) => Some(folded(name)),
        Expr::CompoundIdentifier(names) => names.last().map(folded),
        Expr::Function(Function { name, .. }) => Some(last(name)),
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => strong(inner),
        Expr::Cast { expr: inner, .. } => strong(inner),
        Expr::Case { else_result: Some(inner), .. } => strong(inner),
        Expr::Subquery(query) => first(query),
        Expr::Exists { .. } => Some("exists".to_owned()),
        Expr::Extract { .. } => Some("extract".to_owned()),
        Expr::Array(_) => Some("array".to_owned()),
        Expr::AtTimeZone { .. } => Some("timezone".to_owned()),
        Expr::Substring { .. } => Some("substring".to_owned()),
        Expr::Position { .. } => Some("position".to_owned()),
        Expr::Overlay { .. } => Some("overlay".to_owned()),
        Expr::Ceil { .. } => Some("ceil".to_owned()),
        Expr::Floor { .. } => Some("floor".to_owned()),
        Expr::Trim { .. } => Some("btrim".to_owned()),
        _ => None,
    }
}

/// A name that an expression has for want of a better one.
fn weak(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => weak(inner),
        Expr::Cast { data_type, .. } => {
            let ty = data_type.to_string().to_ascii_lowercase();
            let ty = ty.split(['(', '[']).next().unwrap_or_default().trim().to_owned();
            let known = [
                ("int", "int4"),
                ("integer", "int4"),
                ("bigint", "int8"),
                ("smallint", "int2"),
                ("boolean", "bool"),
                ("double precision", "float8"),
                ("real", "float4"),
                ("decimal", "numeric"),
            ];
            Some(known.iter().find(|(long, _)| *long == ty).map_or(ty, |(_, s)| (*s).to_owned()))
        }
        Expr::Case { else_result, .. } => {
            let named = else_result.as_deref().and_then(weak);
            Some(named.unwrap_or_else(|| "case".to_owned()))
        }
        _ => None,
    }
}

/// The name of the first column of a subquery.
fn first(query: &Query) -> Option<String> {
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    match select.projection.first()? {
        SelectItem::UnnamedExpr(expr) => Some(heading(expr)),
        SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
        _ => None,
    }
}
