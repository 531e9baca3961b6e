//! The hand-over types: what each stage gives to the next. They are the pipeline; who reads only
//! this file knows the system.
//!
//! capture → [`RawRecord`] → decode → [`ChangeEvent`] → fold → [`Batch`] → merge → [`Applied`] →
//! progress → [`Advanced`] → capture and refresh. Stages import this file and never each other; only
//! `pipeline` knows their order.

#![warn(missing_docs)]

mod held;
mod op;
mod record;
mod seen;
mod told;

use std::sync::Arc;

use crate::position::{Order, Positions};
use crate::relation::{Relation, Wire};
use crate::spec::Model;
use crate::types::Limit;
use crate::value::Row;

pub use held::{Digests, Held, Letter, Refused, read_headers, written_headers};
pub use op::Op;
pub use record::{RawRecord, TopicRecord};
pub use seen::{Seen, Sight};
pub use told::Told;

/// The transaction a change belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Where its commit record starts: the `seq` of all its changes.
    pub seq: i64,
    /// Its commit time, microseconds since 2000-01-01 UTC by the source's clock.
    pub committed_at: i64,
    /// Its transaction id at the source.
    pub xid: u32,
}

/// An old row, as far as the source sent it.
#[derive(Clone, Copy, Debug)]
pub struct OldRow<'a> {
    /// Its cells.
    pub row: Row<'a>,
    /// Whether it is the whole row; else all cells but the identity's are null and mean nothing.
    pub whole: bool,
}

/// decode → fold: a change of one row, or the emptying of one table.
#[derive(Clone, Debug)]
pub struct ChangeEvent<'a> {
    /// The table, in the shape it had then.
    pub relation: Arc<Relation>,
    /// What happened.
    pub op: Op,
    /// The old key or row, where one was sent.
    pub old: Option<OldRow<'a>>,
    /// The new row.
    pub new: Option<Row<'a>>,
    /// Its place in the order of the source.
    pub order: Order,
    /// Its transaction.
    pub mark: Mark,
    /// Whether the row goes on under another key, which another event tells.
    pub leaves: bool,
    /// Where it stands in the log it came by, in whose order changes are kept. Of a Postgres that is the
    /// order of its source; of a topic the partition's number and the offset.
    pub place: Order,
}

/// A warehouse table as one source relation feeds it. Remade when the relation changes shape.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its place in the session's list of tables.
    pub index: usize,
    /// What the table is.
    pub model: Arc<Model>,
    /// What feeds it.
    pub relation: Arc<Relation>,
    /// The relation's number in `audit.schemas`.
    pub schema_id: i32,
    /// Where the key's cells stand in a row of the relation, in the order of the model's key.
    pub key: Vec<usize>,
    /// How each column of the relation arrives.
    pub wires: Vec<Wire>,
    /// The columns that are fed, in the model's order.
    pub feeds: Vec<Feed>,
    /// What columns of the warehouse table take, by their place among the model's.
    pub limits: Vec<(usize, Limit)>,
    /// In which order its changes come.
    pub arrival: Arrival,
    /// What its rows have of them, where they were read again while topics feed it.
    pub seen: Option<Arc<Seen>>,
}

/// In which order the changes of a table come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Arrival {
    /// In that of the source, each once.
    #[default]
    InOrder,
    /// Each tells its order, but may come late or again.
    MayBeLate,
    /// In that of the topic: which of two is the newer cannot be told.
    Untold,
}

impl Target {
    /// The target, standing as another one of its table did.
    #[must_use]
    pub fn standing_as(self, other: &Target) -> Target {
        let seen = other.seen.clone();
        Target { arrival: other.arrival, seen, ..self }.with_limits(other.limits.clone())
    }

    /// The target with other limits, but for those that the source has too.
    #[must_use]
    pub fn with_limits(self, limits: Vec<(usize, Limit)>) -> Target {
        let same = |(column, limit): &(usize, Limit)| {
            let feed = self.feeds.iter().find(|feed| feed.column == *column);
            let source = feed.and_then(|feed| self.relation.columns.get(feed.from));
            let declared = source.and_then(|source| source.ty.base_name());
            declared.and_then(Limit::of_type) == Some(*limit)
        };
        let limits = limits.into_iter().filter(|limit| !same(limit)).collect();
        Target { limits, ..self }
    }

