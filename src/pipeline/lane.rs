//! The apply lane: one connection, one transaction at a time, in which the rows of all tables, the
//! kept changes and the position are committed together.
//!
//! Between batches it applies the kept changes of tables that catch up, and lets them go on.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::core::{CaughtUp, Core, Flows, writer};
use super::drain;
use super::draining::{Draining, at_work};
use super::receipt::Receipt;
use crate::error::{Error, Kind, Result};
use crate::journey::{Advanced, Before, Held, Refused};
use crate::merge::{Apply, Piece};
use crate::position::Positions;
use crate::postgres::Session;
use crate::progress::dead_letters::{self, DeadLetter};
use crate::progress::pending::Kept;
use crate::progress::tables::{State, TableRecord};
use crate::progress::{Ledger, pending, tables};
use crate::spec::Model;
use crate::warehouse::Fenced;

/// What the lane has done so far.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// Batches that are committed.
    pub(super) done: u64,
    /// The stored positions.
    pub(super) stored: Positions,
}

/// The lane's state.
pub(super) struct Lane {
    shared: Arc<Core>,
    session: Session,
    apply: Apply,
    ledger: Ledger,
    progress: watch::Sender<Progress>,
    done: u64,
    draining: Vec<Draining>,
    /// bytes in `audit.pending`; those that a reading made needless are counted until the next session
    kept_bytes: u64,
}

/// How often a table that rests is asked whether it may go on now: an idle source sends no batch that
/// would ask it.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// The planner must not hash or sort a table because a staging table has no statistics. For the same
/// reason its costs are far too high, and compiling a statement would take longer than running it.
pub(super) const PLANS: &str = "set enable_hashjoin to off; set enable_mergejoin to off; \
    set plan_cache_mode to force_generic_plan; set work_mem to '64MB'; \
    set jit to off";

impl Lane {
    pub(super) async fn open(
        shared: Arc<Core>,
        ledger: Ledger,
        progress: watch::Sender<Progress>,
        warehouse: &Session,
    ) -> Result<Lane> {
        let kept_bytes = pending::total(&**warehouse, &shared.connector().name).await?;
        let session = writer(&shared.setup, &shared.fence, "apply").await?;
        let failed = |error| Error::warehouse("setting up the apply session", error);
        session.batch_execute(PLANS).await.map_err(failed)?;
        // a confirmed position must not be lost again with the warehouse's last moments
        let synchronous = "select set_config('synchronous_commit', \
            case current_setting('synchronous_commit') when 'off' then 'local' \
            else current_setting('synchronous_commit') end, false)";
        session.batch_execute(synchronous).await.map_err(failed)?;
        let apply = Apply::new(shared.setup.templates.clone());
        Ok(Lane {
            shared,
            session,
            apply,
            ledger,
            progress,
            done: 0,
            draining: Vec::new(),
            kept_bytes,
        })
    }

    /// Applies what comes until the sender is gone.
    pub(super) async fn run(
        mut self,
        mut work: mpsc::Receiver<Piece>,
        mut caught_up: mpsc::Receiver<CaughtUp>,
        mut landing: watch::Receiver<bool>,
    ) -> Result<()> {
        let mut chunks_open = true;
        loop {
            let lands = *landing.borrow_and_update();
            let stored = self.ledger.positions();
            let drains = !lands && !at_work(&self.draining, &stored).is_empty();
            let rests = self.draining.iter().any(|table| table.rests);
            tokio::select! {
                biased;
                table = caught_up.recv(), if chunks_open => match table {
                    Some(table) => self.begin_drain(table),
                    None => chunks_open = false,
                },
                piece = work.recv() => match piece {
                    Some(piece) => {
                        if !self.transaction(piece, &mut work).await? {
                            return Ok(());
                        }
                        if !lands {
                            self.drain_some().await?;
                        }
                    }
                    None => return Ok(()),
                },
                Ok(()) = landing.changed() => {}
                () = std::future::ready(()), if drains => self.drain_some().await?,
                () = tokio::time::sleep(ASK_EVERY), if rests => self.wake(&stored),
            }
        }
    }

    /// Looks again at the tables that may go on by now.
    fn wake(&mut self, stored: &Positions) {
        for table in self.draining.iter_mut().filter(|table| table.rests) {
            table.rests = !table.may_go_on(stored, &self.shared.setup);
        }
    }

