//! Topics that rest: where one cannot be read on, its records stay in Kafka, at the offset that is stored, and all
//! others go on. So it is where too many of its records cannot be read, for the next million will not be either; where
//! the changes that are kept for a table that cannot take them have no more room; and where its retention took the next
//! records while it rested.
//!
//! A session is told when it begins which topics rest, by what was committed, and nothing in it changes that: what may
//! rest from now on, or go on, begins another session. A topic that rests goes on later than one begins to rest.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::TopicSetup;
use super::judge::{Facts, Stuck, Why};
use super::letters;
use super::places::Place;
use crate::decode::{Form, Topic};
use crate::error::{Error, Kind, Result};
use crate::names::TableName;
use crate::postgres::Session;
use crate::progress::pending;
use crate::progress::resting::{self, Resting};
use crate::progress::tables::{self, State};
use crate::serve::ConnectorBoard;
use crate::spec::{Format, Kafka};
use crate::warehouse::Fenced;

use super::super::core::Core;

/// The topics that are ours, each with what was said of its loss.
type Ours = BTreeMap<String, Option<String>>;

fn ours(places: &[Place]) -> Ours {
    let mut ours = Ours::new();
    for place in places {
        let lost = ours.entry(place.partition.topic.to_string()).or_default();
        *lost = lost.take().or(place.lost.clone());
    }
    ours
}

/// Reads what topics are judged by, of those that are ours, where so many bytes are `kept`.
async fn gather(
    (setup, shared): (&TopicSetup, &Core),
    warehouse: &Session,
    (ours, kept): (&Ours, u64),
) -> Result<Facts> {
    let connector = &setup.connector;
    let name = &connector.name;
    let records = tables::read(&**warehouse, name).await?;
    let lost = |lost: &Option<String>| Stuck { lost: lost.clone(), ..Stuck::default() };
    let mut topics: BTreeMap<String, Stuck> =
        ours.iter().map(|(topic, what)| (topic.clone(), lost(what))).collect();
    for unread in resting::unread(&**warehouse, name).await? {
        let Some(stuck) = topics.get_mut(&unread.topic) else { continue };
        stuck.unread = unread.count;
        stuck.tables.extend(unread.tables);
    }
    let limit = setup.settings.pending_bytes;
    // it is much to look through, and of no use before
    let all = if kept < limit / 2 { Vec::new() } else { resting::kept(&**warehouse, name).await? };
    for kept in all {
        let Some(stuck) = topics.get_mut(&kept.topic) else { continue };
        let of = records.iter().find(|record| record.table == kept.table);
        // what catches up is applied
        if of.is_some_and(|record| record.state == State::Streaming) {
            stuck.waits = stuck.waits.take().max(Some((kept.bytes, kept.table.clone())));
        }
        stuck.tables.insert(kept.table);
    }
    for (topic, stuck) in &mut topics {
        // by the topic's name too: none of its changes may be kept yet
        let named = named(connector, topic);
        let fed: Vec<&TableName> = records
            .iter()
            .filter(|record| stuck.tables.contains(&record.table))
            .filter_map(|record| record.source.as_ref())
            .chain([&named])
            .collect();
        let of = records
            .iter()
            .filter(|record| record.source.as_ref().is_some_and(|source| fed.contains(&source)));
        for record in of {
            stuck.tables.insert(record.table.clone());
            let is_read = record.state == State::Resyncing;
            if record.is_held() || is_read {
                stuck.held.get_or_insert_with(|| (record.table.clone(), is_read));
            }
        }
        if stuck.tables.is_empty() {
            let nameless = letters::nameless(shared.connector(), &named, None);
            stuck.tables.insert(nameless.model.table.clone());
        }
    }
    let at_most = u64::try_from(connector.held_keys).unwrap_or(u64::MAX);
    Ok(Facts { kept, limit, at_most, topics })
}

/// The source table that a topic's name says.
pub(super) fn named(connector: &Kafka, topic: &str) -> TableName {
    let form = match connector.format {
        Format::DebeziumJson => Form::Envelope,
        Format::FlatJson => Form::Flat,
    };
    (**Topic::new(topic, form).table()).clone()
}

/// The topics of a session that rest.
#[derive(Clone, Debug, Default)]
pub(super) struct Rest {
    ours: Ours,
    topics: BTreeMap<String, Why>,
    told: Vec<Resting>,
    /// by topic how many records cannot be read, as the session begins
    pub(super) unread: BTreeMap<String, u64>,
}

