//! From the queues of partitions to the window: reads what has been fetched, and hands a batch to the apply
//! lane as soon as the lane is idle, or when the window is full.
//!
//! It stops taking records while both hands are full, so Kafka itself is the buffer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::super::core::{CaughtUp, Core};
use super::super::gate::{Gate, lane_is_gone};
use super::super::intake::End;
use super::super::lane::Progress;
use super::letters;
use super::places::Place;
use super::plans::{Fed, Topics};
use super::tables::Tables;
use super::whole::{Step, Whole};
use crate::capture::topics::{Next, Queue, Reading};
use crate::decode::{Boundary, Memory, OtherSource, Plan, RowChange, Told, Veil};
use crate::error::{Error, Kind, Result};
use crate::journey::{Arrival, ChangeEvent, Op, TopicRecord};
use crate::position::Order;
use crate::spec::Kafka;

/// Records of one partition that are taken before the next one has its turn.
const TURN: usize = 2_000;

/// How often rows that wait for a delete under their former key are looked after.
const ARRIVALS_EVERY: Duration = Duration::from_millis(200);

/// The reading task's state.
pub(super) struct Intake {
    pub(super) shared: Arc<Core>,
    pub(super) connector: Arc<Kafka>,
    pub(super) gate: Gate,
    pub(super) tables: Tables,
    pub(super) reading: Reading,
    pub(super) partitions: Vec<Partition>,
    pub(super) topics: Topics,
    /// where transactions are applied as a whole
    pub(super) whole: Option<Whole>,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) caught_up: mpsc::Sender<CaughtUp>,
    pub(super) stop: watch::Receiver<bool>,
    /// when arrivals were looked after last
    pub(super) looked: Instant,
    /// the records that came and are not committed: of people's interest only
    pub(super) scratch: Vec<u8>,
}

/// What is known of a partition beside its queue, in the order of the queues.
pub(super) struct Partition {
    /// its place among the queues
    at: usize,
    number: i64,
    memory: Memory,
    /// the order of its last change
    last: Order,
    topic: usize,
    /// what is next waits for more to be known than was by this version
    waits: Option<u64>,
}

impl Partition {
    /// A partition that goes on at its place.
    pub(super) fn new(at: usize, place: &Place, topics: &mut Topics) -> Partition {
        let topic = topics.place(&place.partition.topic);
        let (number, memory) = (place.number, place.memory.clone());
        Partition { at, number, memory, last: Order { seq: 0, ord: 0 }, topic, waits: None }
    }
}

/// What came of a look at a queue.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    Records,
    Nothing,
}

impl Intake {
    /// Reads until told to stop, or until a queue or the lane fails.
    pub(super) async fn run(mut self) -> Result<End> {
        loop {
            let mut taken = Taken::Nothing;
            for at in 0..self.partitions.len() {
                if self.turn(at).await? == Taken::Records {
                    taken = Taken::Records;
                }
                if *self.stop.borrow() {
                    break;
                }
            }
            self.look_after_arrivals().await?;
            if *self.stop.borrow() {
                self.finish().await?;
                return Ok(End::Stopped);
            }
            if taken == Taken::Records {
                // those who wait for the processor have their turn as well
                tokio::task::yield_now().await;
                continue;
            }
            self.when_drained().await?;
            let arrivals = self.looked + ARRIVALS_EVERY;
            tokio::select! {
                () = self.reading.filled() => {}
                changed = self.progress.changed() => lane_lives(changed)?,
                changed = self.gate.flows.changed() => lane_lives(changed)?,
                stopped = self.stop.changed() => lane_lives(stopped)?,
                () = tokio::time::sleep_until(arrivals) => {}
            }
        }
    }

