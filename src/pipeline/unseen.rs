//! Finds tables that the source rewrote, and of which no change tells: pgoutput describes a table only in
//! front of its next change, which may never come.

use std::collections::HashMap;

use super::note::Then;
use super::shared::Shared;
use super::tables::Planned;
use crate::capture::{LogEnd, catalog};
use crate::error::Result;
use crate::merge::{compare, follow};
use crate::names::TableName;
use crate::position::Lsn;
use crate::postgres::Session;
use crate::progress::tables::{State, TableRecord};
use crate::progress::{schemas, tables};
use crate::relation::Relation;

/// What was seen of tables whose shape is not the one that the session began with.
#[derive(Default)]
pub(super) struct Unseen {
    suspects: HashMap<TableName, Suspect>,
}

struct Suspect {
    now: Relation,
    /// the end of the log when it was seen: what could tell of it comes before
    end: Lsn,
    judged: bool,
}

impl Unseen {
    /// Notes the tables that have another shape now; `end` is asked for behind the catalogue.
    pub(super) async fn look(
        &mut self,
        shared: &Shared,
        source: &Session,
        planned: &[Planned],
    ) -> Result<()> {
        let catalogue = catalog::tables(&**source).await?;
        let mut seen = Vec::new();
        for table in planned.iter().filter(|table| !table.target.model.history.logs_events()) {
            let known = &table.target.relation;
            let Some(found) = catalogue.iter().find(|found| found.relation.oid == known.oid) else {
                continue;
            };
            let mut now = found.relation.clone();
            shared.connector().shape(&table.source.relation.table, &mut now);
            if now != **known {
                seen.push((table.record.table.clone(), now));
            }
        }
        if seen.is_empty() {
            self.suspects.clear();
            return Ok(());
        }
        let end = LogEnd::of(&**source).await?.position;
        for (table, now) in seen {
            let known = self.suspects.get(&table).is_some_and(|suspect| suspect.now == now);
            if !known {
                self.suspects.insert(table, Suspect { now, end, judged: false });
            }
        }
        Ok(())
    }

    /// Opens the chunks of tables that were rewritten, where everything that could have told of it is
    /// stored; whether there was one.
    pub(super) async fn judge(
        &mut self,
        shared: &Shared,
        warehouse: &Session,
        planned: &[Planned],
        stored: Lsn,
    ) -> Result<bool> {
        let ripe = |suspect: &Suspect| !suspect.judged && stored >= suspect.end;
        if !self.suspects.values().any(ripe) {
            return Ok(false);
        }
        let records = tables::read(&**warehouse, &shared.connector().name).await?;
        let mut found = false;
        for (name, suspect) in self.suspects.iter_mut().filter(|(_, suspect)| ripe(suspect)) {
            suspect.judged = true;
            let of = |record: &&TableRecord| record.table == *name;
            let Some(record) = records.iter().find(of) else { continue };
            let Some(table) = planned.iter().find(|table| table.record.table == *name) else {
                continue;
            };
            let Some(id) = record.schema_id.filter(|_| record.state == State::Streaming) else {
                continue;
            };
            let Some(applied) = schemas::read(&**warehouse, &[id]).await?.remove(&id) else {
                continue;
            };
            // a column that comes although it is excluded is none that the catalogue shows here
            if applied.columns.iter().any(|column| column.hidden) {
                continue;
            }
            let changes = compare(&applied, &suspect.now);
            let model = &table.target.model;
            let effect = follow(model, &changes, &suspect.now, &shared.extensions);
            if let Some(why) = effect.reread {
                shared.define(&[], name, Then::OpenChunk(State::Resyncing)).await?;
                tracing::warn!(table = %name, "{why}, and no change tells of it: it is read again");
                found = true;
            }
        }
        Ok(found)
    }
}
