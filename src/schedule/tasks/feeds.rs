//! Waits for what the service does anyway: that marts have what the warehouse had when the task began, that a
//! table has what its source had then. Nothing is computed or read twice for it: what is late comes by itself,
//! and what has stopped fails the task with its reason.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use jiff::Timestamp;

use super::{Outcome, Work};
use crate::error::{Error, Kind, Result};
use crate::names::TableName;
use crate::postgres::{Session, quote};

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Rows are counted where the planner thinks that this costs no more: some hundred thousand rows.
const COUNTS_UP_TO: f64 = 20_000.0;

/// How far the log of a source is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// Under which name its stored position stands in `audit.progress`.
    pub partition: String,
    /// All that is visible at the source now lies before it.
    pub position: i64,
}

/// How a mart stands.
#[derive(Clone, Debug, PartialEq)]
pub struct MartStands {
    /// As in `audit.marts`.
    pub state: String,
    /// Why it is not fresh, and what to do.
    pub why: Option<String>,
    /// Whether something is to be computed.
    pub due: bool,
    /// What was committed before is in all its rows.
    pub as_of: Option<Timestamp>,
    /// How many rows were written to it.
    pub written: i64,
}

/// What will be known.
pub type Asking<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Knows sources and marts, which the schedule does not.
pub trait Feeds: Send + Sync {
    /// Where the log of a connector's source ends.
    fn log_end<'a>(&'a self, connector: &'a str) -> Asking<'a, LogEnd>;

    /// How a mart stands; none where it was never made.
    fn mart<'a>(
        &'a self,
        session: &'a Session,
        mart: &'a TableName,
    ) -> Asking<'a, Option<MartStands>>;
}

/// What a look has found.
enum Look {
    /// It is there.
    There,
    /// Not yet, and why.
    Not(String),
    /// It does not come by itself, and why.
    Never(String),
}

pub(super) async fn refresh(work: &Work<'_>, marts: &[TableName]) -> Result<Outcome> {
    let session = work.session().await?;
    let failed = |error| Error::warehouse("asking for the time", error);
    // by the clock that stamps marts
    let began: Timestamp = session
        .query_one("select clock_timestamp()", &[])
        .await
        .and_then(|row| row.try_get(0))
        .map_err(failed)?;
    let mut written = 0;
    for mart in marts {
        let before = work.hands.feeds.mart(&session, mart).await?.map_or(0, |mart| mart.written);
        loop {
            match work.next(stands(work, &session, mart, began).await?).await? {
                Next::There => break,
                Next::Again => {}
                Next::Ended(outcome) => return Ok(outcome),
            }
        }
        let after = work.hands.feeds.mart(&session, mart).await?.map_or(0, |mart| mart.written);
        written += u64::try_from(after - before).unwrap_or(0);
    }
    Ok(Outcome::Done(Some(written)))
}

async fn stands(
    work: &Work<'_>,
    session: &Session,
    mart: &TableName,
    began: Timestamp,
) -> Result<Look> {
    let Some(found) = work.hands.feeds.mart(session, mart).await? else {
        return Ok(Look::Not(format!("{mart} is yet to be made by a service that runs")));
    };
    // what is computed while others change it is as of a moment behind the task's begin; what nobody changes is
    // not stamped anew, and has nothing to compute
    let is_behind = found.as_of.is_some_and(|as_of| as_of >= began);
    let state = &found.state;
    Ok(match state.as_str() {
        // a check lets one go that it holds, and time alone does not
        "stopped" | "held" => {
            let why = found.why.unwrap_or_else(|| "no reason is known".to_owned());
            Look::Never(format!("{mart} is {state}: {why}"))
        }
        "fresh" | "stale" if is_behind || state == "fresh" && !found.due => Look::There,
        _ => {
            let why = found.why.map(|why| format!(": {why}")).unwrap_or_default();
            Look::Not(format!("{mart} is {state}{why}; siltstone mart list tells more"))
        }
    })
}

pub(super) async fn load(work: &Work<'_>, table: &TableName) -> Result<Outcome> {
    fed(work, table, "_synced_at").await
}

pub(super) async fn extract(work: &Work<'_>, table: &TableName) -> Result<Outcome> {
    fed(work, table, "loaded_at").await
}

async fn fed(work: &Work<'_>, table: &TableName, landed: &str) -> Result<Outcome> {
    let session = work.session().await?;
    // one that a service is about to take up has no connector yet
    let mut goal: Option<(String, LogEnd)> = None;
    loop {
        match work.next(look(work, &session, table, &mut goal).await?).await? {
            Next::There => break,
            Next::Again => {}
            Next::Ended(outcome) => return Ok(outcome),
        }
    }
    Ok(Outcome::Done(count(work, &session, table, landed).await?))
}

