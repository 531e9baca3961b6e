//! `audit.dead_letters`: changes that their tables refuse, as they arrived. Written in the transaction
//! that goes on without them; tried again by being put back among the kept changes.

use std::collections::HashMap;

use tokio_postgres::{GenericClient, Transaction};

use super::pending::Kept;
use crate::error::{Error, Result};
use crate::journey::{Digests, Letter};
use crate::names::TableName;
use crate::position::Order;

/// A change that a table refuses.
pub struct DeadLetter<'k> {
    /// The change.
    pub kept: &'k Kept,
    /// Its keys.
    pub digests: Digests,
    /// Its key as people read it, as a JSON object.
    pub key: Option<String>,
    /// Why it is refused.
    pub reason: String,
    /// The record in which it came by a topic.
    pub record: Option<&'k Letter>,
    /// Whether it is a change; else it is what nobody could read.
    pub readable: bool,
}

/// Writes a dead letter; one that was tried again counts one more attempt.
pub async fn write(
    transaction: &Transaction<'_>,
    connector: &str,
    table: &TableName,
    letter: &DeadLetter<'_>,
) -> Result<()> {
    let DeadLetter { kept, digests, key, reason, record, readable } = letter;
    let format = match (readable, kept.binary) {
        (false, _) => "k",
        (true, true) => "b",
        (true, false) => "t",
    };
    let written = record.map(|record| crate::clock::from_unix_millis(record.at));
    let committed_at = crate::clock::from_postgres_micros(kept.mark.committed_at);
    // a text of Postgres has no place for it
    let reason = &reason.replace('\0', "\u{fffd}");
    transaction
        .execute(
            r#"insert into audit.dead_letters as d
                   (connector, table_name, key, seq, ord, committed_at, xid, schema_id, key_hash,
                    old_key_hash, format, event, reason, event_seq, event_ord, topic, record_partition,
                    record_offset, record_at, record_key, record_value, record_headers)
               values ($1, $2, $3::text::jsonb, $4, $5, $6, $7, $8, $9, $10, $11::text::"char", $12, $13,
                       $14, $15, $16, $17, $18, $19, $20, $21, $22::text::jsonb)
               on conflict (connector, table_name, seq, ord) do update
               set state = 'open', reason = excluded.reason, attempts = d.attempts + 1,
                   event = excluded.event, format = excluded.format, schema_id = excluded.schema_id,
                   key = coalesce(excluded.key, d.key), key_hash = excluded.key_hash,
                   old_key_hash = excluded.old_key_hash, event_seq = excluded.event_seq,
                   event_ord = excluded.event_ord, committed_at = excluded.committed_at,
                   xid = excluded.xid, changed_at = now()"#,
            &[
                &connector,
                &table.to_string(),
                key,
                &kept.place.seq,
                &kept.place.ord,
                &committed_at,
                &i64::from(kept.mark.xid),
                &kept.schema_id,
                &digests.new,
                &digests.old,
                &format,
                &kept.message,
                reason,
                &kept.order.seq,
                &kept.order.ord,
                &record.map(|record| &record.topic),
                &record.map(|record| record.partition),
                &record.map(|record| record.offset),
                &written,
                &record.and_then(|record| record.key.as_ref()),
                &record.and_then(|record| record.value.as_ref()),
                &record.map(|record| &record.headers),
            ],
        )
        .await
        .map_err(|error| Error::warehouse("writing a dead letter", error))?;
    Ok(())
}

/// The keys that wait in a connector's tables: of open dead letters, and of what was set aside behind
/// them.
pub async fn waiting(
    client: &impl GenericClient,
    connector: &str,
) -> Result<HashMap<TableName, Vec<i64>>> {
    let failed = |error| Error::warehouse("reading which keys wait", error);
    let rows = client
        .query(
            "select table_name, unnest(array[key_hash, old_key_hash]) from audit.dead_letters
              where connector = $1 and state = 'open'
             union
             select table_name, unnest(array[key_hash, old_key_hash]) from audit.pending
              where connector = $1 and waits",
            &[&connector],
        )
        .await
        .map_err(failed)?;
    let mut waiting: HashMap<TableName, Vec<i64>> = HashMap::new();
    for row in rows {
        let name: String = row.try_get(0).map_err(failed)?;
        if let Ok(table) = name.parse() {
            waiting.entry(table).or_default().push(row.try_get(1).map_err(failed)?);
        }
    }
    Ok(waiting)
}

