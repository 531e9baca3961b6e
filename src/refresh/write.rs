//! Computes groups of a mart anew and writes what differs, in one statement: under one snapshot, and without a row
//! written that stays as it is.

use tokio_postgres::Transaction;

use super::shape::Shape;
use super::unfit;
use crate::error::{Error, Result};
use crate::postgres::quote;

/// Which groups are meant.
pub(super) enum Groups<'g> {
    /// Every one.
    All,
    /// Those with these values, as text.
    Of(&'g [Option<String>]),
}

/// Writes the difference between groups and what the query says of them; the number of rows written.
pub(super) async fn write(
    transaction: &Transaction<'_>,
    shape: &Shape,
    groups: Groups<'_>,
) -> Result<i64> {
    let mut written = 0;
    for condition in conditions(shape, &groups) {
        let statement = difference(shape, &condition);
        let row = transaction.query_one(&statement, &[]).await;
        let row = row.and_then(|row| Ok((row.try_get::<_, i64>(0)?, row.try_get::<_, bool>(1)?)));
        let (rows, alike) = row.map_err(|error| failed(shape, error))?;
        if alike {
            return Err(unfit(
                &shape.mart.table,
                "its query answers rows that are alike in its key",
                apart(shape),
            ));
        }
        written += rows;
    }
    Ok(written)
}

pub(super) fn failed(shape: &Shape, error: tokio_postgres::Error) -> Error {
    let error = Error::warehouse(format!("refreshing {}", shape.mart.table), error);
    match error.code().map(tokio_postgres::error::SqlState::code) {
        Some("23505" | "21000") => {
            error.on_table(shape.mart.table.to_string()).remedy(apart(shape))
        }
        _ => error.remedy(format!("mend the SELECT in {}", shape.mart.declared_in)),
    }
}

/// What to do where rows have one key.
fn apart(shape: &Shape) -> String {
    let key = shape.mart.key.join(", ");
    format!(
        "rows are alike in {key}: add to key in {} what tells them apart",
        shape.mart.declared_in
    )
}

/// The conditions on a row `m` that together mean these groups. NULL is apart, for `= any` does not find it.
fn conditions(shape: &Shape, groups: &Groups<'_>) -> Vec<String> {
    let Groups::Of(values) = groups else { return vec!["true".to_owned()] };
    let by = quote::ident(shape.mart.refresh_by.as_deref().unwrap_or_default());
    let mut conditions = Vec::new();
    let elements: Vec<String> = values.iter().flatten().map(|value| element(value)).collect();
    if !elements.is_empty() {
        let array = quote::literal(&format!("{{{}}}", elements.join(",")));
        // a literal: the planner sees which leaves and how many rows it is about
        conditions.push(format!("m.{by} = any ({array}::{}[])", shape.group_type()));
    }
    if values.iter().any(Option::is_none) {
        conditions.push(format!("m.{by} is null"));
    }
    conditions
}

/// A value within an array's text.
fn element(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

fn difference(shape: &Shape, condition: &str) -> String {
    let (mart, query) = (quote::table(&shape.mart.table), &shape.mart.query);
    let key: Vec<String> = shape.mart.key.iter().map(|name| quote::ident(name)).collect();
    let of = |prefix: &str| {
        key.iter().map(|name| format!("{prefix}{name}")).collect::<Vec<_>>().join(", ")
    };
    let others: Vec<String> = shape
        .columns
        .iter()
        .filter(|(name, _)| !shape.mart.key.contains(name))
        .map(|(name, _)| format!("{0} = excluded.{0}", quote::ident(name)))
        .collect();
    let settled = match others.is_empty() {
        true => "do nothing".to_owned(),
        false => format!("do update set {}", others.join(", ")),
    };
    // compared as text: NULLs are alike, and so is every type, and the join can hash
    format!(
        "with fresh as materialized (
             select true as there_, {columns} from (\n{query}\n) m where {condition}),
         held as materialized (
             select m.ctid as place_, {columns} from {mart} m where {condition}),
         differing as materialized (
             select h.place_, f.*
               from fresh f full join held h on row({f_key})::text = row({h_key})::text
              where f.there_ is null or h.place_ is null
                 or row({f_columns})::text is distinct from row({h_columns})::text),
         gone as (
             delete from {mart} m
              where m.ctid = any (array(select place_ from differing where there_ is null))
             returning 1),
         put as (
             insert into {mart} ({plain}) select {d_columns} from differing d where d.there_
                 on conflict ({plain_key}) {settled}
             returning 1)
         select (select count(*) from gone) + (select count(*) from put),
                exists (select from fresh f group by row({f_key})::text having count(*) > 1)",
        columns = shape.list("m."),
        f_key = of("f."),
        h_key = of("h."),
        f_columns = shape.list("f."),
        h_columns = shape.list("h."),
        plain = shape.list(""),
        d_columns = shape.list("d."),
        plain_key = of(""),
    )
}
