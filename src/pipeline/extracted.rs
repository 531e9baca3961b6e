//! The tables that no stream feeds: what they lack in the warehouse, and how they get it. Where rows are written to
//! them, what is safe is done before; any other difference stops the table alone until `siltstone apply` has mended
//! it, or the file is as it was.

use tokio_postgres::{GenericClient, Transaction};

use super::differences::leaf_step;
use super::follow::apply_line;
use crate::error::{Error, Kind, Result};
use crate::merge::{
    Class, Leaf, Leaves, Lock, Standing, Step, absent, ahead, create_leaves, define, differences,
};
use crate::names::TableName;
use crate::postgres::Session;
use crate::progress::extracts;
use crate::spec::{History, Model};
use crate::warehouse::{Durations, Fence, Fenced, ddl};

/// What a table lacks.
pub(super) struct Lacks {
    pub(super) model: Model,
    pub(super) rows: u64,
    pub(super) steps: Vec<Step>,
    pub(super) leaves: Vec<Leaf>,
}

/// What the tables are made by.
pub(super) struct Ground<'g> {
    pub(super) fence: &'g Fence,
    pub(super) durations: &'g Durations,
    /// who may select from what is made
    pub(super) readers: &'g [String],
    pub(super) no_ddl: bool,
    /// the warehouse's day
    pub(super) today: i64,
}

/// Looks what a table lacks. Changes nothing.
pub(super) async fn lacks(
    client: &impl GenericClient,
    model: &Model,
    (readers, today): (&[String], i64),
) -> Result<Lacks> {
    let standing = Standing::of(client, &model.table).await?;
    let steps = match standing.is_there() {
        false => {
            let what = format!("make it, fed by {}", model.from);
            vec![Step::new(what, define(model, readers), Lock::None)]
        }
        true => {
            let ours = if model.history == History::Raw { "raw_data" } else { "_seq" };
            if !standing.has(ours) {
                return Err(not_ours(model));
            }
            differences(client, (model, &standing), &[], readers).await?
        }
    };
    let leaves = absent(client, Leaves::default().missing(model, ahead(model, today))?).await?;
    let rows = crate::merge::estimate_rows(client, &model.table).await?;
    Ok(Lacks { model: model.clone(), rows, steps, leaves })
}

fn not_ours(model: &Model) -> Error {
    let what = "a table of this name is there, and it is not one of ours";
    Error::new(Kind::TableStops, what).on_table(model.table.to_string()).remedy(format!(
        "write another name in {}, or drop the table that is there",
        model.declared_in
    ))
}

/// Makes what a table lacks.
pub(super) async fn make(
    transaction: &Transaction<'_>,
    model: &Model,
    (statements, leaves): (&[String], &[Leaf]),
) -> Result<()> {
    let table = &model.table;
    let failed =
        |error| Error::warehouse("making it follow its file", error).on_table(table.to_string());
    ddl(transaction, statements).await.map_err(failed)?;
    make_leaves(transaction, table, leaves).await?;
    extracts::note_table(transaction, table, &model.from.to_string()).await
}

/// Makes what was planned of a table, as far as it is allowed; the steps that were made.
pub(super) async fn make_planned(
    session: &mut Session,
    found: &Lacks,
    allowed: &[Class],
) -> Result<Vec<Step>> {
    let Lacks { model, steps, leaves, .. } = found;
    let is_allowed = |step: &&Step| step.class == Class::Safe || allowed.contains(&step.class);
    let mut made: Vec<Step> = steps.iter().filter(is_allowed).cloned().collect();
    let leaves = if made.len() < steps.len() { &[] } else { &leaves[..] };
    if made.is_empty() && leaves.is_empty() {
        return Ok(made);
    }
    let statements: Vec<String> = made.iter().flat_map(|step| &step.statements).cloned().collect();
    let failed = |error| Error::warehouse("making it", error).on_table(model.table.to_string());
    let transaction = session.transaction().await.map_err(failed)?;
    make(&transaction, model, (&statements, leaves)).await?;
    transaction.commit().await.map_err(failed)?;
    made.extend(leaf_step(leaves));
    Ok(made)
}

/// Makes leaves where rows are about to be written.
pub(super) async fn make_leaves(
    transaction: &Transaction<'_>,
    table: &TableName,
    leaves: &[Leaf],
) -> Result<()> {
    if leaves.is_empty() {
        return Ok(());
    }
    let failed = |error| Error::warehouse("making leaves", error).on_table(table.to_string());
    transaction.batch_execute("set local lock_timeout to '1s'").await.map_err(failed)?;
    create_leaves(transaction, leaves).await?;
    transaction.batch_execute("set local lock_timeout to default").await.map_err(failed)
}

/// Makes a table fit its file before rows are written to it.
pub(super) async fn suit(session: &mut Session, model: &Model, ground: &Ground<'_>) -> Result<()> {
    let found = lacks(&**session, model, (ground.readers, ground.today)).await?;
    let steps: Vec<&Step> = found.steps.iter().filter(|step| !step.later).collect();
    let bars =
        |step: &&&Step| step.class != Class::Safe || (ground.no_ddl && !step.statements.is_empty());
    let barred: Vec<&Step> = steps.iter().filter(bars).copied().collect();
    let table = &model.table;
    if !barred.is_empty() || (ground.no_ddl && !found.leaves.is_empty()) {
        let what: Vec<&str> = barred.iter().map(|step| step.what.as_str()).collect();
        let what = match what.is_empty() {
            true => "leaves are missing, and --no-ddl makes none".to_owned(),
            false => format!("it differs from {}: {}", model.declared_in, what.join("; ")),
        };
        return Err(Error::new(Kind::TableStops, what)
            .on_table(table.to_string())
            .remedy(apply_line(barred)));
    }
    let statements: Vec<String> = steps.iter().flat_map(|step| &step.statements).cloned().collect();
    let transaction =
        Fenced::begin(session, ground.fence, "extracted table", ground.durations).await?;
    make(&transaction, model, (&statements, &found.leaves)).await?;
    transaction.commit().await?;
    for step in steps {
        tracing::info!(%table, "{}", step.what);
    }
    Ok(())
}
