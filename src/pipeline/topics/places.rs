//! Where the partitions of an assignment go on from: the stored offsets, if they are still in the topics; of a
//! partition that is new, its beginning.
//!
//! Every way in which offset and topic can have lost each other ends here or in the files' `offset_lost`,
//! never in a silent reset.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::TopicSetup;
use super::asking::{Missed, go_on_behind};
use super::checks::matched;
use crate::capture::brokers::Brokers;
use crate::capture::topics::{Assignment, Member, Partition};
use crate::decode::Memory;
use crate::error::{Error, Kind, Result};
use crate::postgres::Session;
use crate::progress::partitions::{self, Stored};
use crate::progress::resting;
use crate::spec::{Kafka, OffsetLost, StartAt};
use crate::warehouse::{Fence, Fenced};

/// A partition that is read.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) partition: Partition,
    /// its name in control tables
    pub(super) name: Arc<str>,
    /// the number by which kept changes know it
    pub(super) number: i64,
    /// the next offset
    pub(super) offset: i64,
    pub(super) memory: Memory,
    /// the topic by its id
    pub(super) system_id: String,
    /// where it ended when the session began
    pub(super) end: i64,
    /// how it lost what is next, where its topic rests and the files say to stop for that
    pub(super) lost: Option<String>,
}

/// What to do where records are gone before they were read.
pub(super) const READ_AGAIN: &str = "let Debezium read the tables again (an incremental or a new snapshot), and set \
     offset_lost: earliest in the connector's file to go on with what is there; or set offset_lost: resync, with the \
     url of the source, from which its tables are read again then";

/// Finds the place of every partition, and notes those that are new.
pub(super) async fn find(
    setup: &TopicSetup,
    member: &Member,
    assignment: &Assignment,
    (warehouse, fence): (&mut Session, &Fence),
) -> Result<Vec<Place>> {
    let connector = &setup.connector;
    let mut stored = partitions::read(&**warehouse, &connector.name).await?;
    if connector.start == StartAt::Latest && stored.is_empty() {
        begin_at_ends(setup, member, (warehouse, fence)).await?;
        stored = partitions::read(&**warehouse, &connector.name).await?;
    }
    let resting = resting::topics(&**warehouse, &connector.name).await?;
    let topics: BTreeSet<Arc<str>> =
        assignment.partitions.iter().map(|partition| partition.topic.clone()).collect();
    let ids = member.topic_ids(topics.into_iter().collect()).await?;
    let ids = known_or_new(ids, assignment, &stored)?;
    let (mut places, mut missed) = (Vec::new(), Vec::new());
    for partition in &assignment.partitions {
        let name = partition.name();
        let (first, end) = member.watermarks(partition).await?;
        let id = ids.get(&*partition.topic).map_or("", String::as_str);
        let mut gone = None;
        let at = match stored.remove(&*name) {
            Some(known) => {
                let rests = resting.contains(&*partition.topic);
                let of = (&*name, known, id, (first, end));
                match go_on(setup, (&mut *warehouse, fence), of, rests).await? {
                    Goes::On(at) => at,
                    Goes::Nowhere(at, lost) => {
                        gone = Some(lost);
                        at
                    }
                    Goes::Behind(at, lost) => {
                        missed.push(Missed { partition: partition.clone(), at, what: lost });
                        continue;
                    }
                }
            }
            None => {
                // also with start: latest all of it was written since
                tracing::info!(partition = %name, first, end, "a partition is new to us");
                begin(setup, (warehouse, fence), (&name, id), first).await?
            }
        };
        let Stored { position: offset, number, memory, system_id } = at;
        let memory = serde_json::from_value(memory).map_err(|error| {
            Error::bug(format!("what is remembered of {name} cannot be read")).because(error)
        })?;
        let partition = partition.clone();
        let lost = gone;
        places.push(Place { partition, name, number, offset, memory, system_id, end, lost });
    }
    if !missed.is_empty() {
        return Err(go_on_behind(setup, (warehouse, fence), &missed).await?);
    }
    refuse_others(connector, assignment, (&stored, &ids))?;
    Ok(places)
}

/// With `atomic: true` no other member may have a partition of the same topics.
fn refuse_others(
    connector: &Kafka,
    assignment: &Assignment,
    (stored, ids): (&HashMap<String, Stored>, &HashMap<String, String>),
) -> Result<()> {
    // those of a former topic that had more of them are nobody's
    let is_former = |known: &Stored, topic: &str| {
        let is = ids.get(topic).filter(|id| !id.is_empty());
        !known.system_id.is_empty() && is.is_some_and(|id| *id != known.system_id)
    };
    let is_of_ours = |(name, known): &(&String, &Stored)| {
        let of = |partition: &Partition| {
            name.starts_with(&format!("{}/", partition.topic))
                && !is_former(known, &partition.topic)
        };
        assignment.partitions.iter().any(of)
    };
    let other = stored.iter().filter(is_of_ours).map(|(name, _)| name).min();
    if let Some(other) = other.filter(|_| connector.atomic) {
        let what = format!(
            "atomic: true needs all partitions in one process, and another member of the group {} has {other}",
            connector.group
        );
        return Err(Error::new(Kind::Busy, what)
            .remedy(format!("run one process for {}, or set atomic: false", connector.name)));
    }
    Ok(())
}

