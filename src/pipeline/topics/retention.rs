//! How long the records of topics that rest are kept: nobody reads them, and the topic's retention goes on. It is told
//! from when on the next one may be gone, again when little of that time is left, and what is gone at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::TopicSetup;
use super::places::Place;
use crate::capture::brokers::{Brokers, Found};
use crate::capture::sample::first_records;
use crate::capture::topics::Member;
use crate::clock::from_unix_millis;
use crate::error::Result;
use crate::position::Positions;
use crate::postgres::{Side, connect};
use crate::progress::resting;

use super::super::intake::End;

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// From when on the next record of a topic may be gone, and for how long it is kept in all, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Until {
    at: i64,
    kept: i64,
    urgent: bool,
}

/// Looks after the topics that rest, tells the `ends` of their partitions, and asks for a new session where one has
/// lost what is next.
pub(super) async fn look_after(
    setup: TopicSetup,
    member: Arc<Member>,
    places: Vec<Place>,
    ends: watch::Sender<Positions>,
) -> Result<End> {
    let mut known: BTreeMap<String, Until> = BTreeMap::new();
    while !places.is_empty() {
        let mut now = Vec::new();
        for place in &places {
            match member.watermarks(&place.partition).await {
                Ok((first, end)) => {
                    if first > place.offset && place.lost.is_none() {
                        return Ok(End::Restart);
                    }
                    now.push((place.name.clone(), end));
                }
                Err(error) => {
                    tracing::debug!("looking after topics that rest: {}", error.reason());
                    now.extend(ends.borrow().of(&place.name).map(|end| (place.name.clone(), end)));
                }
            }
        }
        let left = |place: &&Place| {
            now.iter().any(|(name, end)| *name == place.name && *end > place.offset)
        };
        let left: Vec<&Place> = places.iter().filter(left).collect();
        let told = tell(&setup, &left, &mut known).await;
        ends.send_replace(now.into_iter().collect());
        if let Err(error) = told {
            tracing::debug!("asking how long topics that rest are kept: {}", error.reason());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    std::future::pending().await
}

/// Finds out and tells how long the next records are kept.
async fn tell(
    setup: &TopicSetup,
    places: &[&Place],
    known: &mut BTreeMap<String, Until>,
) -> Result<()> {
    let connector = &setup.connector;
    let is_new =
        |place: &&&Place| place.lost.is_none() && !known.contains_key(&*place.partition.topic);
    let next =
        |place: &&Place| (place.partition.topic.to_string(), place.partition.number, place.offset);
    let new: Vec<_> = places.iter().filter(is_new).map(next).collect();
    if !new.is_empty() {
        let topics = new.iter().map(|(topic, _, _)| (topic.clone(), Found::default()));
        let mut topics: BTreeMap<String, Found> = topics.collect();
        Brokers::of(connector)?.read_settings(&mut topics).await?;
        for sampled in first_records(connector, new).await? {
            let kept = topics.get(&sampled.topic).and_then(retention);
            let Some(kept) = kept.filter(|_| sampled.written_at() > 0) else { continue };
            let until =
                Until { at: sampled.written_at().saturating_add(kept), kept, urgent: false };
            let first = known.entry(sampled.topic).or_insert(until);
            first.at = first.at.min(until.at);
        }
        let warehouse =
            connect(Side::Warehouse, &setup.settings.warehouse, "siltstone retention").await?;
        for (topic, until) in known.iter() {
            resting::kept_until(&*warehouse, (&connector.name, topic), until.at).await?;
            let at = from_unix_millis(until.at);
            tracing::warn!(
                topic,
                "the topic rests, and its retention may take its next record from {at} on"
            );
        }
    }
    let now = setup.clock.now().as_millisecond();
    for (topic, until) in known.iter_mut().filter(|(_, until)| !until.urgent && until.is_near(now))
    {
        until.urgent = true;
        let at = from_unix_millis(until.at);
        tracing::error!(
            topic,
            remedy =
                "let it go on (siltstone status says how), or give the topic a longer retention.ms",
            "the topic rests, and its retention takes its next record from {at} on: little time is left"
        );
    }
    Ok(())
}

impl Until {
    /// Whether less than a quarter of the time is left.
    fn is_near(self, now: i64) -> bool {
        self.at.saturating_sub(now) < self.kept / 4
    }
}

/// For how long records are kept at least; none where it is not by time.
fn retention(topic: &Found) -> Option<i64> {
    let policy = topic.config.get("cleanup.policy").map_or("delete", String::as_str);
    let millis: i64 = topic.config.get("retention.ms")?.parse().ok()?;
    (policy.contains("delete") && millis > 0).then_some(millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_for_ever_has_no_end() {
        let of = |settings: &[(&str, &str)]| {
            let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            retention(&Found { config: settings.iter().map(own).collect(), ..Found::default() })
        };
        assert_eq!(of(&[("retention.ms", "1000")]), Some(1_000));
        assert_eq!(of(&[("retention.ms", "-1")]), None);
        assert_eq!(of(&[("retention.ms", "1000"), ("cleanup.policy", "compact")]), None);
        assert_eq!(
            of(&[("retention.ms", "1000"), ("cleanup.policy", "compact,delete")]),
            Some(1_000)
        );
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn a_quarter_of_the_time_is_little() {
        let until = Until { at: 10_000, kept: 4_000, urgent: false };
        assert!(!until.is_near(9_000) && until.is_near(9_001));
    }
}
