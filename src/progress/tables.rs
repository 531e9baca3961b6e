//! What each warehouse table is doing, and what is yet to be read for it.

use std::sync::Arc;

use tokio_postgres::{GenericClient, Transaction};

use super::holds::{self, Hold};
use crate::error::{Error, Result};
use crate::journey::Seen;
use crate::names::TableName;
use crate::position::Lsn;

/// A table's state, as `/status` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its rows are read for the first time.
    Snapshotting,
    /// Its kept changes are applied.
    CatchingUp,
    /// Its changes are applied as they come.
    Streaming,
    /// An operator holds it.
    Paused,
    /// It cannot go on by itself.
    Stopped,
    /// Its rows are read again.
    Resyncing,
}

impl State {
    /// The word in `audit.tables` and `/status`.
    pub fn word(self) -> &'static str {
        match self {
            State::Snapshotting => "snapshotting",
            State::CatchingUp => "catching_up",
            State::Streaming => "streaming",
            State::Paused => "paused",
            State::Stopped => "stopped",
            State::Resyncing => "resyncing",
        }
    }

    fn of(word: &str) -> Option<State> {
        const ALL: [State; 6] = [
            State::Snapshotting,
            State::CatchingUp,
            State::Streaming,
            State::Paused,
            State::Stopped,
            State::Resyncing,
        ];
        ALL.into_iter().find(|state| state.word() == word)
    }
}

/// What is known of a table.
#[derive(Clone, Debug)]
pub struct TableRecord {
    /// The warehouse table.
    pub table: TableName,
    /// The table that feeds it.
    pub source: Option<TableName>,
    /// What it is doing.
    pub state: State,
    /// Whether it is there and ours; else it is yet to be made or adopted.
    pub made: bool,
    /// For what it is held, where that is over one day.
    pub hold: Option<Hold>,
    /// Why it stopped.
    pub reason: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
    /// Changes below it are in the table already.
    pub floor: i64,
    /// The shape of its source table that was applied last.
    pub schema_id: Option<i32>,
    /// Whether its rows are yet to be read.
    pub chunk_open: bool,
    /// Whether a part of its rows is yet to be read again, or raw is to be read in the source's place.
    pub part_open: bool,
    /// Its kept changes are applied when the stream has come so far.
    pub joins: Lsn,
    /// Whether they were read before, or are not to be.
    pub was_read: bool,
    /// The digest of the file by which `siltstone apply` changed it last, until the service has seen it.
    pub made_for: Option<String>,
    /// What feeds its columns, if that was noted.
    pub feeds: Option<String>,
    /// What its rows have of the changes that topics tell, if they were read again.
    pub seen: Option<Arc<Seen>>,
}

/// Reads a connector's tables.
pub async fn read(client: &impl GenericClient, connector: &str) -> Result<Vec<TableRecord>> {
    read_some(client, connector, None).await
}

/// What is known of one table of a connector's, if anything.
pub async fn read_one(
    client: &impl GenericClient,
    connector: &str,
    table: &TableName,
) -> Result<Option<TableRecord>> {
    Ok(read_some(client, connector, Some(table)).await?.pop())
}

async fn read_some(
    client: &impl GenericClient,
    connector: &str,
    only: Option<&TableName>,
) -> Result<Vec<TableRecord>> {
    let failed = |error| Error::warehouse("reading what its tables are doing", error);
    let rows = client
        .query(
            "select t.table_name, t.state, t.reason, t.remedy, t.floor_seq, t.schema_id,
                    exists (select from audit.snapshot_chunks c
                             where c.table_name = t.table_name and c.state in ('waiting', 'open')
                               and coalesce(to_jsonb(c) ->> 'condition', to_jsonb(c) ->> 'origin')
                                   is null),
                    coalesce((select bool_or(c.state = 'done' and c.as_of is not null)
                                from audit.snapshot_chunks c where c.table_name = t.table_name),
                             true),
                    t.source_table, to_jsonb(t) ->> 'made_for',
                    exists (select from audit.snapshot_chunks c
                             where c.table_name = t.table_name and c.state = 'open'
                               and coalesce(to_jsonb(c) ->> 'condition', to_jsonb(c) ->> 'origin')
                                   is not null),
                    coalesce((select max(c.as_of) from audit.snapshot_chunks c
                               where c.table_name = t.table_name and c.state = 'done'
                                 and to_jsonb(c) ->> 'condition' is not null), 0),
                    to_jsonb(t) ->> 'feeds', to_jsonb(t) ->> 'hold',
                    coalesce((to_jsonb(t) ->> 'made')::boolean, true), to_jsonb(t) ->> 'seen'
               from audit.tables t
              where t.connector = $1 and ($2::text is null or t.table_name = $2)",
            &[&connector, &only.map(TableName::to_string)],
        )
        .await
        .map_err(failed)?;
    let mut records = Vec::new();
    for row in rows {
        let name: String = row.try_get(0).map_err(failed)?;
        let word: String = row.try_get(1).map_err(failed)?;
        let strange = || Error::bug(format!("audit.tables has a strange row for {name:?}"));
        let source: String = row.try_get(8).map_err(failed)?;
        let hold: Option<String> = row.try_get(13).map_err(failed)?;
        let seen: Option<String> = row.try_get(15).map_err(failed)?;
        let seen = seen.map(|seen| serde_json::from_str(&seen)).transpose();
        records.push(TableRecord {
            source: source.parse().ok(),
            table: name.parse().map_err(|_| strange())?,
            state: State::of(&word).ok_or_else(strange)?,
            reason: row.try_get(2).map_err(failed)?,
            remedy: row.try_get(3).map_err(failed)?,
            floor: row.try_get(4).map_err(failed)?,
            schema_id: row.try_get(5).map_err(failed)?,
            chunk_open: row.try_get(6).map_err(failed)?,
            was_read: row.try_get(7).map_err(failed)?,
            made_for: row.try_get(9).map_err(failed)?,
            part_open: row.try_get(10).map_err(failed)?,
            joins: Lsn::from_i64(row.try_get(11).map_err(failed)?),
            feeds: row.try_get(12).map_err(failed)?,
            made: row.try_get(14).map_err(failed)?,
            seen: seen.map_err(|_| strange())?.map(Arc::new),
            hold: hold.as_deref().map(|word| Hold::of(word).ok_or_else(strange)).transpose()?,
        });
    }
    Ok(records)
}

