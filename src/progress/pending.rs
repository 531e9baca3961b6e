//! `audit.pending`: the changes of tables that cannot take them now, as they arrived and in the order
//! of the source. Written in the transaction that moves the position, read and deleted in the one that
//! applies them.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::SinkExt;
use tokio_postgres::{GenericClient, Transaction};

use crate::error::{Error, Kind, Result};
use crate::journey::{Digests, Held, Letter, Mark, Op};
use crate::names::TableName;
use crate::position::Order;

/// A kept change.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its place in the order of the source.
    pub order: Order,
    /// Its place in the log it came by, in whose order it is kept.
    pub place: Order,
    /// Its transaction.
    pub mark: Mark,
    /// The shape its table had.
    pub schema_id: i32,
    /// Whether its values are in binary form.
    pub binary: bool,
    /// Whether it was set aside behind a dead letter while its table went on.
    pub waits: bool,
    /// The former key, as a JSON array of texts, of a row that waits for its delete there.
    pub comes_from: Option<String>,
    /// The message as it arrived.
    pub message: Vec<u8>,
}

impl Kept {
    /// Whether it is a row that a reading found and its table refused: none of the stream's changes.
    pub fn was_read(&self) -> bool {
        self.place.ord < 0
    }

    /// What happened, as far as its message tells.
    pub fn op(&self) -> Op {
        op_of(&self.message)
    }

    /// Whether it is the delete of a row that goes on under another key.
    pub fn leaves(&self) -> bool {
        self.message.first() == Some(&b'l')
    }

    /// Whether it is a row's delete.
    pub fn is_delete(&self) -> bool {
        matches!(self.message.first(), Some(b'D' | b'l'))
    }

    /// A change as it is kept.
    pub fn of(change: &Held, binary: bool) -> Kept {
        Kept {
            order: change.order,
            place: change.place,
            mark: change.mark,
            schema_id: change.target.schema_id,
            binary,
            waits: change.waits,
            comes_from: change.comes_from.clone(),
            message: change.message.clone(),
        }
    }
}

/// What happened by the message in which it is kept: a row that was read, or any other change.
pub(super) fn op_of(message: &[u8]) -> Op {
    match message.first() {
        Some(b'r') => Op::Read,
        Some(b'T') => Op::Truncate,
        Some(b'D' | b'l') => Op::Delete,
        _ => Op::Update,
    }
}

const COPY: &str = "copy audit.pending (connector, table_name, seq, ord, committed_at, xid, schema_id, \
    key_hash, old_key_hash, waits, bytes, format, event, event_seq, event_ord, comes_from, \
    record_at, record_key, record_value, record_headers) \
    from stdin with (format binary)";

/// A COPY message of about this many bytes is what the server's buffers like.
const CHUNK: usize = 64 * 1024;

/// Keeps changes, but for those that become dead letters.
pub async fn keep(
    transaction: &Transaction<'_>,
    connector: &str,
    held: &[Held],
    binary: bool,
) -> Result<()> {
    let failed = |error| Error::warehouse("keeping changes in audit.pending", error);
    let mut sink = pin!(transaction.copy_in::<_, Bytes>(COPY).await.map_err(failed)?);
    let mut buffer = BytesMut::with_capacity(CHUNK + CHUNK / 4);
    buffer.put_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
    for change in held.iter().filter(|change| change.refused.is_none()) {
        let table = change.target.model.table.to_string();
        let bytes = i32::try_from(change.weight()).unwrap_or(i32::MAX);
        buffer.put_i16(20);
        put(&mut buffer, connector.as_bytes());
        put(&mut buffer, table.as_bytes());
        put(&mut buffer, &change.place.seq.to_be_bytes());
        put(&mut buffer, &change.place.ord.to_be_bytes());
        put(&mut buffer, &change.mark.committed_at.to_be_bytes());
        put(&mut buffer, &i64::from(change.mark.xid).to_be_bytes());
        put(&mut buffer, &change.target.schema_id.to_be_bytes());
        put(&mut buffer, &change.digests.new.to_be_bytes());
        put(&mut buffer, &change.digests.old.to_be_bytes());
        put(&mut buffer, &[u8::from(change.waits)]);
        put(&mut buffer, &bytes.to_be_bytes());
        put(&mut buffer, if binary { b"b" } else { b"t" });
        put(&mut buffer, &change.message);
        put(&mut buffer, &change.order.seq.to_be_bytes());
        put(&mut buffer, &change.order.ord.to_be_bytes());
        match &change.comes_from {
            Some(key) => put(&mut buffer, key.as_bytes()),
            None => buffer.put_i32(-1),
        }
        put_record(&mut buffer, change.letter.as_deref());
        if buffer.len() >= CHUNK {
            sink.feed(buffer.split().freeze()).await.map_err(failed)?;
        }
    }
    buffer.put_i16(-1);
    sink.feed(buffer.freeze()).await.map_err(failed)?;
    sink.finish().await.map_err(failed)?;
    Ok(())
}