    /// Why the warehouse would refuse a row, as far as it can be told.
    pub fn refuses(&self, row: Row<'_>) -> Option<String> {
        self.limits.iter().find_map(|(column, limit)| {
            let feed = self.feeds.iter().find(|feed| feed.column == *column)?;
            let why = limit.refuses(row.cell(feed.from), feed.wire)?;
            let name = self.model.columns.get(*column).map_or("", |column| column.name.as_str());
            Some(format!("its {name} {why}"))
        })
    }

    /// The model's columns that the source does not have (any more).
    pub fn unfed(&self) -> Vec<String> {
        let fed = |n: usize| self.feeds.iter().any(|feed| feed.column == n);
        let columns = self.model.columns.iter().enumerate().filter(|(n, _)| !fed(*n));
        columns.map(|(_, column)| column.name.clone()).collect()
    }

    /// Whether equal keys may be written differently, so that rows of one key go by several.
    pub fn has_loose_key(&self) -> bool {
        let column = |at: &usize| self.relation.columns.get(*at);
        self.key.iter().filter_map(column).any(|column| !column.ty.is_exact())
    }
}

/// A column of a target and the relation's column that feeds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feed {
    /// Its place among the model's columns.
    pub column: usize,
    /// The place of its cell in a row of the relation.
    pub from: usize,
    /// How its values arrive.
    pub wire: Wire,
}

/// What becomes of a table's changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// They are merged.
    Live,
    /// They are kept in `audit.pending`.
    Hold,
}

/// Where a relation's changes go.
#[derive(Clone, Debug)]
pub struct Route {
    /// The table.
    pub target: Arc<Target>,
    /// What becomes of the changes.
    pub flow: Flow,
    /// Changes with a lower `seq` are already in the table: its snapshot was taken behind them.
    pub floor: i64,
}

/// A run of bytes in an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it starts.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
}

/// A table's folded changes. Rows lie in one arena, so that a batch of any size is few allocations.
#[derive(Debug, Default)]
pub struct Folded {
    /// What the rows' spans point into.
    pub arena: Vec<u8>,
    /// The rows: one a key, one a version, or one an event, by the table's history.
    pub rows: Vec<FoldedRow>,
    /// Where history is kept, events that came behind later ones of their key.
    pub late: Vec<FoldedRow>,
    /// The deletes of rows that go on under another key, beside `rows`: what follows under their own key
    /// must not hide them from the row's next place.
    pub left: Vec<FoldedRow>,
    /// How many events were folded into them.
    pub events: u64,
}

/// One row to stage.
#[derive(Clone, Copy, Debug)]
pub struct FoldedRow {
    /// The last thing that happened to it.
    pub op: Op,
    /// Its key's cells.
    pub key: Span,
    /// The key under which the warehouse holds the values of its unchanged cells, where that is
    /// another: the row moved in this batch.
    pub origin: Option<Span>,
    /// Its image; none when it was deleted.
    pub image: Option<Span>,
    /// Its old image: in event logs, and of a row that goes on under another key.
    pub before: Option<Span>,
    /// Its place in the order of the source.
    pub order: Order,
    /// When each cell of its image was told, where one is older than the row; only of changes that may come late.
    pub told: Option<Span>,
    /// The transaction of the last event.
    pub mark: Mark,
    /// Whether its image has unchanged cells.
    pub unchanged: bool,
    /// Whether it goes on under another key, to which its values are to be carried.
    pub leaves: bool,
    /// In a versions table its place in the key's chain, from 1; in a table without key the number
    /// of equal rows that came (positive) or went (negative).
    pub count: i32,
}

impl Folded {
    /// The bytes of a span.
    pub fn bytes(&self, span: Span) -> &[u8] {
        self.arena.get(span.start..span.end).unwrap_or_default()
    }

