//! The small things beside the stream: what operators ask for, what people watch, and what changes at
//! the source without an event.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::asked;
use super::branches::Branches;
use super::cutting::ASKED;
use super::halt::{self, is_of_connector};
use super::intake::End;
use super::ladder::{self, DROPPED, Log, Step};
use super::lane::Progress;
use super::locked;
use super::resolve::{Resolved, resolve};
use super::resync::resync_all;
use super::rights::Locked;
use super::shared::Shared;
use super::tables::Planned;
use super::unseen::Unseen;
use crate::capture::catalog::{self, SourceTable};
use crate::capture::{LogEnd, publication, slot};
use crate::error::Result;
use crate::names::TableName;
use crate::position::Lsn;
use crate::postgres::Session;
use crate::progress::dead_letters;
use crate::progress::requests::{self, Request, Verb};
use crate::progress::tables::{State, TableRecord};
use crate::progress::{chunks, gaps, pending, tables};
use crate::serve::Phase;
use crate::spec::Connector;
use crate::warehouse::Fenced;

/// How often requests are looked for.
const REQUESTS_EVERY: Duration = Duration::from_secs(1);

/// How often retained and kept bytes are measured.
const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// How often the catalogue is asked for new tables, and for published ones that have lost their key:
/// Postgres refuses the shop's updates of those until they have left the publication.
const CATALOGUE_EVERY: Duration = Duration::from_secs(5);

/// The controlling task.
pub(super) struct Control {
    pub(super) shared: Arc<Shared>,
    branches: Branches,
    /// what was left out at first for what the source has or lacks
    left_out: Vec<TableName>,
    /// what is not published as it should be, because somebody has locked it
    locked: Vec<Locked>,
}

impl Control {
    pub(super) fn new(shared: Arc<Shared>) -> Control {
        let (left_out, locked) = (Vec::new(), Vec::new());
        Control { shared, branches: Branches::default(), left_out, locked }
    }

    /// The same, with what is known of the source's leaves, of what was left out at first and of what is
    /// locked.
    pub(super) fn knowing(
        self,
        branches: Branches,
        left_out: Vec<TableName>,
        locked: Vec<Locked>,
    ) -> Control {
        Control { branches, left_out, locked, ..self }
    }

    /// `table resync --all` is carried out before the slot is looked at: it is the remedy where the
    /// slot is lost. And tables go on before the stream does: they may be what fills the store of kept changes.
    pub(super) async fn carry_out_before_start(
        &self,
        source: &Session,
        warehouse: &mut Session,
    ) -> Result<()> {
        let (setup, fence) = (&self.shared.setup, &self.shared.fence);
        let connector = &self.shared.connector().name;
        let read = requests::open_of(&**warehouse, connector, &[Verb::Resync]).await?;
        for request in read.iter().filter(|request| request.table.is_none()) {
            let why = "table resync --all";
            resync_all(setup, (fence, &mut *warehouse), Some(request.id), why).await?;
        }
        // with what was asked before them: the last word counts
        let held = [Verb::Pause, Verb::Resume];
        loop {
            let asked = requests::open_of(&**warehouse, connector, &held).await?;
            for request in &asked {
                self.of_tables(warehouse, request).await?;
            }
            if asked.is_empty() {
                break;
            }
        }
        ladder::carry_on(setup, source, (fence, warehouse)).await
    }

    /// Runs until a change asks for a new session, or everything is caught up where that was asked.
    pub(super) async fn run(
        mut self,
        mut source: Session,
        mut warehouse: Session,
        progress: watch::Receiver<Progress>,
        resolved: Resolved,
        planned: Vec<Planned>,
    ) -> Result<End> {
        let mut ticks = interval(REQUESTS_EVERY);
        if self.shared.setup.until_caught_up {
            ticks = interval(Duration::from_millis(100));
        }
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let goal = LogEnd::of(&*source).await?.position;
        let (mut measured, mut looked) = (None::<Instant>, Instant::now());
        let mut unseen = Unseen::default();
        loop {
            ticks.tick().await;
            if self.carry_out((&mut source, &mut warehouse), &planned).await? {
                return Ok(End::Restart);
            }
            if measured.is_none_or(|at| at.elapsed() >= MEASURE_EVERY) {
                let stored = progress.borrow().stored.lsn();
                if self.measure(&source, &mut warehouse, stored).await? {
                    return Ok(End::Restart);
                }
                measured = Some(Instant::now());
            }
            if looked.elapsed() >= CATALOGUE_EVERY {
                looked = Instant::now();
                if self.has_other_tables(&source, &resolved).await?
                    || self.is_told_less(&source, &resolved).await?
                {
                    return Ok(End::Restart);
                }
                // there is another session behind every table that begins to wait
                if planned.iter().any(|table| table.record.is_locked())
                    && locked::let_go(&self.shared, &mut warehouse).await?
                {
                    return Ok(End::Restart);
                }
                unseen.look(&self.shared, &source, &planned).await?;
                let sides = (&source, &mut warehouse);
                self.branches.look(&self.shared, sides, &planned).await?;
            }
            let stored = progress.borrow().stored.lsn();
            if self.branches.judge(&self.shared, &mut warehouse, &planned, stored).await? {
                return Ok(End::Restart);
            }
            if unseen.judge(&self.shared, &warehouse, &planned, stored).await? {
                return Ok(End::Restart);
            }
            self.show_phase();
            if self.shared.setup.until_caught_up
                && self.locked.is_empty()
                && progress.borrow().stored.lsn() >= goal
                && self.all_caught_up(&warehouse, &planned).await?
            {
                return Ok(End::CaughtUp);
            }
        }
    }

