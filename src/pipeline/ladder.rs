//! What is done about the log that a slot keeps at the source while the warehouse cannot keep up: first it
//! is said; then changes are only kept in the warehouse and confirmed, so that the source can let go of
//! its log; and last, if the files say so, the slot is dropped and everything read again.
//!
//! The source's disk comes before our freshness. Nothing is lost on any step but the last, which reads all
//! rows again and names the gaps of tables that keep events.

use super::shared::{Setup, Shared};
use crate::capture::slot;
use crate::error::{Kind, Result};
use crate::postgres::{Session, Side, connect};
use crate::progress::tables::{self, State};
use crate::spec::Wal;
use crate::warehouse::Fenced;

/// A rung of the ladder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// Nothing has to be done.
    #[default]
    Calm,
    /// It is said.
    Warn,
    /// Changes are kept, not merged.
    Land,
    /// The slot goes.
    Drop,
}

impl Step {
    /// The word in `/status`.
    pub(super) fn word(self) -> &'static str {
        match self {
            Step::Calm => "calm",
            Step::Warn => "warn",
            Step::Land => "landing",
            Step::Drop => "slot_dropped",
        }
    }
}

/// What a slot keeps of the source's log, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Log {
    /// All of it.
    pub(super) retained: u64,
    /// What is not stored yet: the part that landing can let go.
    pub(super) behind: u64,
    /// What is stored and kept on purpose, by `slot_hold_back`.
    pub(super) held_back: u64,
}

/// The step for so much log. Landing goes on until the warehouse is as little behind as nobody warns of, but for
/// a store of kept changes that is about to be full. It is of no use against what a transaction that stays
/// open keeps, and the slot does not go for what is held back on purpose.
pub(super) fn step(log: &Log, wal: &Wal, landing: bool, room: bool) -> Step {
    let Log { retained, behind, held_back } = *log;
    if wal.drop_slot.is_some_and(|limit| retained.saturating_sub(held_back) >= limit) {
        Step::Drop
    } else if room && (behind >= wal.land || (landing && behind >= wal.warn)) {
        Step::Land
    } else if retained >= wal.warn {
        Step::Warn
    } else {
        Step::Calm
    }
}

/// From the next session on every table's changes are kept, and drained when landing is over.
pub(super) async fn land(shared: &Shared, warehouse: &mut Session, log: &Log) -> Result<()> {
    let (fence, durations) = (&shared.fence, &shared.setup.durations);
    let transaction = Fenced::begin(warehouse, fence, "land", durations).await?;
    let (retained, behind) = (log.retained, log.behind);
    let reason = format!(
        "landing: the slot keeps {retained} bytes of the source's log, {behind} of them not stored yet"
    );
    for record in tables::read(&*transaction, &shared.connector().name).await? {
        if record.state == State::Streaming {
            let state = State::CatchingUp;
            tables::set(&*transaction, &record.table, state, Some(&reason), None).await?;
        }
    }
    transaction.commit().await?;
    shared.setup.landing.send_replace(true);
    tracing::warn!(retained, behind, "{reason}: changes are kept and confirmed, and merged later");
    Ok(())
}

/// Says what is done, once a step.
pub(super) fn say(shared: &Shared, step: Step, before: Step, log: &Log) {
    let (connector, Log { retained, behind, held_back }) = (shared.connector(), *log);
    shared.setup.board.wal_step(step.word());
    if step <= before {
        if step < Step::Warn && before >= Step::Warn {
            tracing::info!(retained, "the slot keeps little log again");
        }
        return;
    }
    if step == Step::Warn {
        let (limit, slot) = (connector.wal.warn, &connector.slot);
        tracing::warn!(
            retained,
            behind,
            held_back,
            limit,
            remedy = "look for what holds it up: where much of it is behind, siltstone status; where it is \
                      held_back, a shorter slot_hold_back; else a transaction that stays open at the source \
                      (pg_stat_activity.xact_start)",
            "slot {slot} keeps more of the source's log than wal.warn"
        );
    }
}

/// While the warehouse is away: drops a slot that nobody streams from and that keeps more than the files
/// allow. Whether it did; all is to be read again then.
pub(super) async fn drop_unattended(setup: &Setup) -> Result<bool> {
    let connector = &setup.connector;
    let Some(limit) = connector.wal.drop_slot else { return Ok(false) };
    let source = connect(Side::Source, &connector.endpoint, "siltstone slot").await?;
    let Some(there) = slot::inspect(&source, &connector.slot).await? else { return Ok(false) };
    setup.board.retained_bytes(there.retained);
    // another instance that streams from it is one that can reach the warehouse
    if there.retained < limit || there.active_pid.is_some() {
        return Ok(false);
    }
    slot::drop(&source, &connector.slot).await?;
    setup.board.wal_step(Step::Drop.word());
    let (slot, retained) = (&connector.slot, there.retained);
    tracing::error!(retained, limit, "slot {slot} kept more than wal.drop_slot: it was dropped");
    Ok(true)
}

/// Names the slots at the source that look like ours and that no connector of the files uses.
pub(super) async fn name_orphans(shared: &Shared, source: &Session) -> Result<()> {
    for orphan in slot::orphans(source, &shared.setup.slots).await? {
        let quoted = crate::postgres::quote::literal(&orphan.name);
        tracing::warn!(
            retained = orphan.retained,
            remedy = format!("select pg_drop_replication_slot({quoted})"),
            "nobody streams from slot {}, and no file names it: it keeps the source's log",
            orphan.name
        );
    }
    Ok(())
}

/// Whether a connector failed for its warehouse.
pub(super) fn lacks_warehouse(kind: Kind) -> bool {
    kind == Kind::WarehouseAway
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn landing_ends_where_nobody_warns_and_the_store_is_bounded() {
        let wal = Wal { warn: 10, land: 20, drop_slot: Some(40) };
        let behind = |behind| Log { retained: behind, behind, held_back: 0 };
        let words = |landing, room| -> Vec<&str> {
            [0, 10, 19, 20, 39, 40]
                .map(|kept| step(&behind(kept), &wal, landing, room).word())
                .to_vec()
        };
        assert_eq!(
            words(false, true),
            ["calm", "warn", "warn", "landing", "landing", "slot_dropped"]
        );
        assert_eq!(
            words(true, true),
            ["calm", "landing", "landing", "landing", "landing", "slot_dropped"]
        );
        assert_eq!(words(true, false), ["calm", "warn", "warn", "warn", "warn", "slot_dropped"]);
        let never = Wal { drop_slot: None, ..wal };
        assert_eq!(step(&behind(u64::MAX), &never, false, true), Step::Land);
        // a transaction that stays open at the source: landing would free nothing
        let open = Log { retained: 39, behind: 3, held_back: 0 };
        assert_eq!(step(&open, &wal, false, true), Step::Warn);
        let back = Log { retained: 100, behind: 3, held_back: 90 };
        assert_eq!(step(&back, &wal, false, true), Step::Warn);
        assert_eq!(step(&Log { held_back: 50, ..back }, &wal, false, true), Step::Drop);
    }
}