/// The keys of a table's open dead letters.
pub async fn keys(transaction: &Transaction<'_>, table: &TableName) -> Result<Vec<i64>> {
    let rows = transaction
        .query(
            "select unnest(array[key_hash, old_key_hash]) from audit.dead_letters
              where table_name = $1 and state = 'open'",
            &[&table.to_string()],
        )
        .await
        .map_err(|error| Error::warehouse("reading the keys of dead letters", error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Settles what waits of a key, where all of it is older than `order` and of no other key: a row that was
/// read there takes its place. Whether nothing of the key waits any more.
pub async fn supersede(
    transaction: &Transaction<'_>,
    table: &TableName,
    key: i64,
    order: Order,
) -> Result<bool> {
    let failed = |error| Error::warehouse("settling what a row that was read replaces", error);
    let name = table.to_string();
    let row = transaction
        .query_one(
            "select coalesce(bool_and(key_hash = $2 and old_key_hash = $2 and (seq, ord) < ($3, $4)), true)
               from (select key_hash, old_key_hash, seq, ord from audit.dead_letters
                      where table_name = $1 and state = 'open'
                     union all
                     select key_hash, old_key_hash, seq, ord from audit.pending
                      where table_name = $1 and waits) w
              where $2 in (key_hash, old_key_hash)",
            &[&name, &key, &order.seq, &order.ord],
        )
        .await
        .map_err(failed)?;
    if !row.try_get(0).map_err(failed)? {
        return Ok(false);
    }
    for statement in [
        "update audit.dead_letters set state = 'read', changed_at = now()
          where table_name = $1 and state = 'open' and key_hash = $2",
        "delete from audit.pending where table_name = $1 and waits and key_hash = $2",
    ] {
        transaction.execute(statement, &[&name, &key]).await.map_err(failed)?;
    }
    Ok(true)
}

/// Whether a table has open dead letters, and the places of those that were dropped for good.
pub async fn settled(client: &impl GenericClient, table: &TableName) -> Result<(bool, Vec<Order>)> {
    let failed = |error| Error::warehouse(format!("reading the dead letters of {table}"), error);
    let query = "select state = 'open', seq, ord from audit.dead_letters
                  where table_name = $1 and state in ('open', 'dropped')";
    let rows = client.query(query, &[&table.to_string()]).await.map_err(failed)?;
    let (mut open, mut dropped) = (false, Vec::new());
    for row in rows {
        match row.try_get(0).map_err(failed)? {
            true => open = true,
            false => dropped.push(Order {
                seq: row.try_get(1).map_err(failed)?,
                ord: row.try_get(2).map_err(failed)?,
            }),
        }
    }
    Ok((open, dropped))
}

/// What becomes of dead letters that an operator has looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They are tried again, each at its place.
    Replayed,
    /// They are left out; what waits behind them goes on.
    Dropped,
}

/// Which dead letters an operator means: those that were open when the request was made, of its span of
/// time.
pub struct Which<'w> {
    /// The table.
    pub table: &'w TableName,
    /// The one of this number; none for all.
    pub id: Option<i64>,
    /// Of partitions of these numbers; none where there is but one log.
    pub numbers: Option<&'w [i64]>,
    /// The request.
    pub request: i64,
}

const MEANT: &str = "d.table_name = $1 and d.state = 'open' and ($2::int8 is null or d.id = $2)
    and exists (select from audit.requests r
                 where r.id = $3 and d.changed_at <= r.requested_at
                   and (r.noticed_since is null or d.noticed_at >= r.noticed_since)
                   and (r.noticed_until is null or d.noticed_at < r.noticed_until))";

/// What became of dead letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// They are tried again, or left out.
    pub letters: u64,
    /// They have to be read again as records before they can be tried.
    pub unread: u64,
}

