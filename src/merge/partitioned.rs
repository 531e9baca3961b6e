//! Merges staged rows into a partitioned table whose partition column is not its key.
//!
//! Old rows are found by the locator and handled leaf by leaf, named: a join on the parent would lock
//! every leaf. New rows go in through the parent, which locks only the leaves it routes to.

use std::collections::BTreeMap;

use tokio_postgres::{Row, Transaction};

use super::table::{Counts, Merge};
use crate::error::Result;
use crate::journey::Applied;
use crate::names::TableName;
use crate::postgres::quote;

/// What is to be done in the leaves: by the day in their rows, the staged rows by their ctid.
#[derive(Default)]
struct Leaves {
    stale: Vec<String>,
    /// unchanged columns to fetch from here
    fill: BTreeMap<i64, Vec<String>>,
    /// rows deleted at the source
    gone: BTreeMap<i64, Vec<String>>,
    /// rows that go to another leaf
    moved: BTreeMap<i64, Vec<String>>,
}

impl Merge {
    pub(super) async fn partitioned(
        &mut self,
        transaction: &Transaction<'_>,
        counts: Counts,
        mut applied: Applied,
    ) -> Result<Applied> {
        let counts = self.drop_gone(transaction, counts, &mut applied).await?;
        self.recall(transaction, counts).await?;
        let overtaken = match self.has_carried(transaction).await? {
            true => self.execute(transaction, "overtaken", &[]).await?,
            false => 0,
        };
        // those that are made the rest of a later row take what it has, as others do
        let (partial, carried) = (counts.partial + overtaken, counts.carried + overtaken);
        let counts = Counts { partial, carried, ..counts };
        if self.may_be_late() && counts.deletes > 0 {
            self.execute(transaction, "remember_gone", &[]).await?;
        }
        let mut leaves = self.locate(transaction, counts).await?;
        if counts.carried > 0 {
            for (leaf, rows) in &leaves.fill {
                self.in_leaf(transaction, "carry_lock", *leaf, rows).await?;
            }
        }
        if !leaves.stale.is_empty() {
            applied.stale += self.execute(transaction, "drop_stale", &[&leaves.stale]).await?;
        }
        if self.may_be_late() {
            applied.stale += self.drop_stale(transaction, &leaves).await?;
        }
        for (leaf, rows) in &leaves.fill {
            self.in_leaf(transaction, "fill", *leaf, rows).await?;
        }
        if !leaves.fill.is_empty() {
            // filled rows stand at another place in the staging table now
            leaves.moved = self.locate(transaction, counts).await?.moved;
        }
        if overtaken > 0 {
            self.execute(transaction, "unfilled", &[]).await?;
        }
        if counts.partial > 0 {
            self.refuse_orphans(transaction).await?;
        }
        for (leaf, rows) in &leaves.gone {
            applied.deleted += self.in_leaf(transaction, "delete", *leaf, rows).await?;
        }
        for (leaf, rows) in &leaves.moved {
            self.in_leaf(transaction, "delete_moved", *leaf, rows).await?;
        }
        if self.target().model.has_locator() {
            if counts.deletes > 0 && !self.is_soft() {
                self.execute(transaction, "forget", &[]).await?;
            }
            self.execute(transaction, "remember", &[]).await?;
        }
        self.look(transaction, "look").await?;
        applied.upserted = self.execute(transaction, "upsert", &[]).await?;
        self.note_carried(transaction, counts).await?;
        // what was left out of the table for a later row: has that come since, and left out what is told here?
        if counts.rows > counts.deletes + applied.upserted
            && self.has_carried(transaction).await?
            && self.execute(transaction, "overtaken", &[]).await? > 0
        {
            return Err(self.outrun());
        }
        Ok(applied)
    }

    /// Completes what is known of staged rows that go on under another key.
    pub(super) async fn fill_left(&mut self, transaction: &Transaction<'_>) -> Result<()> {
        let left = self.query(transaction, "locate_left", &[]).await?;
        for (leaf, rows) in &self.by_leaf(&left)?.fill {
            self.in_leaf(transaction, "fill", *leaf, rows).await?;
        }
        let own = self.query(transaction, "locate_left_own", &[]).await?;
        for (leaf, rows) in &self.by_leaf(&own)?.fill {
            self.in_leaf(transaction, "fill_left_own", *leaf, rows).await?;
        }
        Ok(())
    }