    fn begin_drain(&mut self, table: CaughtUp) {
        let needed = table.joins.max(table.not_before.lsn());
        self.shared.awaited.send_modify(|awaited| *awaited = needed.max(*awaited));
        if !table.flows {
            let (board, state) = (&self.shared.setup.board, State::CatchingUp.word());
            board.table_state(&table.target.model.table, state, None, None);
        }
        self.draining.push(Draining::new(table));
    }

    /// One warehouse transaction: the piece, and those behind it until a source commit ends one. False
    /// if the sender went away in the middle: then everything is rolled back.
    async fn transaction(
        &mut self,
        first: Piece,
        work: &mut mpsc::Receiver<Piece>,
    ) -> Result<bool> {
        let room = self.make_room(bytes_to_keep(&first)).await?;
        let Lane { shared, session, apply, ledger, draining, .. } = self;
        prepare(shared, &first, None).await?;
        let begun = Fenced::begin(session, &shared.fence, "apply", &shared.setup.durations).await?;
        ledger.lock(&begun).await?;
        let mut receipt = Receipt::default();
        let (mut altered, mut live) = (false, Vec::new());
        draining.retain(|table| {
            let now = table.live_from.is_some_and(|version| first.batch.routing >= version);
            if now {
                live.push(table.drain.clone());
            }
            !now
        });
        let mut streaming = Vec::new();
        for drain in &mut live {
            let drained = drain.run(&begun, apply, shared, None).await?;
            receipt.drained += drained.bytes;
            altered |= drained.altered;
            receipt.add(drain.index(), drained.applied);
            if drain.end(&begun).await? {
                streaming.push(drain.table().clone());
            }
        }
        let (mut piece, mut pieces) = (first, 1);
        let stretches = loop {
            receipt.transactions += piece.batch.transactions;
            receipt.committed_at = receipt.committed_at.max(piece.batch.committed_at);
            receipt.kept += keep(&begun, shared, &piece).await?;
            if receipt.kept > room {
                drop(begun);
                return Err(self.too_large(receipt.kept).await);
            }
            for before in &piece.batch.before {
                if let Before::Reshape { target, statements } = before {
                    altered |= !statements.is_empty();
                    tables::set_schema(&*begun, &target.model.table, target.schema_id).await?;
                }
            }
            let ends = piece.batch.ends;
            let stretches = piece.batch.stretches.clone();
            for (index, applied) in apply.piece(&begun, piece).await? {
                receipt.add(index, applied);
            }
            if ends {
                break stretches;
            }
            match work.recv().await {
                None => return Ok(false),
                Some(next) => piece = next,
            }
            pieces += 1;
            prepare(shared, &piece, altered.then_some(&*begun)).await?;
        };
        ledger.advance(&begun, &stretches).await?;
        if let Err(error) = begun.commit().await {
            return Err(apply.refused(session, error).await);
        }
        ledger.note(&stretches);
        draining.iter_mut().for_each(|table| table.rests = false);
        for table in streaming {
            shared.setup.board.table_state(&table, State::Streaming.word(), None, None);
        }
        self.report(receipt, pieces)
    }

    fn report(&mut self, receipt: Receipt, pieces: u64) -> Result<bool> {
        self.done += pieces;
        self.kept_bytes = (self.kept_bytes + receipt.kept).saturating_sub(receipt.drained);
        let stored = self.ledger.positions();
        self.shared.setup.board.advanced(&Advanced {
            positions: stored.clone(),
            committed_at: receipt.committed_at,
            transactions: receipt.transactions,
            tables: receipt.tables,
        });
        self.progress.send_replace(Progress { done: self.done, stored });
        Ok(true)
    }

    /// Sees that so many more bytes may be kept: applies first what can be applied. How many may be.
    async fn make_room(&mut self, more: u64) -> Result<u64> {
        let limit = self.shared.setup.settings.pending_bytes;
        while more > 0 && self.kept_bytes + more > limit {
            let connector = &self.shared.connector().name;
            // what a reading made needless was counted until now
            self.kept_bytes = pending::total(&*self.session, connector).await?;
            let stored = self.ledger.positions();
            if self.kept_bytes + more <= limit {
                break;
            }
            if at_work(&self.draining, &stored).is_empty() {
                return Err(full(&self.shared).await);
            }
            self.drain_some().await?;
        }
        Ok(limit.saturating_sub(self.kept_bytes))
    }

