//! Takes one record: reads it, finds its tables and its place, and hands it to the gate; or keeps it as a dead
//! letter.

use std::sync::Arc;

use super::super::core::Core;
use super::super::gate::Gate;
use super::super::untold::refuse_made_again;
use super::letters;
use super::places;
use super::plans::{Fed, Planner, Topics};
use super::tables::Tables;
use super::whole::{Step, Whole};
use crate::decode::{Boundary, Memory, OtherSource, Place, Reading, RowChange, Told};
use crate::error::{Error, Kind, Result};
use crate::journey::{Arrival, ChangeEvent, Op, Refused, TopicRecord};
use crate::names::fingerprint;
use crate::position::Order;
use crate::spec::{Format, Kafka};

/// What is known of a partition beside its queue, in the order of the queues.
pub(super) struct Partition {
    /// its place among the queues
    at: usize,
    number: i64,
    pub(super) memory: Memory,
    pub(super) topic: usize,
    /// where it ended when the session began
    pub(super) end: i64,
    /// what is next waits for more to be known than was by this version
    pub(super) waits: Option<u64>,
}

impl Partition {
    /// A partition that goes on at its place.
    pub(super) fn new(at: usize, place: &places::Place, topics: &mut Topics) -> Partition {
        let topic = topics.place(&place.partition.topic);
        let (number, memory) = (place.number, place.memory.clone());
        Partition { at, number, memory, topic, end: place.end, waits: None }
    }
}

/// What taking a record touches.
pub(super) struct Here<'i> {
    pub(super) shared: &'i Arc<Core>,
    pub(super) connector: &'i Kafka,
    pub(super) gate: &'i mut Gate,
    pub(super) tables: &'i mut Tables,
    pub(super) topics: &'i mut Topics,
    pub(super) whole: &'i mut Option<Whole>,
    pub(super) scratch: &'i mut Vec<u8>,
}

