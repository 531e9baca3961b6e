//! The statements that make a mart: a table with the columns of its query, or a materialized view.

use tokio_postgres::GenericClient;

use super::shape::{Shape, standing};
use super::unfit;
use crate::error::{Error, Result};
use crate::names::TableName;
use crate::postgres::quote;

/// What is to be done before a mart can be refreshed.
#[derive(Clone, Debug, Default)]
pub struct Definition {
    /// The statements that make what is missing.
    pub statements: Vec<String>,
    /// Whether its rows are of another definition, or of none.
    pub anew: bool,
}

/// Compares a mart's file with what is there. Refuses a table that is not ours or does not fit: it is not dropped
/// by itself, for others may have built upon it.
pub async fn define(
    client: &impl GenericClient,
    shape: &Shape,
    readers: &[String],
) -> Result<Definition> {
    let mart = &shape.mart;
    let failed = |error| Error::warehouse(format!("looking at {}", mart.table), error);
    let there = standing(client, &mart.table).await?;
    let noted = client
        .query_opt(
            "select definition from audit.marts where mart = $1 and definition <> ''",
            &[&mart.table.to_string()],
        )
        .await
        .map_err(failed)?;
    let noted: Option<String> = noted.map(|row| row.try_get(0)).transpose().map_err(failed)?;
    let anew = noted.as_deref() != Some(&mart.digest());
    let materialized = mart.refresh_by.is_none();
    let day_view = mart.today_view();
    let day = standing(client, &day_view).await?;
    let drop = dropping(shape, !day.is_empty());
    if there.is_empty() {
        let statements = if materialized { view(shape, readers) } else { create(shape, readers) };
        return Ok(Definition { statements, anew: true });
    }
    if noted.is_none() {
        let what = "a table of its name is there, and no mart of ours";
        return Err(unfit(&mart.table, what, "drop or rename it, or give the mart another name"));
    }
    let told = |columns: &[(String, String)]| {
        columns.iter().map(|(name, ty)| format!("{name} {ty}")).collect::<Vec<_>>().join(", ")
    };
    if there != shape.columns {
        let what = format!(
            "its columns are {}, and those of its query {}",
            told(&there),
            told(&shape.columns)
        );
        return Err(unfit(&mart.table, &what, drop));
    }
    if anew && materialized {
        let what = "its file has another query or key than it was made with";
        return Err(unfit(&mart.table, what, drop));
    }
    // a view takes columns at its end, and no other change of them
    if !mart.today.is_empty() && !shape.today.starts_with(&day) {
        let what = format!(
            "the columns of {day_view} are {}, and those of its file {}",
            told(&day),
            told(&shape.today)
        );
        let remedy =
            format!("drop view {}; it is made anew within seconds", quote::table(&day_view));
        return Err(unfit(&mart.table, &what, remedy));
    }
    let lacks = day.len() < shape.today.len();
    let mut statements = if materialized { Vec::new() } else { rekey(client, shape).await? };
    // rows that were alike in the key are gone then
    let anew = anew || !statements.is_empty();
    if anew || lacks {
        statements.extend(today(shape, readers));
    }
    Ok(Definition { statements, anew })
}

/// What a person runs to have the mart made anew.
fn dropping(shape: &Shape, with_view: bool) -> String {
    let mart = &shape.mart;
    // the view stands upon the table
    let first = match with_view {
        true => format!("drop view {}; ", quote::table(&mart.today_view())),
        false => String::new(),
    };
    let table = quote::table(&mart.table);
    match mart.refresh_by.is_none() {
        true => format!("{first}drop materialized view {table}; it is made anew within seconds"),
        false => format!("{first}drop table {table}; it is made and filled anew within seconds"),
    }
}

/// The indexes of a table: schema and name, whether it is one by which we tell rows apart, and its columns.
const INDEXES: &str = "
    select n.nspname::text, c.relname::text,
           i.indisunique and i.indnullsnotdistinct and i.indpred is null and i.indexprs is null
           and not exists (select from pg_constraint k where k.conindid = i.indexrelid),
           i.indisvalid,
           array(select a.attname::text
                   from unnest(i.indkey::int2[]) with ordinality k (number, at)
                   join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
                  where k.at <= i.indnkeyatts order by k.at)
      from pg_index i
      join pg_class c on c.oid = i.indexrelid
      join pg_namespace n on n.oid = c.relnamespace
     where i.indrelid = to_regclass($1)
     order by c.relname";

