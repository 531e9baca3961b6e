//! Notices what is done to the leaves of partitioned source tables as a whole: one that is detached, dropped,
//! truncated by itself or rewritten, and one that is attached with its rows. The stream tells of none of them, for
//! its changes are published as the root's.
//!
//! A table is read again for it, behind everything that the stream brought before; `truncate` of its connector
//! says otherwise where rows went.

use std::collections::HashMap;

use super::shared::Shared;
use super::tables::Planned;
use crate::capture::LogEnd;
use crate::capture::leaves::{Leaves, leaves};
use crate::error::Result;
use crate::names::TableName;
use crate::position::Lsn;
use crate::postgres::Session;
use crate::progress::source_leaves::{self, Known};
use crate::progress::tables::{self, State};
use crate::progress::{chunks, gaps};
use crate::spec::{Deletes, Truncates};
use crate::warehouse::Fenced;

/// What is known of the leaves, and what was found.
#[derive(Default)]
pub(super) struct Branches {
    known: HashMap<TableName, Known>,
    found: HashMap<TableName, Found>,
}

/// A difference that is yet to be acted on.
struct Found {
    now: Known,
    what: What,
    /// the end of the log when it was seen: what the stream tells comes before
    end: Lsn,
}

/// What was done to leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct What {
    /// rows went, or may have: one was detached, dropped, truncated or rewritten
    went: Option<String>,
    /// rows came: one was attached
    came: Option<String>,
}

impl What {
    /// What tells the leaves that were known from those that are there.
    fn of(known: &Known, now: &Leaves) -> What {
        let mut what = What::default();
        for (oid, file) in known {
            match now.get(oid) {
                None => what.went = Some("a leaf of its source was detached or dropped".to_owned()),
                Some(leaf) if leaf.filenode != *file => {
                    let told = format!("{} was truncated by itself, or rewritten", leaf.name);
                    what.went.get_or_insert(told);
                }
                Some(_) => {}
            }
        }
        let came = now.iter().find(|(oid, leaf)| leaf.attached && !known.contains_key(oid));
        what.came = came.map(|(_, leaf)| format!("{} was attached with its rows", leaf.name));
        what
    }
}

impl Branches {
    /// What the tables know; those that know nothing yet learn what is there. To be called before they are read.
    pub(super) async fn learn(
        shared: &Shared,
        (source, warehouse): (&Session, &mut Session),
        planned: &[Planned],
    ) -> Result<Branches> {
        let known = source_leaves::read(&**warehouse, &shared.connector().name).await?;
        let mut branches = Branches { known, found: HashMap::new() };
        let now = leaves_of(source, planned).await?;
        for (table, leaves) in now {
            if !branches.known.contains_key(&table) && !leaves.is_empty() {
                branches.note(shared, warehouse, (&table, &files(&leaves))).await?;
            }
        }
        Ok(branches)
    }

    async fn note(
        &mut self,
        shared: &Shared,
        warehouse: &mut Session,
        (table, now): (&TableName, &Known),
    ) -> Result<()> {
        let (fence, durations) = (&shared.fence, &shared.setup.durations);
        let transaction = Fenced::begin(warehouse, fence, "leaves", durations).await?;
        source_leaves::write(&transaction, table, now).await?;
        transaction.commit().await?;
        self.known.insert(table.clone(), now.clone());
        Ok(())
    }

    /// Looks at the leaves; what is new and empty is known from then on.
    pub(super) async fn look(
        &mut self,
        shared: &Shared,
        (source, warehouse): (&Session, &mut Session),
        planned: &[Planned],
    ) -> Result<()> {
        let now = leaves_of(source, planned).await?;
        if now.is_empty() {
            return Ok(());
        }
        // behind the catalogue
        let end = LogEnd::of(&**source).await?.position;
        for (table, leaves) in now {
            let known = self.known.get(&table).cloned().unwrap_or_default();
            let (what, files) = (What::of(&known, &leaves), files(&leaves));
            if what != What::default() {
                let same = self.found.get(&table).is_some_and(|found| found.now == files);
                if !same {
                    self.found.insert(table, Found { now: files, what, end });
                }
            } else {
                self.found.remove(&table);
                if known != files {
                    self.note(shared, warehouse, (&table, &files)).await?;
                }
            }
        }
        Ok(())
    }

