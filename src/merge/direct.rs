//! Copies the rows of a first snapshot straight into their table: where it is empty, nothing can be in
//! the way, and nothing has to be merged.

use bytes::{BufMut, Bytes, BytesMut};
use tokio_postgres::Transaction;

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
        let (empty, synced_at) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        let columns = quote::idents(names);
        let statement = format!(
            "copy {table} ({columns}, _seq, _ord, _synced_at) from stdin with (format binary)"
        );
        Ok(if empty || beside { Some(Direct { statement, synced_at }) } else { None })
    }
}

/// Encodes rows for such a COPY.
pub(super) struct DirectEncoder<'t> {
    target: &'t Target,
    order: Order,
    synced_at: i64,
    buffer: BytesMut,
    chunks: Vec<Bytes>,
}

impl<'t> DirectEncoder<'t> {
    pub(super) fn new(target: &'t Target, order: Order, direct: &Direct) -> DirectEncoder<'t> {
        let mut buffer = BytesMut::with_capacity(CHUNK + CHUNK / 4);
        buffer.put_slice(HEADER);
        let synced_at = direct.synced_at;
        DirectEncoder { target, order, synced_at, buffer, chunks: Vec::new() }
    }

    pub(super) fn push(&mut self, row: Row<'_>) -> Result<()> {
        let columns = self.target.feeds.len() + OURS;
        let columns = i16::try_from(columns).map_err(|_| Error::bug("more columns than COPY has"));
        self.buffer.put_i16(columns?);
        let mut cells = row.cells().enumerate();
        for feed in &self.target.feeds {
            // feeds mostly follow the source's order, so that one pass finds every cell
            let next = cells.by_ref().find(|(at, _)| *at == feed.from);
            let cell = next.map_or_else(|| row.cell(feed.from), |(_, cell)| cell);
            put_cell(&mut self.buffer, cell, feed.wire, self.target)?;
        }
        put_value(&mut self.buffer, &self.order.seq.to_be_bytes());
        put_value(&mut self.buffer, &self.order.ord.to_be_bytes());
        put_value(&mut self.buffer, &self.synced_at.to_be_bytes());
        if self.buffer.len() >= CHUNK {
            self.chunks.push(self.buffer.split().freeze());
        }
        Ok(())
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
