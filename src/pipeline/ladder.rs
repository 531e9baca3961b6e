//! What is done about the log that a slot keeps at the source while the warehouse cannot keep up: first it
//! is said; then changes are only kept in the warehouse and confirmed, so that the source can let go of
//! its log; and last, if the files say so, the slot is dropped and everything read again.
//!
//! The source's disk comes before our freshness. Nothing is lost on any step but the last, which reads all
//! rows again and names the gaps of tables that keep events.

use std::sync::atomic::Ordering;

use super::dropped;
use super::resync::resync_all;
use super::shared::{Setup, Shared};
use crate::capture::slot::{self, Slot};
use crate::error::{Kind, Result};
use crate::position::Lsn;
use crate::postgres::{Session, Side, connect};
use crate::progress::tables::{self, State};
use crate::progress::{Checkpoint, record_step, slot_record};
use crate::spec::{Connector, Wal};
use crate::warehouse::{Fence, Fenced};

/// Why everything is read again when the slot kept too much.
pub(super) const DROPPED: &str = "the slot kept more log than wal.drop_slot, and was dropped";

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

/// Whether more may be kept of at most `limit` bytes: landing begins with half of them free, and ends with
/// less than a quarter.
pub(super) fn has_room(kept: u64, limit: u64, landing: bool) -> bool {
    kept < if landing { limit / 4 * 3 } else { limit / 2 }
}

/// What of a slot's log is stored and kept on purpose, when so much is stored; none where that is not known.
pub(super) fn held_back(connector: &Connector, slot: &Slot, stored: Option<Lsn>) -> Option<u64> {
    match connector.slot_hold_back {
        None => Some(0),
        Some(_) => Some(stored?.0.saturating_sub(slot.confirmed?.0)),
    }
}

/// From the next session on every table's changes are kept, and drained when landing is over. Whether there
/// is a table for which that is new.
pub(super) async fn land(shared: &Shared, warehouse: &mut Session, log: &Log) -> Result<bool> {
    let (fence, durations) = (&shared.fence, &shared.setup.durations);
    let transaction = Fenced::begin(warehouse, fence, "land", durations).await?;
    let (retained, behind) = (log.retained, log.behind);
    let reason = format!(
        "landing: the slot keeps {retained} bytes of the source's log, {behind} of them not stored yet"
    );
    let mut new = false;
    for record in tables::read(&*transaction, &shared.connector().name).await? {
        if record.state == State::Streaming {
            let state = State::CatchingUp;
            tables::set(&*transaction, &record.table, state, Some(&reason), None).await?;
            new = true;
        }
    }
    transaction.commit().await?;
    shared.setup.landing.send_replace(true);
    tracing::warn!(retained, behind, "{reason}: changes are kept and confirmed, and merged later");
    Ok(new)
}

/// Says what is done and notes it, once a step.
pub(super) async fn take(
    setup: &Setup,
    (step, log): (Step, &Log),
    noted: Option<(&Fence, &mut Session)>,
) -> Result<()> {
    let before = setup.wal_step.replace(step);
    say(setup, step, before.unwrap_or_default(), log);
    if let Some((fence, warehouse)) = noted.filter(|_| before != Some(step)) {
        let transaction = Fenced::begin(warehouse, fence, "step", &setup.durations).await?;
        let told = (step.word(), log.retained);
        record_step(&transaction, &setup.connector.name, told).await?;
        transaction.commit().await?;
    }
    Ok(())
}

