//! What makes a table that is there fit its model, by what the warehouse's catalogue says of the table:
//! the statements, and whether its rows are lost on the way. Whoever asks is about to read all rows.
//!
//! Pure. What Postgres cannot change without losing history or leaves is
//! refused; a column is never dropped.

use super::define::{add_column, add_lookup, key_list, view_statement};
use super::standing::Standing;
use super::stored::StoredColumn;
use crate::error::{Error, Kind, Result};
use crate::postgres::quote;
use crate::spec::{History, Model, OURS};

/// What makes a table fit its model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conform {
    /// The statements, in their order.
    pub statements: Vec<String>,
    /// Whether they empty the table.
    pub empties: bool,
    /// Whether they add columns, whose values the rows lack.
    pub adds: bool,
}

/// What makes the table fit. An error of kind TableStops where it cannot be made to.
/// `unfed` are the model's columns that the source does not have (any more).
pub fn conform(model: &Model, standing: &Standing, unfed: &[String]) -> Result<Conform> {
    if model.history == History::Raw {
        return Ok(Conform::default());
    }
    let mut fit = Conform::default();
    for column in model.columns.iter().filter(|column| !standing.has(&column.name)) {
        fit.statements.extend(add_column(model, column));
        fit.adds = true;
    }
    for lookup in model.lookups.iter().filter(|lookup| !standing.has(&lookup.name)) {
        fit.statements.extend(add_lookup(model, lookup));
    }
    if !fit.statements.is_empty() && model.history == History::Versions {
        fit.statements.push(view_statement(model));
    }
    let table = model.quoted();
    fit.statements.extend(left(model, standing, unfed).map(|column| nullable(model, &column.name)));
    let plain = matches!(model.history, History::Overwrite | History::Bag)
        && model.partition.is_none()
        && !standing.has("valid_to");
    let retyped: Vec<String> = retype(model, standing);
    if standing.has_key_of(model) && retyped.is_empty() {
        return Ok(fit);
    }
    if !plain {
        return Err(other_key(model, standing));
    }
    fit.empties = true;
    fit.statements.insert(0, format!("truncate {table}"));
    if !standing.has_key_of(model) {
        fit.statements.extend(rekey(model, standing));
    }
    fit.statements.extend(retyped);
    Ok(fit)
}

/// The columns that nothing fills any more, and that refuse NULL.
pub(super) fn left<'a>(
    model: &'a Model,
    standing: &'a Standing,
    unfed: &'a [String],
) -> impl Iterator<Item = &'a StoredColumn> {
    let left = standing.columns.iter().filter(|column| {
        let modelled = model.column(&column.name);
        let fed = modelled.is_some_and(|known| known.required || is_of_key(model, &known.name))
            && !unfed.contains(&column.name);
        !fed && !OURS.contains(&column.name.as_str()) && column.required && !column.has_default
    });
    // a column of the old key loses NOT NULL with the key
    let keys = |column: &&StoredColumn| {
        standing.key.iter().any(|(_, columns)| columns.contains(&column.name))
    };
    left.filter(move |column| !keys(column))
}

/// The statement that lets a column have no value.
pub(super) fn nullable(model: &Model, column: &str) -> String {
    format!("alter table {} alter column {} drop not null", model.quoted(), quote::ident(column))
}

/// Whether a column belongs to the key, or decides the leaf.
fn is_of_key(model: &Model, column: &str) -> bool {
    model.physical_key().contains(&column)
}

/// Gives an empty table the model's key in place of the one it has.
fn rekey(model: &Model, standing: &Standing) -> Vec<String> {
    let table = model.quoted();
    let mut statements = Vec::new();
    if let Some((name, columns)) = &standing.key {
        statements.push(format!("alter table {table} drop constraint {}", quote::ident(name)));
        for column in columns {
            statements.push(nullable(model, column));
        }
    }
    if model.history == History::Bag {
        statements.push(format!("alter table {table} add column _row uuid not null"));
        statements.push(format!("create index on {table} (_row)"));
        return statements;
    }
    if standing.has("_row") {
        statements.push(format!("alter table {table} drop column _row"));
    }
    statements.push(format!("alter table {table} add primary key ({})", key_list(model)));
    statements
}