    /// Acts on what was found, where everything that the stream brought before is stored; whether a new session
    /// has to take that up.
    pub(super) async fn judge(
        &mut self,
        shared: &Shared,
        warehouse: &mut Session,
        planned: &[Planned],
        stored: Lsn,
    ) -> Result<bool> {
        let ripe = self.found.iter().filter(|(_, found)| stored >= found.end);
        let ripe: Vec<TableName> = ripe.map(|(table, _)| table.clone()).collect();
        if ripe.is_empty() {
            return Ok(false);
        }
        let (fence, durations) = (&shared.fence, &shared.setup.durations);
        let mut acted = false;
        for name in ripe {
            let Some(table) = planned.iter().find(|table| table.record.table == name) else {
                continue;
            };
            let Some(found) = self.found.get(&name) else { continue };
            let transaction = Fenced::begin(warehouse, fence, "leaves", durations).await?;
            let record = tables::read_one(&*transaction, &shared.connector().name, &name).await?;
            // whatever holds it ends in its streaming again
            if record.is_none_or(|record| record.state != State::Streaming) {
                continue;
            }
            source_leaves::write(&transaction, &name, &found.now).await?;
            acted |= act(shared, &transaction, (table, &found.what), stored).await?;
            transaction.commit().await?;
            if let Some(found) = self.found.remove(&name) {
                self.known.insert(name, found.now);
            }
        }
        Ok(acted)
    }
}

/// Does what a table's policy says; whether a new session has to take it up.
async fn act(
    shared: &Shared,
    transaction: &Fenced<'_>,
    (table, What { went, came }): (&Planned, &What),
    stored: Lsn,
) -> Result<bool> {
    let (name, model) = (&table.record.table, &table.target.model);
    let events = model.history.logs_events() || model.deletes == Deletes::Row;
    let policy = shared.connector().truncate;
    let resync = format!("siltstone table resync {name:#}");
    match (went, came) {
        (_, Some(came)) if events => {
            gaps::name(transaction, name, (stored, Some(stored)), came).await?;
            tracing::warn!(table = %name, "{came}: they are no events; a gap in audit.gaps");
            return Ok(false);
        }
        _ if events => return Ok(false),
        (Some(went), None) if policy == Truncates::Ignore => {
            tracing::info!(table = %name, "{went}: its rows stay (truncate: ignore)");
            return Ok(false);
        }
        (Some(went), _) if policy == Truncates::Stop => {
            stop(transaction, name, (went, &resync)).await?;
        }
        (went, Some(came)) if policy == Truncates::Ignore => {
            let why = went.as_ref().map_or(came.clone(), |went| format!("{went}; {came}"));
            let remedy = format!(
                "{resync} --where with a condition that the attached rows meet; without --where it also \
                 takes out what the source does not have"
            );
            stop(transaction, name, (&why, &remedy)).await?;
        }
        (went, came) => {
            let why = went.as_ref().or(came.as_ref()).map_or("", String::as_str);
            chunks::open_table(transaction, name, State::Resyncing, Some(why)).await?;
            tracing::warn!(table = %name, "{why}, and no change tells of it: it is read again");
        }
    }
    Ok(true)
}

async fn stop(
    transaction: &Fenced<'_>,
    table: &TableName,
    (why, remedy): (&str, &str),
) -> Result<()> {
    tracing::error!(%table, remedy, "{why}: the table stops");
    tables::set(&**transaction, table, State::Stopped, Some(why), Some(remedy)).await
}

fn files(leaves: &Leaves) -> Known {
    leaves.iter().map(|(oid, leaf)| (*oid, leaf.filenode)).collect()
}

/// The leaves of the tables that are fed by a partitioned one.
async fn leaves_of(source: &Session, planned: &[Planned]) -> Result<Vec<(TableName, Leaves)>> {
    let partitioned = planned.iter().filter(|table| table.source.partitioned);
    let tables: Vec<(&TableName, u32)> =
        partitioned.map(|table| (&table.record.table, table.source.relation.oid)).collect();
    if tables.is_empty() {
        return Ok(Vec::new());
    }
    let roots: Vec<u32> = tables.iter().map(|(_, oid)| *oid).collect();
    let found = leaves(&**source, &roots).await?;
    let of = |(table, oid): (&TableName, u32)| {
        found.get(&oid).map(|leaves| (table.clone(), leaves.clone()))
    };
    Ok(tables.into_iter().filter_map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::leaves::Leaf;

    #[test]
    fn what_no_change_tells_of_is_told_from_the_leaves() {
        let leaf = |filenode, attached| Leaf { name: "l".to_owned(), filenode, attached };
        let known = Known::from([(1, 10), (2, 20)]);
        let same = Leaves::from([(1, leaf(10, false)), (2, leaf(20, true))]);
        assert_eq!(What::of(&known, &same), What::default(), "one that was attached is known");
        let made = Leaves::from([(1, leaf(10, false)), (2, leaf(20, false)), (3, leaf(30, false))]);
        assert_eq!(What::of(&known, &made), What::default());
        let gone = Leaves::from([(1, leaf(10, false))]);
        assert!(What::of(&known, &gone).went.is_some());
        let emptied = Leaves::from([(1, leaf(11, false)), (2, leaf(20, false))]);
        assert!(What::of(&known, &emptied).went.is_some());
        let came = Leaves::from([(1, leaf(10, false)), (2, leaf(20, false)), (3, leaf(30, true))]);
        let what = What::of(&known, &came);
        assert!(what.went.is_none() && what.came.is_some());
    }
}
