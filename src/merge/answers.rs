//! What rows of a first snapshot are looked up by, and what that answers: they go straight into their table, so each
//! combination is asked once beside the COPY, and rows wait for it, many together.

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};
use tokio_postgres::Transaction;
use tokio_postgres::types::{FromSql, Type};

use super::copy::{HEADER, TRAILER, copy_in, put_value};
use super::looks::{called, filling, inputs, later, looked_up, placed, unanswered};
use super::stage::{Shape, put_cell};
use super::stored::StoredColumn;
use crate::error::{Error, Result};
use crate::journey::Target;
use crate::postgres::{Session, quote};
use crate::relation::Wire;
use crate::spec::Model;
use crate::value::Row;

/// So many rows, or bytes of them, wait at most.
const ROWS: usize = 4_000;
const BYTES: usize = 4 << 20;

/// So many bytes of answers are kept, with what they were asked by; then they are asked for anew.
const KEPT: usize = 16 << 20;

/// What an answer takes beside its bytes.
const EACH: usize = 128;

/// The table of a session in which is asked.
const TABLE: &str = "pg_temp.siltstone_asked";

/// How rows of a target are looked up.
#[derive(Clone, Debug)]
pub(super) struct Asks {
    /// The columns that are looked up.
    pub names: Vec<String>,
    /// Where in a row of the relation the values stand by which they are, and how they arrive.
    by: Vec<(usize, Wire)>,
    /// Makes the table in which is asked.
    create: String,
    copy: String,
    fill: String,
    read: String,
}

impl Asks {
    /// How the rows of a target are looked up; none where nothing is, or not before they are there.
    pub(super) async fn of(
        transaction: &Transaction<'_>,
        target: &Target,
        stored: &[StoredColumn],
    ) -> Result<Option<Asks>> {
        let model = &target.model;
        let placed = placed(transaction, model).await?;
        let lookups = looked_up(target, stored, &placed);
        if lookups.is_empty() {
            return Ok(None);
        }
        let Some(inputs) = inputs(target, stored, &lookups) else {
            let marked = transaction.execute(&later(model), &[]).await;
            marked.map_err(|error| {
                Error::warehouse("marking its rows", error).on_table(model.table.to_string())
            })?;
            return Ok(None);
        };
        let shape = Shape::of(target);
        let feeds = target.feeds.iter().enumerate().filter(|(_, feed)| {
            let column = model.columns.get(feed.column);
            column.is_some_and(|column| inputs.iter().any(|input| input.name == column.name))
        });
        let feeds: Vec<_> = feeds.collect();
        let staged = |n: usize| shape.columns.get(n).copied().unwrap_or("text");
        let define = feeds.iter().map(|(n, _)| format!("c{n} pg_catalog.{:?}", staged(*n)));
        let define = define.chain(lookups.iter().map(|(n, lookup)| format!("l{n} {}", lookup.ty)));
        let asked: Vec<String> = feeds.iter().map(|(n, _)| format!("c{n}")).collect();
        let answer = |(n, lookup): &(usize, &crate::spec::Lookup)| {
            let stored = stored.iter().find(|stored| stored.name == lookup.name);
            stored.map_or(format!("s.l{n}"), |stored| stored.cast(&format!("s.l{n}"), ""))
        };
        let answers: Vec<String> = lookups.iter().map(answer).collect();
        let places: Vec<_> = lookups.iter().map(|(n, lookup)| (*lookup, format!("l{n}"))).collect();
        Ok(Some(Asks {
            names: lookups.iter().map(|(_, lookup)| lookup.name.clone()).collect(),
            by: feeds.iter().map(|(_, feed)| (feed.from, feed.wire)).collect(),
            create: format!(
                "set lock_timeout to '10s'; create temp table {} (n int8, {})",
                TABLE.trim_start_matches("pg_temp."),
                define.collect::<Vec<_>>().join(", ")
            ),
            copy: format!("copy {TABLE} (n, {}) from stdin with (format binary)", asked.join(", ")),
            fill: called(&filling(TABLE, "true", &inputs, &places)),
            read: format!("select {} from {TABLE} s order by s.n", answers.join(", ")),
        }))
    }

    /// The columns, quoted, each behind a comma.
    pub(super) fn list(&self) -> String {
        self.names.iter().map(|name| format!(", {}", quote::ident(name))).collect()
    }
}

/// Asks the warehouse what rows are looked up by.
pub struct Asker {
    session: Session,
    model: std::sync::Arc<Model>,
    asks: Asks,
    copy: tokio_postgres::Statement,
    read: tokio_postgres::Statement,
}

