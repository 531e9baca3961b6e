//! Jobs and their runs, as `job list` and the admin server show them.

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_postgres::GenericClient;

use super::books;
use super::calendar::Calendar;
use crate::error::{Error, Result};
use crate::spec::Job;

fn failed(error: tokio_postgres::Error) -> Error {
    Error::warehouse("listing the jobs' runs", error)
}

/// The jobs: whether one is paused, its last run, and when it is due next.
pub async fn jobs_as_json(
    client: &impl GenericClient,
    jobs: &[Job],
    now: Timestamp,
) -> Result<Vec<Value>> {
    let known = books::known(client).await?;
    let query = "select distinct on (job) job, state, ds::text, reason from audit.job_runs \
                 order by job, run desc";
    let last = client.query(query, &[]).await.map_err(failed)?;
    let shown = |job: &Job| {
        let paused = known.get(&job.name).is_some_and(|known| known.paused);
        let last = last.iter().find(|row| row.get::<_, String>(0) == job.name);
        let text = |at| last.and_then(|row| row.get::<_, Option<String>>(at));
        let next = Calendar::of(job).next(now).filter(|_| !paused);
        json!({
            "name": job.name,
            "paused": paused,
            "state": text(1),
            "ds": text(2),
            "reason": text(3),
            "next": next.map(|due| due.at.to_string()),
            "tasks": job.tasks.iter().map(|task| json!({
                "name": task.name,
                "kind": task.kind.word(),
                "depends_on": task.depends_on,
            })).collect::<Vec<_>>(),
        })
    };
    Ok(jobs.iter().map(shown).collect())
}

/// The last runs of a job with their tasks, the newest first.
pub async fn runs_as_json(client: &impl GenericClient, job: &str) -> Result<Vec<Value>> {
    let query = "
        select jsonb_build_object(
                   'run', r.run, 'ds', r.ds, 'interval_start', r.interval_start,
                   'interval_end', r.interval_end, 'trigger', r.\"trigger\", 'state', r.state,
                   'reason', r.reason, 'round', r.round, 'started_at', r.started_at,
                   'finished_at', r.finished_at,
                   'tasks', coalesce((select jsonb_agg(jsonb_build_object(
                                'name', t.task, 'state', t.state, 'attempts', t.attempt,
                                'reason', t.reason) order by t.began_at, t.task)
                                from audit.task_runs t where t.run = r.run), '[]'))
          from audit.job_runs r where r.job = $1 order by r.run desc limit 100";
    let rows = client.query(query, &[&job]).await.map_err(failed)?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(failed)
}
