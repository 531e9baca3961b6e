//! Merges one table's staged rows into it, by its history. The statements are in `sql/merge`; here is
//! their order, and which of them a batch can do without.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement, Transaction};

use super::render::{Form, Statements, Templates, render};
use super::stored::{StoredColumn, columns};
use crate::error::{Error, Kind, Result};
use crate::journey::{Applied, Arrival, Target};
use crate::position::Order;
use crate::spec::{Deletes, History, Lookup};

/// What a batch of staged rows asks of the merge.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// Events folded into the rows.
    pub events: u64,
    /// Staged rows.
    pub rows: u64,
    /// Rows that say a delete.
    pub deletes: u64,
    /// Rows with unchanged columns.
    pub partial: u64,
    /// Rows with values that are older than they are.
    pub carried: u64,
    /// Rows whose unchanged columns are stored under another key.
    pub moved: u64,
    /// Rows that a snapshot read.
    pub reads: u64,
    /// The oldest order of a row that is not a delete.
    pub oldest: Option<Order>,
}

/// Where the batch's first and last transaction stand.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cut {
    /// The first transaction began in the batch before.
    pub continues: bool,
    /// The `seq` of a transaction that goes on behind the batch; 0 if none does.
    pub unfinished: i64,
}

/// The statements of one target in one form, prepared as they are first used.
pub(super) struct Merge {
    target: Arc<Target>,
    statements: Statements,
    lookups: Vec<Lookup>,
    prepared: HashMap<String, Statement>,
}

impl Merge {
    /// Renders the statements of a target; its table is there.
    pub(super) fn new(
        templates: &Templates,
        target: Arc<Target>,
        stored: &[StoredColumn],
        form: &Form,
    ) -> Result<Merge> {
        let statements = render(templates, &target, stored, form)?;
        let lookups = form.lookups.clone();
        Ok(Merge { target, statements, lookups, prepared: HashMap::new() })
    }

    /// Reads the table's columns and renders its statements.
    pub(super) async fn of_table(
        transaction: &Transaction<'_>,
        templates: &Templates,
        target: Arc<Target>,
        form: &Form,
    ) -> Result<Merge> {
        let stored = columns(transaction, &target.model.table).await?;
        if stored.is_empty() {
            return Err(Error::new(Kind::TableStops, "the table is not there any more")
                .on_table(target.model.table.to_string())
                .remedy(format!("siltstone table resync {:#}", target.model.table)));
        }
        Merge::new(templates, target, &stored, form)
    }

    /// Merges what is staged.
    pub(super) async fn run(
        &mut self,
        transaction: &Transaction<'_>,
        counts: Counts,
        cut: Cut,
    ) -> Result<Applied> {
        let applied = Applied { events: counts.events, staged: counts.rows, ..Applied::default() };
        let counts = self.collapse(transaction, counts).await?;
        match self.target.model.history {
            History::Overwrite if self.target.model.partition.is_some() => {
                self.partitioned(transaction, counts, applied).await
            }
            History::Overwrite => self.overwrite(transaction, counts, applied).await,
            History::Versions => self.versions(transaction, counts, cut, applied).await,
            History::Append => self.append(transaction, counts, applied).await,
            History::Bag => self.bag(transaction, counts, applied).await,
            History::Raw => Err(Error::bug("raw rows are not merged")),
        }
    }

    /// Makes one row of those whose keys the batch tells apart and the table does not. A key that was
    /// written in two ways was deleted in one of them.
    async fn collapse(&mut self, transaction: &Transaction<'_>, counts: Counts) -> Result<Counts> {
        if counts.deletes == 0 || !self.has("collapse") {
            return Ok(counts);
        }
        let gone = self.execute(transaction, "collapse", &[]).await?;
        let (rows, deletes) = (counts.rows - gone, counts.deletes.saturating_sub(gone));
        Ok(Counts { rows, deletes, ..counts })
    }

