//! Rows of an extract on their way into a raw table: gathered page by page in a table of the session, then put in
//! the place of what an earlier attempt has brought of the same portion. A row that is as it was stays as it is.

use bytes::{BufMut, BytesMut};
use jiff::Timestamp;
use tokio_postgres::{Portal, Row, Transaction};

use super::copy::{CHUNK, HEADER, TRAILER, copy_in, put_value};
use crate::error::{Error, Result};
use crate::journey::Mark;
use crate::position::Order;
use crate::postgres::{Session, quote};
use crate::spec::Model;

/// jsonb's binary form is this version byte and the text.
const JSONB_VERSION: u8 = 1;

/// Rows of a page that are read again.
const ROWS: i32 = 2_000;

/// What rows are put into a raw table as.
#[derive(Clone, Copy, Debug)]
pub struct Extract<'e> {
    /// Which portion they are of.
    pub load_id: &'e str,
    /// Their order among other portions.
    pub seq: i64,
    /// The moment as of which they are told.
    pub as_of: Timestamp,
    /// The `ord` of those that are new or other than before.
    pub revision: i64,
    /// The number of their shape in `audit.schemas`, where they are of a table.
    pub schema: Option<i32>,
}

/// What became of the rows of an extract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// How many there are, each key once.
    pub rows: i64,
    /// How many of them are new or other than before.
    pub written: u64,
    /// How many that were there before are other now, or gone.
    pub removed: u64,
}

/// Rows that are gathered in a session.
pub struct Gathered {
    buffer: BytesMut,
    chunks: Vec<bytes::Bytes>,
    weight: usize,
}

impl Gathered {
    /// Begins with none.
    pub async fn begin(session: &Session) -> Result<Gathered> {
        let make = "drop table if exists pg_temp.siltstone_gathered;
                    create temporary table siltstone_gathered (
                        n bigint generated always as identity, key jsonb not null, after jsonb not null)";
        session.batch_execute(make).await.map_err(failed)?;
        Ok(Gathered { buffer: BytesMut::new(), chunks: Vec::new(), weight: 0 })
    }

    /// Takes a row by its documents; it is there once its page is.
    pub fn push(&mut self, key: &[u8], after: &[u8]) {
        if self.buffer.is_empty() && self.chunks.is_empty() {
            self.buffer.put_slice(HEADER);
        }
        self.buffer.put_i16(2);
        for document in [key, after] {
            // of what is written as it comes, the length is known before
            let mut value = Vec::with_capacity(document.len() + 1);
            value.push(JSONB_VERSION);
            value.extend_from_slice(document);
            put_value(&mut self.buffer, &value);
        }
        self.weight += key.len() + after.len();
        if self.buffer.len() >= CHUNK {
            self.chunks.push(self.buffer.split().freeze());
        }
    }