    fn show_phase(&self) {
        let board = &self.shared.setup.board;
        let phase = if board.is_reading() { Phase::Snapshotting } else { Phase::Streaming };
        board.phase(phase, None, None);
    }

    async fn all_caught_up(&self, warehouse: &Session, planned: &[Planned]) -> Result<bool> {
        let records = tables::read(&**warehouse, &self.shared.connector().name).await?;
        Ok(planned.iter().all(|table| {
            let of = |record: &&TableRecord| record.table == table.record.table;
            let state = records.iter().find(of).map(|record| record.state);
            matches!(state, Some(State::Streaming | State::Stopped | State::Paused) | None)
        }))
    }

    /// Measures; true where so much log is kept that a new session has to do something about it.
    async fn measure(
        &self,
        source: &Session,
        warehouse: &mut Session,
        stored: Lsn,
    ) -> Result<bool> {
        let (connector, board) = (self.shared.connector(), &self.shared.setup.board);
        let end = LogEnd::of(&**source).await?;
        board.source_ends(end.position, end.at);
        let sizes: BTreeMap<TableName, u64> =
            pending::sizes(&**warehouse, &connector.name).await?.into_iter().collect();
        board.pending_bytes(&sizes);
        board.dead_letters(&dead_letters::counts(&**warehouse, &connector.name).await?);
        let Some(slot) = slot::inspect(source, &connector.slot).await? else { return Ok(false) };
        board.retained_bytes(slot.retained);
        let behind = end.position.0.saturating_sub(stored.0);
        self.shared.setup.stored.store(stored.as_i64(), Ordering::SeqCst);
        let held_back = ladder::held_back(connector, &slot, Some(stored)).unwrap_or(0);
        let log = Log { retained: slot.retained, behind, held_back };
        self.climb(warehouse, &log, sizes.values().sum()).await
    }

    /// Takes the step that so much kept log asks for.
    async fn climb(&self, warehouse: &mut Session, log: &Log, kept: u64) -> Result<bool> {
        let setup = &self.shared.setup;
        let landing = *setup.landing.borrow();
        let room = ladder::has_room(kept, setup.settings.pending_bytes, landing);
        let step = ladder::step(log, &setup.connector.wal, landing, room);
        let noted = Some((&self.shared.fence, &mut *warehouse));
        ladder::take(setup, (step, log), noted).await?;
        match step {
            Step::Drop => {
                ladder::say_dropped(&setup.connector, log.retained);
                let fence = &self.shared.fence;
                resync_all(setup, (fence, warehouse), None, DROPPED).await?;
                return Ok(true);
            }
            Step::Land if !landing => return ladder::land(&self.shared, warehouse, log).await,
            Step::Land => {}
            _ => {
                setup.landing.send_if_modified(std::mem::take);
            }
        }
        Ok(false)
    }

    /// Whether the source has a table for us that is neither fed nor left out, or one that is fed and
    /// may be published no more, or is another one of the same name; or one that was left out for what is mended,
    /// or that nobody locks any more.
    async fn has_other_tables(&self, source: &Session, resolved: &Resolved) -> Result<bool> {
        for Locked { table, .. } in &self.locked {
            if publication::locker(source, table).await?.is_none() {
                return Ok(true);
            }
        }
        let shared = &self.shared;
        let connector = shared.connector();
        let catalogue = catalog::tables(&**source).await?;
        let (models, extensions) = (&shared.setup.models, &shared.extensions);
        let known = &resolved.known;
        let now = resolve(connector, models, catalogue.clone(), extensions, known);
        let now: Vec<TableName> = now.left_out.into_iter().map(|out| out.table).collect();
        if self.left_out.iter().any(|table| !now.contains(table)) {
            return Ok(true);
        }
        Ok(catalogue.iter().any(|table| {
            let name = &table.relation.table;
            let fed = resolved.fed.iter().find(|fed| fed.source.relation.table == *name);
            let left_out = resolved.left_out.iter().any(|out| out.table == *name);
            match fed {
                Some(fed) => {
                    let lost_key = fed.source.identity_problem().is_none()
                        && table.identity_problem().is_some();
                    // as with a lost key: the source's own updates fail until it is published no more
                    lost_key
                        || publication::column_list(connector, table).is_err()
                        || fed.source.relation.oid != table.relation.oid
                        || is_listed_otherwise(connector, &fed.source, table)
                }
                None => connector.mirror && connector.takes(name) && !left_out,
            }
        }))
    }

