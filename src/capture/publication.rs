//! The publications: which tables the source sends, and with which columns.
//!
//! The shop's own work comes first: a table is published only where its updates and deletes go on
//! working, so one without a usable replica identity is left out and named. Column lists are used
//! only where a column is excluded: they hide new columns and stand in the way of DROP COLUMN.
//!
//! Source: PostgreSQL documentation, CREATE PUBLICATION and "Column Lists".

use std::collections::HashMap;

use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use super::catalog::SourceTable;
use crate::error::{Error, Kind, Result};
use crate::names::TableName;
use crate::postgres::{Session, quote};
use crate::relation::Identity;
use crate::spec::Connector;

/// What one publication should hold.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// What it publishes; empty for everything.
    pub actions: &'static str,
    /// The tables, each with its column list where one is needed.
    pub tables: Vec<(TableName, Option<Vec<String>>)>,
    /// The tables that stay as it holds them: only their owner can add them again.
    pub untouched: Vec<TableName>,
}

impl Wanted {
    /// Leaves a table as the publication holds it.
    pub fn leave(&mut self, table: &TableName) {
        let before = self.tables.len();
        self.tables.retain(|(of, _)| of != table);
        if self.tables.len() < before {
            self.untouched.push(table.clone());
        }
    }
}

/// The columns of a table that are published: a list only where some are excluded. Refuses to leave
/// out a column of the replica identity, for then the source's own updates would fail.
pub fn column_list(connector: &Connector, table: &SourceTable) -> Result<Option<Vec<String>>> {
    let relation = &table.relation;
    let hidden = |name: &str| connector.excludes(&relation.table, name);
    let left_out = relation.columns.iter().filter(|column| hidden(&column.name));
    let left_out: Vec<_> = left_out.collect();
    if left_out.is_empty() {
        return Ok(None);
    }
    let full = relation.identity == Identity::Full;
    if let Some(column) = left_out.iter().find(|column| full || column.in_key) {
        let why = if full { "its replica identity is FULL" } else { "it is part of the key" };
        let name = format!("{}.{}", relation.table, column.name);
        let what = format!(
            "{}: exclude: {name} cannot be left out, for {why}: the source's own updates would fail",
            connector.file
        );
        let mask =
            format!("take {name} out of exclude, and mask it in schemas/ if nobody may see it");
        let remedy = if full && relation.key().next().is_some() {
            let table = quote::table(&relation.table);
            format!("alter table {table} replica identity default; or {mask}")
        } else {
            mask
        };
        return Err(Error::new(Kind::Config, what).remedy(remedy));
    }
    let kept = relation.columns.iter().filter(|column| !hidden(&column.name));
    Ok(Some(kept.map(|column| column.name.clone()).collect()))
}

/// What a publication holds now: its tables, each with the column list it wants; none where it filters
/// rows, which is never wanted.
type Held = HashMap<TableName, Option<Option<Vec<String>>>>;

/// The tables that a publication does not hold as wanted, each with the statement that mends it. Of those
/// among them that are replicated already the stream has not told everything so far.
pub type Untold = HashMap<TableName, String>;

/// The tables that the publications do not hold as wanted.
pub async fn untold(source: &Session, wanted: &[Wanted], version: i32) -> Result<Untold> {
    let mut untold = Untold::new();
    for wanted in wanted {
        let held = read(source, wanted, version).await?.unwrap_or_default();
        for (table, columns) in &wanted.tables {
            untold.extend(
                mend(wanted, (table, columns.as_ref()), &held)
                    .map(|statement| (table.clone(), statement)),
            );
        }
    }
    Ok(untold)
}

/// The statement that makes a publication hold a table as wanted, if it does not. The table is never out
/// of it in between.
fn mend(
    wanted: &Wanted,
    (table, columns): (&TableName, Option<&Vec<String>>),
    held: &Held,
) -> Option<String> {
    let add = alter(wanted, "add", table, columns.map(Vec::as_slice));
    match held.get(table) {
        Some(Some(known)) if known.as_ref() == columns => None,
        Some(_) => Some(format!("begin; {}; {add}; commit", alter(wanted, "drop", table, None))),
        None => Some(add),
    }
}

fn alter(wanted: &Wanted, verb: &str, table: &TableName, columns: Option<&[String]>) -> String {
    let name = quote::ident(&wanted.name);
    format!("alter publication {name} {verb} table {}", published(table, columns))
}