/// Notes a table that is new to us, whether it is `made` or is yet to be.
pub async fn add(
    transaction: &Transaction<'_>,
    connector: &str,
    (table, made): (&TableName, bool),
    source_table: &TableName,
    schema_id: i32,
) -> Result<()> {
    transaction
        .execute(
            "insert into audit.tables (table_name, connector, source_table, state, schema_id, made)
             values ($1, $2, $3, 'streaming', $4, $5)
             on conflict (table_name) do update
             set connector = excluded.connector, source_table = excluded.source_table,
                 schema_id = excluded.schema_id, made = excluded.made, seen = null",
            &[&table.to_string(), &connector, &source_table.to_string(), &schema_id, &made],
        )
        .await
        .map_err(|error| Error::warehouse(format!("noting {table}"), error))?;
    Ok(())
}

/// Changes a table's state; where it does not go on in it, a person lets it.
pub async fn set(
    client: &impl GenericClient,
    table: &TableName,
    state: State,
    reason: Option<&str>,
    remedy: Option<&str>,
) -> Result<()> {
    holds::set(client, table, (state, None), reason, remedy).await
}

/// Notes by which file a table was changed; none once the service has seen it.
pub async fn set_made_for(
    client: &impl GenericClient,
    table: &TableName,
    digest: Option<&str>,
) -> Result<()> {
    let statement = "update audit.tables set made_for = $2 where table_name = $1";
    client
        .execute(statement, &[&table.to_string(), &digest])
        .await
        .map_err(|error| Error::warehouse(format!("noting the file of {table}"), error))?;
    Ok(())
}

/// Lets a table apply its changes from the kept ones, so that what it refuses can be set aside; false
/// where its rows are still to be read. One of which a part is to be read does that anyway, behind it.
pub async fn sift(transaction: &Transaction<'_>, table: &TableName, reason: &str) -> Result<bool> {
    let updated = transaction
        .execute(
            "with open as (select coalesce(condition, origin) as part from audit.snapshot_chunks
                            where table_name = $1 and state in ('waiting', 'open'))
             update audit.tables t
                set state = case when exists (select from open) then t.state else 'catching_up' end,
                    reason = case when exists (select from open) then t.reason else $2 end,
                    remedy = null, changed_at = now()
              where t.table_name = $1
                and not exists (select from open where part is null)",
            &[&table.to_string(), &reason],
        )
        .await
        .map_err(|error| Error::warehouse(format!("noting that {table} is sifted"), error))?;
    Ok(updated == 1)
}

/// Notes the transaction that a human is asked about.
pub async fn ask_about(client: &impl GenericClient, table: &TableName, seq: i64) -> Result<()> {
    client
        .execute(
            "update audit.tables set asked_seq = $2 where table_name = $1",
            &[&table.to_string(), &seq],
        )
        .await
        .map_err(|error| Error::warehouse(format!("noting what is asked of {table}"), error))?;
    Ok(())
}

/// Notes that what was asked is answered: the table goes on with it.
pub async fn answer(client: &impl GenericClient, table: &TableName) -> Result<()> {
    client
        .execute(
            "update audit.tables set answered_seq = coalesce(asked_seq, answered_seq)
              where table_name = $1",
            &[&table.to_string()],
        )
        .await
        .map_err(|error| Error::warehouse(format!("noting an answer for {table}"), error))?;
    Ok(())
}

/// The last transaction that was answered for.
pub async fn answered(client: &impl GenericClient, table: &TableName) -> Result<i64> {
    let failed = |error| Error::warehouse(format!("reading the answers for {table}"), error);
    let query = "select answered_seq from audit.tables where table_name = $1";
    let row = client.query_opt(query, &[&table.to_string()]).await.map_err(failed)?;
    row.map_or(Ok(-1), |row| row.try_get(0)).map_err(failed)
}

/// Changes below `floor` are not for this table: it takes what comes from there on.
pub async fn set_floor(client: &impl GenericClient, table: &TableName, floor: Lsn) -> Result<()> {
    client
        .execute(
            "update audit.tables set floor_seq = $2 where table_name = $1",
            &[&table.to_string(), &floor.as_i64()],
        )
        .await
        .map_err(|error| Error::warehouse(format!("noting where {table} starts"), error))?;
    Ok(())
}

/// Notes the shape that was applied last.
pub async fn set_schema(
    client: &impl GenericClient,
    table: &TableName,
    schema_id: i32,
) -> Result<()> {
    client
        .execute(
            "update audit.tables set schema_id = $2 where table_name = $1",
            &[&table.to_string(), &schema_id],
        )
        .await
        .map_err(|error| Error::warehouse(format!("noting the shape of {table}"), error))?;
    Ok(())
}