    /// Takes what a queue has, up to a number of records.
    async fn turn(&mut self, at: usize) -> Result<Taken> {
        let mut taken = Taken::Nothing;
        let version = self.whole.as_ref().map(Whole::version);
        if self.partitions.get(at).is_some_and(|it| it.waits.is_some() && it.waits == version) {
            return Ok(Taken::Nothing);
        }
        for _ in 0..TURN {
            let Some(queue) = self.reading.queues.get_mut(at) else { break };
            // of a queue only the record is borrowed
            let next = Queue::next(queue)?;
            let record = match next {
                Next::Record(record) => record,
                Next::Nothing => break,
            };
            let mut here = Here {
                shared: &self.shared,
                connector: &self.connector,
                gate: &mut self.gate,
                tables: &mut self.tables,
                topics: &mut self.topics,
                whole: &mut self.whole,
                scratch: &mut self.scratch,
            };
            let Some(partition) = self.partitions.get_mut(at) else { break };
            let headers = record.headers();
            let step = here.take(&record.with(headers.all()), partition).await?;
            if step == Step::Waits {
                drop(headers);
                let record = record.detach();
                partition.waits = self.whole.as_ref().map(Whole::version);
                if let Some(queue) = self.reading.queues.get_mut(at) {
                    queue.put_back(record);
                }
                break;
            }
            taken = Taken::Records;
            partition.waits = None;
            let Some(stretch) = self.gate.reach.stretches.get_mut(at) else { break };
            stretch.until = record.offset() + 1;
            self.settle_whole().await?;
            self.gate.hand_over_if_full().await?;
        }
        Ok(taken)
    }

    /// Lets the batch end where every transaction of it has come as a whole.
    async fn settle_whole(&mut self) -> Result<()> {
        let Some(whole) = &self.whole else { return Ok(()) };
        let complete = whole.is_complete();
        self.gate.window.set_unfinished(!complete);
        if !complete {
            return Ok(());
        }
        if let Some(at) = whole.ends_come_by()
            && let Some(partition) = self.partitions.get_mut(at)
            && partition.memory.ended != whole.passed()
        {
            partition.memory.ended = whole.passed();
            if let Some(stretch) = self.gate.reach.stretches.get_mut(at) {
                stretch.memory = Some(remembered(&partition.memory)?);
            }
        }
        // the warehouse transaction that waits must not wait for more
        if self.gate.is_midway { self.gate.hand_over().await } else { Ok(()) }
    }

    fn lane_is_idle(&self) -> bool {
        self.progress.borrow().done == self.gate.sent
    }

    /// Everything that had been fetched is folded: it leaves, if the lane can take it.
    async fn when_drained(&mut self) -> Result<()> {
        if !self.lane_is_idle() {
            return Ok(());
        }
        if self.whole.as_ref().is_some_and(|whole| !whole.is_complete()) {
            return Ok(());
        }
        let gate = &mut self.gate;
        if !gate.window.is_empty() {
            gate.hand_over().await?;
        } else if gate.routing_changed() {
            gate.adopt_flows();
            gate.hand_over().await?;
        } else if gate.reach.is_beyond() {
            // records that were about nothing
            gate.hand_over().await?;
        }
        Ok(())
    }

    /// Asks for the kept changes of tables in which rows wait for a delete under their former key.
    async fn look_after_arrivals(&mut self) -> Result<()> {
        if self.looked.elapsed() < ARRIVALS_EVERY {
            return Ok(());
        }
        self.looked = Instant::now();
        if let Some(whole) = &mut self.whole {
            whole.look(self.partitions.iter().any(|partition| partition.waits.is_some()));
        }
        self.settle_whole().await?;
        let done = self.progress.borrow().done;
        for table in self.gate.router.ask_for_arrivals(done) {
            self.caught_up.send(table).await.map_err(|_| lane_is_gone())?;
        }
        Ok(())
    }

    /// We are told to stop: what was read is stored.
    async fn finish(&mut self) -> Result<()> {
        if self.whole.as_ref().is_some_and(|whole| !whole.is_complete()) {
            // what has come of it comes again
            return Ok(());
        }
        if !self.gate.window.is_empty() || self.gate.reach.is_beyond() {
            self.gate.hand_over().await?;
        }
        Ok(())
    }
}

fn remembered(memory: &Memory) -> Result<String> {
    serde_json::to_string(memory)
        .map_err(|error| Error::bug("what is remembered is no JSON").because(error))
}

fn lane_lives(changed: Result<(), watch::error::RecvError>) -> Result<()> {
    changed.map_err(|_| lane_is_gone())
}

/// What taking a record touches.
struct Here<'i> {
    shared: &'i Arc<Core>,
    connector: &'i Kafka,
    gate: &'i mut Gate,
    tables: &'i mut Tables,
    topics: &'i mut Topics,
    whole: &'i mut Option<Whole>,
    scratch: &'i mut Vec<u8>,
}

