//! `topics.yaml`: the topics of a cluster as they are to be. What is not declared is left alone.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::file::{File, Given, listed, nearest};
use super::scalar::Scalar;
use crate::error::Result;

/// The declared topics of one connector's cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    /// The connector by which the cluster is reached.
    pub connector: String,
    /// The topics by their names.
    pub topics: BTreeMap<String, Topic>,
    /// The file it stands in, for messages.
    pub file: String,
}

/// What is declared of a topic, the file's defaults included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topic {
    /// How many partitions it has; without it the broker's default when it is made.
    pub partitions: Option<i32>,
    /// How many brokers have a copy of each; without it the broker's default when it is made.
    pub replication: Option<i32>,
    /// Its settings, by Kafka's names.
    pub config: BTreeMap<String, String>,
}

/// Kafka's settings of a topic.
const SETTINGS: [&str; 33] = [
    "cleanup.policy",
    "compression.gzip.level",
    "compression.lz4.level",
    "compression.type",
    "compression.zstd.level",
    "delete.retention.ms",
    "file.delete.delay.ms",
    "flush.messages",
    "flush.ms",
    "follower.replication.throttled.replicas",
    "index.interval.bytes",
    "leader.replication.throttled.replicas",
    "local.retention.bytes",
    "local.retention.ms",
    "max.compaction.lag.ms",
    "max.message.bytes",
    "message.downconversion.enable",
    "message.timestamp.after.max.ms",
    "message.timestamp.before.max.ms",
    "message.timestamp.difference.max.ms",
    "message.timestamp.type",
    "min.cleanable.dirty.ratio",
    "min.compaction.lag.ms",
    "min.insync.replicas",
    "preallocate",
    "remote.log.copy.disable",
    "remote.log.delete.on.disable",
    "remote.storage.enable",
    "retention.bytes",
    "retention.ms",
    "segment.bytes",
    "segment.ms",
    "unclean.leader.election.enable",
];

/// Those of other makers begin with their names.
const OF_OTHERS: [&str; 2] = ["confluent.", "redpanda."];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTopics {
    connector: Given,
    defaults: Option<RawTopic>,
    topics: BTreeMap<String, RawTopic>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTopic {
    partitions: Option<Given>,
    replication: Option<Given>,
    #[serde(default)]
    config: BTreeMap<String, Given>,
}

/// How many partitions.
struct Partitions(i32);

impl Scalar for Partitions {
    const REMEDY: &'static str = "write a whole number from 1 to 10000";

    fn read(text: &str) -> Result<Partitions, String> {
        within(text, 10_000).map(Partitions)
    }
}

/// How many copies.
struct Replication(i32);

impl Scalar for Replication {
    const REMEDY: &'static str =
        "write how many brokers have a copy, at most as many as there are, such as 3";

    fn read(text: &str) -> Result<Replication, String> {
        within(text, 1_000).map(Replication)
    }
}

fn within(text: &str, most: i32) -> Result<i32, String> {
    let number = text.parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| format!("{text:?} is not a number that fits"))
}

/// Reads `topics.yaml`.
pub(super) fn read(file: &File<'_>) -> Result<Topics> {
    let raw: RawTopics = file.read()?;
    let defaults = topic(file, "defaults", &raw.defaults.unwrap_or_default())?;
    let mut topics = BTreeMap::new();
    for (name, raw) in &raw.topics {
        let field = format!("topics.{name}");
        if let Some(why) = illegal(name) {
            let remedy = "write its name in letters, digits, dots, _ and -, one topic a field";
            return Err(file.refuse(&field, why, remedy));
        }
        let own = topic(file, &field, raw)?;
        let mut config = defaults.config.clone();
        config.extend(own.config);
        topics.insert(
            name.clone(),
            Topic {
                partitions: own.partitions.or(defaults.partitions),
                replication: own.replication.or(defaults.replication),
                config,
            },
        );
    }
    Ok(Topics {
        connector: file.text("connector", &raw.connector)?,
        topics,
        file: file.path.clone(),
    })
}

/// Why a name is none of a topic.
fn illegal(name: &str) -> Option<&'static str> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match name {
        "" | "." | ".." => Some("Kafka takes no such name"),
        name if name.contains('*') => Some("a pattern is no topic"),
        name if name.len() > 249 => Some("the name has more than 249 characters"),
        name if !name.chars().all(legal) => Some("a topic's name has no such characters"),
        _ => None,
    }
}

fn topic(file: &File<'_>, field: &str, raw: &RawTopic) -> Result<Topic> {
    let partitions = raw.partitions.as_ref();
    let partitions = partitions
        .map(|given| file.parse::<Partitions>(&format!("{field}.partitions"), given))
        .transpose()?;
    let replication = raw.replication.as_ref();
    let replication = replication
        .map(|given| file.parse::<Replication>(&format!("{field}.replication"), given))
        .transpose()?;
    let mut config = BTreeMap::new();
    for (name, given) in &raw.config {
        let field = format!("{field}.config.{name}");
        let value = file.text(&field, given)?;
        if let Some((why, remedy)) = wrong(name, &value) {
            return Err(file.refuse_given(&field, given, &why, &remedy));
        }
        config.insert(name.clone(), value);
    }
    Ok(Topic {
        partitions: partitions.map(|number| number.0),
        replication: replication.map(|number| number.0),
        config,
    })
}

/// What is wrong with a setting, as far as it can be told without a broker; and what to write.
fn wrong(name: &str, value: &str) -> Option<(String, String)> {
    const POLICIES: [&str; 3] = ["delete", "compact", "compact,delete"];
    if !SETTINGS.contains(&name) && !OF_OTHERS.iter().any(|maker| name.starts_with(maker)) {
        let remedy = match nearest(name, &SETTINGS) {
            Some(near) => format!("write {near}, or remove it"),
            None => "write one of Kafka's topic settings, such as retention.ms".to_owned(),
        };
        return Some(("Kafka has no such setting of a topic".to_owned(), remedy));
    }
    match name {
        "cleanup.policy" if !POLICIES.iter().any(|known| same_policy(known, value)) => {
            let why = format!("{value:?} is no cleanup policy");
            Some((why, format!("write {}", listed(&POLICIES))))
        }
        "retention.ms" | "retention.bytes" => {
            let number = value.parse::<i64>().ok().filter(|number| *number >= -1);
            number.is_none().then(|| {
                let unit = if name == "retention.ms" { "milliseconds" } else { "bytes" };
                let remedy = format!("write a whole number of {unit}, or -1 for no limit");
                (format!("{value:?} is not a number that fits"), remedy)
            })
        }
        _ => None,
    }
}

/// Whether two cleanup policies are the same, in whatever order their parts stand.
pub fn same_policy(one: &str, other: &str) -> bool {
    let parts = |policy: &str| {
        let mut parts: Vec<String> = policy.split(',').map(|part| part.trim().to_owned()).collect();
        parts.sort();
        parts
    };
    parts(one) == parts(other)
}
