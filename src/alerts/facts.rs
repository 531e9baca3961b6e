//! How things stand, as far as alerts ask: read from the control tables, so that one instance tells of what all of
//! them do.

use std::collections::HashMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio_postgres::{GenericClient, Row};

use crate::error::{Error, Result};
use crate::spec::{Job, Spec};

/// How a connector stands, as an instance that has it sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sign {
    /// The connector.
    pub connector: String,
    /// What it is doing, in the words of `/status`.
    pub phase: String,
    /// Why.
    pub reason: Option<String>,
    /// What to do.
    pub remedy: Option<String>,
    /// Whether something is not applied.
    pub backlog: bool,
    /// When it last moved.
    pub moved_at: Timestamp,
    /// Bytes of log that its slot keeps.
    pub retained: u64,
}

/// A table that takes no changes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stopped {
    pub(super) name: String,
    pub(super) reason: Option<String>,
    pub(super) remedy: Option<String>,
}

/// How a mart stands.
#[derive(Clone, Debug, PartialEq)]
pub struct MartFact {
    /// Its table.
    pub name: String,
    /// As in `audit.marts`.
    pub state: String,
    /// Why.
    pub reason: Option<String>,
    /// What to do.
    pub remedy: Option<String>,
    /// How old the oldest change is that it does not have.
    pub lag_seconds: f64,
    /// How old it may be.
    pub max_age: Duration,
}

/// The last run of a job that has failed, and that no later one stands for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RunFact {
    pub(super) job: String,
    pub(super) run: i64,
    pub(super) round: i32,
    pub(super) day: String,
    pub(super) finished_at: Timestamp,
    /// the tasks that have failed, and why; or why it never began
    pub(super) reasons: Vec<(String, String)>,
    /// the days of others that have failed as well
    pub(super) others: Vec<String>,
}

/// The last result of a check.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Check {
    pub(super) id: i64,
    pub(super) subject: String,
    pub(super) failed: bool,
    pub(super) told: Option<String>,
}

/// A task that makes backups: its last good one, or else its first attempt.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Backup {
    pub(super) subject: String,
    pub(super) since: Timestamp,
    pub(super) ever: bool,
}

/// How things stand.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// The connectors of the files.
    pub connectors: Vec<String>,
    /// How they stand.
    pub signs: Vec<Sign>,
    /// How the marts stand.
    pub marts: Vec<MartFact>,
    pub(super) stopped: Vec<Stopped>,
    pub(super) letters: Vec<(String, u64)>,
    pub(super) runs: Vec<RunFact>,
    /// the jobs of which a run that was over goes on again
    pub(super) again: Vec<String>,
    pub(super) checks: Vec<Check>,
    pub(super) backups: Vec<Backup>,
}

/// What an instance has not said for so many seconds tells nothing any more.
const FORGOTTEN: f64 = 30.0;

fn failed(error: tokio_postgres::Error) -> Error {
    Error::warehouse("reading what alerts are about", error)
}

/// Says how the connectors of this instance stand. Its rows have its name: nobody else writes them.
pub async fn tell(client: &impl GenericClient, owner: &str, signs: &[Sign]) -> Result<()> {
    let failed = |error| Error::warehouse("telling how connectors stand", error);
    for sign in signs {
        let retained = i64::try_from(sign.retained).unwrap_or(i64::MAX);
        client
            .execute(
                "insert into audit.alert_signs
                        (owner, connector, phase, reason, remedy, backlog, moved_at, retained)
                 values ($1, $2, $3, $4, $5, $6, $7, $8)
                 on conflict (owner, connector) do update
                    set phase = excluded.phase, reason = excluded.reason, remedy = excluded.remedy,
                        backlog = excluded.backlog, moved_at = excluded.moved_at,
                        retained = excluded.retained, seen_at = clock_timestamp()",
                &[
                    &owner,
                    &sign.connector,
                    &sign.phase,
                    &sign.reason,
                    &sign.remedy,
                    &sign.backlog,
                    &sign.moved_at,
                    &retained,
                ],
            )
            .await
            .map_err(failed)?;
    }
    Ok(())
}

