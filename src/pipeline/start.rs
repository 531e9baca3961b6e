//! Where a session goes on from: the stored position, if the slot still belongs to it, or a new slot.
//!
//! Every way in which slot, position and source can have lost each other ends here, in a refusal that
//! says what to do.

use std::sync::Arc;

use super::awaited::telling;
use super::resolve::Resolved;
use super::shared::{Setup, Shared, writer};
use super::tables::Planned;
use crate::capture::replication::{self, StreamOptions};
use crate::capture::slot::{self, Created, Stored, System};
use crate::capture::walsender::Walsender;
use crate::capture::{LogEnd, preflight};
use crate::error::{Error, Kind, Result};
use crate::position::Lsn;
use crate::postgres::Session;
use crate::progress::{self, Checkpoint, gaps};
use crate::warehouse::Fenced;

/// Looks for the place to go on from.
pub(super) struct Start<'s> {
    pub(super) shared: Arc<Shared>,
    /// for the catalogue
    pub(super) source: &'s Session,
}

impl Start<'_> {
    /// The position; with it the slot, if it was just made.
    pub(super) async fn position(
        &self,
        warehouse: &mut Session,
        planned: &[Planned],
    ) -> Result<(Checkpoint, Option<Created>)> {
        let connector = self.shared.connector();
        let name = &connector.slot;
        let mut walsender = Walsender::connect(&connector.endpoint, "siltstone slot").await?;
        let system = slot::identify(&mut walsender).await?;
        let record = progress::slot_record(&**warehouse, &connector.name).await?;
        let stored = Checkpoint::read(&**warehouse, &connector.name, name).await?;
        let there = slot::inspect(self.source, name).await?;
        match (record, stored) {
            (Some(record), Some(stored)) if record.ready && record.slot == *name => {
                let found = self.go_on(walsender, &system, stored, there).await?;
                self.end_gaps(warehouse).await?;
                Ok(found)
            }
            (Some(record), None) if record.ready && record.slot == *name => {
                Err(lost("the stored position is gone, but not the note of its slot"))
            }
            (Some(record), _) if record.ready => Err(lost(&format!(
                "the position belongs to slot {}, not {name}: the connector's slot was renamed",
                record.slot
            ))),
            (None, _) if there.is_some() => {
                let what = format!("there is a replication slot {name} that is not ours");
                Err(Error::new(Kind::SourceLacks, what).remedy(format!(
                    "select pg_drop_replication_slot({}) at the source, or give the connector \
                     another slot",
                    crate::postgres::quote::literal(name)
                )))
            }
            _ => {
                if there.is_some() {
                    slot::drop(self.source, name).await?;
                }
                let findings = preflight::inspect(self.source, 1).await?.findings;
                preflight::refuse(&findings)?;
                self.begin(walsender, &system, warehouse, planned).await
            }
        }
    }

    /// Ends the gaps that were noted before the publications held their tables. By now they do, or the table is
    /// shelved: what the stream does not tell was written before the end of the log as it is now.
    async fn end_gaps(&self, warehouse: &mut Session) -> Result<()> {
        let connector = self.shared.connector();
        if !gaps::is_any_open(&**warehouse, &connector.name).await? {
            return Ok(());
        }
        let until = LogEnd::written(&**self.source).await?;
        let (fence, durations) = (&self.shared.fence, &self.shared.setup.durations);
        let transaction = Fenced::begin(warehouse, fence, "gap", durations).await?;
        gaps::end(&transaction, &connector.name, until).await?;
        transaction.commit().await
    }

    async fn go_on(
        &self,
        mut walsender: Walsender,
        system: &System,
        stored: Checkpoint,
        there: Option<slot::Slot>,
    ) -> Result<(Checkpoint, Option<Created>)> {
        let connector = self.shared.connector();
        let known = Stored {
            position: stored.lsn(),
            system_id: stored.system_id.clone(),
            timeline: stored.timeline,
        };
        slot::check(&connector.slot, there.as_ref(), &known, system)?;
        if stored.timeline > system.timeline {
            let what = format!(
                "the source is on timeline {}, older than timeline {} of the stored position {}: it was \
                 failed over from",
                system.timeline,
                stored.timeline,
                stored.lsn()
            );
            return Err(Error::new(Kind::PositionLost, what)
                .remedy("let the connector's url name the server that was promoted"));
        }
        if stored.timeline != system.timeline {
            let left = slot::switch_point(&mut walsender, system, stored.timeline).await?;
            if left.is_none_or(|left| stored.lsn() > left) {
                return Err(lost(&format!(
                    "the source is on timeline {}, which does not contain the stored position {} of \
                     timeline {}",
                    system.timeline,
                    stored.lsn(),
                    stored.timeline
                )));
            }
        }
        slot::release(self.source, &connector.slot).await?;
        if let Some(slot) = there
            && let Err(error) = slot::carry(&mut walsender, &slot, &connector.slot).await
        {
            tracing::warn!("standbys will not take over the slot: {}", error.reason());
        }
        Ok((Checkpoint { timeline: system.timeline, ..stored }, None))
    }

    /// Makes the slot; its position and the tables' chunks are noted together.
    async fn begin(
        &self,
        walsender: Walsender,
        system: &System,
        warehouse: &mut Session,
        planned: &[Planned],
    ) -> Result<(Checkpoint, Option<Created>)> {
        let connector = self.shared.connector();
        let (fence, durations) = (&self.shared.fence, &self.shared.setup.durations);
        let transaction = Fenced::begin(warehouse, fence, "slot", durations).await?;
        progress::record_creating(&transaction, &connector.name, &connector.slot).await?;
        transaction.commit().await?;
        let making = slot::create(walsender, self.source, &connector.slot, false);
        let read: Vec<String> = planned
            .iter()
            .filter(|table| table.record.chunk_open)
            .map(|table| table.record.table.to_string())
            .collect();
        let created = telling(&self.shared, &read, making).await?;
        tracing::info!(slot = connector.slot, at = %created.consistent_point, "made the slot");
        let checkpoint = Checkpoint {
            connector: connector.name.clone(),
            partition: connector.slot.as_str().into(),
            position: created.consistent_point.as_i64(),
            system_id: system.id.clone(),
            timeline: system.timeline,
        };
        let transaction = Fenced::begin(warehouse, fence, "slot", durations).await?;
        checkpoint.begin(&transaction).await?;
        for table in planned.iter().filter(|table| !table.record.chunk_open) {
            let name = &table.record.table;
            progress::tables::set_floor(&*transaction, name, checkpoint.lsn()).await?;
        }
        gaps::end(&transaction, &connector.name, checkpoint.lsn()).await?;
        progress::record_ready(&transaction, &connector.name, &connector.slot).await?;
        transaction.commit().await?;
        Ok((checkpoint, Some(created)))
    }
}

