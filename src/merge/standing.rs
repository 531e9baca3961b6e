//! A warehouse table as it stands: what the catalogue says of its columns and its key, and what is known to come
//! to them.
//!
//! It only reads, and never says what is to be done about a difference.

use tokio_postgres::GenericClient;

use super::stored::{StoredColumn, columns};
use crate::error::{Error, Result};
use crate::names::TableName;
use crate::spec::{Deletes, History, Model, OURS};
use crate::types::Limit;

/// A warehouse table as it stands.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    pub(super) columns: Vec<StoredColumn>,
    /// the primary key's constraint and columns
    pub(super) key: Option<(String, Vec<String>)>,
    /// the column that its leaves are cut by
    pub(super) by: Option<String>,
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

    /// What the table is, by its columns.
    pub(super) fn history(&self) -> History {
        match () {
            () if self.has("raw_data") && !self.has("_seq") => History::Raw,
            () if self.has("_end_seq") => History::Versions,
            () if self.has("_op") => History::Append,
            () if self.has("_row") => History::Bag,
            () => History::Overwrite,
        }
    }

    /// What rows of it are that no source has, and that do not come back when it is made anew.
    pub fn held_alone(&self) -> Option<&'static str> {
        match self.history() {
            History::Append | History::Raw => Some("events"),
            History::Versions => Some("versions that are closed"),
            _ if self.has("_deleted_at") => Some("rows that were deleted"),
            _ => None,
        }
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