/// The statements that make the publication hold what is wanted; it takes and gives back no table that is
/// right already.
pub async fn statements(source: &Session, wanted: &Wanted, version: i32) -> Result<Vec<String>> {
    let Some(held) = read(source, wanted, version).await? else {
        return Ok(vec![make_statement(wanted)]);
    };
    Ok(changes(wanted, &held).into_iter().map(|(_, statement)| statement).collect())
}

/// The tables that a publication does not hold as wanted, or should not hold, each with what changes that.
fn changes(wanted: &Wanted, held: &Held) -> Vec<(TableName, String)> {
    let mend = |(table, columns): &(TableName, Option<Vec<String>>)| {
        Some((table.clone(), mend(wanted, (table, columns.as_ref()), held)?))
    };
    let mut changes: Vec<(TableName, String)> = wanted.tables.iter().filter_map(mend).collect();
    let kept = |table: &TableName| {
        wanted.tables.iter().any(|(kept, _)| kept == table) || wanted.untouched.contains(table)
    };
    let mut gone: Vec<&TableName> = held.keys().filter(|table| !kept(table)).collect();
    gone.sort_unstable();
    let drop = |table: &TableName| (table.clone(), alter(wanted, "drop", table, None));
    changes.extend(gone.into_iter().map(drop));
    changes
}

/// Makes the publication hold what is wanted, but for the tables that somebody has locked, which it names:
/// the others must not wait for an index that is built, or a VACUUM.
pub async fn ensure(source: &Session, wanted: &Wanted, version: i32) -> Result<Vec<TableName>> {
    let held = match read(source, wanted, version).await? {
        Some(held) => held,
        None if run(source, &make_statement(wanted), wanted).await? => return Ok(Vec::new()),
        None => {
            let empty = Wanted { tables: Vec::new(), ..wanted.clone() };
            run(source, &make_statement(&empty), wanted).await?;
            Held::new()
        }
    };
    let mut locked = Vec::new();
    for (table, statement) in changes(wanted, &held) {
        if !run(source, &statement, wanted).await? {
            locked.push(table);
        }
    }
    Ok(locked)
}

/// What keeps a table from being published, and what ends that.
#[derive(Clone, Debug)]
pub struct Locker {
    /// Which session or prepared transaction it is.
    pub what: String,
    /// What ends it.
    pub remedy: String,
}

/// Whose lock keeps a table from being published, if anybody's does.
pub async fn locker(source: &Session, table: &TableName) -> Result<Option<Locker>> {
    let failed = |error| Error::source(format!("looking who has locked {table}"), error);
    let query = include_str!("../../sql/source/locker.sql");
    let row = source.query_opt(query, &[&quote::table(table)]).await.map_err(failed)?;
    let locker = |row: Row| Ok(Locker { what: row.try_get(0)?, remedy: row.try_get(1)? });
    row.map(locker).transpose().map_err(failed)
}

/// Whether there is a publication of that name.
pub async fn is_there(source: &Session, name: &str) -> Result<bool> {
    let query = "select exists (select from pg_publication where pubname = $1)";
    let row = source.query_one(query, &[&name]).await.and_then(|row| row.try_get(0));
    row.map_err(|error| Error::source("reading its publications", error))
}

/// Whether a publication is our role's to change, or to make.
pub async fn is_ours(source: &Session, name: &str) -> Result<bool> {
    let query = "select coalesce((select pg_has_role(pubowner, 'USAGE') from pg_publication
                                   where pubname = $1), true)";
    let row = source.query_one(query, &[&name]).await.and_then(|row| row.try_get(0));
    row.map_err(|error| Error::source("reading its publications", error))
}

/// The statement that makes a publication.
pub fn make_statement(wanted: &Wanted) -> String {
    let tables: Vec<String> =
        wanted.tables.iter().map(|(table, columns)| published(table, columns.as_deref())).collect();
    let tables =
        if tables.is_empty() { String::new() } else { format!(" for table {}", tables.join(", ")) };
    let actions = match wanted.actions {
        "" => String::new(),
        actions => format!("publish = {}, ", quote::literal(actions)),
    };
    format!(
        "create publication {}{tables} with ({actions}publish_via_partition_root = true)",
        quote::ident(&wanted.name)
    )
}

fn published(table: &TableName, columns: Option<&[String]>) -> String {
    let columns =
        columns.map(|columns| format!(" ({})", quote::idents(columns.iter().map(String::as_str))));
    format!("only {}{}", quote::table(table), columns.unwrap_or_default())
}

/// A table, a column or a schema that is not there any more.
const CHANGED: [&str; 3] = ["42P01", "42703", "3F000"];

