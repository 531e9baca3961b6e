//! Copies the rows of a first snapshot straight into their table: where it is empty, nothing can be in
//! the way, and nothing has to be merged.

use bytes::{BufMut, Bytes, BytesMut};
use tokio_postgres::Transaction;

use super::answers::{Answers, Asker, Asks};
use super::copy::{CHUNK, HEADER, TRAILER, put_value};
use super::stage::put_cell;
use super::stored::columns;
use crate::error::{Error, Result};
use crate::journey::Target;
use crate::position::Order;
use crate::postgres::quote;
use crate::spec::History;
use crate::value::Row;

/// What every row gets beside its own columns.
const OURS: usize = 3;

/// A COPY straight into a table.
#[derive(Clone, Debug)]
pub(super) struct Direct {
    /// The statement.
    pub(super) statement: String,
    /// The rows' `_synced_at`, microseconds since 2000-01-01 UTC by the warehouse's clock.
    synced_at: i64,
    /// how the rows are looked up
    asks: Option<Asks>,
}

impl Direct {
    /// The COPY of `target`'s rows, if they can go straight in: it is a plain upsert table, nothing is in
    /// their way, and every value travels in the type of its column. `beside`: the rows that are there
    /// are of other ranges.
    pub(super) async fn of(
        transaction: &Transaction<'_>,
        target: &Target,
        beside: bool,
    ) -> Result<Option<Direct>> {
        let model = &target.model;
        if model.history != History::Overwrite || model.partition.is_some() {
            return Ok(None);
        }
        let stored = columns(transaction, &model.table).await?;
        let mut names = Vec::new();
        for feed in &target.feeds {
            let Some(column) = model.columns.get(feed.column) else { return Ok(None) };
            let same = |stored: &&super::stored::StoredColumn| {
                let plain = !stored.generated && stored.name == column.name;
                plain && stored.is(feed.wire.staged_type())
            };
            if !stored.iter().any(|stored| same(&stored)) {
                return Ok(None);
            }
            names.push(column.name.as_str());
        }
        let table = model.quoted();
        let failed = |error| {
            Error::warehouse("looking whether it is empty", error).on_table(model.table.to_string())
        };
        let query = format!(
            "select not exists (select from {table}), \
             (extract(epoch from now()) * 1000000)::int8 - 946684800000000::int8"
        );
        let row = transaction.query_one(&query, &[]).await.map_err(failed)?;
        let (empty, synced_at): (bool, i64) =
            (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        if !empty && !beside {
            return Ok(None);
        }
        let columns = quote::idents(names);
        let asks = Asks::of(transaction, target, &stored).await?;
        let looked_up = asks.as_ref().map(Asks::list).unwrap_or_default();
        let statement = format!(
            "copy {table} ({columns}{looked_up}, _seq, _ord, _synced_at) from stdin with (format binary)"
        );
        Ok(Some(Direct { statement, synced_at, asks }))
    }

    /// What asks for what rows are looked up by, in a session of its own; none where nothing is.
    pub(super) fn asks(&self) -> Option<&Asks> {
        self.asks.as_ref()
    }
}

/// Encodes rows for such a COPY.
pub(super) struct DirectEncoder<'t> {
    frame: Frame<'t>,
    answers: Option<Answers>,
    buffer: BytesMut,
    chunks: Vec<Bytes>,
}

/// What all rows have in common.
#[derive(Clone, Copy)]
struct Frame<'t> {
    target: &'t Target,
    order: Order,
    synced_at: i64,
    /// how many columns they have
    columns: i16,
}

impl Frame<'_> {
    /// Appends a row, with the encoded answers of its lookups.
    fn put(&self, buffer: &mut BytesMut, row: Row<'_>, answers: &[u8]) -> Result<()> {
        buffer.put_i16(self.columns);
        let mut cells = row.cells().enumerate();
        for feed in &self.target.feeds {
            // feeds mostly follow the source's order, so that one pass finds every cell
            let next = cells.by_ref().find(|(at, _)| *at == feed.from);
            let cell = next.map_or_else(|| row.cell(feed.from), |(_, cell)| cell);
            put_cell(buffer, cell, feed.wire, self.target)?;
        }
        buffer.put_slice(answers);
        put_value(buffer, &self.order.seq.to_be_bytes());
        put_value(buffer, &self.order.ord.to_be_bytes());
        put_value(buffer, &self.synced_at.to_be_bytes());
        Ok(())
    }
}

impl<'t> DirectEncoder<'t> {
    pub(super) fn new(
        target: &'t Target,
        order: Order,
        direct: &Direct,
    ) -> Result<DirectEncoder<'t>> {
        let mut buffer = BytesMut::with_capacity(CHUNK + CHUNK / 4);
        buffer.put_slice(HEADER);
        let looked_up = direct.asks.as_ref().map_or(0, |asks| asks.names.len());
        let columns = i16::try_from(target.feeds.len() + looked_up + OURS);
        let columns = columns.map_err(|_| Error::bug("more columns than COPY has"))?;
        let frame = Frame { target, order, synced_at: direct.synced_at, columns };
        let answers = direct.asks.as_ref().map(Answers::new);
        Ok(DirectEncoder { frame, answers, buffer, chunks: Vec::new() })
    }

    pub(super) fn push(&mut self, row: Row<'_>) -> Result<()> {
        let answer = match &mut self.answers {
            Some(answers) => answers.of(row, self.frame.target)?,
            None => Some(Bytes::new()),
        };
        let Some(answer) = answer else { return Ok(()) };
        self.frame.put(&mut self.buffer, row, &answer)?;
        if self.buffer.len() >= CHUNK {
            self.chunks.push(self.buffer.split().freeze());
        }
        Ok(())
    }

    /// Whether enough rows wait for what they are looked up by.
    pub(super) fn waits(&self) -> bool {
        self.answers.as_ref().is_some_and(Answers::are_asked_for)
    }

    /// Appends the rows that wait.
    pub(super) async fn look_up(&mut self, asker: &mut Asker) -> Result<()> {
        let DirectEncoder { frame, answers, buffer, chunks } = self;
        let Some(answers) = answers else { return Ok(()) };
        let put = |row: Row<'_>, answer: &[u8]| {
            frame.put(buffer, row, answer)?;
            if buffer.len() >= CHUNK {
                chunks.push(buffer.split().freeze());
            }
            Ok(())
        };
        answers.ask(asker, put).await
    }

    pub(super) fn take(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.chunks)
    }

    pub(super) fn finish(mut self) -> Vec<Bytes> {
        self.buffer.put_slice(&TRAILER);
        self.chunks.push(self.buffer.freeze());
        self.chunks
    }
}