/// Stores the ends of all partitions that there are, whoever is given them, before any record is read: by what
/// `start: latest` says is decided once. A partition or a topic that is found later was not there, and what it has
/// was written since; so was what a member finds that comes to be given more.
async fn begin_at_ends(
    setup: &TopicSetup,
    member: &Member,
    (warehouse, fence): (&mut Session, &Fence),
) -> Result<()> {
    let connector = &setup.connector;
    let topics = matched(connector, Brokers::of(connector)?.topics().await?);
    let topics: Vec<(Arc<str>, i32)> =
        topics.into_iter().map(|(name, found)| (name.into(), found.partitions)).collect();
    let ids = member.topic_ids(topics.iter().map(|(name, _)| name.clone()).collect()).await?;
    let ids = ids.unwrap_or_default();
    let mut ends = Vec::new();
    for (topic, count) in topics {
        for number in 0..count {
            let partition = Partition { topic: topic.clone(), number };
            let (_, end) = member.watermarks(&partition).await?;
            let id = ids.get(&*topic).cloned().unwrap_or_default();
            ends.push((partition.name().to_string(), id, end));
        }
    }
    let transaction = Fenced::begin(warehouse, fence, "partition", &setup.durations).await?;
    partitions::begin_all(&transaction, &connector.name, &ends).await?;
    transaction.commit().await?;
    tracing::info!(partitions = ends.len(), "start: latest: what the topics have now is not read");
    Ok(())
}

/// Where a partition goes on that is known.
enum Goes {
    On(Stored),
    /// As its topic rests, the others are not to be stopped for how it lost that.
    Nowhere(Stored, String),
    /// It has lost what was before: its tables are to be read again.
    Behind(Stored, String),
}

/// Finds out where a partition goes on that is known, and whether its topic `rests`.
async fn go_on(
    setup: &TopicSetup,
    to: (&mut Session, &Fence),
    (name, known, id, ends): (&str, Stored, &str, (i64, i64)),
    rests: bool,
) -> Result<Goes> {
    let policy = setup.connector.offset_lost;
    let lost = lost(name, &known, ends, id);
    if lost.is_some() && rests && policy == OffsetLost::Stop {
        // by which topic it was that it lost its offset is known as long as it has
        return Ok(Goes::Nowhere(known, lost.unwrap_or_default()));
    }
    let system_id = if id.is_empty() { known.system_id.clone() } else { id.to_owned() };
    let position = match lost {
        None => known.position,
        Some(what) if policy == OffsetLost::Resync => {
            return Ok(Goes::Behind(Stored { position: ends.0, system_id, ..known }, what));
        }
        Some(what) => resume(policy, name, what, ends.0)?,
    };
    let new = Stored { position, system_id, ..known.clone() };
    if new != known {
        note(setup, to, name, &new).await?;
    }
    Ok(Goes::On(new))
}

/// The ids of the topics. Where nobody tells them, none may have been told before.
fn known_or_new(
    ids: Option<HashMap<String, String>>,
    assignment: &Assignment,
    stored: &HashMap<String, Stored>,
) -> Result<HashMap<String, String>> {
    let told = |partition: &Partition| {
        stored.get(&*partition.name()).is_some_and(|known| !known.system_id.is_empty())
    };
    if ids.is_none() && assignment.partitions.iter().any(told) {
        let what = "the brokers do not answer what the ids of the topics are: whether they are the \
                    same ones cannot be told";
        return Err(Error::new(Kind::SourceAway, what));
    }
    Ok(ids.unwrap_or_default())
}

/// Why the stored offset of a partition is none of its topic's, where that is so.
fn lost(name: &str, known: &Stored, (first, end): (i64, i64), id: &str) -> Option<String> {
    let (at, was) = (known.position, known.system_id.as_str());
    if !was.is_empty() && !id.is_empty() && was != id {
        return Some(format!(
            "the topic of {name} was deleted and made again (its id was {was} and is {id}): the stored \
             offset {at} is one of the former topic's"
        ));
    }
    if at < first {
        return Some(format!(
            "the stored offset {at} of {name} is before the topic's first record {first}: {} records \
             were deleted by its retention before they were read",
            first - at
        ));
    }
    (at > end).then(|| {
        format!(
            "the stored offset {at} of {name} is behind the topic's end {end}: the topic was deleted and \
             made again, or the warehouse belongs to another cluster"
        )
    })
}

/// Where a partition goes on whose stored offset is lost.
fn resume(policy: OffsetLost, name: &str, what: String, first: i64) -> Result<i64> {
    if policy == OffsetLost::Stop {
        return Err(Error::new(Kind::PositionLost, what).remedy(READ_AGAIN));
    }
    tracing::error!(
        partition = name,
        first,
        "{what}; going on with its first record, by offset_lost"
    );
    Ok(first)
}

async fn note(
    setup: &TopicSetup,
    (warehouse, fence): (&mut Session, &Fence),
    name: &str,
    known: &Stored,
) -> Result<()> {
    let transaction = Fenced::begin(warehouse, fence, "partition", &setup.durations).await?;
    partitions::set(&transaction, &setup.connector.name, name, known).await?;
    transaction.commit().await
}

async fn begin(
    setup: &TopicSetup,
    (warehouse, fence): (&mut Session, &Fence),
    (name, id): (&str, &str),
    position: i64,
) -> Result<Stored> {
    let transaction = Fenced::begin(warehouse, fence, "partition", &setup.durations).await?;
    let begun =
        partitions::begin(&transaction, &setup.connector.name, (name, id), position).await?;
    transaction.commit().await?;
    Ok(begun)
}