fn put_record(buffer: &mut BytesMut, record: Option<&Letter>) {
    let Some(record) = record else {
        return (0..4).for_each(|_| buffer.put_i32(-1));
    };
    let at = crate::clock::postgres_micros(crate::clock::from_unix_millis(record.at));
    put(buffer, &at.to_be_bytes());
    for bytes in [&record.key, &record.value] {
        match bytes {
            Some(bytes) => put(buffer, bytes),
            None => buffer.put_i32(-1),
        }
    }
    // the version of the binary form comes first
    buffer.put_u32(u32::try_from(record.headers.len() + 1).unwrap_or(u32::MAX));
    buffer.put_u8(1);
    buffer.put_slice(record.headers.as_bytes());
}

fn put(buffer: &mut BytesMut, value: &[u8]) {
    buffer.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
    buffer.put_slice(value);
}

/// Which of a table's kept changes are looked at.
#[derive(Clone, Copy)]
pub struct Span<'s> {
    /// Those behind it, by their place.
    pub after: Order,
    /// Only those of partitions with these numbers; none where there are no partitions.
    pub numbers: Option<&'s [i64]>,
    /// Of a partition those behind an offset: others may come to the ones that were gone through before.
    pub offsets: &'s BTreeMap<i64, i64>,
}

impl Span<'_> {
    fn partitions(&self) -> (Vec<i64>, Vec<i64>) {
        self.offsets.iter().map(|(number, offset)| (*number, *offset)).unzip()
    }
}

/// The next kept changes of a table, in order: a portion whose rows and bytes are bounded, but at least one.
pub async fn next(
    transaction: &Transaction<'_>,
    table: &TableName,
    span: Span<'_>,
) -> Result<Vec<Kept>> {
    let (after, numbers, (partitions, offsets)) = (span.after, span.numbers, span.partitions());
    const ROWS: i64 = 10_000;
    const BYTES: i64 = 4 << 20;
    let failed = |error| Error::warehouse(format!("reading the kept changes of {table}"), error);
    let rows = transaction
        .query(
            "select seq, ord, xid, schema_id, format = 'b', event,
                    (extract(epoch from committed_at) * 1000000)::int8 - 946684800000000::int8,
                    waits, coalesce(event_seq, seq), coalesce(event_ord, ord), comes_from
               from (select p.*, sum(bytes) over (order by seq, ord) - bytes as before
                       from (select * from audit.pending
                              where table_name = $1 and (seq, ord) > ($2, $3)
                                and ($6::int8[] is null or seq = any ($6))
                                and not exists (select from unnest($7::int8[], $8::int8[]) o(number, ord)
                                                 where o.number = seq and o.ord >= pending.ord)
                              order by seq, ord limit $4) p) p
              where before < $5
              order by seq, ord",
            &[
                &table.to_string(),
                &after.seq,
                &after.ord,
                &ROWS,
                &BYTES,
                &numbers,
                &partitions,
                &offsets,
            ],
        )
        .await
        .map_err(failed)?;
    rows.iter()
        .map(|row| {
            let seq = row.try_get(8)?;
            let xid: i64 = row.try_get(2)?;
            Ok(Kept {
                order: Order { seq, ord: row.try_get(9)? },
                place: Order { seq: row.try_get(0)?, ord: row.try_get(1)? },
                mark: Mark {
                    seq,
                    committed_at: row.try_get(6)?,
                    xid: u32::try_from(xid).unwrap_or(0),
                },
                schema_id: row.try_get(3)?,
                binary: row.try_get(4)?,
                waits: row.try_get(7)?,
                comes_from: row.try_get(10)?,
                message: row.try_get(5)?,
            })
        })
        .collect::<Result<_, tokio_postgres::Error>>()
        .map_err(failed)
}