    async fn overwrite(
        &mut self,
        transaction: &Transaction<'_>,
        counts: Counts,
        mut applied: Applied,
    ) -> Result<Applied> {
        let counts = self.drop_gone(transaction, counts, &mut applied).await?;
        let mut filled = self.recall(transaction, counts).await?;
        if counts.moved > 0 {
            filled += self.execute(transaction, "fill", &[]).await?;
        }
        if self.may_be_late() && counts.deletes > 0 {
            self.execute(transaction, "remember_gone", &[]).await?;
        }
        if counts.deletes > 0 {
            applied.deleted = self.execute(transaction, "delete", &[]).await?;
        }
        let partial = counts.partial.saturating_sub(filled);
        let counts = Counts { partial, ..counts };
        let updated = self.update(transaction, counts).await?;
        // of others than those that it was about some may have been updated
        if partial > 0 && (updated < partial || self.may_be_late()) {
            self.refuse_orphans(transaction).await?;
        }
        applied.upserted += updated;
        if counts.rows > counts.deletes + partial || self.may_be_late() {
            applied.upserted += self.execute(transaction, "upsert", &[]).await?;
        }
        self.note_carried(transaction, counts).await?;
        let upserts = counts.rows - counts.deletes;
        applied.stale += upserts.saturating_sub(applied.upserted);
        self.overtaken(transaction, &mut applied).await?;
        Ok(applied)
    }

    /// Writes the rows of which columns stay as they are stored; how many. What all rows look up is looked up.
    pub(super) async fn update(
        &mut self,
        transaction: &Transaction<'_>,
        counts: Counts,
    ) -> Result<u64> {
        let keep = self.carry(transaction, counts).await? > 0 || counts.partial > 0;
        if keep && self.has("fill_inputs") {
            self.execute(transaction, "fill_inputs", &[]).await?;
        }
        self.look(transaction, "look").await?;
        match keep {
            true => self.execute(transaction, "update", &[]).await,
            false => Ok(0),
        }
    }

    /// Whether changes may come late or again.
    pub(super) fn may_be_late(&self) -> bool {
        self.target.arrival == Arrival::MayBeLate
    }

    async fn versions(
        &mut self,
        transaction: &Transaction<'_>,
        counts: Counts,
        cut: Cut,
        mut applied: Applied,
    ) -> Result<Applied> {
        self.recall(transaction, counts).await?;
        if counts.partial > 0 {
            self.execute(transaction, "fill", &[]).await?;
        }
        self.carry(transaction, counts).await?;
        self.look(transaction, "look").await?;
        if cut.continues {
            self.execute(transaction, "undo_open", &[]).await?;
            self.execute(transaction, "undo_close", &[]).await?;
        }
        let row = self.query_one(transaction, "merge", &[&cut.unfinished]).await?;
        let count = |name: &str| -> Result<u64> {
            let value: i64 = row.try_get(name).map_err(|e| self.failed("merge", e))?;
            Ok(u64::try_from(value).unwrap_or(0))
        };
        if count("orphans")? > 0 {
            return Err(self.orphan());
        }
        if self.may_be_late() && count("overtaken")? > 0 {
            return Err(self.outrun());
        }
        applied.closed = count("closed")?;
        applied.opened = count("opened")?;
        applied.deleted = count("gone")?;
        applied.stale = counts.rows.saturating_sub(count("events")?);
        applied.upserted = applied.opened;
        self.note_carried(transaction, counts).await?;
        Ok(applied)
    }

    /// Ends a transaction that came in several batches.
    pub(super) async fn settle(&mut self, transaction: &Transaction<'_>, seq: i64) -> Result<()> {
        if self.target.model.history == History::Versions {
            self.execute(transaction, "settle", &[&seq]).await?;
        }
        Ok(())
    }

    async fn append(
        &mut self,
        transaction: &Transaction<'_>,
        counts: Counts,
        mut applied: Applied,
    ) -> Result<Applied> {
        if counts.partial > 0 && !self.target.key.is_empty() {
            let filled = self.execute(transaction, "fill", &[]).await?;
            let carried = self.carry(transaction, counts).await?;
            if filled < counts.partial || carried > 0 {
                self.refuse_orphans(transaction).await?;
            }
        } else {
            self.carry(transaction, counts).await?;
        }
        if self.target.arrival != Arrival::InOrder && self.target.model.is_read_without_key() {
            applied.stale = self.drop_void(transaction, counts).await?;
        }
        self.look(transaction, "look").await?;
        applied.upserted = self.execute(transaction, "insert", &[]).await?;
        self.note_carried(transaction, counts).await?;
        self.overtaken_events(transaction).await?;
        Ok(applied)
    }

    async fn bag(
        &mut self,
        transaction: &Transaction<'_>,
        counts: Counts,
        mut applied: Applied,
    ) -> Result<Applied> {
        if self.target.arrival != Arrival::InOrder {
            return self.bag_of_topics(transaction, counts, applied).await;
        }
        // whole rows are matched by their digest, for which a hash join is right
        applied.deleted = self.execute(transaction, "delete", &[]).await?;
        applied.upserted = self.execute(transaction, "insert", &[]).await?;
        Ok(applied)
    }

