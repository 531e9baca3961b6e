//! Asks the statement of a check: in a transaction that can change nothing, with a limit to its time. One that
//! cannot be run is a verdict on that check alone; a warehouse that is away is not.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde_json::Value;
use tokio_postgres::Row;

use super::judge::{Answer, Verdict, broken, verdict};
use super::render::{shown, statement};
use crate::error::{Error, Result};
use crate::postgres::Session;
use crate::spec::{Check, Mart};

/// What of time a check is judged about.
#[derive(Clone, Debug)]
pub struct Occasion {
    /// The day that results are filed under.
    pub date: Date,
    /// What begins later is not judged.
    pub until: Timestamp,
    /// What came in before is none of a run's; none where there is no run.
    pub since: Option<Timestamp>,
    /// When a day turns.
    pub zone: TimeZone,
    /// The run of a job.
    pub run: Option<i64>,
}

/// Classes of SQLSTATE that pass by themselves: connections, conflicts, resources, shutdown, I/O.
const PASSING: [&str; 5] = ["08", "40", "53", "57", "58"];

/// Of those, what the check itself asks too much of: it would end every attempt, and the checks behind it were never
/// judged. A limit that is set for its role (temp_file_limit), and a file that is not there.
const ITS_OWN: [&str; 2] = ["53400", "58P01"];

/// A statement that was given up.
const CANCELLED: &str = "57014";

/// Judges a check within a limit of time; `mart` where it is of one.
pub async fn judge(
    session: &mut Session,
    (check, mart): (&Check, Option<&Mart>),
    occasion: &Occasion,
    limit: Duration,
) -> Result<Verdict> {
    let started = Instant::now();
    let asked = ask(session, &statement(check, mart, occasion), occasion, limit).await;
    let error = match asked {
        Ok(answer) => return Ok(verdict(check, occasion, answer)),
        Err(error) => error,
    };
    let failed =
        |error| Error::warehouse(format!("judging {}", shown(&check.table, &check.name)), error);
    let Some(code) = error.code().map(|code| code.code().to_owned()) else {
        // an answer of another shape is the check's own fault, all else the connection's
        return match session.is_closed() {
            true => Err(failed(error)),
            false => Ok(broken(check, failed(error).reason())),
        };
    };
    if code == CANCELLED && started.elapsed() >= limit {
        return Ok(broken(check, format!("it took longer than {} s", limit.as_secs())));
    }
    let passes = PASSING.iter().any(|class| code.starts_with(class));
    match passes && !ITS_OWN.contains(&code.as_str()) {
        true => Err(failed(error)),
        false => Ok(broken(check, failed(error).reason())),
    }
}

async fn ask(
    session: &mut Session,
    statement: &str,
    occasion: &Occasion,
    limit: Duration,
) -> Result<Answer, tokio_postgres::Error> {
    let transaction = session.build_transaction().read_only(true).start().await?;
    let zone = occasion.zone.iana_name().unwrap_or("UTC");
    let limit = limit.as_millis().clamp(1, 2_000_000_000).to_string();
    // JIT costs more than it brings where statistics of fresh tables are missing
    let set = "select set_config('timezone', $1, true), set_config('statement_timeout', $2, true), \
                      set_config('jit', 'off', true)";
    transaction.query_one(set, &[&zone, &limit]).await?;
    let row = transaction.query_opt(statement, &[]).await?;
    transaction.rollback().await?;
    row.map_or(Ok(Answer { failing: None, checked: None, rest: None }), |row| answer(&row))
}

fn answer(row: &Row) -> Result<Answer, tokio_postgres::Error> {
    let count = |at: usize| {
        let count: Option<i64> = row.try_get(at)?;
        Ok::<_, tokio_postgres::Error>(count.map(|count| u64::try_from(count).unwrap_or(0)))
    };
    Ok(Answer { failing: count(0)?, checked: count(1)?, rest: row.try_get::<_, Option<Value>>(2)? })
}