    /// Leaves out rows that are older than what their leaf has of their key.
    async fn drop_stale(&mut self, transaction: &Transaction<'_>, leaves: &Leaves) -> Result<u64> {
        let mut stale: Vec<String> = Vec::new();
        for (leaf, rows) in leaves.fill.iter().chain(&leaves.gone).chain(&leaves.moved) {
            let Some(text) = self.text_in_leaf(transaction, "stale", *leaf).await? else {
                continue;
            };
            let found = transaction.query(&text, &[&rows]).await;
            let found = found.map_err(|error| self.failed("stale", error))?;
            let ctids = found.iter().map(|row| row.try_get(0));
            let ctids: Result<Vec<String>, _> = ctids.collect();
            stale.extend(ctids.map_err(|error| self.failed("stale", error))?);
        }
        match stale.is_empty() {
            true => Ok(0),
            false => self.execute(transaction, "drop_stale", &[&stale]).await,
        }
    }

    async fn locate(&mut self, transaction: &Transaction<'_>, counts: Counts) -> Result<Leaves> {
        let mut found = self.query(transaction, "locate", &[]).await?;
        if counts.moved > 0 {
            found.extend(self.query(transaction, "locate_origin", &[]).await?);
        }
        self.by_leaf(&found)
    }

    /// What was found, by leaf.
    fn by_leaf(&self, found: &[Row]) -> Result<Leaves> {
        let mut leaves = Leaves::default();
        for row in found {
            let failed = |error| self.failed("locate", error);
            let ctid: String = row.try_get(0).map_err(failed)?;
            let day: i32 = row.try_get(1).map_err(failed)?;
            let what: &str = row.try_get(2).map_err(failed)?;
            let leaf = self
                .target()
                .model
                .partition
                .as_ref()
                .map_or(0, |partition| partition.every.start(i64::from(day)));
            if what == "stale" {
                leaves.stale.push(ctid);
                continue;
            }
            let of = |leaves: &mut BTreeMap<i64, Vec<String>>, ctid: String| {
                leaves.entry(leaf).or_default().push(ctid);
            };
            if what.contains("kept") || what == "origin" {
                of(&mut leaves.fill, ctid.clone());
            }
            if what == "gone" {
                of(&mut leaves.gone, ctid);
            } else if what.starts_with("moved") {
                of(&mut leaves.moved, ctid);
            }
        }
        Ok(leaves)
    }

    /// Runs a statement over one leaf.
    async fn in_leaf(
        &mut self,
        transaction: &Transaction<'_>,
        name: &str,
        start: i64,
        rows: &[String],
    ) -> Result<u64> {
        let Some(text) = self.text_in_leaf(transaction, name, start).await? else { return Ok(0) };
        transaction.execute(&text, &[&rows]).await.map_err(|error| self.failed(name, error))
    }

    /// A statement over one leaf; none where that is not there.
    async fn text_in_leaf(
        &self,
        transaction: &Transaction<'_>,
        name: &str,
        start: i64,
    ) -> Result<Option<String>> {
        let leaf = quote::table(&self.leaf(start));
        if !self.target().model.has_locator() {
            // a row that came and went at once names a leaf that nobody has made
            let there = transaction.query_one("select to_regclass($1) is not null", &[&leaf]).await;
            let there: bool =
                there.and_then(|row| row.try_get(0)).map_err(|e| self.failed(name, e))?;
            if !there {
                return Ok(None);
            }
        }
        Ok(Some(self.text(name)?.replace(LEAF, &leaf)))
    }

    fn leaf(&self, start: i64) -> TableName {
        let model = &self.target().model;
        let suffix = model.partition.as_ref().map(|p| p.every.suffix(start)).unwrap_or_default();
        model.table.with_suffix(&suffix)
    }
}

/// Stands for the leaf in the rendered statements, which are the same for all leaves.
pub(super) const LEAF: &str = "\"the leaf\"";