impl Asker {
    /// Asks in a session of its own: that of the COPY is busy.
    pub(super) async fn open(session: Session, target: &Target, asks: &Asks) -> Result<Asker> {
        let failed = |error| {
            Error::warehouse("preparing to look rows up", error)
                .on_table(target.model.table.to_string())
        };
        session.batch_execute(&asks.create).await.map_err(failed)?;
        let copy = session.prepare(&asks.copy).await.map_err(failed)?;
        let read = session.prepare(&asks.read).await.map_err(failed)?;
        Ok(Asker { session, model: target.model.clone(), asks: asks.clone(), copy, read })
    }

    /// The answers, encoded for COPY, in the order of what is asked.
    async fn ask(&mut self, asked: &[BytesMut]) -> Result<Vec<Bytes>> {
        let mut stream = BytesMut::new();
        stream.put_slice(HEADER);
        let columns = i16::try_from(self.asks.by.len() + 1);
        let columns = columns.map_err(|_| Error::bug("more columns than COPY has"))?;
        for (n, values) in (0_i64..).zip(asked) {
            stream.put_i16(columns);
            put_value(&mut stream, &n.to_be_bytes());
            stream.put_slice(values);
        }
        stream.put_slice(&TRAILER);
        let (names, model) = (&self.asks.names, &self.model);
        let failed = |error| {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            unanswered(model, &names, error)
        };
        let transaction = self.session.transaction().await.map_err(failed)?;
        transaction.batch_execute(&format!("delete from {TABLE}")).await.map_err(failed)?;
        copy_in(&transaction, &self.copy, [stream.freeze()]).await.map_err(failed)?;
        transaction.batch_execute(&self.asks.fill).await.map_err(failed)?;
        let rows = transaction.query(&self.read, &[]).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        let mut answers = Vec::with_capacity(rows.len());
        for row in &rows {
            let mut answer = BytesMut::new();
            for column in 0..row.len() {
                match row.try_get::<_, Option<Raw<'_>>>(column).map_err(failed)? {
                    Some(Raw(value)) => put_value(&mut answer, value),
                    None => answer.put_i32(-1),
                }
            }
            answers.push(answer.freeze());
        }
        Ok(answers)
    }
}

/// A value as it travels.
struct Raw<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(
        _: &Type,
        raw: &'a [u8],
    ) -> std::result::Result<Raw<'a>, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Raw(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// The answers that are known, and the rows that wait for others.
#[derive(Default)]
pub(super) struct Answers {
    by: Vec<(usize, Wire)>,
    known: HashMap<BytesMut, Bytes>,
    known_bytes: usize,
    /// what is yet to be asked, by its number
    unknown: HashMap<BytesMut, usize>,
    /// the bytes of the rows that wait, where each ends, and which answer it waits for
    rows: Vec<u8>,
    waiting: Vec<(usize, usize)>,
    key: BytesMut,
}

impl Answers {
    pub(super) fn new(asks: &Asks) -> Answers {
        Answers { by: asks.by.clone(), ..Answers::default() }
    }

    /// The answer for a row; none where it waits for it now.
    pub(super) fn of(&mut self, row: Row<'_>, target: &Target) -> Result<Option<Bytes>> {
        self.key.clear();
        for (from, wire) in &self.by {
            put_cell(&mut self.key, row.cell(*from), *wire, target)?;
        }
        if let Some(answer) = self.known.get(&self.key) {
            return Ok(Some(answer.clone()));
        }
        let next = self.unknown.len();
        let number = match self.unknown.get(&self.key) {
            Some(number) => *number,
            None => *self.unknown.entry(self.key.clone()).or_insert(next),
        };
        self.rows.extend_from_slice(row.bytes());
        self.waiting.push((self.rows.len(), number));
        Ok(None)
    }

    /// Whether enough rows wait.
    pub(super) fn are_asked_for(&self) -> bool {
        self.waiting.len() >= ROWS || self.rows.len() >= BYTES
    }

    /// Asks for what rows wait for; they are then `told`, each with its answer.
    pub(super) async fn ask(
        &mut self,
        asker: &mut Asker,
        mut told: impl FnMut(Row<'_>, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut unknown: Vec<(BytesMut, usize)> = self.unknown.drain().collect();
        unknown.sort_unstable_by_key(|(_, number)| *number);
        let asked: Vec<BytesMut> = unknown.into_iter().map(|(key, _)| key).collect();
        let answers = if asked.is_empty() { Vec::new() } else { asker.ask(&asked).await? };
        let mut start = 0;
        for (end, number) in self.waiting.drain(..) {
            let row = Row::from_bytes(self.rows.get(start..end).unwrap_or_default());
            let answer = answers.get(number);
            told(row, answer.ok_or_else(|| Error::bug("a row has no answer"))?)?;
            start = end;
        }
        self.rows.clear();
        for (asked, answer) in asked.into_iter().zip(answers) {
            self.known_bytes += asked.len() + answer.len() + EACH;
            if self.known_bytes > KEPT {
                self.known.clear();
                self.known_bytes = asked.len() + answer.len() + EACH;
            }
            self.known.insert(asked, answer);
        }
        Ok(())
    }
}
