//! The statements that make a mart: a table with the columns of its query, or a materialized view.

use tokio_postgres::GenericClient;

use super::shape::{Shape, standing};
use super::unfit;
use crate::error::{Error, Result};
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
    let table = quote::table(&mart.table);
    let materialized = mart.refresh_by.is_none();
    let day_view = mart.today_view();
    let day = standing(client, &day_view).await?;
    // the view stands upon the table
    let first = match day.is_empty() {
        true => String::new(),
        false => format!("drop view {}; ", quote::table(&day_view)),
    };
    let drop = match materialized {
        true => format!("{first}drop materialized view {table}; it is made anew within seconds"),
        false => format!("{first}drop table {table}; it is made and filled anew within seconds"),
    };
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
        return Err(unfit(&mart.table, "its file has another query than it was made with", drop));
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
    Ok(Definition {
        statements: if anew || lacks { today(shape, readers) } else { Vec::new() },
        anew,
    })
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
        // a group may be NULL, which a primary key refuses
        format!("create unique index on {table} ({}) nulls not distinct", key(shape)),
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

fn grants(table: &crate::names::TableName, readers: &[String]) -> Vec<String> {
    let grant = |reader: &String| {
        let (schema, reader) = (quote::ident(&table.schema), quote::ident(reader));
        [
            format!("grant usage on schema {schema} to {reader}"),
            format!("grant select on {} to {reader}", quote::table(table)),
        ]
    };
    readers.iter().flat_map(grant).collect()
}
