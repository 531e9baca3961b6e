//! Waits for something: a run, a table, a file, an answer. Its time counts from its first attempt on, so a
//! crash does not let it wait longer; it holds no session while it waits.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio_postgres::GenericClient;

use super::{Outcome, Work, sql};
use crate::error::{Error, Kind, Result};
use crate::schedule::calendar::Stretch;
use crate::spec::{FreshTo, Requires, Signal};

pub(super) async fn run(
    work: &Work<'_>,
    signal: &Signal,
    poll: Duration,
    soft_fail: bool,
) -> Result<Outcome> {
    let timeout = work.attempt.task.timeout;
    let long = SignedDuration::try_from(timeout).unwrap_or(SignedDuration::MAX);
    let until = work.attempt.began_at.checked_add(long).unwrap_or(Timestamp::MAX);
    loop {
        // each look has its own session
        work.forget();
        if is_there(work, signal).await? {
            return Ok(Outcome::Done(None));
        }
        if work.hands.clock.now() >= until {
            let why = format!("{} within {} s", missed(work, signal), timeout.as_secs());
            return Ok(if soft_fail { Outcome::Skipped(why) } else { Outcome::FailedForGood(why) });
        }
        tokio::select! {
            () = tokio::time::sleep(poll) => {}
            () = work.given_up.notified() => {
                return Err(Error::new(Kind::Cancelled, "the attempt was given up"));
            }
        }
    }
}

fn missed(work: &Work<'_>, signal: &Signal) -> String {
    match signal {
        Signal::Job(job) => format!("no run of {job} about this time went well"),
        Signal::Fresh(requires) => format!("{} did not become fresh", requires.table),
        Signal::File(path) => format!("{} did not come", work.attempt.filled(path)),
        Signal::Sql(_) => "the question was not answered with true".to_owned(),
    }
}

async fn is_there(work: &Work<'_>, signal: &Signal) -> Result<bool> {
    let about = work.attempt.about;
    match signal {
        Signal::Job(job) => {
            let session = work.session().await?;
            ran(&*session, job, about).await
        }
        Signal::Fresh(requires) => {
            let session = work.session().await?;
            Ok(fresh(&*session, requires, about).await?.is_none())
        }
        Signal::File(path) => {
            let path = work.hands.root.join(work.attempt.filled(path));
            Ok(tokio::fs::try_exists(path).await.unwrap_or(false))
        }
        Signal::Sql(script) => match script.statements.first() {
            Some(statement) => sql::is_true(work, statement).await,
            None => Ok(false),
        },
    }
}

/// Whether a run of a job went well that covers a stretch of time. One that is about no stretch counts from
/// when it was asked for.
async fn ran(client: &impl GenericClient, job: &str, about: Stretch) -> Result<bool> {
    let query = "select exists (select from audit.job_runs
                                 where job = $1 and state = 'success' and interval_end >= $3
                                   and (interval_start <= $2 or interval_start = interval_end))";
    let row = client.query_one(query, &[&job, &about.start, &about.end]).await;
    let told = row.and_then(|row| row.try_get(0));
    told.map_err(|error| Error::warehouse(format!("asking for runs of {job}"), error))
}

/// Why a table is not as fresh as it must be; none where it is.
pub(in crate::schedule) async fn fresh(
    client: &impl GenericClient,
    requires: &Requires,
    about: Stretch,
) -> Result<Option<String>> {
    let wanted = match requires.fresh_to {
        FreshTo::IntervalStart => about.start,
        FreshTo::IntervalEnd => about.end,
    };
    // one that was fed otherwise before is known both ways
    let query = "select k.state, k.fresh_to from (
                     select t.state, f.fresh_to from audit.tables t
                       left join audit.freshness f using (connector) where t.table_name = $1
                      union all
                     select 'streaming', greatest(
                                (select max(e.interval_end) from audit.extracts e where e.table_name = $1),
                                (select max(l.interval_end) from audit.loads l where l.table_name = $1))
                       from audit.extracted x where x.table_name = $1) k
                  order by k.state = 'streaming' desc, k.fresh_to desc nulls last limit 1";
    let table = requires.table.to_string();
    let row = client.query_opt(query, &[&table]).await;
    let row = row.map_err(|error| Error::warehouse(format!("asking for {table}"), error))?;
    let Some(row) = row else { return Ok(Some(format!("no connector feeds {table}"))) };
    let (state, to): (String, Option<Timestamp>) = (row.get(0), row.get(1));
    if state != "streaming" {
        return Ok(Some(format!("waits for {table}, which is {state}")));
    }
    match to {
        Some(to) if to >= wanted => Ok(None),
        _ => Ok(Some(format!("waits for {table} to be fresh to {wanted}"))),
    }
}