/// Settles dead letters.
pub async fn settle(
    transaction: &Transaction<'_>,
    which: &Which<'_>,
    fate: Fate,
) -> Result<Settled> {
    let failed = |error| Error::warehouse("settling dead letters", error);
    let name = which.table.to_string();
    let mut settled = Settled::default();
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
        [&name, &which.id, &which.request, &which.numbers];
    let ours = "($4::int8[] is null or d.seq = any($4))";
    if fate == Fate::Replayed {
        let statement = format!(
            "insert into audit.pending
                 (connector, table_name, seq, ord, committed_at, xid, schema_id, key_hash,
                  old_key_hash, waits, bytes, format, event, event_seq, event_ord)
             select connector, table_name, seq, ord, committed_at, xid, schema_id, key_hash,
                    old_key_hash, true, length(event), format, event, event_seq, event_ord
               from audit.dead_letters d
              where {MEANT} and {ours} and d.format <> 'k'"
        );
        transaction.execute(&statement, &parameters).await.map_err(failed)?;
        let query = format!(
            "select count(*) from audit.dead_letters d where {MEANT} and {ours} and d.format = 'k'"
        );
        let row = transaction.query_one(&query, &parameters).await.map_err(failed)?;
        let unread: i64 = row.try_get(0).map_err(failed)?;
        settled.unread = u64::try_from(unread).unwrap_or(0);
    }
    // one that could not be read is read again first
    let (word, readable) = match fate {
        Fate::Replayed => ("replayed", "and d.format <> 'k'"),
        Fate::Dropped => ("dropped", ""),
    };
    let statement = format!(
        "update audit.dead_letters d set state = $5, changed_at = now()
          where {MEANT} and {ours} {readable}"
    );
    let mut parameters = parameters.to_vec();
    parameters.push(&word);
    settled.letters = transaction.execute(&statement, &parameters).await.map_err(failed)?;
    Ok(settled)
}

/// What a request has come to: dead letters of a table that were tried again or dropped, and those that
/// could not be read again.
pub async fn outcome(transaction: &Transaction<'_>, which: &Which<'_>) -> Result<(u64, u64)> {
    let failed = |error| Error::warehouse("counting dead letters", error);
    let row = transaction
        .query_one(
            "select count(*) filter (where d.state <> 'open' or d.format <> 'k'),
                    count(*) filter (where d.state = 'open' and d.format = 'k')
               from audit.dead_letters d, audit.requests r
              where d.table_name = $1 and ($2::int8 is null or d.id = $2) and r.id = $3
                and d.changed_at > r.requested_at and d.noticed_at <= r.requested_at
                and (r.noticed_since is null or d.noticed_at >= r.noticed_since)
                and (r.noticed_until is null or d.noticed_at < r.noticed_until)",
            &[&which.table.to_string(), &which.id, &which.request],
        )
        .await
        .map_err(failed)?;
    let count = |at: usize| -> Result<u64> {
        let count: i64 = row.try_get(at).map_err(failed)?;
        Ok(u64::try_from(count).unwrap_or(0))
    };
    Ok((count(0)?, count(1)?))
}

/// How many of the meant ones are still open: they came by partitions of others.
pub async fn left(transaction: &Transaction<'_>, which: &Which<'_>) -> Result<u64> {
    let failed = |error| Error::warehouse("counting dead letters", error);
    let name = which.table.to_string();
    let query = format!("select count(*) from audit.dead_letters d where {MEANT}");
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
        [&name, &which.id, &which.request];
    let row = transaction.query_one(&query, &parameters).await.map_err(failed)?;
    let count: i64 = row.try_get(0).map_err(failed)?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// How many dead letters are open and how many changes wait, by table.
pub async fn counts(
    client: &impl GenericClient,
    connector: &str,
) -> Result<HashMap<TableName, (u64, u64)>> {
    let failed = |error| Error::warehouse("counting dead letters", error);
    let rows = client
        .query(
            "select table_name, sum(dead)::int8, sum(behind)::int8
               from (select table_name, count(*) as dead, 0 as behind from audit.dead_letters
                      where connector = $1 and state = 'open' group by 1
                     union all
                     select table_name, 0, count(*) from audit.pending
                      where connector = $1 and waits group by 1) c
              group by 1",
            &[&connector],
        )
        .await
        .map_err(failed)?;
    let mut counts = HashMap::new();
    for row in rows {
        let name: String = row.try_get(0).map_err(failed)?;
        let count = |at: usize| -> Result<u64> {
            let count: i64 = row.try_get(at).map_err(failed)?;
            Ok(u64::try_from(count).unwrap_or(0))
        };
        if let Ok(table) = name.parse() {
            counts.insert(table, (count(1)?, count(2)?));
        }
    }
    Ok(counts)
}

/// The message of a dead letter: its shape, whether its values are in binary form, its bytes.
pub async fn event(client: &impl GenericClient, id: i64) -> Result<Option<(i32, bool, Vec<u8>)>> {
    let row = client
        .query_opt(
            "select schema_id, format = 'b', event from audit.dead_letters where id = $1",
            &[&id],
        )
        .await
        .map_err(|error| Error::warehouse("reading a dead letter", error))?;
    Ok(row.map(|row| (row.get(0), row.get(1), row.get(2))))
}
