//! Dead letters that came by topics: read again as the records that they are, edited, and handed to the topic
//! of dead letters.

use tokio_postgres::{GenericClient, Row, Transaction};

use super::requests::Request;
use crate::error::{Error, Result};
use crate::journey::Letter;
use crate::names::TableName;
use crate::position::Order;

/// A dead letter that has to be read again.
#[derive(Debug)]
pub struct Unread {
    /// Its number.
    pub id: i64,
    /// The table in whose name it was set aside.
    pub table: TableName,
    /// Its place: the number of its partition, its offset.
    pub place: Order,
    /// Its order among the source's changes, where that is known from others; else zeros.
    pub order: Order,
    /// The record, as it came or as it was edited.
    pub record: Letter,
    /// Whether no other table has a dead letter of the same record.
    pub alone: bool,
}

/// The next dead letters behind `after` that a request wants read again, of partitions with these numbers:
/// a portion whose bytes are bounded, but at least one.
pub async fn next(
    client: &impl GenericClient,
    connector: &str,
    request: &Request,
    (after, numbers): ((Order, &str), &[i64]),
) -> Result<Vec<Unread>> {
    const ROWS: i64 = 500;
    const BYTES: i64 = 4 << 20;
    let failed = |error| Error::warehouse("reading dead letters again", error);
    let rows = client
        .query(
            "select d.id, d.table_name, d.seq, d.ord, d.topic, d.record_partition, d.record_offset,
                    coalesce((extract(epoch from d.record_at) * 1000)::int8, 0),
                    coalesce(d.edited_key, d.record_key), coalesce(d.edited_value, d.record_value),
                    coalesce(d.record_headers::text, '[]'),
                    not exists (select from audit.dead_letters o
                                 where o.connector = d.connector and o.seq = d.seq and o.ord = d.ord
                                   and o.table_name <> d.table_name),
                    coalesce(d.event_seq, 0), coalesce(d.event_ord, 0)
               from audit.dead_letters d
               join (select id, sum(bytes) over (order by seq, ord, table_name) - bytes as before
                       from (select d.id, d.seq, d.ord, d.table_name,
                                    coalesce(length(coalesce(d.edited_value, d.record_value)), 0) as bytes
                               from audit.dead_letters d, audit.requests r
                              where d.connector = $1 and d.state = 'open' and d.format = 'k'
                                and d.topic is not null and d.seq = any ($5)
                                and (d.seq, d.ord, d.table_name) > ($2, $3, $4) and r.id = $6
                                and d.changed_at <= r.requested_at
                                and (r.table_name is null or d.table_name = r.table_name)
                                and (r.argument is null or d.id = r.argument::int8)
                                and (r.noticed_since is null or d.noticed_at >= r.noticed_since)
                                and (r.noticed_until is null or d.noticed_at < r.noticed_until)
                              order by d.seq, d.ord, d.table_name limit $7) l) l on l.id = d.id
              where l.before < $8
              order by d.seq, d.ord, d.table_name",
            &[&connector, &after.0.seq, &after.0.ord, &after.1, &numbers, &request.id, &ROWS, &BYTES],
        )
        .await
        .map_err(failed)?;
    rows.iter().map(unread).collect()
}

fn unread(row: &Row) -> Result<Unread> {
    let failed = |error| Error::warehouse("reading dead letters again", error);
    let name: String = row.try_get(1).map_err(failed)?;
    let table = name.parse().map_err(|_| Error::bug("audit.dead_letters has a strange name"))?;
    let read = || -> Result<Unread, tokio_postgres::Error> {
        Ok(Unread {
            id: row.try_get(0)?,
            table,
            place: Order { seq: row.try_get(2)?, ord: row.try_get(3)? },
            record: Letter {
                topic: row.try_get(4)?,
                partition: row.try_get(5)?,
                offset: row.try_get(6)?,
                at: row.try_get(7)?,
                key: row.try_get(8)?,
                value: row.try_get(9)?,
                headers: row.try_get(10)?,
            },
            alone: row.try_get(11)?,
            order: Order { seq: row.try_get(12)?, ord: row.try_get(13)? },
        })
    };
    read().map_err(failed)
}

/// Notes that a dead letter could be read: its changes are among the kept ones.
pub async fn read(transaction: &Transaction<'_>, id: i64) -> Result<()> {
    let statement =
        "update audit.dead_letters set state = 'replayed', changed_at = now() where id = $1";
    let done = transaction.execute(statement, &[&id]).await;
    done.map(|_| ()).map_err(|error| Error::warehouse("settling a dead letter", error))
}

/// Notes why a dead letter could not be read this time either.
pub async fn unreadable(transaction: &Transaction<'_>, id: i64, reason: &str) -> Result<()> {
    let reason = reason.replace('\0', "\u{fffd}");
    let statement = "update audit.dead_letters
                        set attempts = attempts + 1, reason = $2, changed_at = now() where id = $1";
    let done = transaction.execute(statement, &[&id, &reason]).await;
    done.map(|_| ()).map_err(|error| Error::warehouse("noting a dead letter", error))
}

