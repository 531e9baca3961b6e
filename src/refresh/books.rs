//! What is noted of marts, for people and for the next start.

use serde::Serialize;
use tokio_postgres::GenericClient;

use crate::error::{Error, Result};
use crate::names::TableName;

/// How a mart stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Standing {
    /// Its table.
    pub mart: String,
    /// `waiting`, `building`, `fresh`, `stale`, `stopped` or `held`.
    pub state: String,
    /// Why.
    pub reason: Option<String>,
    /// What to do.
    pub remedy: Option<String>,
    /// What was committed before is in all its rows.
    pub as_of: Option<String>,
    /// The stored position of each log then.
    pub positions: serde_json::Value,
    /// How many groups are known to be stale.
    pub stale_groups: i64,
    /// How old the oldest change is that it does not have, in seconds.
    pub lag_seconds: f64,
    /// When it was last computed.
    pub refreshed_at: Option<String>,
    /// How long that took, in seconds.
    pub took: Option<f64>,
    /// How many rows were written since it was made.
    pub rows_written: i64,
    /// Whether something is to be computed.
    #[serde(skip)]
    pub due: bool,
    /// Whether a log is further than it was when `as_of` was noted.
    #[serde(skip)]
    pub moved: bool,
}

const STANDINGS: &str = "
    select m.mart,
           case when m.state = 'fresh' and (t.at is not null or g.count > 0) then 'stale' else m.state end,
           m.reason, m.remedy, m.as_of::text, m.positions, g.count,
           coalesce(extract(epoch from clock_timestamp() - least(t.at, g.since)), 0)::float8,
           m.refreshed_at::text, m.took, m.rows_written, t.at is not null or g.count > 0,
           m.positions is distinct from (
               select coalesce(jsonb_object_agg(connector || '/' || partition, position), '{}') from audit.progress)
      from audit.marts m
     cross join lateral (select (select at from audit.touched t where t.mart = m.mart order by id limit 1) as at) t
     cross join lateral (select count(*), min(since) as since from audit.stale_groups s where s.mart = m.mart) g
     where $1::text is null or m.mart = $1
     order by m.mart";

/// How marts stand: one of them, or all.
pub async fn standings(client: &impl GenericClient, mart: Option<&str>) -> Result<Vec<Standing>> {
    let rows = client.query(STANDINGS, &[&mart]).await.map_err(failed)?;
    let read = |row: &tokio_postgres::Row| {
        Ok(Standing {
            mart: row.try_get(0)?,
            state: row.try_get(1)?,
            reason: row.try_get(2)?,
            remedy: row.try_get(3)?,
            as_of: row.try_get(4)?,
            positions: row.try_get(5)?,
            stale_groups: row.try_get(6)?,
            lag_seconds: row.try_get(7)?,
            refreshed_at: row.try_get(8)?,
            took: row.try_get(9)?,
            rows_written: row.try_get(10)?,
            due: row.try_get(11)?,
            moved: row.try_get(12)?,
        })
    };
    rows.iter().map(read).collect::<Result<_, tokio_postgres::Error>>().map_err(failed)
}

/// Whether any table tells of its changes for a mart.
pub async fn any_watched(client: &impl GenericClient) -> Result<bool> {
    let there = "select to_regclass('audit.mart_reads') is not null";
    let there = client.query_one(there, &[]).await.and_then(|row| row.try_get(0));
    if !there.map_err(failed)? {
        return Ok(false);
    }
    let any = "select exists (select from audit.mart_reads)";
    client.query_one(any, &[]).await.and_then(|row| row.try_get(0)).map_err(failed)
}

/// Asks for a mart to be computed anew. False where it was never made.
pub async fn ask(client: &impl GenericClient, mart: &TableName) -> Result<bool> {
    let asked = client
        .execute(
            "insert into audit.touched (mart, input) select mart, '' from audit.marts where mart = $1",
            &[&mart.to_string()],
        )
        .await;
    Ok(asked.map_err(failed)? > 0)
}

/// Notes what a mart is doing, and why. `definition`: by which file its rows are from now on.
pub async fn note(
    client: &impl GenericClient,
    mart: &TableName,
    state: &str,
    why: (Option<&str>, Option<&str>),
    definition: Option<&str>,
) -> Result<()> {
    client
        .execute(
            "insert into audit.marts as m (mart, definition, state, reason, remedy)
             values ($1, coalesce($5, ''), $2, $3, $4)
             on conflict (mart) do update
             set state = excluded.state, reason = excluded.reason, remedy = excluded.remedy,
                 definition = coalesce($5, m.definition), changed_at = now()",
            &[&mart.to_string(), &state, &why.0, &why.1, &definition],
        )
        .await
        .map_err(failed)?;
    Ok(())
}

/// Makes many marks of a mart one that stands for all rows: one that does not go on must not fill the disk. Marks
/// that commit meanwhile stay.
pub async fn gather(client: &impl GenericClient, mart: &TableName, most: i64) -> Result<()> {
    let gather = "
        with many as materialized (
                 select count(*) > $2 as many from (select from audit.touched where mart = $1 limit $2::int8 + 1) t),
             gone as (
                 delete from audit.touched t using many m where t.mart = $1 and m.many returning t.id, t.at)
        insert into audit.touched (id, mart, input, at)
        overriding system value select min(id), $1::text, '', min(at) from gone having count(*) > 0";
    client.execute(gather, &[&mart.to_string(), &most]).await.map_err(failed)?;
    Ok(())
}

/// Stops to note changes for marts whose files are gone. Their tables stay.
pub async fn forget(client: &impl GenericClient, declared: &[String]) -> Result<()> {
    for statement in [
        "delete from audit.mart_reads where mart <> all ($1)",
        "delete from audit.mart_saw where mart <> all ($1)",
        "delete from audit.touched where mart <> all ($1)",
        "delete from audit.stale_groups where mart <> all ($1)",
        "update audit.marts set state = 'stopped', reason = 'its file is gone', remedy = null, changed_at = now()
          where mart <> all ($1) and reason is distinct from 'its file is gone'",
    ] {
        client.execute(statement, &[&declared]).await.map_err(failed)?;
    }
    Ok(())
}

fn failed(error: tokio_postgres::Error) -> Error {
    Error::warehouse("reading how marts stand", error)
}
