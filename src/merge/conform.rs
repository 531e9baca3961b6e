//! What makes a table that is there fit its model, by what the warehouse's catalogue says of the table:
//! the statements, and whether its rows are lost on the way. Whoever asks is about to read all rows.
//!
//! Pure but for [`Standing::of`]. What Postgres cannot change without losing history or leaves is
//! refused; a column is never dropped.

use tokio_postgres::GenericClient;

use super::define::{add_column, key_list, view_statement};
use super::stored::{StoredColumn, columns};
use crate::error::{Error, Kind, Result};
use crate::names::TableName;
use crate::postgres::quote;
use crate::spec::{Deletes, History, Model, OURS};
use crate::types::Limit;

/// Whether a table of the model has a column of that name beside the model's.
pub fn is_ours(model: &Model, name: &str) -> bool {
    let kept = ["_seq", "_ord", "_synced_at"];
    match model.history {
        History::Raw => false,
        History::Overwrite => {
            kept.contains(&name) || (model.deletes == Deletes::Soft && name == "_deleted_at")
        }
        History::Append => kept.contains(&name) || name == "_op",
        History::Bag => kept.contains(&name) || name == "_row",
        History::Versions => {
            OURS.contains(&name) && !["_deleted_at", "_row", "_op"].contains(&name)
        }
    }
}

/// A warehouse table as it stands.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    pub(super) columns: Vec<StoredColumn>,
    /// the primary key's constraint and columns
    key: Option<(String, Vec<String>)>,
    /// the column that its leaves are cut by
    pub(super) by: Option<String>,
}

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

impl Standing {
    /// Reads how a table stands.
    pub async fn of(client: &impl GenericClient, table: &TableName) -> Result<Standing> {
        const KEY: &str = "
            select k.conname,
                   (select array_agg(a.attname::text order by u.place)
                      from unnest(k.conkey) with ordinality u(attnum, place)
                      join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.attnum)
              from pg_constraint k
              join pg_class c on c.oid = k.conrelid
              join pg_namespace n on n.oid = c.relnamespace
             where k.contype = 'p' and n.nspname = $1 and c.relname = $2";
        const CUT_BY: &str = "
            select a.attname::text
              from pg_partitioned_table p
              join pg_class c on c.oid = p.partrelid
              join pg_namespace n on n.oid = c.relnamespace
              join pg_attribute a on a.attrelid = c.oid and a.attnum = p.partattrs[0]
             where n.nspname = $1 and c.relname = $2";
        let failed = |error| Error::warehouse(format!("reading the key of {table}"), error);
        let columns = columns(client, table).await?;
        let by = client.query_opt(CUT_BY, &[&table.schema, &table.name]).await.map_err(failed)?;
        let by = by.map(|row| row.try_get(0)).transpose().map_err(failed)?;
        let key = client.query_opt(KEY, &[&table.schema, &table.name]).await.map_err(failed)?;
        let key = match key {
            Some(row) => Some((row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?)),
            None => None,
        };
        Ok(Standing { columns, key, by })
    }

    /// Whether there is such a table.
    pub fn is_there(&self) -> bool {
        !self.columns.is_empty()
    }

    /// Whether it still waits for its key, as a plain table does until its first rows are in.
    pub fn is_unkeyed(&self, model: &Model) -> bool {
        model.history == History::Overwrite
            && model.partition.is_none()
            && self.key.is_none()
            && !self.has("_row")
    }

    /// The columns that are not ours and that Postgres does not compute, each with its type.
    pub fn declared(&self) -> impl Iterator<Item = (String, String)> {
        let theirs = self
            .columns
            .iter()
            .filter(|column| !column.generated && !OURS.contains(&column.name.as_str()));
        theirs.map(|column| (column.name.clone(), column.declared.clone()))
    }

    /// The columns of its primary key.
    pub fn key(&self) -> &[String] {
        self.key.as_ref().map_or(&[], |(_, columns)| columns)
    }