/// Puts another key or value in the place of a record's own, which stay beside it; from now on the letter is
/// read as a record. False where there is no such open dead letter that came by a topic.
pub async fn edit(
    client: &impl GenericClient,
    id: i64,
    (key, value): (Option<&[u8]>, Option<&[u8]>),
) -> Result<bool> {
    let statement = "update audit.dead_letters
                        set edited_key = coalesce($2, edited_key), edited_value = coalesce($3, edited_value),
                            edited_at = now(), format = 'k'
                      where id = $1 and state = 'open' and topic is not null";
    let done = client.execute(statement, &[&id, &key, &value]).await;
    done.map(|rows| rows > 0).map_err(|error| Error::warehouse("editing a dead letter", error))
}

/// Gives a dead letter the record of the kept change that it was a moment ago.
pub async fn take_record(
    transaction: &Transaction<'_>,
    connector: &str,
    (table, place): (&TableName, Order),
) -> Result<()> {
    transaction
        .execute(
            "update audit.dead_letters d
                set topic = coalesce(d.topic, regexp_replace(g.partition, '/[0-9]+$', '')),
                    record_partition = coalesce(d.record_partition,
                                                substring(g.partition from '/([0-9]+)$')::int4),
                    record_offset = coalesce(d.record_offset, p.ord),
                    record_at = coalesce(d.record_at, p.record_at),
                    record_key = coalesce(d.record_key, p.record_key),
                    record_value = coalesce(d.record_value, p.record_value),
                    record_headers = coalesce(d.record_headers, p.record_headers)
               from audit.pending p
               join audit.progress g on g.connector = p.connector and g.number = p.seq
              where (p.connector, p.table_name, p.seq, p.ord) = ($1, $2, $3, $4)
                and (d.connector, d.table_name, d.seq, d.ord) = ($1, $2, $3, $4)",
            &[&connector, &table.to_string(), &place.seq, &place.ord],
        )
        .await
        .map_err(|error| Error::warehouse("keeping the record of a dead letter", error))?;
    Ok(())
}

/// A dead letter that the topic of dead letters does not have yet.
#[derive(Debug)]
pub struct Unsent {
    /// Its number.
    pub id: i64,
    /// Whether it could be read, and was refused.
    pub readable: bool,
    /// Why it is a dead letter.
    pub reason: String,
    /// The record as it came.
    pub record: Letter,
}

/// The next dead letters to be sent, of partitions with these numbers: a portion whose bytes are bounded, but
/// at least one.
pub async fn unsent(
    client: &impl GenericClient,
    connector: &str,
    numbers: &[i64],
) -> Result<Vec<Unsent>> {
    const ROWS: i64 = 200;
    const BYTES: i64 = 4 << 20;
    let failed = |error| Error::warehouse("reading which dead letters are not sent", error);
    let rows = client
        .query(
            "select d.id, d.format <> 'k', d.reason, d.topic, d.record_partition, d.record_offset,
                    coalesce((extract(epoch from d.record_at) * 1000)::int8, 0), d.record_key,
                    d.record_value, coalesce(d.record_headers::text, '[]')
               from audit.dead_letters d
               join (select id, sum(bytes) over (order by id) - bytes as before
                       from (select id, coalesce(length(record_value), 0) as bytes
                               from audit.dead_letters
                              where connector = $1 and topic is not null and sent_at is null
                                and not_sent is null and seq = any ($2)
                              order by id limit $3) l) l on l.id = d.id
              where l.before < $4 order by d.id",
            &[&connector, &numbers, &ROWS, &BYTES],
        )
        .await
        .map_err(failed)?;
    let unsent = |row: &Row| -> Result<Unsent, tokio_postgres::Error> {
        Ok(Unsent {
            id: row.try_get(0)?,
            readable: row.try_get(1)?,
            reason: row.try_get(2)?,
            record: Letter {
                topic: row.try_get(3)?,
                partition: row.try_get::<_, Option<i32>>(4)?.unwrap_or_default(),
                offset: row.try_get::<_, Option<i64>>(5)?.unwrap_or_default(),
                at: row.try_get(6)?,
                key: row.try_get(7)?,
                value: row.try_get(8)?,
                headers: row.try_get(9)?,
            },
        })
    };
    rows.iter().map(unsent).collect::<Result<_, _>>().map_err(failed)
}

/// How many dead letters of a connector are not sent.
pub async fn count_unsent(client: &impl GenericClient, connector: &str) -> Result<u64> {
    let failed = |error| Error::warehouse("counting which dead letters are not sent", error);
    let query = "select count(*) from audit.dead_letters
                  where connector = $1 and topic is not null and sent_at is null and not_sent is null";
    let row = client.query_one(query, &[&connector]).await.map_err(failed)?;
    let count: i64 = row.try_get(0).map_err(failed)?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// Notes which dead letters the topic has, and why it will never have others.
pub async fn sent(transaction: &Transaction<'_>, letters: &[(i64, Option<String>)]) -> Result<()> {
    let ids: Vec<i64> = letters.iter().map(|(id, _)| *id).collect();
    let never: Vec<Option<&str>> = letters.iter().map(|(_, why)| why.as_deref()).collect();
    let statement = "update audit.dead_letters d
                        set sent_at = case when s.never is null then now() end, not_sent = s.never
                       from unnest($1::int8[], $2::text[]) s(id, never) where d.id = s.id";
    let done = transaction.execute(statement, &[&ids, &never]).await;
    done.map(|_| ()).map_err(|error| Error::warehouse("noting which dead letters are sent", error))
}
