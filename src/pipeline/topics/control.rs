//! The small things beside the records: what operators ask for, what other members did to tables, and what
//! people watch.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::TopicSetup;
use super::anew::is_wished;
use super::asking::{ask, not_read_again};
use super::rest::Rest;
use super::waits::Waits;
use super::whole::Awaited;
use crate::capture::topics::{Member, Partition};
use crate::error::Result;
use crate::names::TableName;
use crate::position::Positions;
use crate::postgres::Session;
use crate::progress::requests::{self, Request, Verb};
use crate::progress::tables::State;
use crate::progress::wanted::{self, Wanted};
use crate::progress::{dead_letters, partitions, pending, tables};
use crate::serve::PartitionReport;
use crate::warehouse::{Fence, Fenced, interrupt};

use super::super::asked;
use super::super::core::{Basis, Core};
use super::super::halt::{self, is_of_connector};
use super::super::intake::End;
use super::super::lane::Progress;
use super::super::locked;

/// How often requests and the states of tables are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often it is looked whether everything is caught up, where that is waited for.
const CAUGHT_UP_EVERY: Duration = Duration::from_millis(100);

/// How often lag and kept bytes are measured, and the group is told what is stored.
const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// How often events are forgotten that no later one can be compared with any more.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// How long that may take of each table. A table with 10,000 deletes a second needs 30 parts of 20,000 a minute.
const FORGET_WITHIN: Duration = Duration::from_secs(5);

/// How long a service that ends when it has caught up waits for rows that wait for a delete: they are looked after
/// with each batch and once a second. Of some it may never come.
const ARRIVE_WITHIN: Duration = Duration::from_secs(2);

/// The controlling task.
pub(super) struct Control {
    setup: TopicSetup,
    shared: Arc<Core>,
    member: Arc<Member>,
    states: HashMap<TableName, State>,
    rest: Rest,
    /// whether this member reads tables again
    reads: Arc<AtomicBool>,
    /// where the partitions of topics end that rest
    ends_at_rest: watch::Receiver<Positions>,
    waits: Waits,
}

impl Control {
    pub(super) fn new(
        setup: &TopicSetup,
        shared: &Arc<Core>,
        member: &Arc<Member>,
        (states, rest, reads): (HashMap<TableName, State>, Rest, Arc<AtomicBool>),
        (ends_at_rest, awaited): (watch::Receiver<Positions>, watch::Receiver<Option<Awaited>>),
    ) -> Control {
        let (setup, shared, member) = (setup.clone(), shared.clone(), member.clone());
        let waits = Waits::of(awaited);
        Control { setup, shared, member, states, rest, reads, ends_at_rest, waits }
    }