    /// The row of a span.
    pub fn row(&self, span: Span) -> Row<'_> {
        Row::from_bytes(self.bytes(span))
    }
}

/// A table's part of a batch.
#[derive(Debug)]
pub struct TableBatch {
    /// The table.
    pub target: Arc<Target>,
    /// Its changes.
    pub folded: Folded,
}

/// What must be done to tables before a batch's rows are merged, in this order.
#[derive(Clone, Debug)]
pub enum Before {
    /// The table was emptied at the source.
    Truncate {
        /// The table.
        target: Arc<Target>,
        /// The order of the event.
        order: Order,
        /// Its transaction.
        mark: Mark,
    },
    /// A first reading of a topic's table began: what one before it had brought is void.
    ReadAnew {
        /// The table.
        target: Arc<Target>,
        /// The `seq` of what is read now.
        seq: i64,
        /// Its transaction.
        mark: Mark,
        /// Whether the source tells when that began.
        told: bool,
    },
    /// The source table changed shape: statements that make the warehouse table follow.
    Reshape {
        /// The table in its new shape.
        target: Arc<Target>,
        /// The statements.
        statements: Vec<String>,
    },
}

/// The stretch of a log's partition that a batch covers: behind `after`, up to `until`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The partition, as [`Positions`] name it.
    pub partition: Arc<str>,
    /// The position that must be stored when the batch begins.
    pub after: i64,
    /// The position that is stored when it is committed.
    pub until: i64,
    /// What has to be known of the records before, as JSON, where it is something else now.
    pub memory: Option<String>,
}

/// fold → merge: a window over all tables.
#[derive(Debug)]
pub struct Batch {
    /// What it covers; of one that does not end, nothing yet.
    pub stretches: Vec<Stretch>,
    /// What raw rows are marked with: where it ends, as people read it.
    pub name: String,
    /// False while a larger transaction goes on: the warehouse transaction stays open, and progress
    /// moves at the end.
    pub ends: bool,
    /// Whether its first transaction began in the batch before.
    pub continues: bool,
    /// The `seq` of the transaction that goes on behind it; 0 where it ends.
    pub unfinished: i64,
    /// The `seq` of the last transaction in it.
    pub last_seq: i64,
    /// The version of the routes it was folded under.
    pub routing: u64,
    /// What comes before the rows.
    pub before: Vec<Before>,
    /// The rows, by table.
    pub tables: Vec<TableBatch>,
    /// What goes to `audit.pending`.
    pub held: Vec<Held>,
    /// How many source transactions it completes.
    pub transactions: u64,
    /// The commit time of the last one, microseconds since 2000-01-01 UTC.
    pub committed_at: i64,
}

impl Batch {
    /// Whether it changes nothing but the position.
    pub fn is_empty(&self) -> bool {
        self.before.is_empty() && self.tables.is_empty() && self.held.is_empty()
    }
}

/// merge → progress: what became of a table's rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Events folded into the batch.
    pub events: u64,
    /// Rows staged.
    pub staged: u64,
    /// Rows inserted or overwritten.
    pub upserted: u64,
    /// Rows deleted.
    pub deleted: u64,
    /// Versions closed.
    pub closed: u64,
    /// Versions opened.
    pub opened: u64,
    /// Rows dropped because a newer one was there.
    pub stale: u64,
}

impl Applied {
    /// Adds what became of more rows.
    pub fn add(&mut self, more: &Applied) {
        self.events += more.events;
        self.staged += more.staged;
        self.upserted += more.upserted;
        self.deleted += more.deleted;
        self.closed += more.closed;
        self.opened += more.opened;
        self.stale += more.stale;
    }
}

/// progress → capture and refresh: what is durable.
#[derive(Clone, Debug)]
pub struct Advanced {
    /// The stored positions; capture may confirm them.
    pub positions: Positions,
    /// When its last transaction was committed at the source.
    pub committed_at: i64,
    /// How many source transactions came with it.
    pub transactions: u64,
    /// What became of each table's rows, by the table's index.
    pub tables: Vec<(usize, Applied)>,
}