impl Rest {
    /// Finds out which topics rest, and notes it.
    pub(super) async fn begin(
        setup: &TopicSetup,
        shared: &Core,
        places: &[Place],
        warehouse: &mut Session,
    ) -> Result<Rest> {
        let ours = ours(places);
        let kept = pending::total(&**warehouse, &setup.connector.name).await?;
        let facts = gather((setup, shared), warehouse, (&ours, kept)).await?;
        let before = resting::topics(&**warehouse, &setup.connector.name).await?;
        let topics = facts.judge(&before);
        let told: Vec<Resting> = topics.iter().map(|(topic, why)| facts.told(topic, why)).collect();
        for rests in told.iter().filter(|rests| !before.contains(&rests.topic)) {
            tracing::error!(topic = rests.topic, remedy = rests.remedy, "{}", rests.reason);
        }
        // of other members' topics they know
        let theirs = |topic: &String| {
            !ours.contains_key(topic)
                && setup.connector.topics.iter().any(|pattern| pattern.matches(topic))
        };
        let go_on = |topic: &&String| !topics.contains_key(*topic) && !theirs(topic);
        let others: Vec<String> = before.iter().filter(go_on).cloned().collect();
        for topic in &others {
            tracing::info!(topic, "the topic rests no more");
        }
        if !told.is_empty() || !others.is_empty() {
            note((setup, shared), warehouse, (&told, &others)).await?;
        }
        let unread = facts.topics.into_iter().map(|(topic, stuck)| (topic, stuck.unread));
        Ok(Rest { ours, topics, told, unread: unread.collect() })
    }

    /// The partitions that rest, and those that are read.
    pub(super) fn split(&self, places: Vec<Place>) -> (Vec<Place>, Vec<Place>) {
        places.into_iter().partition(|place| self.topics.contains_key(&*place.partition.topic))
    }

    /// Whether other topics rest by what is committed now, where so many bytes are `kept`.
    pub(super) async fn has_changed(
        &self,
        of: (&TopicSetup, &Core),
        warehouse: &Session,
        kept: u64,
    ) -> Result<bool> {
        let facts = gather(of, warehouse, (&self.ours, kept)).await?;
        let before: BTreeSet<String> = self.topics.keys().cloned().collect();
        Ok(!facts.judge(&before).keys().eq(self.topics.keys()))
    }

    /// Shows it on the tables that the topics feed, but for those that people know of already.
    pub(super) fn show(&self, board: &ConnectorBoard, states: &HashMap<TableName, State>) {
        for rests in &self.told {
            let goes_on = |table: &&TableName| {
                states.get(*table).is_none_or(|state| *state == State::Streaming)
            };
            for table in rests.tables.iter().filter(goes_on) {
                let (state, why) = (State::Stopped.word(), Some(rests.reason.as_str()));
                board.table_state(table, state, why, Some(&rests.remedy));
            }
        }
    }

    /// Why there is more than is read, where something rests.
    pub(super) fn error(&self) -> Option<Error> {
        let (why, told) = self.topics.values().zip(&self.told).next()?;
        let kind = match why {
            Why::Lost(_) => Kind::PositionLost,
            Why::Unread(_) => Kind::SourceLacks,
            Why::NoRoom { .. } => Kind::Full,
        };
        Some(Error::new(kind, told.reason.as_str()).remedy(told.remedy.as_str()))
    }
}

/// Lets topics rest where no more may be kept, from the next session on; false where none is found that would help.
pub(super) async fn make_room(setup: &TopicSetup, shared: &Core, places: &[Place]) -> Result<bool> {
    let mut side = shared.side_session().await;
    let kept = pending::total(&**side.session(), &setup.connector.name).await?;
    let facts = gather((setup, shared), side.session(), (&ours(places), kept)).await?;
    let before = resting::topics(&**side.session(), &setup.connector.name).await?;
    let told: Vec<Resting> =
        facts.fullest(&before).iter().map(|(topic, why)| facts.told(topic, why)).collect();
    if told.is_empty() {
        return Ok(false);
    }
    for rests in &told {
        tracing::error!(topic = rests.topic, remedy = rests.remedy, "{}", rests.reason);
    }
    note((setup, shared), side.session_mut(), (&told, &[])).await?;
    Ok(true)
}

async fn note(
    (setup, shared): (&TopicSetup, &Core),
    warehouse: &mut Session,
    what: (&[Resting], &[String]),
) -> Result<()> {
    let transaction = Fenced::begin(warehouse, &shared.fence, "resting", &setup.durations).await?;
    resting::note(&transaction, &setup.connector.name, what).await?;
    transaction.commit().await
}