fn say(setup: &Setup, step: Step, before: Step, log: &Log) {
    let (connector, Log { retained, behind, held_back }) = (&setup.connector, *log);
    setup.board.wal_step(step.word());
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

/// Says that the slot goes.
pub(super) fn say_dropped(connector: &Connector, retained: u64) {
    let (slot, limit) = (&connector.slot, connector.wal.drop_slot);
    tracing::error!(
        retained,
        limit,
        "slot {slot} keeps more than wal.drop_slot: it is dropped, and everything is read again"
    );
}

/// What of the warehouse is at hand while nothing is read from the source.
pub(super) enum Warehouse<'w> {
    /// It is away.
    Away,
    /// Somebody else may own the connector.
    Read(&'w Session),
    /// The connector is ours.
    Ours(&'w Fence, &'w mut Session),
}

/// While the warehouse is away, or the connector rests: drops a slot of ours that nobody streams from and that
/// keeps more than the files allow. All is to be read again then, which is noted first.
pub(super) async fn drop_unattended(setup: &Setup, warehouse: Warehouse<'_>) -> Result<()> {
    let connector = &setup.connector;
    if matches!(warehouse, Warehouse::Away) && connector.wal.drop_slot.is_none() {
        return Ok(());
    }
    let source = connect(Side::Source, &connector.endpoint, "siltstone slot").await?;
    let Some(there) = slot::inspect(&source, &connector.slot).await? else { return Ok(()) };
    setup.board.retained_bytes(there.retained);
    let at_hand = match &warehouse {
        Warehouse::Away => None,
        Warehouse::Read(session) => Some(*session),
        Warehouse::Ours(_, session) => Some(&**session),
    };
    let (record, stored) = match at_hand {
        Some(session) => {
            let stored = Checkpoint::read(&**session, &connector.name, &connector.slot).await?;
            let record = slot_record(&**session, &connector.name).await?;
            (record, stored.map(|stored| stored.lsn()))
        }
        None => (
            None,
            Some(setup.stored.load(Ordering::SeqCst)).filter(|at| *at > 0).map(Lsn::from_i64),
        ),
    };
    let known = record.as_ref().filter(|record| record.slot == connector.slot);
    if at_hand.is_some() && known.is_none() {
        return Ok(());
    }
    let held_back = held_back(connector, &there, stored);
    if !goes(&there, connector.endpoint.database(), held_back, &connector.wal) {
        let held_back = held_back.unwrap_or(0);
        let log = Log { retained: there.retained, behind: 0, held_back };
        // what is too much is known to be so only where it goes
        let step = step(&log, &Wal { drop_slot: None, ..connector.wal }, false, false);
        let noted = match warehouse {
            Warehouse::Ours(fence, session) => Some((fence, session)),
            Warehouse::Away | Warehouse::Read(_) => None,
        };
        return take(setup, (step, &log), noted).await;
    }
    say_dropped(connector, there.retained);
    let is_ready = known.is_some_and(|record| record.ready);
    match warehouse {
        Warehouse::Ours(fence, session) if is_ready => {
            resync_all(setup, (fence, session), None, DROPPED).await?;
        }
        // that it is made anew is noted already
        Warehouse::Ours(..) => {}
        Warehouse::Away | Warehouse::Read(_) => dropped::note(setup),
    }
    slot::drop(&source, &connector.slot).await?;
    setup.wal_step.replace(Step::Drop);
    setup.board.wal_step(Step::Drop.word());
    Ok(())
}

/// Whether a slot is ours and keeps more than it may, as far as it is known what is held back on purpose.
/// Another instance that streams from it is one that can reach the warehouse.
fn goes(there: &Slot, database: &str, held_back: Option<u64>, wal: &Wal) -> bool {
    let Some(held_back) = held_back else { return false };
    let log = Log { retained: there.retained, behind: 0, held_back };
    there.is_like_ours(database)
        && there.active_pid.is_none()
        && step(&log, wal, false, false) == Step::Drop
}

/// Has everything read again where the slot was dropped while the warehouse was away, by this process or by
/// one before it. A slot that is still there was not dropped after all.
pub(super) async fn carry_on(
    setup: &Setup,
    source: &Session,
    (fence, warehouse): (&Fence, &mut Session),
) -> Result<()> {
    let connector = &setup.connector;
    if !dropped::is_noted(setup) {
        return Ok(());
    }
    let record = slot_record(&**warehouse, &connector.name).await?;
    let is_gone = slot::inspect(source, &connector.slot).await?.is_none();
    if is_gone && record.is_some_and(|record| record.ready && record.slot == connector.slot) {
        resync_all(setup, (fence, warehouse), None, DROPPED).await?;
    }
    dropped::forget(setup);
    Ok(())
}

/// Names the slots at the source that look like ours and that no connector of the files uses.
pub(super) async fn name_orphans(shared: &Shared, source: &Session) -> Result<()> {
    for orphan in slot::orphans(source, &shared.setup.slots).await? {
        let quoted = crate::postgres::quote::literal(&orphan.name);
        if let Some(of) = shared.setup.disabled.iter().find(|of| of.slot == orphan.name) {
            let name = &of.name;
            tracing::warn!(
                retained = orphan.retained,
                remedy = format!(
                    "enable it; or, if it is not to go on, siltstone connector remove {name}, and select \
                     pg_drop_replication_slot({quoted})"
                ),
                "connector {name} is disabled, and its slot {} keeps the source's log",
                orphan.name
            );
            continue;
        }
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
    fn what_is_held_back_or_not_ours_does_not_go() {
        let wal = Wal { warn: 10, land: 20, drop_slot: Some(40) };
        let there = Slot {
            plugin: Some("pgoutput".to_owned()),
            database: Some("shop".to_owned()),
            confirmed: Some(Lsn(100)),
            wal_status: Some("reserved".to_owned()),
            active_pid: None,
            two_phase: false,
            failover: None,
            synced: false,
            retained: 100,
        };
        let ours = |there: &Slot, held_back| goes(there, "shop", held_back, &wal);
        assert!(ours(&there, Some(0)) && ours(&there, Some(60)));
        assert!(!ours(&there, Some(61)) && !ours(&there, None), "held back, or maybe");
        assert!(!ours(&Slot { active_pid: Some(7), ..there.clone() }, Some(0)));
        assert!(!ours(&Slot { plugin: Some("wal2json".to_owned()), ..there.clone() }, Some(0)));
        assert!(!goes(&there, "another", Some(0), &wal));
    }

    #[test]
    fn landing_does_not_flap_at_its_limit() {
        let at = |kept| (has_room(kept, 400, false), has_room(kept, 400, true));
        assert_eq!(at(199), (true, true));
        assert_eq!(at(200), (false, true), "it goes on, and does not begin");
        assert_eq!(at(299), (false, true));
        assert_eq!(at(300), (false, false));
    }

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