impl Here<'_> {
    /// Takes a record.
    pub(super) async fn take(
        &mut self,
        record: &TopicRecord<'_>,
        partition: &mut Partition,
    ) -> Result<Step> {
        let longest = self.shared.setup.settings.max_row_bytes;
        if let Some(why) = letters::too_long(record, longest) {
            return self.bury_unread(record, partition, &why).await;
        }
        let Some((_, topic, _)) = self.topics.topics.get_mut(partition.topic) else {
            return Err(Error::bug("a partition of a topic that is not read"));
        };
        match topic.read(record) {
            Ok(Told::Change(change)) => self.change(record, partition, &change).await,
            Ok(Told::Transaction(boundary)) => self.bound(partition, &boundary),
            Ok(Told::Nothing) => Ok(Step::Taken),
            Err(unreadable) => self.bury_unread(record, partition, &unreadable.to_string()).await,
        }
    }

    /// Sets a record aside of which nobody knows what it tells: it may stand for an event that is waited for.
    async fn bury_unread(
        &mut self,
        record: &TopicRecord<'_>,
        partition: &Partition,
        why: &str,
    ) -> Result<Step> {
        if let Some(whole) = &mut *self.whole {
            whole.note_unread();
        }
        self.bury(record, partition, (why, None)).await?;
        Ok(Step::Taken)
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
        let tombstone = change.is_tombstone();
        let Some(place) = self.place(record, partition, change)? else { return Ok(Step::Taken) };
        // what its letter has to keep: it is not told again
        let kept = (tombstone || place.behind).then_some(place.order);
        if let (Some(whole), Some(number)) = (&mut *self.whole, change.number)
            && whole.take(place.order.seq, number) == Step::Waits
        {
            partition.memory = before;
            return Ok(Step::Waits);
        }
        let streamed = [self.topics.streamed, partition.memory.first_streamed()];
        self.topics.streamed = streamed.into_iter().flatten().min();
        // of a first snapshot the changes stand behind it, also those that came by other partitions already
        let reading = match self.topics.streamed.is_some_and(|at| at < partition.memory.read) {
            true => Reading::Known,
            false => partition.memory.reading(&before),
        };
        // a tombstone says nothing of how the others come
        let told = place.told || tombstone;
        let arrival = if told { Arrival::MayBeLate } else { Arrival::Untold };
        let fed = match self.topics.plan(partition.topic, change) {
            Some(fed) => fed,
            None => match self.planner().plan(partition.topic, change, arrival).await {
                Ok(fed) => fed,
                Err(error) if error.kind() == Kind::TableStops => {
                    let apart = self.tables.is_left_out(record.topic, &change.table);
                    if tombstone && !apart && self.tables.shape(&change.table).await?.is_none() {
                        // of a table of which nothing is known there is nothing to delete
                        return Ok(Step::Taken);
                    }
                    self.remember(partition, &before);
                    self.bury(record, partition, (&error.to_string(), kept)).await?;
                    return Ok(Step::Taken);
                }
                Err(error) => return Err(error),
            },
        };
        // what leaves before the table is emptied must not take along that it was
        if reading != Reading::Known {
            let (later, told) = (reading == Reading::Later, partition.memory.read_at > 0);
            let at = (place.order.seq, place.mark);
            self.gate.read_anew(&fed.plan.relation, at, (later, told)).await?;
        }
        self.remember(partition, &before);
        let mut message = std::mem::take(self.scratch);
        let taken = self.fold(record, (&fed, change), (&place, partition), &mut message);
        let taken = taken.await;
        *self.scratch = message;
        match taken {
            Ok(None) => Ok(Step::Taken),
            Ok(Some(poison)) => {
                self.bury(record, partition, (&poison, kept)).await?;
                Ok(Step::Taken)
            }
            Err(error) => Err(error),
        }
    }

    /// Where a change stands; none of a tombstone that says once more what the record before it told.
    fn place(
        &self,
        record: &TopicRecord<'_>,
        partition: &mut Partition,
        change: &RowChange<'_>,
    ) -> Result<Option<Place>> {
        let tombstone = change.is_tombstone();
        let memory = &mut partition.memory;
        if tombstone && memory.gone == record.key.map(fingerprint) {
            return Ok(None);
        }
        let place = change.origin.place(record, change.op == Op::Read, memory);
        let place = place.map_err(|other| self.other_source(change, &other))?;
        if self.connector.format == Format::FlatJson && !tombstone {
            memory.note_flat(&place, record.key.filter(|_| change.op == Op::Delete));
        }
        Ok(Some(place))
    }

    /// Takes a change through the gate; why its row is none, if so.
    async fn fold(
        &mut self,
        record: &TopicRecord<'_>,
        (fed, change): (&Fed, &RowChange<'_>),
        (place, partition): (&Place, &Partition),
        message: &mut Vec<u8>,
    ) -> Result<Option<String>> {
        if let Err(poison) = fed.plan.write(change, message) {
            return Ok(Some(poison.to_string()));
        }
        fed.mask(self.shared, message)?;
        let at = Order { seq: partition.number, ord: record.offset };
        let event: ChangeEvent<'_> = fed
            .plan
            .event(change.op, message, (place, at))
            .ok_or_else(|| Error::bug("a message that was just written cannot be read"))?;
        if place.made_again {
            refuse_made_again(&mut self.gate.router, &event)?;
        }
        // others that were before it may still come, and belong into tables of history and of events
        if event.op == Op::Truncate {
            self.gate.truncate(&event, message).await?;
        } else {
            self.gate.take(&event, message).await?;
        }
        let tables = &self.tables;
        self.gate.window.attach(
            event.place,
            |target| tables.is_sifted(&target.model.table),
            || letters::letter(record, fed.masked),
        );
        self.gate.window.note(event.mark.seq, event.mark.committed_at);
        let board = &self.shared.setup.board;
        board.heard(event.mark.committed_at);
        Ok(None)
    }

    fn planner(&mut self) -> Planner<'_> {
        Planner {
            shared: self.shared,
            connector: self.connector,
            tables: self.tables,
            topics: self.topics,
            router: &mut self.gate.router,
        }
    }

    /// Keeps what is known of a partition with the position behind the record.
    fn remember(&mut self, partition: &Partition, before: &Memory) {
        if partition.memory != *before {
            self.gate.reach.remember(partition.at, &partition.memory);
        }
    }

    fn other_source(&self, change: &RowChange<'_>, other: &OtherSource) -> Error {
        let what = format!(
            "the connector was made again for another source, so that old and new changes cannot be told \
             apart: {other}"
        );
        Error::new(Kind::SourceLacks, what).remedy(format!(
            "let Debezium write {} to other topics (topic.prefix), and name those in the connector's file",
            change.table
        ))
    }

    /// Sets a record aside that cannot be read, and lets the later ones of its key wait behind it. A tombstone's
    /// order is known from those before it, and when it is read again from nothing else.
    async fn bury(
        &mut self,
        record: &TopicRecord<'_>,
        partition: &Partition,
        (why, order): (&str, Option<Order>),
    ) -> Result<()> {
        self.topics.count_unread(partition.topic, 1);
        let Some((_, topic, last)) = self.topics.topics.get(partition.topic) else { return Ok(()) };
        let (table, fed) = (topic.table().clone(), last.clone());
        let (place, mark) = letters::unplaced(record, partition.number);
        let order = order.unwrap_or(letters::NO_ORDER);
        let (fed, routes) = match fed {
            // those of the table that it was taken for are nothing to it
            _ if self.tables.is_left_out(record.topic, &table) => (None, Arc::from([])),
            Some(fed) => {
                let routes = self.gate.router.of(&fed.plan.relation);
                (Some(fed), routes)
            }
            None => self.planner().recall(partition.topic, record.key).await?,
        };
        tracing::warn!(
            topic = record.topic,
            partition = record.partition,
            offset = record.offset,
            why,
            "a record cannot be read: it becomes a dead letter"
        );
        // what may not be seen cannot be told from the rest
        let masked = self.shared.connector().masks.covers(&table);
        let why = if masked { format!("{why}{}", letters::NOT_KEPT) } else { why.to_owned() };
        let mut apart = Vec::new();
        for at in routes.iter() {
            let Some(route) = self.gate.router.route(*at) else { continue };
            let target = route.target.clone();
            let keys = letters::keys(self.shared, fed.as_ref(), &target, record)?;
            self.gate.router.hold_keys(*at, keys.0);
            apart.push((target, keys));
        }
        if apart.is_empty() {
            let named = self.tables.filed_as(record.topic, &table);
            let names = named.iter().map(Some);
            for name in names.chain(named.is_empty().then_some(None)) {
                let target = letters::nameless(self.shared.connector(), &table, name);
                let keys = letters::keys(self.shared, None, &target, record)?;
                apart.push((target, keys));
            }
        }
        for (target, (digests, key)) in apart {
            let refused = Refused { reason: why.clone(), key };
            let letter = letters::letter(record, masked);
            self.gate.window.set_apart(&target, (place, order, mark), (digests, refused), letter);
        }
        Ok(())
    }
}
