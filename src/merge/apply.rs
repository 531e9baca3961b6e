//! Applies a batch inside a transaction that somebody else opened and will end: what comes before the
//! rows, then each table's rows, staged and merged.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Statement, Transaction};

use super::copy::copy_in;
use super::deferred::Deferred;
use super::looks::placed;
use super::raw::encode_raw;
use super::render::{Form, Templates};
use super::stage::{Shape, Staged, encode, encode_late, encode_left};
use super::staging::Staging;
use super::table::{Counts, Cut, Merge};
use crate::error::{Error, Kind, Result};
use crate::journey::{Applied, Arrival, Batch, Before, TableBatch, Target};
use crate::postgres::{Session, quote};
use crate::spec::{History, Model};
use crate::warehouse::{SOON, reshape};

/// A table's rows, encoded for COPY.
#[derive(Debug)]
pub struct Encoded {
    /// The table.
    pub target: Arc<Target>,
    /// How many events were folded into the rows.
    events: u64,
    rows: Rows,
    /// events that came behind later ones of their key
    late: Option<Staged>,
    /// the deletes of rows that go on under another key
    left: Option<Staged>,
}

#[derive(Debug)]
enum Rows {
    /// for the staging table
    Staged(Staged),
    /// for a raw table itself
    Raw { chunks: Vec<Bytes>, count: u64 },
}

/// A batch whose rows are encoded: what the merge takes.
#[derive(Debug)]
pub struct Piece {
    /// The batch, without its rows.
    pub batch: Batch,
    /// Its rows.
    pub tables: Vec<Encoded>,
    /// Which stored rows give way to its own.
    pub overrules: Overrules,
}

/// Which stored rows give way to those of a piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Overrules {
    /// Those that are not newer.
    #[default]
    Older,
    /// All: the rows were read. Of one that is gone nobody knows when it went.
    AllForRead,
    /// All: their events are told anew, each with its time.
    AllForTold,
}

/// Encodes a batch's rows. The work of a processor, done while another batch is merged.
pub fn encode_batch(mut batch: Batch) -> Result<Piece> {
    let tables = std::mem::take(&mut batch.tables);
    let tables = tables.into_iter().map(|table| Encoded::of(&table, &batch.name));
    Ok(Piece { tables: tables.collect::<Result<_>>()?, batch, overrules: Overrules::Older })
}

impl Encoded {
    /// Encodes a table's folded rows; `load_id` names the batch in raw tables.
    pub fn of(table: &TableBatch, load_id: &str) -> Result<Encoded> {
        let rows = match table.target.model.history {
            History::Raw => Rows::Raw {
                chunks: encode_raw(&table.target, &table.folded, load_id)?,
                count: u64::try_from(table.folded.rows.len()).unwrap_or(u64::MAX),
            },
            _ => Rows::Staged(encode(table)?),
        };
        let (target, events) = (table.target.clone(), table.folded.events);
        Ok(Encoded { target, events, rows, late: encode_late(table)?, left: encode_left(table)? })
    }

    /// The days whose leaves the rows need. `today` is the warehouse's, for raw tables.
    pub fn days(&self, today: i64) -> Vec<i64> {
        match &self.rows {
            // a transaction that begins before midnight may write behind it
            Rows::Raw { .. } => vec![today, today + 1],
            Rows::Staged(staged) => days_of(&self.target.model, staged),
        }
    }
}

/// The days whose leaves staged rows need.
pub(super) fn days_of(model: &Model, staged: &Staged) -> Vec<i64> {
    const DAY: i64 = 86_400_000_000;
    const YEAR: i64 = 366;
    match (model.history, staged.labels) {
        // a version ends at its label or a little behind: labels of one key never fall back
        (History::Versions, Some((first, last))) => {
            let (first, last) = (first.div_euclid(DAY), last.div_euclid(DAY));
            (first..=last).step_by(28).chain([last, last + YEAR]).collect()
        }
        (History::Versions, None) => Vec::new(),
        _ => staged.days.iter().copied().collect(),
    }
}

/// What a session keeps from batch to batch: staging tables and rendered statements.
pub struct Apply {
    templates: Templates,
    staging: Staging,
    merges: HashMap<(usize, Variant), Merge>,
    raw: HashMap<usize, Statement>,
    /// versions tables that the open transaction has touched, where it came in several pieces
    unsettled: BTreeMap<usize, Arc<Target>>,
    deferred: Deferred,
}

/// What a table's statements depend on beside the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Variant {
    pub(super) overrules: Overrules,
    pub(super) chains: bool,
}

