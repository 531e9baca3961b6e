//! `kind: kafka` of a connector: topics that Debezium writes.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use serde::Deserialize;

use super::common::{self, Common, RawCommon, RawDeadLetters};
use super::connector::URL;
use super::debezium::{RawTypes, Types, types};
use super::file::{File, Given, NotYet};
use super::guard::RawGuard;
use super::scalar::Scalar;
use super::settings::Secret;
use crate::error::Result;
use crate::postgres::Endpoint;

/// Topics of a Kafka cluster, read as a member of a consumer group.
#[derive(Clone, Debug)]
pub struct Kafka {
    /// What every connector has.
    pub common: Arc<Common>,
    /// `host:port`, several with commas.
    pub brokers: String,
    /// The consumer group.
    pub group: String,
    /// Which topics to take.
    pub topics: Vec<TopicPattern>,
    /// How their records are written.
    pub format: Format,
    /// librdkafka's properties, as they are given. A value may be a password.
    pub properties: BTreeMap<String, Secret>,
    /// Where a partition begins that nothing is stored of.
    pub start: StartAt,
    /// What is done where the stored offset is not in the topic any more.
    pub offset_lost: OffsetLost,
    /// How Debezium was told to write values, where no schema travels with them.
    pub types: Types,
    /// Whether a source transaction is applied as one, whatever its partitions and tables.
    pub atomic: bool,
    /// Where dead letters are sent beside `audit.dead_letters`.
    pub dead_letter_topic: Option<String>,
    /// Where the source is, for `verify` and for tables that are read again.
    pub endpoint: Option<Endpoint>,
}

impl Deref for Kafka {
    type Target = Common;

    fn deref(&self) -> &Common {
        &self.common
    }
}

impl PartialEq for Kafka {
    fn eq(&self, other: &Kafka) -> bool {
        let exposed = |kafka: &Kafka| -> Vec<(String, String)> {
            let properties = kafka.properties.iter();
            properties.map(|(name, value)| (name.clone(), value.expose().to_owned())).collect()
        };
        self.common == other.common
            && (&self.brokers, &self.group) == (&other.brokers, &other.group)
            && self.topics == other.topics
            && exposed(self) == exposed(other)
            && (self.format, self.start, self.offset_lost)
                == (other.format, other.start, other.offset_lost)
            && self.types == other.types
            && (self.atomic, &self.dead_letter_topic) == (other.atomic, &other.dead_letter_topic)
            && self.endpoint == other.endpoint
    }
}

/// A topic, or topics by a pattern in which `*` stands for any run of characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPattern(String);

impl TopicPattern {
    /// Whether it is a single topic.
    pub fn is_exact(&self) -> bool {
        !self.0.contains('*')
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As librdkafka subscribes to it: the name, or a regular expression.
    pub fn subscription(&self) -> String {
        if self.is_exact() {
            return self.0.clone();
        }
        // Kafka's own topics (`__consumer_offsets`) are no tables
        let (not_kafkas, rest) = match self.0.strip_prefix('*') {
            Some(rest) => ("([^_].*|_[^_].*|_?)", rest),
            None => ("", self.0.as_str()),
        };
        let escaped = |character: char| match character {
            '*' => ".*".to_owned(),
            '.' | '-' => format!("[{character}]"),
            other => other.to_string(),
        };
        format!("^{not_kafkas}{}$", rest.chars().map(escaped).collect::<String>())
    }

    /// Whether it means this topic.
    pub fn matches(&self, topic: &str) -> bool {
        super::pattern::glob(&self.0, topic)
    }
}

impl Scalar for TopicPattern {
    const REMEDY: &'static str = "write a topic, or topics as in \"shop.public.*\"";

    fn read(text: &str) -> Result<TopicPattern, String> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '*');
        match !text.is_empty() && text.len() <= 249 && text.chars().all(legal) {
            true => Ok(TopicPattern(text.to_owned())),
            false => Err(format!("{text:?} is not a topic")),
        }
    }
}

/// How the records of topics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Debezium's envelope in JSON, with its schema or without.
    DebeziumJson,
    /// Flattened rows in JSON.
    FlatJson,
}

/// Where a partition begins that nothing is stored of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// With its first record.
    Earliest,
    /// Behind its last one.
    Latest,
}

/// What is done where the stored offset is not in the topic any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetLost {
    /// The connector stops.
    Stop,
    /// It goes on with the first record that is there.
    Earliest,
    /// So it does, and the tables that the topic feeds are read again from their source.
    Resync,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKafka {
    name: Given,
    #[allow(dead_code, reason = "read by Head; named here so that it is a known field")]
    kind: Given,
    #[allow(dead_code, reason = "read by Head; named here so that it is a known field")]
    enabled: Option<bool>,
    source: Option<Given>,
    brokers: Given,
    group: Option<Given>,
    topics: Vec<Given>,
    format: Option<Given>,
    registry: Option<NotYet>,
    target_schema: Option<Given>,
    #[serde(default)]
    properties: BTreeMap<String, Given>,
    start: Option<Given>,
    offset_lost: Option<Given>,
    types: Option<RawTypes>,
    atomic: Option<bool>,
    dead_letter_topic: Option<Given>,
    lanes: Option<Given>,
    url: Option<Given>,
    new_tables: Option<Given>,
    truncate: Option<Given>,
    guard: Option<RawGuard>,
    dead_letters: Option<RawDeadLetters>,
    adopt: Option<Given>,
}

/// Properties that are ours to set: with others positions or rows could be lost.
const OURS: [&str; 9] = [
    "auto.offset.reset",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "group.id",
    "isolation.level",
    "metadata.broker.list",
    "queued.max.messages.kbytes",
];

