//! `audit.resting`: the topics that are not read on, and what that is judged by. All of it is what was committed: how
//! many records of a topic are open dead letters that nobody can read, and how much is kept of its changes.

use std::collections::BTreeSet;

use tokio_postgres::{GenericClient, Transaction};

use crate::error::{Error, Result};
use crate::names::TableName;

/// Changes of a topic that are kept for a table.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The topic.
    pub topic: String,
    /// The table.
    pub table: TableName,
    /// Their bytes.
    pub bytes: u64,
}

/// Records of a topic that nobody can read.
#[derive(Clone, Debug)]
pub struct Unread {
    /// The topic.
    pub topic: String,
    /// The tables in whose name they are dead letters.
    pub tables: Vec<TableName>,
    /// How many there are.
    pub count: u64,
}

/// A topic that rests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resting {
    /// The topic.
    pub topic: String,
    /// The tables that its records feed.
    pub tables: Vec<TableName>,
    /// Why it rests.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

/// What is kept of the changes of a connector's topics.
pub async fn kept(client: &impl GenericClient, connector: &str) -> Result<Vec<Kept>> {
    let failed = |error| Error::warehouse("measuring what is kept of topics", error);
    let query =
        "select regexp_replace(g.partition, '/[0-9]+$', ''), p.table_name, sum(p.bytes)::int8
                   from audit.pending p
                   join audit.progress g on g.connector = p.connector and g.number = p.seq
                  where p.connector = $1 group by 1, 2";
    let rows = client.query(query, &[&connector]).await.map_err(failed)?;
    let mut kept = Vec::new();
    for row in rows {
        let (table, bytes): (String, i64) =
            (row.try_get(1).map_err(failed)?, row.try_get(2).map_err(failed)?);
        if let Ok(table) = table.parse() {
            let topic = row.try_get(0).map_err(failed)?;
            kept.push(Kept { topic, table, bytes: u64::try_from(bytes).unwrap_or(0) });
        }
    }
    Ok(kept)
}

/// The open dead letters of a connector that are records which nobody can read, by their topics. One that was edited
/// is about to be read again.
pub async fn unread(client: &impl GenericClient, connector: &str) -> Result<Vec<Unread>> {
    let failed = |error| Error::warehouse("counting what cannot be read of topics", error);
    let query = "select topic, array_agg(distinct table_name), count(distinct (seq, ord))
                   from audit.dead_letters
                  where connector = $1 and state = 'open' and format = 'k' and topic is not null
                    and edited_at is null
                  group by 1";
    let rows = client.query(query, &[&connector]).await.map_err(failed)?;
    let mut unread = Vec::new();
    for row in rows {
        let (tables, count): (Vec<String>, i64) =
            (row.try_get(1).map_err(failed)?, row.try_get(2).map_err(failed)?);
        unread.push(Unread {
            topic: row.try_get(0).map_err(failed)?,
            tables: tables.iter().filter_map(|table| table.parse().ok()).collect(),
            count: u64::try_from(count).unwrap_or(0),
        });
    }
    Ok(unread)
}

/// The topics of a connector that rest.
pub async fn topics(client: &impl GenericClient, connector: &str) -> Result<BTreeSet<String>> {
    let failed = |error| Error::warehouse("reading which topics rest", error);
    let query = "select topic from audit.resting where connector = $1";
    let rows = client.query(query, &[&connector]).await.map_err(failed)?;
    rows.iter().map(|row| row.try_get(0).map_err(failed)).collect()
}

/// Notes which topics rest, and that these others do not any more.
pub async fn note(
    transaction: &Transaction<'_>,
    connector: &str,
    (resting, others): (&[Resting], &[String]),
) -> Result<()> {
    let failed = |error| Error::warehouse("noting which topics rest", error);
    let gone = "delete from audit.resting where connector = $1 and topic = any ($2)";
    transaction.execute(gone, &[&connector, &others]).await.map_err(failed)?;
    for rests in resting {
        let Resting { topic, tables, reason, remedy } = rests;
        let tables: Vec<String> = tables.iter().map(ToString::to_string).collect();
        transaction
            .execute(
                "insert into audit.resting (connector, topic, tables, reason, remedy)
                 values ($1, $2, $3, $4, $5)
                 on conflict (connector, topic) do update
                 set tables = excluded.tables, reason = excluded.reason, remedy = excluded.remedy",
                &[&connector, topic, &tables, reason, remedy],
            )
            .await
            .map_err(failed)?;
    }
    Ok(())
}

/// Notes from when on a topic's retention may take its next record, in milliseconds since 1970.
pub async fn kept_until(
    client: &impl GenericClient,
    (connector, topic): (&str, &str),
    millis: i64,
) -> Result<()> {
    let seconds = std::time::Duration::from_millis(millis.unsigned_abs()).as_secs_f64();
    let statement = "update audit.resting set kept_until = to_timestamp($3)
                      where connector = $1 and topic = $2";
    let done = client.execute(statement, &[&connector, &topic, &seconds]).await;
    done.map(|_| ()).map_err(|error| Error::warehouse("noting how long a topic keeps", error))
}