/// Takes back what an instance has said: it ends.
pub async fn unsay(client: &impl GenericClient, owner: &str) -> Result<()> {
    let delete = "delete from audit.alert_signs where owner = $1";
    client.execute(delete, &[&owner]).await.map_err(failed)?;
    Ok(())
}

/// Reads facts, look after look. It remembers the results of checks, so as not to read all of them each time, and when
/// it looked last: what fails and is mended between two looks is told as well.
#[derive(Default)]
pub struct Gatherer {
    looked_at: Option<Timestamp>,
    checks: HashMap<String, (Check, Timestamp)>,
    read_to: Option<i64>,
}

impl Gatherer {
    /// How things stand, but for the marts.
    pub async fn look(
        &mut self,
        client: &impl GenericClient,
        spec: &Spec,
        now: Timestamp,
    ) -> Result<Facts> {
        // an instance that takes over knows by the name of the run what was told already
        const AT_FIRST: SignedDuration = SignedDuration::from_mins(15);
        // clocks of two instances may differ, and a transaction takes its time
        const OVERLAP: SignedDuration = SignedDuration::from_secs(5);
        let connectors: Vec<String> = spec.commons().map(|common| common.name.clone()).collect();
        let back = self.looked_at.map_or(AT_FIRST, |at| now.duration_since(at) + OVERLAP);
        let since = now.checked_sub(back).unwrap_or(Timestamp::MIN);
        self.looked_at = Some(now);
        Ok(Facts {
            signs: signs(client, &connectors).await?,
            stopped: stopped(client, &connectors).await?,
            letters: letters(client, &connectors).await?,
            runs: runs(client, &spec.jobs, since).await?,
            again: again(client, &spec.jobs).await?,
            checks: self.checks(client, now).await?,
            backups: backups(client, &spec.jobs).await?,
            marts: Vec::new(),
            connectors,
        })
    }

    async fn checks(&mut self, client: &impl GenericClient, now: Timestamp) -> Result<Vec<Check>> {
        // of a check that is in no file any more nobody hears for ever
        const OLD: SignedDuration = SignedDuration::from_hours(8 * 24);
        // what a slower transaction has brought behind later numbers is read as well
        const OVERLAP: i64 = 1000;
        const PAGE: i64 = 10_000;
        const AT_FIRST: i64 = 100_000;
        let last = "select coalesce(max(check_id), 0) from audit.data_quality";
        let last: i64 = client.query_one(last, &[]).await.map_err(failed)?.get(0);
        let mut from = self.read_to.map_or(last - AT_FIRST, |to| to - OVERLAP);
        while from < last && self.read_to != Some(last) {
            let rows = client.query(RESULTS, &[&from, &PAGE]).await.map_err(failed)?;
            let Some(end) = rows.last() else { break };
            from = end.try_get(0).map_err(failed)?;
            for row in &rows {
                let (check, at) = result(row).map_err(failed)?;
                let newer = |(known, _): &(Check, Timestamp)| known.id < check.id;
                if self.checks.get(&check.subject).is_none_or(newer) {
                    self.checks.insert(check.subject.clone(), (check, at));
                }
            }
        }
        self.read_to = Some(last);
        self.checks.retain(|_, (_, at)| now.duration_since(*at) <= OLD);
        let mut checks: Vec<Check> = self.checks.values().map(|(check, _)| check.clone()).collect();
        checks.sort_by(|one, other| one.subject.cmp(&other.subject));
        Ok(checks)
    }
}

// the table's name is read from whatever columns there are
const RESULTS: &str = "
    select check_id, check_name, to_jsonb(q)->>'table_name', status, expected_value, actual_value,
           description, created_at
      from audit.data_quality q where check_id > $1 order by check_id limit $2";