/// Runs a statement; false where a lock that it needs is not to be had soon. An autovacuum in the way is
/// ended by the server when deadlock_timeout is over.
async fn run(source: &Session, statement: &str, wanted: &Wanted) -> Result<bool> {
    const SOON: &str = "select set_config('lock_timeout', (setting::int8 + 1000)::text, true)
        from pg_settings where name = 'deadlock_timeout'";
    let Err(error) = source.batch_execute(&format!("{SOON}; {statement}")).await else {
        return Ok(true);
    };
    let code = error.code().map_or("", SqlState::code).to_owned();
    let error = Error::source(format!("changing publication {}", wanted.name), error);
    if error.kind() == Kind::SourceAway {
        return Err(error);
    }
    // it may have failed behind a begin of its own
    source
        .batch_execute("rollback")
        .await
        .map_err(|error| Error::source("giving up a change of a publication", error))?;
    match code.get(..2) {
        _ if code == SqlState::LOCK_NOT_AVAILABLE.code() => Ok(false),
        _ if code == SqlState::INSUFFICIENT_PRIVILEGE.code() => {
            Err(error.remedy(format!("run as the owner of the tables: {statement}")))
        }
        // a table that was made and dropped, or renamed, meanwhile: what is there now is looked up anew
        _ if CHANGED.contains(&code.as_str()) => Err(error.with_kind(Kind::Busy)),
        Some("42" | "55" | "0A") => {
            let remedy = format!("run at the source: {statement}");
            Err(error.with_kind(Kind::SourceLacks).remedy(remedy))
        }
        // somebody else changes it at the same moment
        Some("XX") => Err(error.with_kind(Kind::Busy)),
        // a deadlock, a shutdown, a limit of resources: it passes
        _ => Err(error),
    }
}

async fn read(source: &Session, wanted: &Wanted, version: i32) -> Result<Option<Held>> {
    let name = &wanted.name;
    let failed = |error| Error::source("reading its publications", error);
    let found = source
        .query_opt(
            "select puballtables, pubviaroot, pubinsert and pubtruncate, pubupdate and pubdelete
               from pg_publication where pubname = $1",
            &[name],
        )
        .await
        .map_err(failed)?;
    let Some(found) = found else { return Ok(None) };
    let (all, via_root): (bool, bool) = (found.get(0), found.get(1));
    if all || !via_root {
        let what = format!(
            "publication {name} is not one of ours: {}",
            if all { "it is FOR ALL TABLES" } else { "it lacks publish_via_partition_root" }
        );
        return Err(Error::new(Kind::SourceLacks, what)
            .remedy(format!("drop publication {}", quote::ident(name))));
    }
    let (inserts, updates): (bool, bool) = (found.get(2), found.get(3));
    if !inserts || (!updates && wanted.actions.is_empty()) {
        let what = format!("publication {name} does not publish every change");
        let publish = if wanted.actions.is_empty() {
            "insert, update, delete, truncate"
        } else {
            wanted.actions
        };
        return Err(Error::new(Kind::SourceLacks, what).remedy(format!(
            "alter publication {} set (publish = {}); then siltstone table resync --all",
            quote::ident(name),
            quote::literal(publish)
        )));
    }
    // column lists and row filters came with Postgres 15
    let (columns, filters) = match version >= 150_000 {
        true => ("r.prattrs", "r.prqual is not null"),
        false => ("null::int2vector", "false"),
    };
    let query = format!(
        "select n.nspname, c.relname,
                (select array_agg(a.attname::text order by a.attnum) from pg_attribute a
                  where a.attrelid = c.oid and a.attnum = any ({columns}::int2[])) as columns,
                {filters} as filtered
           from pg_publication p
           join pg_publication_rel r on r.prpubid = p.oid
           join pg_class c on c.oid = r.prrelid
           join pg_namespace n on n.oid = c.relnamespace
          where p.pubname = $1"
    );
    let rows = source.query(&query, &[name]).await.map_err(failed)?;
    let mut held = Held::new();
    for row in rows {
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        let (columns, filtered) = (row.try_get(2).map_err(failed)?, row.get(3));
        held.insert(table, if filtered { None } else { Some(columns) });
    }
    Ok(Some(held))
}

/// Drops a publication of ours, if it is there.
pub async fn drop(source: &Session, name: &str) -> Result<()> {
    let statement = format!("drop publication if exists {}", quote::ident(name));
    source
        .batch_execute(&statement)
        .await
        .map_err(|error| Error::source(format!("dropping publication {name}"), error))
}