    /// Runs until something asks for a new session, or everything up to `ends` is caught up where that was
    /// asked.
    pub(super) async fn run(
        mut self,
        mut warehouse: Session,
        progress: watch::Receiver<Progress>,
        ends: Positions,
    ) -> Result<End> {
        let waited_for = self.setup.until_caught_up;
        let mut ticks = interval(if waited_for { CAUGHT_UP_EVERY } else { LOOK_EVERY });
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut measured, mut forgot) = (None::<Instant>, None::<Instant>);
        let mut since = None;
        loop {
            ticks.tick().await;
            if self.carry_out(&mut warehouse).await? || self.has_changed(&warehouse).await? {
                return Ok(End::Restart);
            }
            let stored = progress.borrow().stored.clone();
            if measured.is_none_or(|at| at.elapsed() >= MEASURE_EVERY) {
                let kept = self.measure(&warehouse, &stored).await?;
                if measured.is_some() && self.other_topics_rest(&warehouse, kept).await? {
                    return Ok(End::Restart);
                }
                // not at once: it may be another lock that was in the way
                if measured.is_some() && locked::let_go(&self.shared, &mut warehouse).await? {
                    return Ok(End::Restart);
                }
                measured = Some(Instant::now());
            }
            if forgot.is_none_or(|at| at.elapsed() >= FORGET_EVERY) {
                self.forget(&mut warehouse).await?;
                forgot = Some(Instant::now());
            }
            self.waits.tell(&self.setup, (&self.shared, &self.member), &warehouse).await?;
            let reached = waited_for && stored.reach(&ends) && self.all_caught_up();
            if reached && self.nothing_arrives(&warehouse, &mut since).await? {
                self.member.commit(&stored);
                if let Some(error) = self.rest.error() {
                    let kept = pending::total(&*warehouse, &self.setup.connector.name).await?;
                    let goes_on = self.other_topics_rest(&warehouse, kept).await?;
                    return if goes_on { Ok(End::Restart) } else { Err(error) };
                }
                return Ok(End::CaughtUp);
            }
        }
    }

    async fn other_topics_rest(&self, warehouse: &Session, kept: u64) -> Result<bool> {
        self.rest.has_changed((&self.setup, &self.shared), warehouse, kept).await
    }

    /// Whether no row waits for the delete under its former key, or it was waited long enough for it.
    async fn nothing_arrives(
        &self,
        warehouse: &Session,
        since: &mut Option<Instant>,
    ) -> Result<bool> {
        let since = since.get_or_insert_with(Instant::now);
        let connector = &self.shared.connector().name;
        Ok(since.elapsed() >= ARRIVE_WITHIN
            || pending::arriving(&**warehouse, connector).await?.is_empty())
    }

    fn all_caught_up(&self) -> bool {
        let behind = |state: &State| matches!(state, State::CatchingUp | State::Resyncing);
        !self.states.values().any(behind)
    }

    /// Whether somebody else has held a table, let one go on or put kept changes before it; or wants the
    /// connector to rest, or all members to begin anew.
    async fn has_changed(&mut self, warehouse: &Session) -> Result<bool> {
        let connector = &self.shared.connector().name;
        if wanted::read(&**warehouse, connector).await? != Wanted::Running {
            return Ok(true);
        }
        if !self.reads.load(Ordering::SeqCst) && is_wished(warehouse, connector).await? {
            return Ok(true);
        }
        for record in tables::read(&**warehouse, connector).await? {
            let now = record.state;
            let before = self.states.insert(record.table, now).unwrap_or(State::Streaming);
            let held = |state| matches!(state, State::Paused | State::Stopped);
            // who reads begins anew when all is read
            let read = |state| state == State::Resyncing && !self.reads.load(Ordering::SeqCst);
            if held(before) != held(now)
                || read(before) != read(now)
                || (before == State::Streaming && now == State::CatchingUp)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Tells people how far it is; how many bytes are kept.
    async fn measure(&self, warehouse: &Session, stored: &Positions) -> Result<u64> {
        let (connector, board) = (&self.shared.connector().name, &self.shared.setup.board);
        let sizes: BTreeMap<TableName, u64> =
            pending::sizes(&**warehouse, connector).await?.into_iter().collect();
        board.pending_bytes(&sizes);
        board.dead_letters(&dead_letters::counts(&**warehouse, connector).await?);
        let statistics = self.member.statistics().borrow().clone();
        let end = |name: &str| -> Option<i64> {
            let partition = Partition::of_name(name)?;
            let topic = statistics.as_ref()?.topics.get(&*partition.topic)?;
            let end = topic.partitions.get(&partition.number)?.hi_offset;
            (end >= 0).then_some(end)
        };
        let report = |(name, stored): (&Arc<str>, i64)| {
            let end = end(name).unwrap_or(stored).max(stored);
            (name.to_string(), PartitionReport { stored, end, rests: false })
        };
        let mut partitions: BTreeMap<String, PartitionReport> = stored.iter().map(report).collect();
        for (name, end) in self.ends_at_rest.borrow().iter() {
            if let Some(report) = partitions.get_mut(&**name) {
                *report = PartitionReport { rests: true, end: end.max(report.stored), ..*report };
            }
        }
        board.partitions(partitions);
        self.rest.show(board, &self.states);
        self.member.commit(stored);
        Ok(sizes.values().sum())
    }

    async fn forget(&self, warehouse: &mut Session) -> Result<()> {
        let (fence, durations) = (&self.shared.fence, &self.shared.setup.durations);
        for table in self.states.keys() {
            let lateness = self.shared.setup.lateness(table);
            let since = Instant::now();
            // as many as have come in a minute, but requests are waited for no longer
            let mut more = true;
            while more && since.elapsed() < FORGET_WITHIN {
                let transaction = Fenced::begin(warehouse, fence, "forget", durations).await?;
                more = partitions::forget_quiet(&transaction, &table.to_string(), lateness).await?;
                transaction.commit().await?;
            }
        }
        Ok(())
    }

    /// Carries out what is asked; true where a new session has to take it up.
    async fn carry_out(&self, warehouse: &mut Session) -> Result<bool> {
        let connector = &self.shared.connector().name;
        let mut restart = false;
        for request in requests::open(&**warehouse, connector).await? {
            restart |= match request.verb {
                Verb::Replay | Verb::Drop => {
                    let table = request.table.as_ref();
                    asked::settle(&self.shared, warehouse, &request, table).await?
                }
                verb if is_of_connector(verb) => {
                    of_connector(&self.setup, &self.shared.fence, warehouse, &request).await?;
                    if verb == Verb::RestartConnector {
                        // nothing is ours any more: the new session takes up what else is asked
                        return Ok(true);
                    }
                    true
                }
                Verb::Resync => ask(&self.setup, warehouse, &request).await?,
                _ => self.of_tables(warehouse, &request).await?,
            };
        }
        Ok(restart)
    }

    /// Holds tables, or lets them go on.
    async fn of_tables(&self, warehouse: &mut Session, request: &Request) -> Result<bool> {
        let (fence, durations) = (&self.shared.fence, &self.shared.setup.durations);
        let transaction = Fenced::begin(warehouse, fence, "request", durations).await?;
        if !requests::claim(&*transaction, request.id).await? {
            return Ok(false);
        }
        let connector = &self.shared.connector().name;
        let whose = request.table.as_ref().map_or_else(|| connector.clone(), ToString::to_string);
        let connector_file = &self.setup.connector;
        let (done, answer) = match not_read_again(connector_file, request.verb, &whose) {
            Some(why) => (false, why),
            None => {
                let records = tables::read(&*transaction, connector).await?;
                let mut answers = Vec::new();
                for record in records.iter().filter(|record| asked::means(request, record)) {
                    let answer = asked::hold_or_let_go(&transaction, request.verb, record);
                    answers.push(answer.await?);
                }
                asked::together(request, answers)
            }
        };
        requests::answer(&*transaction, request.id, done, &answer).await?;
        transaction.commit().await?;
        tracing::info!(done, "{answer}");
        Ok(done)
    }
}

/// Carries out what is asked of the connector before a session begins: it may not come to its control.
pub(super) async fn carry_out_first(setup: &Basis, warehouse: &mut Session) -> Result<()> {
    for request in requests::open(&**warehouse, &setup.common.name).await? {
        if is_of_connector(request.verb) {
            of_connector(setup, &Fence::default(), warehouse, &request).await?;
        }
    }
    Ok(())
}

/// Where it is to begin anew every member does: none of them owns its partitions any more.
async fn of_connector(
    setup: &Basis,
    fence: &Fence,
    warehouse: &mut Session,
    request: &Request,
) -> Result<()> {
    halt::carry_out(setup, fence, warehouse, request).await?;
    if request.verb != Verb::RestartConnector {
        return Ok(());
    }
    let failed = |error| crate::error::Error::warehouse("letting all members begin anew", error);
    let resource = format!("connector:{}", setup.common.name);
    let transaction = warehouse.transaction().await.map_err(failed)?;
    interrupt(&transaction, &resource).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)
}