fn result(row: &Row) -> Result<(Check, Timestamp), tokio_postgres::Error> {
    let (name, table): (String, Option<String>) = (row.try_get(1)?, row.try_get(2)?);
    let status: String = row.try_get(3)?;
    let (expected, actual): (Option<String>, Option<String>) = (row.try_get(4)?, row.try_get(5)?);
    let description: Option<String> = row.try_get(6)?;
    let told = match (description, expected, actual) {
        (Some(description), _, _) => Some(description),
        (None, Some(expected), Some(actual)) => {
            Some(format!("expected {expected}, and it is {actual}"))
        }
        _ => None,
    };
    let subject = match table.filter(|table| !name.contains(table.as_str())) {
        Some(table) => format!("{table}: {name}"),
        None => name,
    };
    Ok((Check { id: row.try_get(0)?, subject, failed: status == "FAIL", told }, row.try_get(7)?))
}

async fn signs(client: &impl GenericClient, connectors: &[String]) -> Result<Vec<Sign>> {
    let query = "select connector, phase, reason, remedy, backlog, moved_at, retained
                   from audit.alert_signs
                  where connector = any($1) and seen_at > clock_timestamp() - $2 * interval '1 s'
                  order by owner, connector";
    let rows = client.query(query, &[&connectors, &FORGOTTEN]).await.map_err(failed)?;
    let sign = |row: &Row| {
        let retained: i64 = row.try_get(6)?;
        Ok(Sign {
            connector: row.try_get(0)?,
            phase: row.try_get(1)?,
            reason: row.try_get(2)?,
            remedy: row.try_get(3)?,
            backlog: row.try_get(4)?,
            moved_at: row.try_get(5)?,
            retained: u64::try_from(retained).unwrap_or(0),
        })
    };
    rows.iter().map(sign).collect::<Result<_, tokio_postgres::Error>>().map_err(failed)
}

async fn stopped(client: &impl GenericClient, connectors: &[String]) -> Result<Vec<Stopped>> {
    let query = "select table_name, reason, remedy from audit.tables
                  where state = 'stopped' and connector = any($1)
                 union all
                 select distinct on (t.name) t.name, r.reason, r.remedy from audit.resting r, unnest(r.tables) t(name)
                  where r.connector = any($1)
                    and not exists (select from audit.tables o
                                     where o.table_name = t.name and o.state in ('stopped', 'paused'))
                  order by 1";
    let rows = client.query(query, &[&connectors]).await.map_err(failed)?;
    let table = |row: &Row| {
        Ok(Stopped { name: row.try_get(0)?, reason: row.try_get(1)?, remedy: row.try_get(2)? })
    };
    rows.iter().map(table).collect::<Result<_, tokio_postgres::Error>>().map_err(failed)
}

async fn letters(client: &impl GenericClient, connectors: &[String]) -> Result<Vec<(String, u64)>> {
    let query = "select table_name, count(*) from audit.dead_letters \
                 where state = 'open' and connector = any($1) group by 1 order by 1";
    let rows = client.query(query, &[&connectors]).await.map_err(failed)?;
    let of = |row: &Row| {
        let count: i64 = row.try_get(1)?;
        Ok((row.try_get(0)?, u64::try_from(count).unwrap_or(0)))
    };
    rows.iter().map(of).collect::<Result<_, tokio_postgres::Error>>().map_err(failed)
}