/// The columns of a mirrored table that have another type than the source gives them now. The table is
/// empty, so that no value stands in the way.
fn retype(model: &Model, standing: &Standing) -> Vec<String> {
    let plain = |ty: &str| ty.trim_matches('"').to_owned();
    let others = model.columns.iter().filter(|column| {
        model.mirrored
            && standing.columns.iter().any(|stored| {
                let same = stored.generated || plain(&stored.declared) == plain(&column.ty);
                stored.name == column.name && !same
            })
    });
    let retype = |column: &crate::spec::ModelColumn| {
        let (table, name, ty) = (model.quoted(), quote::ident(&column.name), &column.ty);
        [
            // that of an older version of this program
            format!("alter table {table} alter column {name} drop default"),
            format!("alter table {table} alter column {name} type {ty} using null::{ty}"),
        ]
    };
    others.flat_map(retype).collect()
}

fn other_key(model: &Model, standing: &Standing) -> Error {
    let what = format!(
        "its key here is ({}), that of {} makes it ({})",
        standing.shown_key(),
        model.declared_in,
        model.physical_key().join(", ")
    );
    Error::new(Kind::TableStops, what)
        .on_table(model.table.to_string())
        .remedy("siltstone apply --allow destructive")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::TableName;
    use crate::spec::{Deletes, ModelColumn, NewColumns, SourceName};

    fn column(name: &str, ty: &str) -> ModelColumn {
        let (name, ty) = (name.to_owned(), ty.to_owned());
        ModelColumn {
            from: name.clone(),
            name,
            ty,
            required: false,
            mask: None,
            fill: None,
            comment: None,
        }
    }

    fn model(history: History, key: &[&str]) -> Model {
        Model {
            table: TableName::new("cleansed", "t"),
            from: SourceName { source: "shop".to_owned(), table: TableName::new("public", "t") },
            history,
            key: key.iter().map(|name| (*name).to_owned()).collect(),
            track: Vec::new(),
            since: None,
            columns: vec![column("a", "integer"), column("b", "text")],
            lookups: Vec::new(),
            partition: None,
            indexes: Vec::new(),
            deletes: Deletes::Hard,
            new_columns: NewColumns::Add,
            horizon: None,
            keep: None,
            mirrored: true,
            comment: None,
            declared_in: "connectors/shop.yaml".to_owned(),
        }
    }

    fn standing(columns: &[(&str, &str)], key: &[&str]) -> Standing {
        let key: Vec<String> = key.iter().map(|name| (*name).to_owned()).collect();
        Standing {
            columns: columns.iter().map(|(name, ty)| StoredColumn::for_tests(name, ty)).collect(),
            key: (!key.is_empty()).then(|| ("t_pkey".to_owned(), key)),
            by: None,
        }
    }

    #[test]
    fn a_table_that_fits_is_left_alone() {
        let standing = standing(&[("a", "integer"), ("b", "text"), ("mine", "text")], &["a"]);
        let fit = conform(&model(History::Overwrite, &["a"]), &standing, &[]).unwrap();
        assert_eq!(fit, Conform::default());
    }

    #[test]
    fn a_column_comes_without_losing_rows() {
        let fit = conform(
            &model(History::Overwrite, &["a"]),
            &standing(&[("a", "integer")], &["a"]),
            &[],
        );
        let fit = fit.unwrap();
        assert!(fit.adds && !fit.empties);
        assert_eq!(fit.statements.len(), 1);
    }

    #[test]
    fn another_key_type_or_kind_empties_the_table() {
        let there = [("a", "integer"), ("b", "text")];
        let cases = [
            (model(History::Overwrite, &["a", "b"]), standing(&there, &["a"])),
            (model(History::Bag, &[]), standing(&there, &["a"])),
            (
                model(History::Overwrite, &["a"]),
                standing(&[("a", "integer"), ("b", "text"), ("_row", "uuid")], &[]),
            ),
            (
                model(History::Overwrite, &["a"]),
                standing(&[("a", "integer"), ("b", "date")], &["a"]),
            ),
        ];
        for (model, standing) in cases {
            assert!(conform(&model, &standing, &[]).unwrap().empties, "{standing:?}");
        }
    }

    #[test]
    fn history_is_not_rekeyed() {
        let there = [("a", "integer"), ("b", "text"), ("valid_to", "timestamptz")];
        let error =
            conform(&model(History::Versions, &["b"]), &standing(&there, &["a", "valid_to"]), &[]);
        assert_eq!(error.unwrap_err().kind(), Kind::TableStops);
    }
}