/// A source that fails over is seen as a standby before it is promoted: what it has and lacks says
/// nothing yet. Its slot, if it has one, is a copy of the primary's, from which nobody may stream.
pub(super) async fn await_promotion(
    setup: &Setup,
    source: &Session,
    warehouse: &Session,
) -> Result<()> {
    let connector = &setup.connector;
    let record = progress::slot_record(&**warehouse, &connector.name).await?;
    if !record.is_some_and(|record| record.ready && record.slot == connector.slot) {
        return Ok(());
    }
    let there = slot::inspect(source, &connector.slot).await?;
    if there.is_some_and(|slot| !slot.synced) {
        return Ok(());
    }
    let what = "the source is a standby without the connector's slot: it is not promoted yet";
    Err(Error::new(Kind::SourceAway, what)
        .remedy("promote it, or let the connector's url name the primary"))
}

/// Starts the stream behind the stored position.
pub(super) async fn start_stream(
    shared: &Shared,
    resolved: &Resolved,
    from: Lsn,
    in_chunks: bool,
) -> Result<(replication::Reader, replication::Writer)> {
    let connector = shared.connector();
    let walsender = Walsender::connect(&connector.endpoint, "siltstone stream").await?;
    // whoever has taken over in the meantime has ended the slot's session: ours must not come back
    let mut check = writer(&shared.setup, &shared.fence, "check").await?;
    let transaction =
        Fenced::begin(&mut check, &shared.fence, "check", &shared.setup.durations).await?;
    transaction.commit().await?;
    let options = StreamOptions {
        slot: connector.slot.clone(),
        publications: resolved.publications.iter().map(|wanted| wanted.name.clone()).collect(),
        from,
        binary: shared.binary,
        in_chunks,
        max_message: usize::try_from(shared.setup.settings.max_row_bytes).unwrap_or(usize::MAX),
    };
    replication::start(walsender, &options).await
}

fn lost(what: &str) -> Error {
    Error::new(Kind::PositionLost, what)
        .remedy("siltstone table resync --all (makes a new slot and reads every table again)")
}
