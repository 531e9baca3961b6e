//! Reads a table's rows under an exported snapshot, by binary COPY.
//!
//! Every value comes in the form in which the stream would bring it, so that the same code takes both.

use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use tokio_postgres::error::SqlState;
use tokio_postgres::{CopyOutStream, IsolationLevel, Transaction};

use crate::error::{Error, Kind, Result};
use crate::journey::Seen;
use crate::names::TableName;
use crate::position::Lsn;
use crate::postgres::{Session, quote};
use crate::relation::{Relation, Wire};
use crate::value::{Cell, RowWriter};

/// Opens a transaction that sees what an exported snapshot sees.
pub async fn under<'s>(source: &'s mut Session, snapshot: &str) -> Result<Transaction<'s>> {
    let failed = |error| Error::source("taking over a snapshot", error);
    let transaction = begin(source).await.map_err(failed)?;
    let snapshot = quote::literal(snapshot);
    let set = format!("set transaction snapshot {snapshot}; {FORM}");
    transaction.batch_execute(&set).await.map_err(|error| {
        // the connection that holds the snapshot is gone: another one will do
        let gone = error.code() == Some(&SqlState::INVALID_PARAMETER_VALUE);
        let error = failed(error);
        if gone { error.with_kind(Kind::SourceAway) } else { error }
    })?;
    Ok(transaction)
}

/// What the snapshot of a transaction has seen that was `taken_at` a time of the source's clock; `log` is where the log
/// was before, and its point.
pub async fn seen(transaction: &Transaction<'_>, log: (Lsn, Lsn), taken_at: i64) -> Result<Seen> {
    let failed = |error| Error::source("asking what a snapshot has seen", error);
    let query = "select pg_snapshot_xmax(s)::text::int8,
                        array(select open::text::int8 from pg_snapshot_xip(s) open)
                   from pg_current_snapshot() s";
    let row = transaction.query_one(query, &[]).await.map_err(failed)?;
    let open: Vec<i64> = row.try_get(1).map_err(failed)?;
    Ok(Seen::new(log, taken_at, (row.try_get(0).map_err(failed)?, &open)))
}

/// Opens a transaction that sees what was committed when it began to look, and nothing of what comes then.
pub async fn of_now(source: &mut Session) -> Result<Transaction<'_>> {
    let failed = |error| Error::source("taking a snapshot", error);
    let transaction = begin(source).await.map_err(failed)?;
    transaction.batch_execute(FORM).await.map_err(failed)?;
    Ok(transaction)
}

async fn begin(source: &mut Session) -> Result<Transaction<'_>, tokio_postgres::Error> {
    let transaction = source.build_transaction().isolation_level(IsolationLevel::RepeatableRead);
    transaction.read_only(true).start().await
}

/// In which form rows come. A policy on a table must make the read fail, not hide rows; bytes of no encoding are
/// looked at by us.
const FORM: &str = "set local row_security to off; \
    select set_config('client_encoding', case current_setting('server_encoding') \
                      when 'SQL_ASCII' then 'SQL_ASCII' else 'UTF8' end, true)";

/// Locks a table against being rewritten and checks that it was not, since the snapshot was taken: a
/// rewritten table looks empty to an older snapshot (PostgreSQL documentation, "Caveats" of MVCC). So does one that
/// was made and filled since, and has taken the table's name or a place among its leaves meanwhile.
/// Returns whether the snapshot may be used for it.
pub async fn is_readable(transaction: &Transaction<'_>, relation: &Relation) -> Result<bool> {
    let failed =
        |error| Error::source(format!("locking {} for its snapshot", relation.table), error);
    // LOCK asks for the right to read all columns, some of which may be excluded
    let lock = format!("select from {} limit 0", quote::table(&relation.table));
    let locked = transaction.batch_execute(&lock).await;
    locked.map_err(|error| unreadable("locking", relation, error))?;
    let row = transaction
        .query_opt(
            "select coalesce(bool_and(c.relfilenode is not distinct from pg_relation_filenode(c.oid)), true)
                    and to_regclass($2::text)::oid is not distinct from $1::oid
                    and not exists (select from pg_partition_tree($1) leaf
                                     where not exists (select from pg_class c where c.oid = leaf.relid))
               from pg_class c
              where c.relkind = 'r'
                and (c.oid = $1 or c.oid in (select relid from pg_partition_tree($1)))",
            &[&relation.oid, &quote::table(&relation.table)],
        )
        .await
        .map_err(failed)?;
    let same: Option<bool> = row.map(|row| row.try_get(0)).transpose().map_err(failed)?.flatten();
    Ok(same.unwrap_or(false))
}

/// A failure at a table's rows, with what to do where they may not be read.
fn unreadable(doing: &str, relation: &Relation, error: tokio_postgres::Error) -> Error {
    let denied = error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE);
    let error = Error::source(format!("{doing} {}", relation.table), error);
    if !denied {
        return error;
    }
    error.remedy(format!("{}; then siltstone table resync", right_to_read(&relation.table)))
}

/// What gives the right to read a table.
pub fn right_to_read(table: &TableName) -> String {
    let table = quote::table(table);
    format!(
        "grant select on {table} to the connector's role; where the table has row security, alter role … bypassrls"
    )
}

