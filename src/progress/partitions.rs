//! The partitions of topics in `audit.progress`: each with its offset, its number, and what has to be known of
//! the records before.

use std::collections::HashMap;

use serde_json::Value;
use tokio_postgres::{GenericClient, Transaction};

use crate::error::{Error, Result};

/// What is stored of a partition.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The next offset.
    pub position: i64,
    /// The number by which kept changes know it.
    pub number: i64,
    /// The topic by its id; empty where the brokers tell none.
    pub system_id: String,
    /// What has to be known of the records before.
    pub memory: Value,
}

/// The partitions of a connector, by their names.
pub async fn read(client: &impl GenericClient, connector: &str) -> Result<HashMap<String, Stored>> {
    let failed = |error| Error::warehouse("reading the stored offsets", error);
    let query = "select partition, position, number::int8, memory, system_id from audit.progress \
                 where connector = $1";
    let rows = client.query(query, &[&connector]).await.map_err(failed)?;
    let mut stored = HashMap::new();
    for row in rows {
        let known = Stored {
            position: row.try_get(1).map_err(failed)?,
            number: row.try_get(2).map_err(failed)?,
            memory: row.try_get(3).map_err(failed)?,
            system_id: row.try_get(4).map_err(failed)?,
        };
        stored.insert(row.try_get(0).map_err(failed)?, known);
    }
    Ok(stored)
}

/// Notes a partition that is new.
pub async fn begin(
    transaction: &Transaction<'_>,
    connector: &str,
    (partition, system_id): (&str, &str),
    position: i64,
) -> Result<Stored> {
    let failed = |error| Error::warehouse("storing a first offset", error);
    let row = transaction
        .query_one(
            "insert into audit.progress (connector, partition, position, system_id, timeline)
             values ($1, $2, $3, $4, 0) returning number::int8, memory",
            &[&connector, &partition, &position, &system_id],
        )
        .await
        .map_err(failed)?;
    let (number, memory) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
    Ok(Stored { position, number, memory, system_id: system_id.to_owned() })
}

/// Notes partitions by their names, the ids of their topics and their first offsets, all or none; those that
/// another member has noted stay as they are.
pub async fn begin_all(
    transaction: &Transaction<'_>,
    connector: &str,
    partitions: &[(String, String, i64)],
) -> Result<()> {
    for (partition, system_id, position) in partitions {
        let statement =
            "insert into audit.progress (connector, partition, position, system_id, timeline)
                         values ($1, $2, $3, $4, 0) on conflict do nothing";
        let done =
            transaction.execute(statement, &[&connector, partition, position, system_id]).await;
        done.map_err(|error| Error::warehouse("storing first offsets", error))?;
    }
    Ok(())
}

/// Sets an offset that was lost, and the topic by its id.
pub async fn set(
    transaction: &Transaction<'_>,
    connector: &str,
    partition: &str,
    to: &Stored,
) -> Result<()> {
    let statement = "update audit.progress \
                     set position = $3, system_id = $4, moved_at = now() \
                     where connector = $1 and partition = $2";
    transaction
        .execute(statement, &[&connector, &partition, &to.position, &to.system_id])
        .await
        .map_err(|error| Error::warehouse("storing an offset", error))?;
    Ok(())
}

/// Forgets events of a table that no later one can be compared with any more, up to a number of them; whether
/// there may be more. A delete stays for which a row waits under another key.
pub async fn forget_quiet(
    transaction: &Transaction<'_>,
    table: &str,
    horizon: f64,
) -> Result<bool> {
    const AT_MOST: i64 = 20_000;
    let statement = "delete from audit.quiet where ctid in (
                         select q.ctid from audit.quiet q
                          where q.table_name = $1 and q.noted_at < now() - make_interval(secs => $2)
                            and not exists (select from audit.pending p
                                             where p.table_name = $1 and p.comes_from is not null
                                               and (p.event_seq, p.event_ord) = (q.seq, q.ord))
                          limit $3)";
    let forgot = transaction.execute(statement, &[&table, &horizon, &AT_MOST]).await;
    let forgot = forgot.map_err(|error| Error::warehouse("forgetting old events", error))?;
    let statement = "delete from audit.carried where ctid in (
                         select n.ctid from audit.carried n
                          where n.table_name = $1 and n.noted_at < now() - make_interval(secs => $2)
                          limit $3)";
    let values = transaction.execute(statement, &[&table, &horizon, &AT_MOST]).await;
    let values = values.map_err(|error| Error::warehouse("forgetting old values", error))?;
    Ok(i64::try_from(forgot.max(values)).is_ok_and(|forgot| forgot >= AT_MOST))
}
