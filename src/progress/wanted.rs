//! What operators want of a connector: that it runs, rests or is stopped, across restarts; and the end of
//! one that nobody wants any more.

use tokio_postgres::{GenericClient, Transaction};

use crate::error::{Error, Result};

/// What is wanted of a connector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// That it runs.
    Running,
    /// That it rests, with who said so and when.
    Paused(String),
    /// That it is stopped: its position may be forgotten.
    Stopped(String),
}

/// Reads what is wanted.
pub async fn read(client: &impl GenericClient, connector: &str) -> Result<Wanted> {
    let failed = |error| Error::warehouse("reading what is wanted of it", error);
    let row = client
        .query_opt(
            "select wanted, by || ' since ' || to_char(since, 'YYYY-MM-DD HH24:MI:SS TZH')
               from audit.connectors where connector = $1",
            &[&connector],
        )
        .await
        .map_err(failed)?;
    let Some(row) = row else { return Ok(Wanted::Running) };
    let (word, by): (String, String) =
        (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
    Ok(match word.as_str() {
        "paused" => Wanted::Paused(format!("paused by {by}")),
        "stopped" => Wanted::Stopped(format!("stopped by {by}")),
        _ => Wanted::Running,
    })
}

/// Notes what is wanted: the word is running, paused or stopped. Who asked stands in the request.
pub async fn set(
    transaction: &Transaction<'_>,
    connector: &str,
    word: &str,
    request: i64,
) -> Result<()> {
    transaction
        .execute(
            "insert into audit.connectors (connector, wanted, by)
             select $1, $2, requested_by from audit.requests where id = $3
             on conflict (connector) do update
             set wanted = excluded.wanted, by = excluded.by, since = now()",
            &[&connector, &word, &request],
        )
        .await
        .map_err(|error| Error::warehouse("noting what is wanted of it", error))?;
    Ok(())
}

/// What removing a connector forgets, with how many there are of each.
pub async fn remains(client: &impl GenericClient, connector: &str) -> Result<Vec<(String, i64)>> {
    let failed = |error| Error::warehouse("looking at what there is of it", error);
    let rows = client
        .query(
            "select what, many from (values
                 (1, 'tables, whose rows stay', (select count(*) from audit.tables where connector = $1)),
                 (2, 'stored positions', (select count(*) from audit.progress where connector = $1)),
                 (3, 'kept changes', (select count(*) from audit.pending where connector = $1)),
                 (4, 'open dead letters', (select count(*) from audit.dead_letters
                                            where connector = $1 and state = 'open'))
             ) r (place, what, many) order by place",
            &[&connector],
        )
        .await
        .map_err(failed)?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect::<Result<_, tokio_postgres::Error>>()
        .map_err(failed)
}

/// Forgets a connector, but for what is wanted of it: its tables stay as they are, and are nobody's.
pub async fn remove(transaction: &Transaction<'_>, connector: &str) -> Result<()> {
    const STATEMENTS: [&str; 11] = [
        "delete from audit.pending where connector = $1",
        "delete from audit.dead_letters where connector = $1",
        "delete from audit.snapshot_chunks where connector = $1",
        "delete from audit.tables where connector = $1",
        "delete from audit.progress where connector = $1",
        "delete from audit.held_back where connector = $1",
        "delete from audit.freshness where connector = $1",
        "delete from audit.standing where connector = $1",
        "delete from audit.left_out where connector = $1",
        "delete from audit.resting where connector = $1",
        "delete from audit.slots where connector = $1",
    ];
    for statement in STATEMENTS {
        transaction
            .execute(statement, &[&connector])
            .await
            .map_err(|error| Error::warehouse("forgetting it", error))?;
    }
    Ok(())
}

/// Forgets what is wanted of a connector: should it be there once more, it is to run.
pub async fn forget(transaction: &Transaction<'_>, connector: &str) -> Result<()> {
    transaction
        .execute("delete from audit.connectors where connector = $1", &[&connector])
        .await
        .map_err(|error| Error::warehouse("forgetting what is wanted of it", error))?;
    Ok(())
}