    /// Whether somebody has taken tables, columns or rows out of a publication.
    async fn is_told_less(&self, source: &Session, resolved: &Resolved) -> Result<bool> {
        let (wanted, version) = (&resolved.publications, self.shared.source.version);
        let untold = publication::untold(source, wanted, version).await?;
        if let Some(table) = untold.keys().min() {
            tracing::warn!("what is published of {table} was changed behind our back");
        }
        Ok(!untold.is_empty())
    }

    /// Carries out what is asked; true where a new session has to take it up.
    async fn carry_out(
        &self,
        (source, warehouse): (&mut Session, &mut Session),
        planned: &[Planned],
    ) -> Result<bool> {
        let connector = &self.shared.connector().name;
        let mut restart = false;
        for request in requests::open(&**warehouse, connector).await? {
            if matches!(request.verb, Verb::ResyncWhere | Verb::Rebuild) {
                restart |= self.mend((source, warehouse), planned, &request).await?;
                continue;
            }
            restart = true;
            match (request.verb, &request.table) {
                // the next session does it, before it looks at the slot
                (Verb::Resync, None) => {}
                (Verb::Replay | Verb::Drop, table) => {
                    asked::settle(&self.shared, warehouse, &request, table.as_ref()).await?;
                }
                (verb, _) if is_of_connector(verb) => {
                    let (setup, fence) = (&self.shared.setup, &self.shared.fence);
                    halt::carry_out(setup, fence, warehouse, &request).await?;
                }
                _ => self.of_tables(warehouse, &request).await?,
            }
        }
        Ok(restart)
    }

    /// Holds tables, lets them go on, or has one read again.
    async fn of_tables(&self, warehouse: &mut Session, request: &Request) -> Result<()> {
        let (fence, durations) = (&self.shared.fence, &self.shared.setup.durations);
        let transaction = Fenced::begin(warehouse, fence, "request", durations).await?;
        let records = tables::read(&*transaction, &self.shared.connector().name).await?;
        let mut answers = Vec::new();
        for record in records.iter().filter(|record| asked::means(request, record)) {
            answers.push(self.one(&transaction, request.verb, record).await?);
        }
        let (done, answer) = asked::together(request, answers);
        requests::answer(&*transaction, request.id, done, &answer).await?;
        transaction.commit().await?;
        tracing::info!(done, "{answer}");
        Ok(())
    }

    async fn one(
        &self,
        transaction: &Fenced<'_>,
        verb: Verb,
        record: &TableRecord,
    ) -> Result<(bool, String)> {
        let table = &record.table;
        let has_events = self.shared.was_read(record) && self.shared.setup.logs_events(table);
        // events that were missed cannot be read: the table goes on behind the gap
        let verb = if record.chunk_open && has_events { Verb::Resync } else { verb };
        match verb {
            _ if record.is_shelved() => Ok((
                false,
                format!("nothing feeds {table}: siltstone apply forgets it, and its rows stay"),
            )),
            Verb::Pause | Verb::Resume => asked::hold_or_let_go(transaction, verb, record).await,
            Verb::Resync if has_events => {
                let now = self.shared.stored(transaction).await?;
                gaps::note(transaction, table, (now, Some(now)), "table resync").await?;
                Ok((true, format!("{table} keeps its events; a gap is noted in audit.gaps")))
            }
            _ => {
                chunks::open_table(transaction, table, State::Resyncing, Some(ASKED)).await?;
                let paused = record.is_held() && record.state == State::Paused;
                let goes_on = if paused { "; it was paused, and goes on then" } else { "" };
                Ok((true, format!("{table} will be read again{goes_on}")))
            }
        }
    }
}

/// Whether the columns of a published table ask for another column list than it has: a list hides the
/// columns that came after it.
fn is_listed_otherwise(connector: &Connector, fed: &SourceTable, now: &SourceTable) -> bool {
    let table = &now.relation.table;
    let hidden = |name: &str| connector.excludes(table, name);
    let names = |of: &SourceTable| -> Vec<String> {
        let columns = of.relation.columns.iter().filter(|column| !hidden(&column.name));
        columns.map(|column| column.name.clone()).collect()
    };
    now.relation.columns.iter().any(|column| hidden(&column.name)) && names(fed) != names(now)
}