    /// How many bytes the rows have whose page is yet to come.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Brings the rows of a page to those before them.
    pub async fn page(&mut self, session: &mut Session) -> Result<()> {
        if self.buffer.is_empty() && self.chunks.is_empty() {
            return Ok(());
        }
        self.buffer.put_slice(&TRAILER);
        self.chunks.push(self.buffer.split().freeze());
        let chunks = std::mem::take(&mut self.chunks);
        self.weight = 0;
        let transaction = session.transaction().await.map_err(failed)?;
        let copy = "copy pg_temp.siltstone_gathered (key, after) from stdin with (format binary)";
        let statement = transaction.prepare(copy).await.map_err(failed)?;
        copy_in(&transaction, &statement, chunks).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)
    }

    /// Leaves of rows with one key the last: an API whose rows move while it is read tells some twice. How many were
    /// left out.
    pub async fn settle(&mut self, session: &Session) -> Result<u64> {
        let once = "delete from pg_temp.siltstone_gathered g
                     using (select key, max(n) as n from pg_temp.siltstone_gathered
                             group by key having count(*) > 1) l
                     where g.key = l.key and g.n < l.n";
        let left = session.execute(once, &[]).await.map_err(failed)?;
        session.batch_execute("analyze pg_temp.siltstone_gathered").await.map_err(failed)?;
        Ok(left)
    }

    /// Puts the rows in the place of what the raw table has of the portion.
    pub async fn replace(
        &self,
        transaction: &Transaction<'_>,
        raw: &Model,
        extract: &Extract<'_>,
    ) -> Result<Replaced> {
        let table = quote::table(&raw.table);
        let source = &raw.from.source;
        let failed = |error| failed(error).on_table(raw.table.to_string());
        let remove = format!(
            "delete from {table} t
              where t.source_system = $1 and t.load_id = $2
                and (t.raw_data->>'carried' is not null
                     or not exists (select from pg_temp.siltstone_gathered g
                                     where g.key = t.raw_data->'key' and g.after = t.raw_data->'after'))"
        );
        let removed =
            transaction.execute(&remove, &[source, &extract.load_id]).await.map_err(failed)?;
        let insert = format!(
            "insert into {table} (raw_data, source_system, load_id)
             select jsonb_build_object(
                        'op', 'r', 'key', g.key, 'before', null, 'after', g.after, 'unchanged', '[]'::jsonb,
                        'seq', $3::int8::text, 'ord', $4::int8, 'tx', null,
                        'committed_at', $5::timestamptz::text, 'schema', $6::int4), $1::text, $2::text
               from pg_temp.siltstone_gathered g
              where not exists (select from {table} t
                                 where t.source_system = $1 and t.load_id = $2
                                   and t.raw_data->'key' = g.key and t.raw_data->'after' = g.after)
              order by g.n"
        );
        let Extract { load_id, seq, as_of, revision, schema } = extract;
        let written = transaction
            .execute(&insert, &[source, load_id, seq, revision, as_of, schema])
            .await
            .map_err(failed)?;
        let count = "select count(*) from pg_temp.siltstone_gathered";
        let row = transaction.query_one(count, &[]).await.map_err(failed)?;
        Ok(Replaced { rows: row.try_get(0).map_err(failed)?, written, removed })
    }
}

/// A row that a raw table has of a portion.
#[derive(Debug)]
pub struct Kept {
    /// Its number there.
    pub id: i64,
    /// Its order.
    pub order: Order,
    /// When it is told to have been so.
    pub mark: Mark,
    /// Its values.
    pub after: serde_json::Map<String, serde_json::Value>,
}

/// The rows of a portion, page by page.
pub struct Portioned<'p> {
    portal: Portal,
    raw: &'p Model,
}

impl<'p> Portioned<'p> {
    /// Begins with the first one.
    pub async fn of(
        transaction: &Transaction<'_>,
        raw: &'p Model,
        load_id: &str,
    ) -> Result<Portioned<'p>> {
        let query = format!(
            "select r.id, (r.raw_data->>'seq')::int8, (r.raw_data->>'ord')::int8,
                    (extract(epoch from (r.raw_data->>'committed_at')::timestamptz) * 1000000)::int8
                        - 946684800000000::int8,
                    (r.raw_data->'after')::text
               from {} r
              where r.source_system = $1 and r.load_id = $2 and r.raw_data->>'carried' is null
              order by r.id",
            quote::table(&raw.table)
        );
        let portal = transaction.bind(&query, &[&raw.from.source, &load_id]).await;
        let portal = portal.map_err(|error| reading(raw, error))?;
        Ok(Portioned { portal, raw })
    }

    /// The next page; one without rows behind the last one.
    pub async fn next(&self, transaction: &Transaction<'_>) -> Result<Vec<Kept>> {
        let rows = transaction.query_portal(&self.portal, ROWS).await;
        let rows = rows.map_err(|error| reading(self.raw, error))?;
        rows.iter().map(|row| self.kept(row)).collect()
    }

    fn kept(&self, row: &Row) -> Result<Kept> {
        let failed = |error| reading(self.raw, error);
        let strange = || Error::bug(format!("{} has a strange row", self.raw.table));
        let (seq, after): (i64, String) =
            (row.try_get(1).map_err(failed)?, row.try_get(4).map_err(failed)?);
        let committed_at = row.try_get(3).map_err(failed)?;
        Ok(Kept {
            id: row.try_get(0).map_err(failed)?,
            order: Order { seq, ord: row.try_get(2).map_err(failed)? },
            mark: Mark { seq, committed_at, xid: 0 },
            after: serde_json::from_str(&after).map_err(|_| strange())?,
        })
    }
}

fn failed(error: tokio_postgres::Error) -> Error {
    Error::warehouse("gathering what was extracted", error)
}

fn reading(raw: &Model, error: tokio_postgres::Error) -> Error {
    Error::warehouse("reading what was extracted", error).on_table(raw.table.to_string())
}