/// The rows that are read of a table: all, or those that a condition names.
#[derive(Clone, Copy, Debug)]
pub struct Part<'p> {
    /// Whether they are in leaves.
    pub partitioned: bool,
    /// A condition over the source's columns; none for all rows.
    pub condition: Option<&'p str>,
}

/// The condition of a range: from `lower` on, up to but without `upper`.
pub fn range(column: &str, lower: Option<&str>, upper: Option<&str>) -> String {
    let column = quote::ident(column);
    let lower = lower.map(|lower| format!("{column} >= {}", quote::literal(lower)));
    let upper = upper.map(|upper| format!("{column} < {}", quote::literal(upper)));
    let both: Vec<String> = lower.into_iter().chain(upper).collect();
    both.join(" and ")
}

/// Has the ranges of a transaction read by the index of their key: of a table without statistics, as one is that
/// was just filled, the planner takes the first range and the last for a third of it, and reads all of it.
pub async fn by_index(transaction: &Transaction<'_>) -> Result<()> {
    let set = transaction.batch_execute("set local enable_seqscan to off").await;
    set.map_err(|error| Error::source("preparing to read a range", error))
}

/// The COPY that reads a relation's columns, in the forms of `wires`.
fn copy_text(relation: &Relation, wires: &[Wire], part: Part<'_>) -> String {
    let column = |(column, wire): (&crate::relation::Column, &Wire)| {
        let name = quote::ident(&column.name);
        match wire {
            Wire::Binary(_) => name,
            // what the type's output function writes, as the stream has it: a cast to text differs for
            // bool, inet and character; a composite with a null field is not `is not null`
            Wire::Text => {
                format!("case when {name} is distinct from null then format('%s', {name}) end")
            }
        }
    };
    let columns: Vec<String> = relation.columns.iter().zip(wires).map(column).collect();
    // an inheriting child publishes its own rows; a partitioned table has them in its leaves
    let only = if part.partitioned { "" } else { "only " };
    let condition = part.condition.map(|condition| format!(" where {condition}"));
    format!(
        "copy (select {} from {only}{}{}) to stdout with (format binary)",
        columns.join(", "),
        quote::table(&relation.table),
        condition.unwrap_or_default()
    )
}

/// The rows of a table.
pub struct Rows {
    stream: std::pin::Pin<Box<CopyOutStream>>,
    wires: Vec<Wire>,
    buffer: BytesMut,
    started: bool,
    row: Vec<u8>,
}

/// Signature, flags and the length of the header's extension.
const HEADER: usize = 19;

/// Starts to read a relation's rows.
pub async fn read(
    transaction: &Transaction<'_>,
    relation: &Relation,
    wires: &[Wire],
    part: Part<'_>,
) -> Result<Rows> {
    let text = copy_text(relation, wires, part);
    let stream = transaction.copy_out(&text).await;
    let stream = stream.map_err(|error| unreadable("reading", relation, error))?;
    Ok(Rows {
        stream: Box::pin(stream),
        wires: wires.to_vec(),
        buffer: BytesMut::new(),
        started: false,
        row: Vec::new(),
    })
}

impl Rows {
    /// The cells of the next row, in the layout of [`crate::value::Row`]; none behind the last one.
    pub async fn next(&mut self) -> Result<Option<&[u8]>> {
        loop {
            if !self.started && self.buffer.len() >= HEADER {
                self.buffer.advance(HEADER);
                self.started = true;
            }
            if self.started {
                match self.parse()? {
                    Parsed::Row => return Ok(Some(&self.row)),
                    Parsed::End => return Ok(None),
                    Parsed::Incomplete => {}
                }
            }
            let chunk: Option<Result<Bytes, _>> = self.stream.next().await;
            match chunk {
                None => return Err(cut()),
                Some(chunk) => {
                    let chunk = chunk.map_err(|error| Error::source("reading rows", error))?;
                    self.buffer.extend_from_slice(&chunk);
                }
            }
        }
    }

    fn parse(&mut self) -> Result<Parsed> {
        let mut rest = self.buffer.as_ref();
        let Some(count) = take::<2>(&mut rest).map(i16::from_be_bytes) else {
            return Ok(Parsed::Incomplete);
        };
        if count == -1 {
            return Ok(Parsed::End);
        }
        if usize::try_from(count).ok() != Some(self.wires.len()) {
            return Err(Error::bug("a snapshot row has another number of columns than its table"));
        }
        self.row.clear();
        let mut writer = RowWriter::new(&mut self.row);
        for wire in &self.wires {
            let Some(length) = take::<4>(&mut rest).map(i32::from_be_bytes) else {
                return Ok(Parsed::Incomplete);
            };
            let Ok(length) = usize::try_from(length) else {
                writer.push(Cell::Null);
                continue;
            };
            let Some((value, after)) = rest.split_at_checked(length) else {
                return Ok(Parsed::Incomplete);
            };
            rest = after;
            writer.push(match wire {
                Wire::Binary(_) => Cell::Binary(value),
                Wire::Text => Cell::Text(value),
            });
        }
        let used = self.buffer.len() - rest.len();
        self.buffer.advance(used);
        Ok(Parsed::Row)
    }
}

enum Parsed {
    Row,
    End,
    Incomplete,
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*head)
}

fn cut() -> Error {
    Error::new(Kind::SourceAway, "the source ended a snapshot's rows in the middle")
}
