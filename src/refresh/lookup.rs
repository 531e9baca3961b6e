//! Columns that are looked up: what their queries read, and which of them are in place.
//!
//! Whoever writes rows fills them by what is in place, `audit.lookups.placed`, which [`place`] notes once the warehouse
//! can answer the queries. A mark is left then for the rows that are there.

use tokio_postgres::error::SqlState;
use tokio_postgres::{GenericClient, Transaction};

use super::shape::{Input, columns_of, refuse_subscribed, relations, standing};
use super::sweep::of_no_row;
use super::unfit;
use super::watch::Reader;
use crate::error::{Error, Kind, Result};
use crate::names::TableName;
use crate::postgres::quote;
use crate::spec::{Lookup, MartRead, Model};

/// What the way in which rows are filled adds to a definition: with another one all are filled anew.
const FORM: &str = "1";

/// A query must answer the same whoever writes. Its names have their schema.
const SETTINGS: [(&str, &str); 4] = [
    ("search_path", "pg_catalog, pg_temp"),
    ("timezone", "'UTC'"),
    ("datestyle", "'ISO, MDY'"),
    ("intervalstyle", "'postgres'"),
];

/// The statement that makes a session fit to look rows up as those who write them do: `audit.look_up` has the path.
pub fn settings() -> String {
    SETTINGS.iter().map(|(setting, value)| format!("set {setting} to {value};")).collect()
}

/// What the lookups of a table read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looks {
    /// The table.
    pub table: TableName,
    /// What it is looked up in.
    pub inputs: Vec<Input>,
    /// The views in between.
    pub views: Vec<u32>,
}

impl Looks {
    /// The table, as one that is told what changes.
    pub fn reader(&self) -> Reader<'_> {
        Reader { table: &self.table, inputs: &self.inputs, views: &self.views }
    }
}

/// Asks the warehouse what the lookups of a table read, and whether it can answer them. `others` are the tables that
/// may not be read: marts, and those with lookups of their own, of which a circle could be made. The transaction is to
/// be rolled back.
pub async fn describe_lookups(
    transaction: &Transaction<'_>,
    model: &Model,
    others: &[TableName],
) -> Result<Looks> {
    let table = &model.table;
    refuse_columns(transaction, model).await?;
    for (setting, value) in SETTINGS {
        let set = format!("set local {setting} to {value}");
        let set = transaction.batch_execute(&set).await;
        set.map_err(|error| Error::warehouse("setting up a session", error))?;
    }
    // behind the path: what types are called goes by it
    let columns = standing(transaction, table).await?;
    let (mut tables, mut views) = (Vec::new(), Vec::new());
    for lookup in &model.lookups {
        let failed = |error| unanswered(model, Some(lookup), error);
        // those that whoever writes rows gives it, and no others
        let inputs = lookup.inputs();
        let given = columns.iter().filter(|(name, _)| inputs.contains(name));
        let nulls: Vec<String> =
            given.map(|(name, ty)| format!("null::{ty} as {}", quote::ident(name))).collect();
        let query =
            format!("select (\n{}\n) from (select {}) as \"row\"", lookup.query, nulls.join(", "));
        columns_of(transaction, &query).await.map_err(failed)?;
        let (read, between) = relations(transaction, table).await?;
        tables.extend(read);
        views.extend(between);
        let tried = format!("select ({query})::{}", lookup.ty);
        transaction.batch_execute(&tried).await.map_err(failed)?;
    }
    let explain = format!("explain {}", of_no_row(model));
    transaction.execute(&explain, &[]).await.map_err(|error| unanswered(model, None, error))?;
    tables.sort();
    tables.dedup();
    views.sort_unstable();
    views.dedup();
    for read in &tables {
        if read == table || others.contains(read) {
            let what = format!("its lookups read {read}, which is a mart or has lookups itself");
            let remedy = format!("look it up in another table in {}", model.declared_in);
            return Err(unfit(table, &what, remedy));
        }
        refuse_subscribed(transaction, table, read).await?;
    }
    let input = |table: TableName| Input {
        read: MartRead { table, when: Vec::new(), touches: None },
        told: Vec::new(),
        key: Vec::new(),
        versions: false,
    };
    let inputs = tables.into_iter().map(input).collect();
    Ok(Looks { table: table.clone(), inputs, views })
}