/// Removes a table's changes of `span` up to `until`, which are applied in the same transaction, but for those that are
/// set aside; returns their bytes.
pub async fn remove(
    transaction: &Transaction<'_>,
    table: &TableName,
    (span, until): (Span<'_>, Order),
    aside: &[(Order, Digests)],
) -> Result<u64> {
    let (after, numbers, (partitions, offsets)) = (span.after, span.numbers, span.partitions());
    let failed = |error| Error::warehouse("removing kept changes", error);
    let name = table.to_string();
    let column = |of: &dyn Fn(&(Order, Digests)) -> i64| aside.iter().map(of).collect::<Vec<_>>();
    let (seqs, ords) = (column(&|(order, _)| order.seq), column(&|(order, _)| order.ord));
    if !aside.is_empty() {
        let (new, old) = (column(&|(_, keys)| keys.new), column(&|(_, keys)| keys.old));
        transaction
            .execute(
                "update audit.pending p set waits = true, key_hash = a.new, old_key_hash = a.old
                   from unnest($2::int8[], $3::int8[], $4::int8[], $5::int8[]) a(seq, ord, new, old)
                  where p.table_name = $1 and p.seq = a.seq and p.ord = a.ord
                    and (not p.waits or p.key_hash <> a.new or p.old_key_hash <> a.old)",
                &[&name, &seqs, &ords, &new, &old],
            )
            .await
            .map_err(failed)?;
    }
    let row = transaction
        .query_one(
            "with gone as (
                 delete from audit.pending p
                  where p.table_name = $1 and (p.seq, p.ord) > ($2, $3) and (p.seq, p.ord) <= ($4, $5)
                    and ($8::int8[] is null or p.seq = any ($8))
                    and not exists (select from unnest($9::int8[], $10::int8[]) o(number, ord)
                                     where o.number = p.seq and o.ord >= p.ord)
                    and (p.seq, p.ord) not in (select a.seq, a.ord from unnest($6::int8[], $7::int8[]) a(seq, ord))
                 returning bytes)
             select coalesce(sum(bytes), 0)::int8 from gone",
            &[
                &name,
                &after.seq,
                &after.ord,
                &until.seq,
                &until.ord,
                &seqs,
                &ords,
                &numbers,
                &partitions,
                &offsets,
            ],
        )
        .await
        .map_err(failed)?;
    let bytes: i64 = row.try_get(0).map_err(failed)?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// The keys of rows that wait for a delete under their former key, by table.
pub async fn arriving(
    client: &impl GenericClient,
    connector: &str,
) -> Result<HashMap<TableName, Vec<i64>>> {
    let failed = |error| Error::warehouse("reading which rows wait for a delete", error);
    let query = "select table_name, key_hash from audit.pending
                  where connector = $1 and comes_from is not null and waits";
    let rows = client.query(query, &[&connector]).await.map_err(failed)?;
    let mut arriving: HashMap<TableName, Vec<i64>> = HashMap::new();
    for row in rows {
        let name: String = row.try_get(0).map_err(failed)?;
        if let Ok(table) = name.parse() {
            arriving.entry(table).or_default().push(row.try_get(1).map_err(failed)?);
        }
    }
    Ok(arriving)
}

/// The tables with kept changes that do not wait behind a dead letter or a delete, of partitions with these
/// numbers.
pub async fn kept(
    client: &impl GenericClient,
    connector: &str,
    numbers: Option<&[i64]>,
) -> Result<Vec<TableName>> {
    let failed = |error| Error::warehouse("reading which tables have kept changes", error);
    let query = "select distinct table_name from audit.pending
                  where connector = $1 and not waits and ($2::int8[] is null or seq = any ($2))";
    let rows = client.query(query, &[&connector, &numbers]).await.map_err(failed)?;
    let names = rows.iter().map(|row| row.try_get::<_, String>(0));
    let names: Vec<String> = names.collect::<Result<_, _>>().map_err(failed)?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

/// The bytes kept for all of a connector's tables.
pub async fn total(client: &impl GenericClient, connector: &str) -> Result<u64> {
    Ok(sizes(client, connector).await?.iter().map(|(_, bytes)| bytes).sum())
}

/// The bytes kept for each of a connector's tables.
pub async fn sizes(client: &impl GenericClient, connector: &str) -> Result<Vec<(TableName, u64)>> {
    let failed = |error| Error::warehouse("measuring the kept changes", error);
    let rows = client
        .query(
            "select table_name, sum(bytes)::int8 from audit.pending where connector = $1 group by 1",
            &[&connector],
        )
        .await
        .map_err(failed)?;
    let mut sizes = Vec::new();
    for row in rows {
        let (name, bytes): (String, i64) = (row.get(0), row.get(1));
        if let Ok(table) = name.parse() {
            sizes.push((table, u64::try_from(bytes).unwrap_or(0)));
        }
    }
    Ok(sizes)
}

/// The refusal when the kept changes have reached their limit; `held` where tables are stopped or paused.
pub fn full(connector: &str, limit: u64, held: bool) -> Error {
    let what = format!("the changes kept for tables of {connector} have reached {limit} bytes");
    Error::new(Kind::Full, what).remedy(match held {
        true => {
            "mend the tables that /status shows as stopped and resume them, and those that are paused, or \
             raise pending.max_bytes"
        }
        false => "raise pending.max_bytes: no table is stopped, but tables that are read keep that much",
    })
}