/// Looks whether a table is where the log of its source ended when it was first asked.
async fn look(
    work: &Work<'_>,
    session: &Session,
    table: &TableName,
    goal: &mut Option<(String, LogEnd)>,
) -> Result<Look> {
    let Some(fed) = Fed::of(session, &table.to_string()).await? else {
        return Ok(Look::Not(format!("{table} is yet to be taken up by a service that runs")));
    };
    let end = match goal.take().filter(|(connector, _)| *connector == fed.connector) {
        Some((_, end)) => end,
        None => work.hands.feeds.log_end(&fed.connector).await?,
    };
    let looked = fed.look(session, table, &end).await;
    *goal = Some((fed.connector, end));
    looked
}

/// How a table is fed.
struct Fed {
    connector: String,
    state: String,
    why: Option<String>,
    /// an operator lets the connector rest
    resting: bool,
}

impl Fed {
    async fn of(session: &Session, table: &str) -> Result<Option<Fed>> {
        let failed = |error| Error::warehouse(format!("asking how {table} is fed"), error);
        let query = "select t.connector, t.state, concat_ws('; ', t.reason, t.remedy),
                            coalesce(c.wanted <> 'running', false)
                       from audit.tables t left join audit.connectors c using (connector)
                      where t.table_name = $1";
        let row = session.query_opt(query, &[&table]).await.map_err(failed)?;
        let fed = |row: tokio_postgres::Row| {
            let why: String = row.try_get(2)?;
            Ok(Fed {
                connector: row.try_get(0)?,
                state: row.try_get(1)?,
                why: Some(why).filter(|why| !why.is_empty()),
                resting: row.try_get(3)?,
            })
        };
        row.map(fed).transpose().map_err(failed)
    }

    async fn look(&self, session: &Session, table: &TableName, end: &LogEnd) -> Result<Look> {
        let Fed { connector, state, why, resting } = self;
        let told = why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        if matches!(state.as_str(), "paused" | "stopped") {
            let remedy = match why {
                None => format!("; siltstone table resume {table:#}"),
                Some(_) => String::new(),
            };
            return Ok(Look::Never(format!("{table} is {state}{told}{remedy}")));
        }
        if *resting {
            let remedy = format!("siltstone connector resume {connector}");
            return Ok(Look::Never(format!("{table}: its connector {connector} rests; {remedy}")));
        }
        if state != "streaming" {
            return Ok(Look::Not(format!("{table} is {state}{told}")));
        }
        let failed = |error| Error::warehouse(format!("asking how far {connector} is"), error);
        let query = "select coalesce(max(position), 0) from audit.progress
                      where connector = $1 and partition = $2";
        let row = session.query_one(query, &[connector, &end.partition]).await;
        let stored: i64 = row.and_then(|row| row.try_get(0)).map_err(failed)?;
        Ok(match stored >= end.position {
            true => Look::There,
            false => Look::Not(format!(
                "{table} is yet to have what its source had; siltstone why {table:#} tells more"
            )),
        })
    }
}

/// How many rows came to a table in the run's interval, where it costs little to know.
async fn count(
    work: &Work<'_>,
    session: &Session,
    table: &TableName,
    landed: &str,
) -> Result<Option<u64>> {
    let failed = |error| Error::warehouse(format!("counting what came to {table}"), error);
    let about = work.attempt.about;
    let moment = |at: Timestamp| format!("{}::timestamptz", quote::literal(&at.to_string()));
    let (table, landed) = (quote::table(table), quote::ident(landed));
    let query = format!(
        "select count(*) from {table} where {landed} >= {} and {landed} < {}",
        moment(about.start),
        moment(about.end)
    );
    let row = session.query_one(&format!("explain (format json) {query}"), &[]).await;
    let plan: serde_json::Value = row.and_then(|row| row.try_get(0)).map_err(failed)?;
    let cost = plan.pointer("/0/Plan/Total Cost").and_then(serde_json::Value::as_f64);
    if cost.is_none_or(|cost| cost > COUNTS_UP_TO) {
        return Ok(None);
    }
    let row = session.query_one(&query, &[]).await;
    let count: i64 = row.and_then(|row| row.try_get(0)).map_err(failed)?;
    Ok(u64::try_from(count).ok())
}

/// What follows a look.
enum Next {
    There,
    Again,
    Ended(Outcome),
}

impl Work<'_> {
    /// Waits for the next look, where one is to follow.
    async fn next(&self, look: Look) -> Result<Next> {
        let why = match look {
            Look::There => return Ok(Next::There),
            Look::Never(why) => return Ok(Next::Ended(Outcome::Failed(why))),
            Look::Not(why) => why,
        };
        let timeout = self.attempt.task.timeout;
        if self.started.elapsed() >= timeout {
            let why = format!("{why}; it was waited for {} s", timeout.as_secs());
            return Ok(Next::Ended(Outcome::Failed(why)));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => Ok(Next::Again),
            () = self.given_up.notified() => {
                Err(Error::new(Kind::Cancelled, "the attempt was given up"))
            }
        }
    }
}