impl Apply {
    /// Nothing staged, nothing rendered. A session that lost a transaction starts from here again.
    pub fn new(templates: Templates) -> Apply {
        Apply {
            templates,
            staging: Staging::default(),
            merges: HashMap::new(),
            raw: HashMap::new(),
            unsettled: BTreeMap::new(),
            deferred: Deferred::default(),
        }
    }

    /// The open transaction went back to a savepoint.
    pub fn rolled_back(&mut self) {
        self.staging.rolled_back();
        self.deferred.rolled_back();
    }

    /// Asks for what would be refused only at the commit.
    pub async fn check(&mut self, transaction: &Transaction<'_>) -> Result<()> {
        self.deferred.check(transaction).await
    }

    /// What a commit that failed means. Where a table defers what it did not when it was asked, the same again names
    /// the table, for then it is asked anew.
    pub async fn refused(&self, session: &Session, error: Error) -> Error {
        if error.kind() != Kind::Poison {
            return error;
        }
        match self.deferred.has_changed(&**session).await {
            Ok(true) => error.with_kind(Kind::Busy),
            Ok(false) => error,
            Err(lost) => lost,
        }
    }

    /// Ends a transaction that came in several pieces, where the last one could not tell.
    pub async fn end(
        &mut self,
        transaction: &Transaction<'_>,
        target: &Arc<Target>,
        seq: i64,
    ) -> Result<()> {
        self.unsettled.insert(target.index, target.clone());
        self.settle(transaction, seq).await
    }

    /// Applies a piece; what became of each table's rows, by the table's index.
    pub async fn piece(
        &mut self,
        transaction: &Transaction<'_>,
        piece: Piece,
    ) -> Result<Vec<(usize, Applied)>> {
        for before in &piece.batch.before {
            self.before(transaction, before).await?;
        }
        let overrules = piece.overrules;
        let cut = Cut { continues: piece.batch.continues, unfinished: piece.batch.unfinished };
        let mut applied = Vec::with_capacity(piece.tables.len());
        for table in piece.tables {
            let (index, target) = (table.target.index, table.target.clone());
            // what the same transaction emptied just before is seen as if it had not been
            let emptied = piece.batch.before.iter().any(
                |before| matches!(before, Before::Truncate { target, .. } if target.index == index),
            );
            let cut = Cut { continues: cut.continues || emptied, ..cut };
            applied.push((index, self.table(transaction, table, (cut, overrules)).await?));
            self.deferred.note(transaction, &target).await?;
            let in_order = target.arrival != Arrival::MayBeLate;
            if cut.unfinished != 0 && in_order && target.model.history == History::Versions {
                self.unsettled.insert(index, target);
            }
        }
        if piece.batch.ends {
            self.settle(transaction, piece.batch.last_seq).await?;
            self.check(transaction).await?;
        }
        Ok(applied)
    }

    /// Applies one table's rows.
    async fn table(
        &mut self,
        transaction: &Transaction<'_>,
        table: Encoded,
        (cut, overrules): (Cut, Overrules),
    ) -> Result<Applied> {
        let Encoded { target, events, rows, late, left } = table;
        match rows {
            Rows::Raw { chunks, count } => {
                let statement = self.raw_copy(transaction, &target).await?;
                copy_in(transaction, &statement, chunks).await.map_err(|e| failed(&target, e))?;
                Ok(Applied { events, staged: count, upserted: count, ..Applied::default() })
            }
            Rows::Staged(staged) => {
                let equal_keys = staged.deletes > 0 && target.has_loose_key();
                let versions = target.model.history == History::Versions;
                let may_be_late = versions && target.arrival == Arrival::MayBeLate;
                let chains = (staged.longest_chain > 1 || equal_keys)
                    && target.model.history == History::Versions;
                let counts = counts_of(&staged, events);
                let shape = Shape::of(&target);
                if let Some(left) = left {
                    self.staging.fill(transaction, &shape, left).await?;
                    let form = Variant { overrules, chains };
                    self.merge(transaction, &target, form).await?.left(transaction).await?;
                }
                self.staging
                    .fill(transaction, &shape, staged)
                    .await
                    .map_err(|error| error.on_table(target.model.table.to_string()))?;
                // of a topic any transaction may be cut: the rest of it comes as what is late does
                let cut = if may_be_late { Cut::default() } else { cut };
                let form = Variant { overrules, chains };
                let merge = self.merge(transaction, &target, form).await?;
                let mut applied = merge.run(transaction, counts, cut).await?;
                if may_be_late && applied.stale > 0 {
                    merge.late(transaction, &mut applied).await?;
                }
                if let Some(late) = late {
                    let counts = counts_of(&late, 0);
                    self.staging.fill(transaction, &shape, late).await?;
                    let merge = self.merge(transaction, &target, form).await?;
                    merge.late_apart(transaction, counts, &mut applied).await?;
                }
                Ok(applied)
            }
        }
    }

