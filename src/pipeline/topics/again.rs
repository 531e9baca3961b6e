//! Dead letters that nobody could read, read again as operators ask for it: through the same decoding as a
//! record that has just come. Those that can be read now are put among the kept changes at the place where
//! their record stood, before what waits behind them, and their tables catch up; the others stay, with the
//! new reason.
//!
//! It is done when a session begins, before anything else is read, in transactions that settle the letters
//! and keep their changes: a crash leaves each letter either open or among the kept changes.

use std::collections::HashSet;
use std::sync::Arc;

use super::TopicSetup;
use super::letters;
use super::places::Place;
use super::plans::{Planner, Topics};
use super::tables::Tables;
use crate::decode::{RowChange, Told};
use crate::error::{Error, Kind, Result};
use crate::fold::{digests, key_texts};
use crate::journey::{Arrival, ChangeEvent, Digests, Held, Op, Target, TopicRecord, read_headers};
use crate::names::TableName;
use crate::position::Order;
use crate::postgres::Session;
use crate::progress::poison::{self, Unread};
use crate::progress::requests::{self, Request, Verb};
use crate::progress::{pending, turns};
use crate::warehouse::Fenced;

use super::super::core::Core;
use super::super::held::comes_unfinished;
use super::super::router::Router;

/// What a second reading came to.
enum Again {
    /// Its change, for each of its tables; nothing where it is about no row.
    Read(Vec<Held>),
    /// Why it cannot be read.
    Unreadable(String),
}

/// Carries out the open requests for dead letters that have to be read again.
pub(super) async fn read_again(
    setup: &TopicSetup,
    shared: &Arc<Core>,
    places: &[Place],
    warehouse: &mut Session,
) -> Result<()> {
    let connector = &setup.connector.name;
    let numbers: Vec<i64> = places.iter().map(|place| place.number).collect();
    let requests = requests::open(&**warehouse, connector).await?;
    let mut reader = None;
    for request in requests.iter().filter(|request| request.verb == Verb::Replay) {
        let mut after = (Order { seq: -1, ord: -1 }, String::new());
        loop {
            let from = ((after.0, after.1.as_str()), numbers.as_slice());
            let portion = poison::next(&**warehouse, connector, request, from).await?;
            let Some(last) = portion.last() else { break };
            after = (last.place, last.table.to_string());
            let reader = match &mut reader {
                Some(reader) => reader,
                None => reader.insert(Reader::new(setup, shared, places, warehouse).await?),
            };
            let mut read = Vec::new();
            for letter in portion {
                read.push((letter.id, reader.read(&letter).await?));
            }
            write(shared, warehouse, request, read).await?;
        }
    }
    Ok(())
}

/// Settles letters and keeps their changes, in one transaction.
async fn write(
    shared: &Core,
    warehouse: &mut Session,
    request: &Request,
    letters: Vec<(i64, Again)>,
) -> Result<()> {
    let (connector, durations) = (&shared.connector().name, &shared.setup.durations);
    let transaction = Fenced::begin(warehouse, &shared.fence, "dead letters", durations).await?;
    let mut kept = Vec::new();
    let (mut read, mut unread) = (0, 0);
    for (id, again) in letters {
        match again {
            Again::Read(changes) => {
                poison::read(&transaction, id).await?;
                kept.extend(changes);
                read += 1;
            }
            Again::Unreadable(reason) => {
                poison::unreadable(&transaction, id, &reason).await?;
                unread += 1;
            }
        }
    }
    pending::keep(&transaction, connector, &kept, shared.binary).await?;
    let meant: HashSet<&TableName> = kept.iter().map(|held| &held.target.model.table).collect();
    for table in meant {
        turns::catch_up(&*transaction, table).await?;
    }
    transaction.commit().await?;
    tracing::info!(request = request.id, read, unread, "dead letters were read again");
    Ok(())
}

/// What reading records again takes: everything but the stream.
struct Reader<'r> {
    setup: &'r TopicSetup,
    shared: &'r Arc<Core>,
    places: &'r [Place],
    tables: Tables,
    router: Router,
    topics: Topics,
}