/// Of each job the failed run that ended last among those that nothing stands for: not itself, run again, and no later
/// interval that went well. A backfill's run has nothing but itself, for later intervals went well before.
async fn runs(client: &impl GenericClient, jobs: &[Job], since: Timestamp) -> Result<Vec<RunFact>> {
    const QUERY: &str = "
        with failed as (
            select r.*, row_number() over (partition by job order by finished_at desc, run desc) as nth
              from audit.job_runs r
             where r.job = any($1) and r.state = 'failed' and r.finished_at > now() - interval '8 days'
               and (r.finished_at > $2
                    or not exists (select from audit.job_runs o
                                    where o.job = r.job and o.state = 'success'
                                      and o.finished_at > r.finished_at
                                      and o.interval_start >= r.interval_start
                                      and r.\"trigger\" <> 'backfill')))
        select r.job, r.run, r.round, r.ds::text, r.finished_at, r.reason,
               array(select t.task from audit.task_runs t
                      where t.run = r.run and t.state = 'failed' order by t.finished_at, t.task limit 3),
               array(select coalesce(t.reason, 'no reason is known') from audit.task_runs t
                      where t.run = r.run and t.state = 'failed' order by t.finished_at, t.task limit 3),
               array(select distinct o.ds::text from failed o
                      where o.job = r.job and o.nth between 2 and 6 and o.ds <> r.ds order by 1)
          from failed r where r.nth = 1 order by r.job";
    let names: Vec<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let rows = client.query(QUERY, &[&names, &since]).await.map_err(failed)?;
    let run = |row: &Row| {
        let (tasks, reasons): (Vec<String>, Vec<String>) = (row.try_get(6)?, row.try_get(7)?);
        let unbegun: Option<String> = row.try_get(5)?;
        let unbegun = unbegun.map(|why| ("it did not begin".to_owned(), why));
        Ok(RunFact {
            job: row.try_get(0)?,
            run: row.try_get(1)?,
            round: row.try_get(2)?,
            day: row.try_get(3)?,
            finished_at: row.try_get(4)?,
            reasons: unbegun.into_iter().chain(tasks.into_iter().zip(reasons)).collect(),
            others: row.try_get(8)?,
        })
    };
    rows.iter().map(run).collect::<Result<_, tokio_postgres::Error>>().map_err(failed)
}

async fn again(client: &impl GenericClient, jobs: &[Job]) -> Result<Vec<String>> {
    let query = "select distinct job from audit.job_runs \
                 where job = any($1) and finished_at is null and round > 1 order by 1";
    let names: Vec<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
    let rows = client.query(query, &[&names]).await.map_err(failed)?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(failed)
}

async fn backups(client: &impl GenericClient, jobs: &[Job]) -> Result<Vec<Backup>> {
    const QUERY: &str = "
        select j.job, j.task, coalesce(good.at, first.at), good.at is not null
          from unnest($1::text[], $2::text[]) j(job, task)
          left join lateral (select l.created_at from audit.etl_logs l
                              where l.dag_id = j.job and l.task_id = j.task and l.status = 'success'
                              order by l.created_at desc limit 1) good(at) on true
          left join lateral (select l.created_at from audit.etl_logs l
                              where l.dag_id = j.job and l.task_id = j.task
                              order by l.created_at limit 1) first(at) on true
         where first.at is not null";
    let backs_up = jobs.iter().flat_map(|job| {
        let tasks = job.tasks.iter().filter(|task| task.kind.word() == "backup");
        tasks.map(|task| (job.name.as_str(), task.name.as_str()))
    });
    let (names, tasks): (Vec<&str>, Vec<&str>) = backs_up.unzip();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let rows = client.query(QUERY, &[&names, &tasks]).await.map_err(failed)?;
    let backup = |row: &Row| {
        let (job, task): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let subject = format!("{job}.{task}");
        Ok(Backup { subject, since: row.try_get(2)?, ever: row.try_get(3)? })
    };
    rows.iter().map(backup).collect::<Result<_, tokio_postgres::Error>>().map_err(failed)
}

#[cfg(test)]
pub(super) mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::spec::{JobAlerts, Overlap, Schedule};

    /// A job that names these channels.
    pub(crate) fn job(name: &str, failure: &[&str], recovery: &[&str]) -> Job {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Job {
            name: name.to_owned(),
            schedule: Schedule::Asked,
            timezone: TimeZone::UTC,
            overlap: Overlap::Skip,
            parallel: 1,
            requires: None,
            alerts: Some(JobAlerts { failure: owned(failure), recovery: owned(recovery) }),
            tasks: Vec::new(),
            file: String::new(),
        }
    }
}