/// What makes the index of a key that is not the one the table was made with. The old one would refuse rows of the
/// new file, and by none are they written.
async fn rekey(client: &impl GenericClient, shape: &Shape) -> Result<Vec<String>> {
    let (mart, table) = (&shape.mart, quote::table(&shape.mart.table));
    let failed =
        |error| Error::warehouse(format!("looking at the indexes of {}", mart.table), error);
    let alike = |columns: &[String]| {
        columns.len() == mart.key.len() && mart.key.iter().all(|name| columns.contains(name))
    };
    let (mut keyed, mut found, mut old) = (false, mart.refresh_by.is_none(), Vec::new());
    for row in client.query(INDEXES, &[&table]).await.map_err(failed)? {
        let name = || Ok((row.try_get(0)?, row.try_get(1)?));
        let (schema, name): (String, String) = name().map_err(failed)?;
        let is_key: bool = row.try_get(2).map_err(failed)?;
        let valid: bool = row.try_get(3).map_err(failed)?;
        let columns: Vec<String> = row.try_get(4).map_err(failed)?;
        let by_group = valid && columns.first() == mart.refresh_by.as_ref();
        if is_key && valid && alike(&columns) {
            (keyed, found) = (true, found || by_group);
        } else if is_key {
            old.push((TableName { schema, name }, by_group));
        } else {
            found |= by_group;
        }
    }
    // what else is unique stands beside the key, and stays
    let mut statements = Vec::new();
    if keyed {
        found |= old.iter().any(|(_, by_group)| *by_group);
        old.clear();
    } else {
        let key = key(shape);
        // rows of the old file, of which some may be alike in the new key: all are computed anew behind this
        statements.push(format!(
            "delete from {table} m
              using (select ctid as place_, row_number() over (partition by {key}) as alike_ from {table}) d
              where m.ctid = d.place_ and d.alike_ > 1"
        ));
        statements.push(unique(shape));
    }
    if let Some(by) = mart.refresh_by.as_ref().filter(|by| !found && mart.key.first() != Some(by)) {
        statements.push(format!("create index on {table} ({})", quote::ident(by)));
    }
    // last: what reads the mart waits from here on
    statements.extend(old.iter().map(|(index, _)| format!("drop index {}", quote::table(index))));
    Ok(statements)
}

/// The index by which rows are told apart; a group may be NULL, which a primary key refuses.
fn unique(shape: &Shape) -> String {
    let (table, key) = (quote::table(&shape.mart.table), key(shape));
    format!("create unique index on {table} ({key}) nulls not distinct")
}

fn key(shape: &Shape) -> String {
    quote::idents(shape.mart.key.iter().map(String::as_str))
}

fn create(shape: &Shape, readers: &[String]) -> Vec<String> {
    let (mart, table) = (&shape.mart, quote::table(&shape.mart.table));
    let columns: Vec<String> =
        shape.columns.iter().map(|(name, ty)| format!("{} {ty}", quote::ident(name))).collect();
    let mut statements = vec![
        format!("create schema if not exists {}", quote::ident(&mart.table.schema)),
        format!("create table {table} ({}) with (fillfactor = 90)", columns.join(", ")),
        unique(shape),
    ];
    if let Some(by) = mart.refresh_by.as_ref().filter(|by| mart.key.first() != Some(by)) {
        statements.push(format!("create index on {table} ({})", quote::ident(by)));
    }
    statements.extend(grants(&mart.table, readers));
    statements.extend(today(shape, readers));
    statements
}

fn view(shape: &Shape, readers: &[String]) -> Vec<String> {
    let (mart, table) = (&shape.mart, quote::table(&shape.mart.table));
    let mut statements = vec![
        format!("create schema if not exists {}", quote::ident(&mart.table.schema)),
        format!("create materialized view {table} as\n{}\nwith data", mart.query),
        // without it readers would wait for a refresh
        format!("create unique index on {table} ({})", key(shape)),
    ];
    statements.extend(grants(&mart.table, readers));
    statements.extend(today(shape, readers));
    statements
}

/// The view that has the columns which depend on the day it is looked at.
fn today(shape: &Shape, readers: &[String]) -> Vec<String> {
    let mart = &shape.mart;
    if mart.today.is_empty() {
        return Vec::new();
    }
    let view = mart.today_view();
    let mut statements = vec![format!(
        "create or replace view {} as select m.*, {} from {} m",
        quote::table(&view),
        mart.today_list(),
        quote::table(&mart.table)
    )];
    statements.extend(grants(&view, readers));
    statements
}

fn grants(table: &TableName, readers: &[String]) -> Vec<String> {
    let grant = |reader: &String| {
        let (schema, reader) = (quote::ident(&table.schema), quote::ident(reader));
        [
            format!("grant usage on schema {schema} to {reader}"),
            format!("grant select on {} to {reader}", quote::table(table)),
        ]
    };
    readers.iter().flat_map(grant).collect()
}