    /// Comings and goings that may come again, or in another order than they happened.
    async fn bag_of_topics(
        &mut self,
        transaction: &Transaction<'_>,
        counts: Counts,
        mut applied: Applied,
    ) -> Result<Applied> {
        applied.stale = self.drop_void(transaction, counts).await?;
        applied.stale += self.execute(transaction, "drop_seen", &[]).await?;
        if !self.query(transaction, "owes", &[]).await?.is_empty() {
            self.execute(transaction, "pay", &[]).await?;
        }
        applied.upserted = self.execute(transaction, "insert", &[]).await?;
        let row = self.query_one(transaction, "take", &[]).await?;
        let gone: i64 = row.try_get("gone").map_err(|error| self.failed("take", error))?;
        applied.deleted = u64::try_from(gone).unwrap_or(0);
        Ok(applied)
    }

    /// The lookups that its statements go by.
    pub(super) fn lookups(&self) -> &[Lookup] {
        &self.lookups
    }

    /// Refuses staged rows that cannot be completed.
    pub(super) async fn refuse_orphans(&mut self, transaction: &Transaction<'_>) -> Result<()> {
        match self.query(transaction, "orphan", &[]).await?.is_empty() {
            true => Ok(()),
            false => Err(self.orphan()),
        }
    }

    /// A row of which the source sent only what changed, and whose other columns we do not have.
    pub(super) fn orphan(&self) -> Error {
        let what =
            "a stored row is missing, so an update that left columns out cannot be completed";
        Error::new(Kind::Poison, what)
            .on_table(self.target.model.table.to_string())
            .remedy(format!("siltstone table resync {:#}", self.target.model.table))
    }

    /// Rows that another member of the group has written since they were looked at: the batch is to begin again.
    pub(super) fn outrun(&self) -> Error {
        let what = "another member of the group is writing the same rows";
        Error::new(Kind::Busy, what).on_table(self.target.model.table.to_string())
    }

    /// The target.
    pub(super) fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// Whether there is such a statement.
    pub(super) fn has(&self, name: &str) -> bool {
        self.statements.has(name)
    }

    /// Whether rows that are deleted at the source stay.
    pub(super) fn is_soft(&self) -> bool {
        self.target.model.deletes == Deletes::Soft
    }

    /// The text of a statement.
    pub(super) fn text(&self, name: &str) -> Result<&str> {
        self.statements.get(name)
    }

    /// Runs a statement; returns how many rows it touched.
    pub(super) async fn execute(
        &mut self,
        transaction: &Transaction<'_>,
        name: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<u64> {
        let statement = self.prepare(transaction, name).await?;
        transaction.execute(&statement, parameters).await.map_err(|e| self.failed(name, e))
    }

    /// Runs a statement that answers with rows.
    pub(super) async fn query(
        &mut self,
        transaction: &Transaction<'_>,
        name: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>> {
        let statement = self.prepare(transaction, name).await?;
        transaction.query(&statement, parameters).await.map_err(|e| self.failed(name, e))
    }

    async fn query_one(
        &mut self,
        transaction: &Transaction<'_>,
        name: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row> {
        let statement = self.prepare(transaction, name).await?;
        transaction.query_one(&statement, parameters).await.map_err(|e| self.failed(name, e))
    }

    /// A statement, prepared.
    pub(super) async fn prepare(
        &mut self,
        transaction: &Transaction<'_>,
        name: &str,
    ) -> Result<Statement> {
        if let Some(statement) = self.prepared.get(name) {
            return Ok(statement.clone());
        }
        let text = self.statements.get(name)?;
        let prepared = transaction.prepare(text).await.map_err(|e| self.failed(name, e))?;
        // a plan without parameters is kept, and one that was made while nothing was remembered goes through
        // all of it for every row once much is
        let grows = |table: &&str| {
            text.contains(&format!("from {table}")) || text.contains(&format!("join {table}"))
        };
        if ["audit.quiet", "audit.carried"].iter().any(grows) {
            return Ok(prepared);
        }
        self.prepared.insert(name.to_owned(), prepared.clone());
        Ok(prepared)
    }

    pub(super) fn failed(&self, name: &str, error: tokio_postgres::Error) -> Error {
        let table = &self.target.model.table;
        Error::warehouse(format!("merging its rows ({name})"), error)
            .on_table(table.to_string())
            .remedy(format!("mend the cause, then siltstone table resume {table:#}"))
    }
}