impl<'r> Reader<'r> {
    async fn new(
        setup: &'r TopicSetup,
        shared: &'r Arc<Core>,
        places: &'r [Place],
        warehouse: &Session,
    ) -> Result<Reader<'r>> {
        Ok(Reader {
            setup,
            shared,
            places,
            tables: Tables::read(shared, warehouse).await?,
            router: Router::empty(setup.connector.held_keys),
            topics: Topics::new(&setup.connector, places),
        })
    }

    /// Reads a letter.
    async fn read(&mut self, letter: &Unread) -> Result<Again> {
        let headers = read_headers(&letter.record.headers);
        let headers: Vec<(&str, Option<&[u8]>)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
        let record = TopicRecord {
            topic: &letter.record.topic,
            partition: letter.record.partition,
            offset: letter.record.offset,
            timestamp: letter.record.at,
            key: letter.record.key.as_deref(),
            value: letter.record.value.as_deref(),
            headers: &headers,
        };
        if let Some(why) = letters::too_long(&record, self.setup.settings.max_row_bytes) {
            return Ok(Again::Unreadable(why));
        }
        let topic = self.topics.place(&Arc::from(record.topic));
        let Some((_, state, _)) = self.topics.topics.get_mut(topic) else {
            return Err(Error::bug("a topic that was just named is not there"));
        };
        let masks = &self.shared.connector().masks;
        match state.read(&record) {
            Ok(Told::Change(change)) => self.change(letter, &record, (topic, &change)).await,
            // only its place is kept
            _ if record.value.is_none() && masks.covers(state.table()) => {
                Ok(Again::Unreadable(letters::GIVE_VALUE.to_owned()))
            }
            Ok(Told::Transaction(_) | Told::Nothing) => Ok(Again::Read(Vec::new())),
            Err(unreadable) => Ok(Again::Unreadable(unreadable.to_string())),
        }
    }

    async fn change(
        &mut self,
        letter: &Unread,
        record: &TopicRecord<'_>,
        (topic, change): (usize, &RowChange<'_>),
    ) -> Result<Again> {
        let known = self.places.iter().find(|place| place.number == letter.place.seq);
        let mut memory = known.map(|place| place.memory.clone()).unwrap_or_default();
        // what it tells of its source's past is known since
        let told = memory.last.is_some();
        let mut place = match change.origin.place(record, change.op == Op::Read, &mut memory) {
            Ok(place) => place,
            Err(other) => return Ok(Again::Unreadable(other.to_string())),
        };
        if (change.is_tombstone() || place.behind) && told {
            // others have come since
            if letter.order == letters::NO_ORDER {
                return Ok(Again::Unreadable(letters::NO_PLACE.to_owned()));
            }
            (place.order, place.mark.seq) = (letter.order, letter.order.seq);
        }
        let arrival = if place.told { Arrival::MayBeLate } else { Arrival::Untold };
        let fed = match self.topics.plan(topic, change) {
            Some(fed) => fed,
            None => {
                let planner = Planner {
                    shared: self.shared,
                    connector: &self.setup.connector,
                    tables: &mut self.tables,
                    topics: &mut self.topics,
                    router: &mut self.router,
                };
                match planner.plan(topic, change, arrival).await {
                    Ok(fed) => fed,
                    Err(error) if error.kind() == Kind::TableStops => {
                        return Ok(Again::Unreadable(error.to_string()));
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let mut message = Vec::new();
        if let Err(poison) = fed.plan.write(change, &mut message) {
            return Ok(Again::Unreadable(poison.to_string()));
        }
        fed.mask(self.shared, &mut message)?;
        let event = fed.plan.event(change.op, &message, (&place, letter.place));
        let event =
            event.ok_or_else(|| Error::bug("a message that was just written cannot be read"))?;
        let routes = self.router.of(&event.relation);
        let mut targets: Vec<_> = routes.iter().filter_map(|at| self.router.route(*at)).collect();
        if targets.iter().any(|route| route.target.model.table == letter.table) || !letter.alone {
            targets.retain(|route| route.target.model.table == letter.table);
        }
        if targets.is_empty() {
            let why = format!("no file takes {}, and nothing mirrors it", change.table);
            return Ok(Again::Unreadable(why));
        }
        let kept = letters::letter(record, fed.masked);
        let held = targets.into_iter().map(|route| Held {
            message: message.clone(),
            letter: Some(Box::new(kept.clone())),
            ..held(&route.target, &event)
        });
        Ok(Again::Read(held.collect()))
    }
}

/// A change as it is kept for a table, but for its message and record.
fn held(target: &Arc<Target>, event: &ChangeEvent<'_>) -> Held {
    let from = event.old.filter(|_| comes_unfinished(target, event));
    let keys = match (event.op, &from) {
        (Op::Truncate, _) => Digests::default(),
        (_, None) => digests(target, event),
        (_, Some(_)) => digests(target, event).alone(),
    };
    Held {
        target: target.clone(),
        order: event.order,
        place: event.place,
        mark: event.mark,
        comes_from: from.map(|old| key_texts(target, old.row)),
        digests: keys,
        waits: true,
        message: Vec::new(),
        refused: None,
        letter: None,
        readable: true,
    }
}