    /// A transaction was rolled back, with what it had staged, of which more is to be kept than there is room for:
    /// what can be applied of the kept changes is, and it comes again.
    async fn too_large(&mut self, more: u64) -> Error {
        self.apply = Apply::new(self.shared.setup.templates.clone());
        let (before, stored) = (self.kept_bytes, self.ledger.positions());
        while !at_work(&self.draining, &stored).is_empty() {
            if let Err(error) = self.drain_some().await {
                return error;
            }
        }
        if self.kept_bytes == before {
            return full(&self.shared).await;
        }
        let what = format!(
            "a transaction has {more} bytes or more to be kept: others were applied first, it comes again"
        );
        Error::new(Kind::Busy, what)
    }

    /// Applies a part of the kept changes of each table that catches up, in a transaction of its own;
    /// where less than a part was left, asks for the table's changes to come with the batches.
    async fn drain_some(&mut self) -> Result<()> {
        const PART: u64 = 20_000;
        let mut live = Vec::new();
        let Lane { shared, session, apply, ledger, draining, kept_bytes, .. } = self;
        let stored = ledger.positions();
        for at in at_work(draining, &stored) {
            let Some(table) = draining.get_mut(at) else { continue };
            let begun =
                Fenced::begin(session, &shared.fence, "drain", &shared.setup.durations).await?;
            if table.drain.is_idle(&begun, apply, shared).await? {
                table.rests = true;
                continue;
            }
            let drained = table.drain.run(&begun, apply, shared, Some(PART)).await?;
            if let Err(error) = begun.commit().await {
                return Err(apply.refused(session, error).await);
            }
            *kept_bytes = kept_bytes.saturating_sub(drained.bytes);
            shared.setup.board.applied(table.drain.index(), &drained.applied);
            table.rests = !drained.goes_on;
            if drained.refused {
                table.troubled_at = Instant::now();
            }
            let is_over = table.rests && table.drain.has_news();
            if is_over && table.may_go_on(&stored, &shared.setup) {
                live.push(table.drain.caught_up(shared)?);
                table.live_from = Some(shared.flows.borrow().version + 1);
            }
        }
        if !live.is_empty() {
            self.shared.flows.send_modify(|flows: &mut Flows| {
                flows.version += 1;
                let version = flows.version;
                // the last word on a table is enough: nobody goes through it again before that was heard
                let is_over =
                    |old: &CaughtUp| live.iter().any(|it| it.target.index == old.target.index);
                flows.live.retain(|(_, old)| !is_over(old));
                flows.live.extend(live.into_iter().map(|table| (version, table)));
            });
        }
        Ok(())
    }
}

/// Makes the leaves a piece needs; `within` a transaction that has altered tables.
async fn prepare(
    shared: &Core,
    piece: &Piece,
    within: Option<&tokio_postgres::Transaction<'_>>,
) -> Result<()> {
    let today = shared.setup.clock.now_postgres().div_euclid(drain::DAY);
    let wanted: Vec<(Arc<Model>, Vec<i64>)> = piece
        .tables
        .iter()
        .map(|table| (table.target.model.clone(), table.days(today)))
        .filter(|(_, days)| !days.is_empty())
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    shared.ensure_leaves(&wanted, within).await
}

/// Keeps the changes of tables on hold; returns their bytes.
async fn keep(
    transaction: &tokio_postgres::Transaction<'_>,
    shared: &Core,
    piece: &Piece,
) -> Result<u64> {
    let held = &piece.batch.held;
    if held.is_empty() {
        return Ok(0);
    }
    let connector = &shared.connector().name;
    for (change, refused) in held.iter().filter_map(|held| Some((held, held.refused.as_ref()?))) {
        let kept = Kept::of(change, shared.binary);
        let Refused { reason, key } = refused.clone();
        let letter = DeadLetter {
            kept: &kept,
            digests: change.digests,
            key,
            reason,
            record: change.letter.as_deref(),
            readable: change.readable,
        };
        dead_letters::write(transaction, connector, &change.target.model.table, &letter).await?;
    }
    pending::keep(transaction, connector, held, shared.binary).await?;
    Ok(bytes_to_keep(piece))
}

async fn full(shared: &Core) -> Error {
    let connector = &shared.connector().name;
    let side = shared.side_session().await;
    let records = tables::read(&**side.session(), connector).await;
    let held = records.map_or(true, |records| records.iter().any(TableRecord::is_held));
    pending::full(connector, shared.setup.settings.pending_bytes, held)
}

/// The bytes of a piece that are only kept.
fn bytes_to_keep(piece: &Piece) -> u64 {
    let kept = piece.batch.held.iter().filter(|change| change.refused.is_none());
    u64::try_from(kept.map(Held::weight).sum::<usize>()).unwrap_or(u64::MAX)
}
