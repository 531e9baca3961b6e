//! Statements of a file, in one transaction that also notes that they are done: all of it, once, or nothing.

use std::error::Error as StdError;

use bytes::BytesMut;
use tokio_postgres::Transaction;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

use super::{Outcome, Work};
use crate::error::{Error, Kind, Result};
use crate::postgres::quote;
use crate::schedule::attempt::Attempt;
use crate::spec::{Script, Statement};
use crate::warehouse::Fenced;

/// A parameter whose type the statement decides, as with a literal in quotes.
#[derive(Debug)]
struct Literal<'l>(&'l str);

impl ToSql for Literal<'_> {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

pub(super) async fn run(work: &Work<'_>, path: &str, script: &Script) -> Result<Outcome> {
    let Work { hands, attempt, .. } = work;
    let mut session = work.session().await?;
    let transaction = Fenced::begin(&mut session, &hands.fence, "job", &hands.durations).await?;
    let mut rows = 0;
    for statement in &script.statements {
        match execute(&transaction, attempt, statement).await {
            Ok(touched) => rows += touched,
            Err(error) => {
                let what = format!("running {path}:{}", statement.line);
                return Err(Error::warehouse(what, error));
            }
        }
    }
    // what it has deferred is told with the file's name
    let deferred = transaction.batch_execute("set constraints all immediate").await;
    deferred.map_err(|error| Error::warehouse(format!("running {path}"), error))?;
    let time = (hands.clock.now(), work.started.elapsed());
    if !attempt.succeed(&transaction, Some(rows), time).await? {
        return Err(Error::new(Kind::Cancelled, "the attempt was given up meanwhile"));
    }
    transaction.commit().await?;
    Ok(Outcome::Written)
}

async fn execute(
    transaction: &Transaction<'_>,
    attempt: &Attempt,
    statement: &Statement,
) -> Result<u64, tokio_postgres::Error> {
    let (text, parameters) = rendered(attempt, statement);
    let parameters: Vec<Literal<'_>> = parameters.iter().map(|text| Literal(text)).collect();
    let parameters: Vec<&(dyn ToSql + Sync)> =
        parameters.iter().map(|literal| literal as &(dyn ToSql + Sync)).collect();
    transaction.execute(&text, &parameters).await
}

fn rendered<'a>(attempt: &'a Attempt, statement: &Statement) -> (String, Vec<&'a str>) {
    let (text, variables) = statement.render(|variable| quote::literal(attempt.variable(variable)));
    (text, variables.into_iter().map(|variable| attempt.variable(variable)).collect())
}

/// Whether the first value of a query's first row is true, in a transaction that changes nothing.
pub(super) async fn is_true(work: &Work<'_>, statement: &Statement) -> Result<bool> {
    let failed = |error| Error::warehouse("asking a sensor's question", error);
    let mut session = work.session().await?;
    let transaction = session.build_transaction().read_only(true).start().await.map_err(failed)?;
    let (text, parameters) = rendered(work.attempt, statement);
    let parameters: Vec<Literal<'_>> = parameters.iter().map(|text| Literal(text)).collect();
    let parameters: Vec<&(dyn ToSql + Sync)> =
        parameters.iter().map(|literal| literal as &(dyn ToSql + Sync)).collect();
    let rows = transaction.query(&text, &parameters).await.map_err(failed)?;
    let Some(row) = rows.first() else { return Ok(false) };
    let told: Option<bool> = row.try_get(0).map_err(|_| {
        Error::new(Kind::Config, "the first column of the sensor's question is not true or false")
    })?;
    Ok(told.unwrap_or(false))
}