    /// The end of a transaction that came in several pieces.
    async fn settle(&mut self, transaction: &Transaction<'_>, seq: i64) -> Result<()> {
        for (_, target) in std::mem::take(&mut self.unsettled) {
            let form = Variant { overrules: Overrules::Older, chains: false };
            self.merge(transaction, &target, form).await?.settle(transaction, seq).await?;
        }
        Ok(())
    }

    async fn before(&mut self, transaction: &Transaction<'_>, before: &Before) -> Result<()> {
        match before {
            Before::Truncate { target, order, mark } => {
                let form = Variant { overrules: Overrules::Older, chains: false };
                let merge = self.merge(transaction, target, form).await?;
                merge.truncate(transaction, *order, *mark).await
            }
            Before::ReadAnew { target, seq, mark, told } => {
                let form = Variant { overrules: Overrules::Older, chains: false };
                let merge = self.merge(transaction, target, form).await?;
                merge.read_anew(transaction, *seq, (*mark, *told)).await
            }
            Before::Reshape { target, statements } => {
                let table = &target.model.table;
                reshape(transaction, &table.to_string(), (statements, SOON)).await.map_err(
                    |error| {
                        // a column of that name is there, left from one that was dropped, or in exchange
                        let taken = error.code() == Some(&SqlState::DUPLICATE_COLUMN);
                        let error = Error::warehouse("following a schema change", error)
                            .on_table(table.to_string())
                            .remedy(format!("siltstone table resync {table:#}"));
                        match taken {
                            // another member of the group has added it just now
                            true if target.arrival != Arrival::InOrder => {
                                error.with_kind(Kind::Busy)
                            }
                            true => error.with_kind(Kind::Reread),
                            false => error,
                        }
                    },
                )
            }
        }
    }

    pub(super) async fn merge(
        &mut self,
        transaction: &Transaction<'_>,
        target: &Arc<Target>,
        form: Variant,
    ) -> Result<&mut Merge> {
        let key = (target.index, form);
        let lookups = placed(transaction, &target.model).await?;
        let known = self
            .merges
            .get(&key)
            .is_some_and(|merge| Arc::ptr_eq(merge.target(), target) && merge.lookups() == lookups);
        if !known {
            let rendered = Form {
                stage: Staging::quoted(&Shape::of(target)),
                guard: form.overrules == Overrules::Older,
                dated: form.overrules != Overrules::AllForRead,
                chains: form.chains,
                range: None,
                lookups,
            };
            let merge =
                Merge::of_table(transaction, &self.templates, target.clone(), &rendered).await?;
            self.merges.insert(key, merge);
        }
        self.merges.get_mut(&key).ok_or_else(|| Error::bug("a merge that was made is missing"))
    }

    async fn raw_copy(
        &mut self,
        transaction: &Transaction<'_>,
        target: &Target,
    ) -> Result<Statement> {
        if let Some(statement) = self.raw.get(&target.index) {
            return Ok(statement.clone());
        }
        let statement = transaction.prepare(&raw_copy_text(&target.model)).await;
        let statement = statement.map_err(|error| failed(target, error))?;
        self.raw.insert(target.index, statement.clone());
        Ok(statement)
    }
}

/// The COPY into a raw table; its other columns have defaults.
pub(super) fn raw_copy_text(model: &Model) -> String {
    let table = quote::table(&model.table);
    format!("copy {table} (raw_data, source_system, load_id) from stdin with (format binary)")
}

pub(super) fn counts_of(staged: &Staged, events: u64) -> Counts {
    Counts {
        events,
        rows: staged.rows,
        deletes: staged.deletes,
        partial: staged.partial,
        moved: staged.moved,
        carried: staged.carried,
        reads: staged.reads,
        oldest: staged.oldest,
    }
}

fn failed(target: &Target, error: tokio_postgres::Error) -> Error {
    let table = &target.model.table;
    Error::warehouse("copying events", error)
        .on_table(table.to_string())
        .remedy(format!("mend the cause, then siltstone table resume {table:#}"))
}
