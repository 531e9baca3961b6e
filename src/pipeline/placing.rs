//! What the lookups of the files lack in the warehouse, for `plan`, and how `apply` makes it.

use std::time::{Duration, Instant};

use super::marts::RESOURCE;
use crate::error::{Error, Kind, Policy, Result};
use crate::merge::{Lock, Step};
use crate::names::TableName;
use crate::postgres::Session;
use crate::refresh::{self, Looks};
use crate::spec::{Model, Spec};
use crate::warehouse::interrupt;

/// The tables with lookups.
pub(super) fn looked_up(spec: &Spec) -> impl Iterator<Item = &Model> {
    spec.models.iter().filter(|model| !model.lookups.is_empty())
}

/// What no lookup may read: of these a circle could be made.
pub(super) fn unreadable(spec: &Spec) -> Vec<TableName> {
    let marts = spec.marts.iter().map(|mart| mart.table.clone());
    marts.chain(looked_up(spec).map(|model| model.table.clone())).collect()
}

/// What the lookups of a table read, where the warehouse can answer them.
pub(super) async fn describe(
    session: &mut Session,
    model: &Model,
    others: &[TableName],
) -> Result<Looks> {
    let begun = session.transaction().await;
    let transaction = begun.map_err(|error| Error::warehouse("beginning a transaction", error))?;
    refresh::describe_lookups(&transaction, model, others).await
}

/// What does not tell all of its changes yet.
pub(super) async fn unwatched(session: &Session, looks: &Looks) -> Result<Vec<refresh::Input>> {
    let found = refresh::unwatched(&**session, looks.reader()).await?;
    Ok(found.into_iter().cloned().collect())
}

/// What the lookups of the files lack in the warehouse, table by table.
pub(super) async fn lacks(
    session: &mut Session,
    spec: &Spec,
) -> Result<(Vec<(TableName, Step)>, Vec<String>)> {
    let (mut steps, mut notes, others) = (Vec::new(), Vec::new(), unreadable(spec));
    for model in looked_up(spec) {
        let names = names(model);
        match lacks_of(session, model, &others).await {
            Ok(None) => {}
            Ok(Some(statements)) => {
                let what = format!(
                    "look {names} up, and let the tables that it reads tell of their changes"
                );
                steps.push((model.table.clone(), Step::new(what, statements, Lock::Share)));
            }
            Err(error)
                if matches!(error.kind().policy(), Policy::StopTable | Policy::Human)
                    || error.kind() == Kind::Busy =>
            {
                notes.push(error.advice());
            }
            Err(error) => return Err(error),
        }
    }
    for known in refresh::lookups(&**session).await? {
        if looked_up(spec).all(|model| model.table != known.table) {
            let names = known.columns.join(", ");
            let what = format!("look {names} up no more: it keeps what it holds");
            let statements = refresh::unplacing(&known.table);
            steps.push((known.table, Step::new(what, statements, Lock::None)));
        }
    }
    Ok((steps, notes))
}

/// What is looked up once the control tables are there.
pub(super) fn to_come(spec: &Spec) -> impl Iterator<Item = String> {
    let told = |model: &Model| {
        let (table, names) = (&model.table, names(model));
        format!("{names} of {table} is looked up when the table and what it reads are there")
    };
    looked_up(spec).map(told)
}

fn names(model: &Model) -> String {
    let names: Vec<&str> = model.lookups.iter().map(|lookup| lookup.name.as_str()).collect();
    names.join(", ")
}

async fn lacks_of(
    session: &mut Session,
    model: &Model,
    others: &[TableName],
) -> Result<Option<Vec<String>>> {
    let looks = describe(session, model, others).await?;
    let mut statements: Vec<String> =
        unwatched(session, &looks).await?.iter().map(refresh::watching).collect();
    if !refresh::is_placed(&**session, model).await? {
        statements.extend(refresh::placing(model));
    }
    Ok((!statements.is_empty()).then_some(statements))
}

/// How long a first reading waits for the lookups of its table, and how often it looks. Without them all of its rows
/// would be gone through behind it.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(50));

/// Waits until it is known whether the lookups of a table are in place.
pub(super) async fn await_placed(session: &Session, model: &Model) -> Result<()> {
    let (started, table) = (Instant::now(), model.table.to_string());
    let failed = |error| Error::warehouse(format!("asking for the lookups of {table}"), error);
    let known = "select exists (select from audit.lookups where table_name = $1
                                and (placed is not null or state in ('waiting', 'stopped')))";
    while !model.lookups.is_empty() && started.elapsed() < PATIENCE.0 {
        let row = session.query_one(known, &[&table]).await;
        if row.and_then(|row| row.try_get(0)).map_err(failed)? {
            return Ok(());
        }
        tokio::time::sleep(PATIENCE.1).await;
    }
    Ok(())
}

/// How often what `apply` makes is tried, each time with locks that are waited for less than a second.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// Makes what the lookups of a table lack, or takes away what its file has no more, for a service that makes
/// nothing. It begins anew then.
pub(super) async fn make_for(session: &mut Session, spec: &Spec, table: &TableName) -> Result<()> {
    let mut tries = 1;
    loop {
        match try_make_for(session, spec, table).await {
            Err(error) if error.kind() == Kind::Busy && tries < TRIES => tries += 1,
            ended => return ended,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn try_make_for(session: &mut Session, spec: &Spec, table: &TableName) -> Result<()> {
    let failed = |error| Error::warehouse(format!("making the lookups of {table}"), error);
    let model = looked_up(spec).find(|model| model.table == *table);
    let (looks, unwatched) = match model {
        Some(model) => {
            let looks = describe(session, model, &unreadable(spec)).await?;
            let unwatched = unwatched(session, &looks).await?;
            (Some(looks), unwatched)
        }
        None => (None, Vec::new()),
    };
    for (input, looks) in unwatched.iter().zip(looks.iter().cycle()) {
        let transaction = session.transaction().await.map_err(failed)?;
        transaction.batch_execute(SOON).await.map_err(failed)?;
        refresh::watch(&transaction, looks.reader(), input).await?;
        transaction.commit().await.map_err(failed)?;
    }
    let transaction = session.transaction().await.map_err(failed)?;
    transaction.batch_execute(SOON).await.map_err(failed)?;
    interrupt(&transaction, RESOURCE).await.map_err(failed)?;
    match (model, &looks) {
        (Some(model), Some(looks)) => refresh::place(&transaction, model, looks).await?,
        _ => refresh::unplace(&transaction, table).await?,
    }
    transaction.commit().await.map_err(failed)
}

const SOON: &str = "set local lock_timeout to '900ms'";