    /// Whether it has no primary key.
    pub(super) fn is_keyless(&self) -> bool {
        self.key.is_none()
    }

    /// Notes that the model's key is about to be given.
    pub fn give_key(&mut self, model: &Model) {
        self.key = Some((String::new(), model.key.clone()));
    }

    /// The table as it stands once its rows are in: they bring its key, and what its columns refuse.
    pub fn once_read(mut self, model: &Model, unfed: &[String]) -> Standing {
        if self.is_unkeyed(model) {
            self.give_key(model);
        }
        let required = |name: &String| {
            model.column(name).is_some_and(|known| known.required) && !unfed.contains(name)
        };
        self.columns.iter_mut().for_each(|column| column.required |= required(&column.name));
        self
    }

    /// Notes that what a table of the model has beside the model's columns is about to be given.
    pub(super) fn note_ours(&mut self, model: &Model) {
        if model.partition.is_some() && model.history == History::Overwrite && self.key.is_none() {
            let key = model.physical_key().into_iter().map(str::to_owned).collect();
            self.key = Some((String::new(), key));
        }
        if model.history == History::Bag && !self.has("_row") {
            self.columns.push(StoredColumn::ours("_row"));
        }
    }

    /// The columns that refuse NULL.
    pub(super) fn required(&self) -> impl Iterator<Item = &str> {
        let required = self.columns.iter().filter(|column| column.required && !column.generated);
        required.map(|column| column.name.as_str())
    }

    /// The columns that do not compute themselves.
    pub(super) fn given(&self) -> impl Iterator<Item = &str> {
        let given = self.columns.iter().filter(|column| !column.generated);
        given.map(|column| column.name.as_str())
    }

    /// Whether it has a column of that name.
    pub fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|known| known.name == column)
    }

    /// What the columns of a declared table take. A mirrored one takes whatever its source has.
    pub fn limits(&self, model: &Model) -> Vec<(usize, Limit)> {
        let mut limits = Vec::new();
        for (at, column) in model.columns.iter().enumerate().filter(|_| !model.mirrored) {
            let by = model.partition.as_ref().filter(|partition| partition.by == column.name);
            limits.extend(by.map(|by| (at, Limit::Days(by.range.0, by.range.1))));
            let Some(stored) = self.columns.iter().find(|stored| stored.name == column.name) else {
                continue;
            };
            if stored.generated {
                continue;
            }
            limits.extend(stored.required.then_some((at, Limit::Required)));
            limits.extend(Limit::of_type(&stored.declared).map(|limit| (at, limit)));
        }
        limits
    }

    /// Gives a column the name that it will have.
    pub fn rename(&mut self, from: &str, to: &str) {
        let columns = self.columns.iter_mut().map(|column| &mut column.name);
        let key = self.key.iter_mut().flat_map(|(_, columns)| columns);
        for name in columns.chain(key).filter(|name| *name == from) {
            to.clone_into(name);
        }
    }

    /// The column of that name.
    pub(super) fn column(&self, name: &str) -> Option<&StoredColumn> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The columns of the key, for people.
    pub(super) fn shown_key(&self) -> String {
        self.key.as_ref().map(|(_, columns)| columns.join(", ")).unwrap_or_default()
    }

    /// Whether the rows are told apart as the model says.
    pub(super) fn has_key_of(&self, model: &Model) -> bool {
        let mut key: Vec<&str> =
            self.key.iter().flat_map(|(_, columns)| columns).map(String::as_str).collect();
        let mut wanted = model.physical_key();
        key.sort_unstable();
        wanted.sort_unstable();
        key == wanted && self.has("_row") == (model.history == History::Bag)
    }
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
    if fit.adds && model.history == History::Versions {
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
    use crate::spec::{ModelColumn, NewColumns, SourceName};

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
            partition: None,
            indexes: Vec::new(),
            deletes: Deletes::Hard,
            new_columns: NewColumns::Add,
            horizon: None,
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