/// Refuses a table whose columns cannot be set.
async fn refuse_columns(client: &impl GenericClient, model: &Model) -> Result<()> {
    let query = "
        select a.attname::text, a.attnotnull, a.attgenerated <> '' or a.attidentity = 'a'
          from pg_attribute a
         where a.attrelid = to_regclass($1) and a.attnum > 0 and not a.attisdropped";
    let failed = |error| Error::warehouse(format!("looking at {}", model.table), error);
    let rows = client.query(query, &[&model.quoted()]).await.map_err(failed)?;
    let mut there = Vec::new();
    for row in &rows {
        let read = || Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
        let column: (String, bool, bool) = read().map_err(failed)?;
        there.push(column);
    }
    let table = &model.table;
    if there.is_empty() {
        let what = format!("{table}, which looks others up, is not there yet");
        return Err(Error::new(Kind::Busy, what).remedy("let its connector make it"));
    }
    for Lookup { name, .. } in &model.lookups {
        let alter = format!("alter table {} alter column {}", model.quoted(), quote::ident(name));
        match there.iter().find(|(known, ..)| known == name) {
            None => {
                let what = format!("{table} has no column {name} yet, which is looked up");
                return Err(Error::new(Kind::Busy, what).remedy("siltstone apply"));
            }
            Some((_, _, true)) => {
                let what = format!("its column {name} is generated, and takes no lookup");
                return Err(unfit(table, &what, format!("{alter} drop expression")));
            }
            Some((_, true, _)) => {
                let what =
                    format!("its column {name} refuses NULL, which a lookup that finds nothing is");
                return Err(unfit(table, &what, format!("{alter} drop not null")));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// What a query that was not answered means.
fn unanswered(model: &Model, lookup: Option<&Lookup>, error: tokio_postgres::Error) -> Error {
    let (table, file) = (&model.table, &model.declared_in);
    let names = model.lookups.iter().map(|lookup| lookup.name.as_str()).collect::<Vec<_>>();
    let name = lookup.map_or_else(|| names.join(", "), |lookup| lookup.name.clone());
    let missing = error.code().is_some_and(|code| ["42P01", "3F000"].contains(&code.code()));
    if missing {
        let said = error.as_db_error().map(|error| error.message().to_owned()).unwrap_or_default();
        let what = format!("{name} of {table} waits for what it is looked up in: {said}");
        let remedy = format!(
            "nothing, where a job makes it later; else make it, or mend columns.{name}.lookup in {file}"
        );
        return Error::new(Kind::Busy, what).remedy(remedy);
    }
    let of_two = error.code() == Some(&SqlState::CARDINALITY_VIOLATION);
    let error = Error::warehouse(format!("looking {name} of {table} up"), error);
    match if of_two { Kind::TableStops } else { error.kind() } {
        Kind::TableStops | Kind::Poison => error
            .with_kind(Kind::TableStops)
            .on_table(table.to_string())
            .remedy(format!("mend columns.{name}.lookup in {file}: row is the table's row")),
        Kind::Rights => error.remedy(format!(
            "grant select on what columns.{name}.lookup in {file} reads to the warehouse's role"
        )),
        _ => error,
    }
}

/// What is noted of the lookups in place.
fn definition(model: &Model) -> String {
    format!("{FORM}:{}", model.looks_up())
}

/// The statements that put lookups in place.
pub fn placing(model: &Model) -> Vec<String> {
    let lookup = |Lookup { name, ty, query, .. }: &Lookup| serde_json::json!({ "name": name, "type": ty, "query": query });
    let placed: serde_json::Value = model.lookups.iter().map(lookup).collect();
    let names: Vec<String> =
        model.lookups.iter().map(|lookup| quote::literal(&lookup.name)).collect();
    let table = quote::literal(&model.table.to_string());
    vec![format!(
        "insert into audit.lookups (table_name, columns, definition, placed, state) \
         values ({table}, array[{}], {}, {}, 'filling') \
         on conflict (table_name) do update \
         set columns = excluded.columns, definition = excluded.definition, placed = excluded.placed, \
             state = excluded.state, reason = null, remedy = null, changed_at = now()",
        names.join(", "),
        quote::literal(&definition(model)),
        quote::literal(&placed.to_string())
    )]
}

/// The statements that take them away again.
pub fn unplacing(table: &TableName) -> Vec<String> {
    let of = |column: &str, from: &str| {
        format!("delete from audit.{from} where {column} = {}", quote::literal(&table.to_string()))
    };
    let told = ["mart_reads", "mart_saw", "touched"].map(|from| of("mart", from));
    [of("table_name", "lookups")].into_iter().chain(told).collect()
}

/// Whether the lookups of the files are in place.
pub async fn is_placed(client: &impl GenericClient, model: &Model) -> Result<bool> {
    let query = "select exists (select from audit.lookups
                                 where table_name = $1 and definition = $2 and placed is not null)";
    let row = client.query_one(query, &[&model.table.to_string(), &definition(model)]).await;
    row.and_then(|row| row.try_get(0)).map_err(|error| failed(&model.table, error))
}

/// Whether the table is there.
pub async fn is_made(client: &impl GenericClient, table: &TableName) -> Result<bool> {
    let there = "select to_regclass($1) is not null";
    let row = client.query_one(there, &[&quote::table(table)]).await;
    row.and_then(|row| row.try_get(0)).map_err(|error| failed(table, error))
}

/// Puts lookups in place, and marks all rows, of which a table that is about to be read has none.
pub async fn place(client: &impl GenericClient, model: &Model, looks: &Looks) -> Result<()> {
    let failed = |error| failed(&model.table, error);
    for statement in placing(model) {
        client.batch_execute(&statement).await.map_err(failed)?;
    }
    let table = model.table.to_string();
    let read: Vec<String> = looks.inputs.iter().map(|input| input.read.table.to_string()).collect();
    for statement in [
        "delete from audit.mart_reads where mart = $1 and input <> all ($2)",
        "delete from audit.mart_saw where mart = $1 and input <> all ($2)",
    ] {
        client.execute(statement, &[&table, &read]).await.map_err(failed)?;
    }
    // rows to come are looked up as they are written
    let mark = match stays_empty(client, model).await? {
        true => "delete from audit.touched where mart = $1",
        false => "insert into audit.touched (mart, input) values ($1, '')",
    };
    client.execute(mark, &[&table]).await.map_err(failed)?;
    Ok(())
}

/// Marks all rows of a table: they are to be looked up.
pub async fn mark(client: &impl GenericClient, table: &TableName) -> Result<()> {
    let mark = "insert into audit.touched (mart, input) values ($1, '')";
    let marked = client.execute(mark, &[&table.to_string()]).await;
    marked.map(drop).map_err(|error| failed(table, error))
}

/// Whether the table has no rows, and gets none before the transaction ends: whoever writes then goes by what it
/// has noted. Nobody is waited for.
async fn stays_empty(client: &impl GenericClient, model: &Model) -> Result<bool> {
    let failed = |error| failed(&model.table, error);
    let table = model.quoted();
    let lock = format!(
        "savepoint locking; lock table only {table} in share row exclusive mode nowait; release savepoint locking"
    );
    if let Err(error) = client.batch_execute(&lock).await {
        if error.as_db_error().is_none() {
            return Err(failed(error));
        }
        client.batch_execute("rollback to savepoint locking").await.map_err(failed)?;
        return Ok(false);
    }
    let empty = format!("select not exists (select from {table})");
    let row = client.query_one(&empty, &[]).await;
    row.and_then(|row| row.try_get(0)).map_err(failed)
}

/// Takes away what fills columns that no file looks up any more. They keep what they hold.
pub async fn unplace(client: &impl GenericClient, table: &TableName) -> Result<()> {
    for statement in unplacing(table) {
        client.batch_execute(&statement).await.map_err(|error| failed(table, error))?;
    }
    Ok(())
}

fn failed(table: &TableName, error: tokio_postgres::Error) -> Error {
    Error::warehouse(format!("putting the lookups of {table} in place"), error)
}