/// Reads a connector of kind kafka.
pub(super) fn read(file: &File<'_>) -> Result<Kafka> {
    let raw: RawKafka = file.read()?;
    file.not_yet("registry", raw.registry.as_ref())?;
    let shared = RawCommon {
        name: &raw.name,
        source: raw.source.as_ref(),
        target_schema: raw.target_schema.as_ref(),
        new_tables: raw.new_tables.as_ref(),
        exclude: &[],
        guard: raw.guard.as_ref(),
        truncate: raw.truncate.as_ref(),
        dead_letters: raw.dead_letters.as_ref(),
        adopt: raw.adopt.as_ref(),
    };
    let common = common::read(file, &shared)?;
    let brokers = file.text("brokers", &raw.brokers)?;
    if brokers.trim().is_empty() {
        let remedy = "write host:port, several with commas";
        return Err(file.refuse_given("brokers", &raw.brokers, "no broker is named", remedy));
    }
    if raw.topics.is_empty() {
        let remedy = "name the topics to take, such as topics: [\"shop.public.*\"]";
        return Err(file.refuse("topics", "no topic is taken", remedy));
    }
    let format = format(file, &raw)?;
    if let Some(lanes) = &raw.lanes {
        file.choice("lanes", Some(lanes), &["1"])?;
    }
    let endpoint = raw.url.as_ref().map(|given| {
        let url = file.text("url", given)?;
        Endpoint::parse(&url).map_err(|error| file.refuse_given("url", given, &error.reason(), URL))
    });
    let group = match &raw.group {
        Some(given) => file.text("group", given)?,
        None => "siltstone".to_owned(),
    };
    let topics: Vec<TopicPattern> = common::list(file, "topics", &raw.topics)?;
    Ok(Kafka {
        common: Arc::new(common),
        brokers,
        group,
        format,
        properties: properties(file, &raw.properties)?,
        start: start(file, &raw)?,
        offset_lost: offset_lost(file, &raw, format)?,
        types: raw.types.as_ref().map_or(Ok(Types::default()), |raw| types(file, raw))?,
        atomic: raw.atomic == Some(true),
        dead_letter_topic: dead_letter_topic(file, &raw, &topics)?,
        topics,
        endpoint: endpoint.transpose()?,
    })
}

/// The topic of dead letters: none of those that are read, or its letters would come back without end.
fn dead_letter_topic(
    file: &File<'_>,
    raw: &RawKafka,
    topics: &[TopicPattern],
) -> Result<Option<String>> {
    let Some(given) = &raw.dead_letter_topic else { return Ok(None) };
    let name = file.text("dead_letter_topic", given)?;
    if name == "none" {
        return Ok(None);
    }
    let refuse =
        |what: &str, remedy: &str| Err(file.refuse_given("dead_letter_topic", given, what, remedy));
    match <TopicPattern as Scalar>::read(&name) {
        Ok(topic) if topic.is_exact() => {}
        _ => return refuse("it is no topic", "write the name of one topic"),
    }
    if topics.iter().any(|topic| topic.matches(&name)) {
        let remedy = "name it otherwise, so that no pattern of topics means it";
        return refuse("it is one of the topics that are read", remedy);
    }
    Ok(Some(name))
}

fn format(file: &File<'_>, raw: &RawKafka) -> Result<Format> {
    let formats = ["debezium-json", "flat-json", "debezium-avro"];
    match file.choice("format", raw.format.as_ref(), &formats)? {
        "flat-json" => Ok(Format::FlatJson),
        "debezium-avro" => {
            let remedy = "write debezium-json or flat-json";
            Err(file.refuse("format", "this version does not read Avro yet", remedy))
        }
        _ => Ok(Format::DebeziumJson),
    }
}

fn start(file: &File<'_>, raw: &RawKafka) -> Result<StartAt> {
    Ok(match file.choice("start", raw.start.as_ref(), &["earliest", "latest"])? {
        "latest" => StartAt::Latest,
        _ => StartAt::Earliest,
    })
}

fn offset_lost(file: &File<'_>, raw: &RawKafka, format: Format) -> Result<OffsetLost> {
    let choices = ["stop", "earliest", "resync"];
    let refuse = |why: &str, remedy: &str| Err(file.refuse("offset_lost", why, remedy));
    match file.choice("offset_lost", raw.offset_lost.as_ref(), &choices)? {
        "earliest" => Ok(OffsetLost::Earliest),
        "resync" if raw.url.is_none() => refuse(
            "resync reads tables from their source, and nothing says where that is",
            "write url, the source's own, beside it; or stop or earliest",
        ),
        "resync" if format == Format::FlatJson => refuse(
            "flattened records do not tell the transactions by which rows that are read go with them",
            "write stop or earliest",
        ),
        "resync" => Ok(OffsetLost::Resync),
        _ => Ok(OffsetLost::Stop),
    }
}

fn properties(file: &File<'_>, raw: &BTreeMap<String, Given>) -> Result<BTreeMap<String, Secret>> {
    let mut properties = BTreeMap::new();
    for (name, given) in raw {
        let field = format!("properties.{name}");
        if OURS.contains(&name.as_str()) {
            let why = "the service sets it itself, so that no record is lost";
            return Err(file.refuse_given(&field, given, why, "remove it"));
        }
        properties.insert(name.clone(), Secret::new(file.text(&field, given)?));
    }
    Ok(properties)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_never_means_kafkas_own_topics() {
        let subscription = |text: &str| TopicPattern(text.to_owned()).subscription();
        assert_eq!(subscription("shop.public.users"), "shop.public.users");
        assert_eq!(subscription("shop.*"), "^shop[.].*$");
        assert_eq!(subscription("*"), "^([^_].*|_[^_].*|_?)$");
        assert_eq!(subscription("*.users"), "^([^_].*|_[^_].*|_?)[.]users$");
    }
}
