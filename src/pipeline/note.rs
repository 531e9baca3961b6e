//! What is noted of a table in the control tables, in the transaction that changes its definition.

use tokio_postgres::Transaction;

use super::core::Reads;
use crate::error::Result;
use crate::merge;
use crate::names::TableName;
use crate::position::Lsn;
use crate::progress::feeds::{self, Feeder};
use crate::progress::holds::{self, Hold};
use crate::progress::parts::{self, What};
use crate::progress::{chunks, gaps, tables};
use crate::spec::Model;

/// What is noted of a table beside its definition.
#[derive(Clone, Copy)]
pub(super) enum Then<'a> {
    /// It is new; its rows are to be read if the connector reads any.
    Add { model: &'a Model, schema_id: i32, state: tables::State },
    /// It is new, and is made or adopted later: its changes are kept until then.
    Await { model: &'a Model, schema_id: i32 },
    /// It is new, and fed by a topic of this, unless another member of the group was first.
    AddFed { model: &'a Model, schema_id: i32, state: tables::State, by: &'a Feeder },
    /// Its records come by a topic of this, and came of the other before.
    FedBy(&'a Feeder, &'a Feeder),
    /// Its columns are fed so.
    Feeds(&'a str),
    /// Its rows are to be read.
    OpenChunk(tables::State),
    /// It is to be rebuilt from this raw table, or its rows are to be read.
    Rebuild(&'a TableName),
    /// A human is asked about the transaction of this `seq`.
    Ask(i64),
    /// What is read of it is to be read anew.
    ReadAnew,
    /// Nothing feeds it: should it be fed again, its rows are to be read.
    Shelve { reason: &'a str, remedy: Option<&'a str>, again: bool },
    /// It goes on with the changes from where it is published on (`Start::end_gaps`); what it missed is named.
    Gap,
    /// The same for a table that still has kept changes before it.
    NameGap,
    /// It goes on when nobody has a lock on it any more.
    Wait { reason: &'a str, remedy: &'a str },
    /// It cannot go on; `unread` if a change is lost but for its being read again.
    Stop { reason: &'a str, remedy: &'a str, unread: bool },
    /// It cannot be read again: what it has goes on, once a human has seen why.
    Refuse { reason: &'a str, remedy: &'a str },
    /// It refuses a row, which is looked for; where its rows are being read, it stops.
    Sift { reason: &'a str, remedy: &'a str },
    /// It has the shape of this number now.
    Shape(i32),
    /// It goes on.
    GoOn(tables::State),
    /// It was changed by the file of this digest; none once that was seen.
    MadeFor(Option<&'a str>),
}

impl Then<'_> {
    /// Whether the table is new to us.
    pub(super) fn is_new(&self) -> bool {
        matches!(self, Then::Add { .. } | Then::AddFed { .. } | Then::Await { .. })
    }

    /// Writes it down.
    pub(super) async fn note(
        self,
        transaction: &Transaction<'_>,
        reads: &Reads,
        table: &TableName,
    ) -> Result<()> {
        match self {
            Then::Add { model, schema_id, state } => {
                add(transaction, reads, (table, true), (model, schema_id), state).await?;
            }
            Then::Await { model, schema_id } => {
                let state = tables::State::Stopped;
                add(transaction, reads, (table, false), (model, schema_id), state).await?;
            }
            Then::AddFed { model, schema_id, state, by } => {
                feeds::release(transaction, &reads.connector, table).await?;
                add(transaction, reads, (table, true), (model, schema_id), state).await?;
                feeds::claim(transaction, table, (by, None)).await?;
            }
            Then::FedBy(by, known) => {
                feeds::claim(transaction, table, (by, Some(known))).await?;
            }
            Then::OpenChunk(state) => {
                chunks::open_table(transaction, table, state, None).await?;
            }
            Then::Rebuild(raw) => {
                parts::open(transaction, table, (What::Raw(raw), None), None).await?;
            }
            Then::Ask(seq) => tables::ask_about(transaction, table, seq).await?,
            Then::ReadAnew => chunks::ask_for_reading(transaction, table).await?,
            Then::Shelve { reason, remedy, again } => {
                shelve(transaction, reads, table, (reason, remedy, again)).await?;
            }
            Then::NameGap => {
                let now = reads.stored(transaction).await?;
                gaps::name(transaction, table, (now, None), "it was not published").await?;
            }
            Then::Gap => {
                let now = reads.stored(transaction).await?;
                gaps::note(transaction, table, (now, None), "nothing fed it").await?;
            }
            Then::Stop { reason, remedy, unread } => {
                let state = tables::State::Stopped;
                if unread {
                    chunks::ask_for_reading(transaction, table).await?;
                }
                tables::set(transaction, table, state, Some(reason), Some(remedy)).await?;
            }
            Then::Refuse { reason, remedy } => refuse(transaction, table, (reason, remedy)).await?,
            Then::Wait { reason, remedy } => {
                let waits = (tables::State::Stopped, Some(Hold::Locked));
                holds::set(transaction, table, waits, Some(reason), Some(remedy)).await?;
            }
            Then::Sift { reason, remedy } => {
                if !tables::sift(transaction, table, reason).await? {
                    let state = tables::State::Stopped;
                    tables::set(transaction, table, state, Some(reason), Some(remedy)).await?;
                }
            }
            Then::Shape(schema_id) => {
                tables::set_schema(transaction, table, schema_id).await?;
            }
            Then::Feeds(noted) => feeds::set(transaction, table, noted).await?,
            Then::MadeFor(digest) => tables::set_made_for(transaction, table, digest).await?,
            Then::GoOn(state) => tables::set(transaction, table, state, None, None).await?,
        }
        Ok(())
    }
}

/// Takes back that a table of topics is read again. Its changes were kept since it was asked for: it misses nothing
/// but what was lost before.
async fn refuse(
    transaction: &Transaction<'_>,
    table: &TableName,
    (reason, remedy): (&str, &str),
) -> Result<()> {
    let state = tables::State::Stopped;
    let Some(lost) = chunks::withdraw(transaction, &table.to_string()).await?.lost else {
        return tables::set(transaction, table, state, Some(reason), Some(remedy)).await;
    };
    gaps::name(transaction, table, (Lsn(0), Some(Lsn(0))), &lost).await?;
    let reason = format!("{lost}; and {reason}");
    tables::set(transaction, table, state, Some(&reason), Some(remedy)).await
}

async fn shelve(
    transaction: &Transaction<'_>,
    reads: &Reads,
    table: &TableName,
    (reason, remedy, again): (&str, Option<&str>, bool),
) -> Result<()> {
    let shelved = (tables::State::Paused, Some(Hold::Unfed));
    if again {
        return holds::set(transaction, table, shelved, Some(reason), remedy).await;
    }
    chunks::open_table(transaction, table, shelved.0, Some(reason)).await?;
    holds::set(transaction, table, shelved, Some(reason), remedy).await?;
    // where a gap begins, should the table keep events
    let now = reads.stored(transaction).await?;
    tables::set_floor(transaction, table, now).await
}

async fn add(
    transaction: &Transaction<'_>,
    reads: &Reads,
    of: (&TableName, bool),
    (model, schema_id): (&Model, i32),
    state: tables::State,
) -> Result<()> {
    tables::add(transaction, &reads.connector, of, &model.from.table, schema_id).await?;
    feeds::set(transaction, of.0, &merge::feeds(model)).await?;
    // in the same transaction: a table without it would count as read
    match reads.rows {
        true => chunks::open_table(transaction, of.0, state, None).await,
        false => Ok(()),
    }
}
