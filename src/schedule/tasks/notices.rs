//! Telling people and programs of a run. What people are told is put on its way in the transaction that ends the
//! task: once, or not at all; a channel that takes nothing is no failure of the run. A program is told at once, and
//! where it takes nothing the attempt has failed.

use std::future::Future;
use std::pin::Pin;

use jiff::Timestamp;
use serde::Serialize;
use tokio_postgres::{GenericClient, Transaction};

use super::{Outcome, Work};
use crate::error::{Error, Kind, Result};
use crate::schedule::attempt::Attempt;
use crate::spec::{Secret, Webhook};
use crate::warehouse::Fenced;

/// A run as others are told of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Told {
    /// The job.
    pub job: String,
    /// The run's number.
    pub run: i64,
    /// The day of its logical date.
    pub ds: String,
    /// What of time it is about.
    pub interval_start: Timestamp,
    /// The end of that.
    pub interval_end: Timestamp,
    /// The task that tells.
    pub task: String,
    /// Whether one of the others has failed so far.
    pub failed: bool,
    /// The other tasks.
    pub tasks: Vec<TaskTold>,
}

/// A task of a run as others are told of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskTold {
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: String,
    /// How often it was tried.
    pub attempts: i32,
    /// Why it is in that state.
    pub reason: Option<String>,
}

/// What will have been put on its way.
pub type Telling<'t> = Pin<Box<dyn Future<Output = Result<()>> + Send + 't>>;

/// What will have been posted.
pub type Posting<'p> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'p>>;

/// Tells people and programs.
pub trait Tells: Send + Sync {
    /// Puts a message to each of these channels on its way, in a transaction.
    fn tell<'t>(
        &'t self,
        transaction: &'t Transaction<'t>,
        channels: &'t [String],
        told: &'t Told,
    ) -> Telling<'t>;

    /// Posts JSON to a program.
    fn post<'p>(
        &'p self,
        url: &'p Secret,
        bearer: Option<&'p Secret>,
        body: &'p serde_json::Value,
    ) -> Posting<'p>;
}

pub(super) async fn notify(work: &Work<'_>, channels: &[String]) -> Result<Outcome> {
    let Work { hands, attempt, .. } = work;
    let mut session = work.session().await?;
    let transaction = Fenced::begin(&mut session, &hands.fence, "job", &hands.durations).await?;
    let told = told(&*transaction, attempt).await?;
    hands.tells.tell(&transaction, channels, &told).await?;
    let time = (hands.clock.now(), work.started.elapsed());
    if !attempt.succeed(&transaction, None, time).await? {
        return Err(Error::new(Kind::Cancelled, "the attempt was given up meanwhile"));
    }
    transaction.commit().await?;
    Ok(Outcome::Written)
}

pub(super) async fn webhook(work: &Work<'_>, webhook: &Webhook) -> Result<Outcome> {
    let told = {
        let session = work.session().await?;
        told(&*session, work.attempt).await?
    };
    let body = serde_json::to_value(&told)
        .map_err(|error| Error::bug("a run is no JSON").because(error))?;
    tokio::select! {
        posted = work.hands.tells.post(&webhook.url, webhook.bearer.as_ref(), &body) => posted?,
        () = work.given_up.notified() => {
            return Err(Error::new(Kind::Cancelled, "the attempt was given up"));
        }
    }
    Ok(Outcome::Done(None))
}

async fn told(client: &impl GenericClient, attempt: &Attempt) -> Result<Told> {
    let failed = |error| Error::warehouse("reading the run's tasks", error);
    let query = "select task, state, attempt, reason from audit.task_runs \
                 where run = $1 and task <> $2 order by began_at nulls last, task";
    let rows = client.query(query, &[&attempt.run, &attempt.task.name]).await.map_err(failed)?;
    let task = |row: &tokio_postgres::Row| {
        Ok(TaskTold {
            name: row.try_get(0)?,
            state: row.try_get(1)?,
            attempts: row.try_get(2)?,
            reason: row.try_get(3)?,
        })
    };
    let tasks: Vec<TaskTold> =
        rows.iter().map(task).collect::<Result<_, tokio_postgres::Error>>().map_err(failed)?;
    Ok(Told {
        job: attempt.job.clone(),
        run: attempt.run,
        ds: attempt.variable(crate::spec::Variable::Ds).to_owned(),
        interval_start: attempt.about.start,
        interval_end: attempt.about.end,
        task: attempt.task.name.clone(),
        failed: tasks
            .iter()
            .any(|task| matches!(task.state.as_str(), "failed" | "upstream_failed")),
        tasks,
    })
}