impl Here<'_> {
    /// Takes a record.
    async fn take(&mut self, record: &TopicRecord<'_>, partition: &mut Partition) -> Result<Step> {
        let longest = self.shared.setup.settings.max_row_bytes;
        let length = record.value.map_or(0, <[u8]>::len);
        if u64::try_from(length).unwrap_or(u64::MAX) > longest {
            let why = format!("a record of {length} bytes is longer than max_row_bytes");
            self.bury(record, partition, &why)?;
            return Ok(Step::Taken);
        }
        let Some((_, topic, _)) = self.topics.topics.get_mut(partition.topic) else {
            return Err(Error::bug("a partition of a topic that is not read"));
        };
        match topic.read(record) {
            Ok(Told::Change(change)) => self.change(record, partition, &change).await,
            Ok(Told::Transaction(boundary)) => self.bound(partition, &boundary),
            Ok(Told::Nothing) => Ok(Step::Taken),
            Err(unreadable) => {
                self.bury(record, partition, &unreadable.to_string())?;
                Ok(Step::Taken)
            }
        }
    }

    /// Takes the begin or the end of a transaction.
    fn bound(&mut self, partition: &Partition, boundary: &Boundary<'_>) -> Result<Step> {
        let Some(whole) = self.whole else { return Ok(Step::Taken) };
        let room = !self.gate.window.is_full() && !self.gate.is_midway;
        whole.bound(boundary, partition.at, room)
    }

    async fn change(
        &mut self,
        record: &TopicRecord<'_>,
        partition: &mut Partition,
        change: &RowChange<'_>,
    ) -> Result<Step> {
        let before = partition.memory.clone();
        let memory = (&mut partition.memory, partition.last);
        let place = change.origin.place(record, change.op == Op::Read, memory);
        let place = place.map_err(|other| self.other_source(change, &other))?;
        if let (Some(whole), Some(number)) = (&mut *self.whole, change.number)
            && whole.take(place.order.seq, number) == Step::Waits
        {
            partition.memory = before;
            return Ok(Step::Waits);
        }
        if before != partition.memory {
            self.remember(record, &partition.memory)?;
        }
        partition.last = partition.last.max(place.order);
        let arrival = if place.told { Arrival::MayBeLate } else { Arrival::Untold };
        let fed = match self.topics.plan(partition.topic, change) {
            Some(fed) => fed,
            None => match self.plan(partition.topic, change, arrival).await {
                Ok(fed) => fed,
                Err(error) if error.kind() == Kind::TableStops => {
                    self.bury(record, partition, &error.to_string())?;
                    return Ok(Step::Taken);
                }
                Err(error) => return Err(error),
            },
        };
        let mut message = std::mem::take(self.scratch);
        let taken = self.fold(record, (&fed, change), (&place, partition), &mut message);
        let taken = taken.await;
        *self.scratch = message;
        match taken {
            Ok(None) => Ok(Step::Taken),
            Ok(Some(poison)) => {
                self.bury(record, partition, &poison)?;
                Ok(Step::Taken)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes a change through the gate; why its row is none, if so.
    async fn fold(
        &mut self,
        record: &TopicRecord<'_>,
        (fed, change): (&Fed, &RowChange<'_>),
        (place, partition): (&crate::decode::Place, &Partition),
        message: &mut Vec<u8>,
    ) -> Result<Option<String>> {
        if let Err(poison) = fed.plan.write(change, message) {
            return Ok(Some(poison.to_string()));
        }
        if fed.masked {
            self.mask(fed, message)?;
        }
        let at = Order { seq: partition.number, ord: record.offset };
        let event: ChangeEvent<'_> = fed
            .plan
            .event(change.op, message, (place, at))
            .ok_or_else(|| Error::bug("a message that was just written cannot be read"))?;
        let routes = self.gate.router.of(&event.relation);
        if event.op == Op::Truncate {
            self.gate.truncate(&event, message).await?;
            for route in routes.iter() {
                self.gate.router.raise_floor(*route, event.order.seq);
            }
        } else {
            self.gate.take(&event, message).await?;
        }
        self.gate.window.attach(event.place, || letters::letter(record));
        self.gate.window.note(event.mark.seq, event.mark.committed_at);
        let board = &self.shared.setup.board;
        board.heard(event.mark.committed_at);
        Ok(None)
    }

    fn mask(&self, fed: &Fed, message: &mut Vec<u8>) -> Result<()> {
        let masks = &self.shared.connector().masks;
        let Some(mut veil) = Veil::of(&fed.plan.relation, masks.key()) else { return Ok(()) };
        let Some((tag, body)) = message.split_first() else { return Ok(()) };
        let mut masked = vec![*tag];
        veil.body(*tag, body, &mut masked)?;
        *message = masked;
        Ok(())
    }

    /// Finds out how the records of a table are read; the table joins the routes if it is new to them.
    async fn plan(
        &mut self,
        topic: usize,
        change: &RowChange<'_>,
        arrival: Arrival,
    ) -> Result<Fed> {
        let hints = self.tables.hints(&change.table).await?;
        let Some((_, state, _)) = self.topics.topics.get(topic) else {
            return Err(Error::bug("a partition of a topic that is not read"));
        };
        let masks = &self.shared.connector().masks;
        let dress = |relation: &mut crate::relation::Relation| {
            let table = relation.table.clone();
            masks.dress(&table, relation);
        };
        let plan = Plan::new(state, change, (&hints, &self.connector.types), dress)?;
        if let Some(row) = change.after.filter(|_| change.shapes.value == 0) {
            for column in plan.unknown(row) {
                let table = &change.table;
                tracing::warn!(%table, column, "a field that no file or table names is not taken");
            }
        }
        let masked = plan.relation.masked().next().is_some();
        let fed = Fed {
            table: change.table.clone(),
            shapes: change.shapes,
            masked,
            plan: Arc::new(plan),
        };
        let router = &mut self.gate.router;
        if router.of(&fed.plan.relation).is_empty() {
            self.tables.open(router, &fed.plan.relation, arrival).await?;
        }
        let routes = router.of(&fed.plan.relation);
        if routes.is_empty() {
            let table = &change.table;
            tracing::info!(%table, "no file takes this table, and the connector has no target_schema");
        }
        for route in routes.iter() {
            router.set_arrival(*route, arrival);
        }
        self.topics.keep(topic, fed.clone());
        Ok(fed)
    }

    fn remember(&mut self, record: &TopicRecord<'_>, memory: &Memory) -> Result<()> {
        let name = format!("{}/{}", record.topic, record.partition);
        let json = remembered(memory)?;
        let stretches = &mut self.gate.reach.stretches;
        if let Some(stretch) = stretches.iter_mut().find(|stretch| *stretch.partition == *name) {
            stretch.memory = Some(json);
        }
        Ok(())
    }

    fn other_source(&mut self, change: &RowChange<'_>, other: &OtherSource) -> Error {
        let what = format!(
            "the connector was made again for another source, so that old and new changes cannot be told \
             apart: {other}"
        );
        Error::new(Kind::SourceLacks, what).remedy(format!(
            "let Debezium write {} to other topics (topic.prefix), and name those in the connector's file",
            change.table
        ))
    }

    /// Sets a record aside that cannot be read, and lets the later ones of its key wait behind it.
    fn bury(&mut self, record: &TopicRecord<'_>, partition: &Partition, why: &str) -> Result<()> {
        if let Some(whole) = &mut *self.whole {
            whole.note_unread();
        }
        let Some((_, topic, last)) = self.topics.topics.get(partition.topic) else { return Ok(()) };
        let (table, plan) = (topic.table().clone(), last.as_ref().map(|fed| fed.plan.clone()));
        let (place, mark) = letters::unplaced(record, partition.number);
        let routes = match &plan {
            Some(plan) => self.gate.router.of(&plan.relation),
            None => Arc::from([]),
        };
        tracing::warn!(
            topic = record.topic,
            partition = record.partition,
            offset = record.offset,
            why,
            "a record cannot be read: it becomes a dead letter"
        );
        if routes.is_empty() {
            let target = letters::nameless(self.shared.connector(), &table);
            let (digests, key) = letters::keys(None, &target, record);
            let refused = letters::refused(why, key);
            let letter = letters::letter(record);
            self.gate.window.set_apart(&target, (place, mark), (digests, refused), letter);
        }
        for at in routes.iter() {
            let Some(route) = self.gate.router.route(*at).cloned() else { continue };
            let (digests, key) = letters::keys(plan.as_deref(), &route.target, record);
            let refused = letters::refused(why, key);
            self.gate.router.hold_keys(*at, digests);
            let letter = letters::letter(record);
            self.gate.window.set_apart(&route.target, (place, mark), (digests, refused), letter);
        }
        Ok(())
    }
}
