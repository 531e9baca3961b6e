//! Which groups of a mart are to be computed anew: marks are expanded by its `touches`, in the transaction that
//! deletes them, under one snapshot. So a mark that commits meanwhile stays for the next turn.

use tokio_postgres::Transaction;

use super::shape::{Input, Shape};
use crate::error::{Error, Result};
use crate::postgres::quote;

/// What the marks of a mart say.
pub(super) enum Marks {
    /// All of its rows may be others.
    All,
    /// The groups that they touch are stale now.
    Expanded,
}

/// Turns the marks into stale groups and deletes them.
pub(super) async fn expand(transaction: &Transaction<'_>, shape: &Shape) -> Result<Marks> {
    let mart = shape.mart.table.to_string();
    let failed = |error| Error::warehouse(format!("expanding what touches {mart}"), error);
    let rows = transaction
        .query(
            "select input, count(*), bool_or(row is null), min(at) from audit.touched where mart = $1 group by input",
            &[&mart],
        )
        .await
        .map_err(failed)?;
    let mut marks = Marks::Expanded;
    for row in &rows {
        let read = || Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
        let (name, count, all): (String, i64, bool) = read().map_err(failed)?;
        let input = shape.inputs.iter().find(|input| input.read.table.to_string() == name);
        let selected = input.filter(|_| !all).and_then(|input| touched(shape, input, count));
        let Some(selected) = selected else {
            marks = Marks::All;
            break;
        };
        let insert = format!(
            "insert into audit.stale_groups (mart, value, since)
             select $1, value, now() from ({selected}) s on conflict do nothing"
        );
        transaction.execute(&insert, &[&mart, &name]).await.map_err(|error| {
            let error = failed(error);
            let remedy = format!("mend reads.{name}.touches in {}", shape.mart.declared_in);
            if error.remedy_text().is_none() { error.remedy(remedy) } else { error }
        })?;
    }
    // this snapshot's: those that commit meanwhile are not among them
    transaction
        .execute("delete from audit.touched where mart = $1", &[&mart])
        .await
        .map_err(failed)?;
    Ok(marks)
}

/// The query of the groups that marks of an input touch, as text, with the mart as $1 and the input as $2; none
/// where every change touches all of them.
pub(super) fn touched(shape: &Shape, input: &Input, marks: i64) -> Option<String> {
    let touches = input.read.touches.as_ref()?;
    let values: Vec<String> = input
        .told
        .iter()
        .map(|(name, ty)| {
            let (column, name) = (quote::ident(name), quote::literal(name));
            format!("(t.row ->> {name})::{ty} as {column}")
        })
        .collect();
    let values = if values.is_empty() { "null as nothing".to_owned() } else { values.join(", ") };
    // the limit tells the planner how few they are: without it a join reads all of the other table
    Some(format!(
        "with changed as materialized (
             select {values}
               from (select distinct t.row from audit.touched t where t.mart = $1 and t.input = $2 limit {marks}) t)
         select distinct (touches.value::{})::text as value from (\n{touches}\n) touches (value)",
        shape.group_type()
    ))
}
