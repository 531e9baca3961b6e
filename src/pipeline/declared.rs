//! The topics of `topics.yaml` against those that the brokers have: what differs, and making it so.
//!
//! What a difference asks for is a [`Class`], as with tables: safe, or with a word of the person who knows
//! who else reads the topic. What Kafka cannot take back, or we never do, has none: a topic is never
//! deleted, and no partition taken away.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::capture::brokers::{Brokers, Found};
use crate::error::{Error, Kind, Result};
use crate::merge::Class;
use crate::spec::{Format, Kafka, Spec, Topic, Topics, same_policy};

/// What would make a topic as it is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicChange {
    /// It is not there.
    Make,
    /// It has fewer partitions.
    Grow(i32),
    /// A setting is another one: its name and its value.
    Set(String, String),
    /// Nothing that we would do.
    Refused,
}

/// One difference between `topics.yaml` and the brokers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDifference {
    /// The topic.
    pub topic: String,
    /// What differs.
    pub what: String,
    /// What it asks for; none where it is not made.
    pub class: Option<Class>,
    /// Why that class; where there is none, what to do instead.
    pub why: Option<String>,
    /// What makes it.
    pub change: TopicChange,
}

impl TopicDifference {
    /// The class in the word that people read.
    pub fn word(&self) -> &'static str {
        self.class.map_or("refused", Class::word)
    }
}

/// What differs, and the brokers to make it.
pub struct TopicPlan {
    brokers: Brokers,
    declared: Topics,
    format: Format,
    /// The differences in the order in which they are made.
    pub differences: Vec<TopicDifference>,
}

/// Compares the declared topics with the brokers'. Changes nothing.
pub async fn plan_topics(spec: &Spec) -> Result<TopicPlan> {
    let Some(declared) = &spec.topics else {
        let remedy = "write it beside siltstone.yaml, such as connector: shop-kafka and topics: { \
                      shop.public.users: { partitions: 6 } }";
        return Err(Error::new(Kind::Config, "there is no topics.yaml").remedy(remedy));
    };
    let Some(connector) = connector_of(spec, declared) else {
        let name = &declared.connector;
        let what = format!("{}: connector: {name} is disabled", declared.file);
        let remedy = format!("remove enabled: false from the file of {name}");
        return Err(Error::new(Kind::Config, what).remedy(remedy));
    };
    let brokers = Brokers::of(connector)?;
    let found = look(&brokers, declared).await?;
    let (declared, format) = (declared.clone(), connector.format);
    let differences = differences(&declared, &found, format);
    Ok(TopicPlan { brokers, declared, format, differences })
}

/// The connector by which the declared topics are reached.
pub(super) fn connector_of<'s>(spec: &'s Spec, declared: &Topics) -> Option<&'s Kafka> {
    spec.kafka.iter().find(|connector| connector.name == declared.connector)
}

/// The declared topics as they are.
pub(super) async fn look(brokers: &Brokers, declared: &Topics) -> Result<BTreeMap<String, Found>> {
    let mut found = brokers.topics().await?;
    found.retain(|name, _| declared.topics.contains_key(name));
    brokers.read_settings(&mut found).await?;
    Ok(found)
}

impl TopicPlan {
    /// Makes what is safe and what is allowed; tells of each that is done.
    pub async fn apply(&self, allowed: &[Class], say: &dyn Fn(&TopicDifference)) -> Result<()> {
        let may = |difference: &&TopicDifference| {
            difference.class.is_some_and(|class| class == Class::Safe || allowed.contains(&class))
        };
        let mut settings: BTreeMap<&str, Vec<&TopicDifference>> = BTreeMap::new();
        let mut done = Vec::new();
        for difference in self.differences.iter().filter(may) {
            let name = difference.topic.as_str();
            match &difference.change {
                TopicChange::Make => {
                    let Some(topic) = self.declared.topics.get(name) else { continue };
                    self.brokers.make(name, topic).await?;
                }
                TopicChange::Grow(to) => {
                    let to = usize::try_from(*to).unwrap_or_default();
                    self.brokers.grow(name, to).await?;
                }
                TopicChange::Set(..) => {
                    settings.entry(name).or_default().push(difference);
                    continue;
                }
                TopicChange::Refused => continue,
            }
            say(difference);
            done.push(difference);
        }
        // those of a topic all at once: a shorter retention must not stand without its policy
        for (name, of_topic) in settings {
            let set = of_topic.iter().filter_map(|difference| match &difference.change {
                TopicChange::Set(setting, value) => Some((setting.clone(), value.clone())),
                _ => None,
            });
            self.brokers.set(name, set.collect()).await?;
            of_topic.iter().for_each(|difference| say(difference));
            done.extend(of_topic);
        }
        self.until_shown(&done).await
    }

    /// Waits until the brokers show what was done: they learn it from their controller a moment later.
    async fn until_shown(&self, done: &[&TopicDifference]) -> Result<()> {
        const LOOKS: u32 = 50;
        const EVERY: Duration = Duration::from_millis(200);
        for _ in 0..LOOKS {
            // one broker may name a topic that another does not know yet
            if let Ok(found) = look(&self.brokers, &self.declared).await {
                let left = differences(&self.declared, &found, self.format);
                if !done.iter().any(|done| left.contains(done)) {
                    return Ok(());
                }
            }
            tokio::time::sleep(EVERY).await;
        }
        let what = "the brokers have taken it, but do not show it yet";
        Err(Error::new(Kind::Busy, what).remedy("siltstone topics plan, in a moment"))
    }
}

/// How the topics that are there differ from what is declared. Pure.
pub(super) fn differences(
    declared: &Topics,
    found: &BTreeMap<String, Found>,
    format: Format,
) -> Vec<TopicDifference> {
    let mut all = Vec::new();
    for (name, topic) in &declared.topics {
        match found.get(name) {
            None => all.push(missing(name, topic)),
            Some(found) => {
                all.extend(partitions(name, topic, found, format));
                all.extend(replication(name, topic, found));
                all.extend(topic.config.iter().filter_map(|(setting, value)| {
                    let now = found.config.get(setting).map(String::as_str);
                    self::setting((name, setting), now, value)
                }));
            }
        }
    }
    all
}

fn missing(name: &str, topic: &Topic) -> TopicDifference {
    let partitions = match topic.partitions {
        Some(1) => "1 partition".to_owned(),
        Some(many) => format!("{many} partitions"),
        None => "the broker's number of partitions".to_owned(),
    };
    let replication = match topic.replication {
        Some(many) => format!("replication {many}"),
        None => "the broker's replication".to_owned(),
    };
    let settings = topic.config.iter().map(|(name, value)| format!("{name}={value}"));
    let all: Vec<String> = [partitions, replication].into_iter().chain(settings).collect();
    TopicDifference {
        topic: name.to_owned(),
        what: format!("make it, with {}", all.join(", ")),
        class: Some(Class::Safe),
        why: None,
        change: TopicChange::Make,
    }
}

fn partitions(name: &str, topic: &Topic, found: &Found, format: Format) -> Option<TopicDifference> {
    let (now, wanted) = (found.partitions, topic.partitions.filter(|n| *n != found.partitions)?);
    let what = format!("partitions: {now} -> {wanted}");
    let topic = name.to_owned();
    if wanted < now {
        let why = format!(
            "Kafka takes no partition away: declare {now}, or make another topic and let Debezium write \
             there"
        );
        let (class, why) = (None, Some(why));
        return Some(TopicDifference { topic, what, class, why, change: TopicChange::Refused });
    }
    let why = match format {
        Format::DebeziumJson => {
            "keys move to other partitions: changes of one key come from two for a while, and are put in \
             order by what the source says of them"
        }
        Format::FlatJson => {
            "keys move to other partitions: flattened records that do not tell their place at the source \
             (add.fields=lsn) may then be applied out of order"
        }
    };
    Some(TopicDifference {
        topic,
        what,
        class: Some(Class::Rewrite),
        why: Some(why.to_owned()),
        change: TopicChange::Grow(wanted),
    })
}

fn replication(name: &str, topic: &Topic, found: &Found) -> Option<TopicDifference> {
    let (now, wanted) = (found.replication, topic.replication.filter(|n| *n != found.replication)?);
    Some(TopicDifference {
        topic: name.to_owned(),
        what: format!("replication: {now} -> {wanted}"),
        class: None,
        why: Some(format!(
            "copies of a topic that is there move between brokers: kafka-reassign-partitions.sh does \
             that, or declare {now}"
        )),
        change: TopicChange::Refused,
    })
}

fn setting(
    (topic, name): (&str, &str),
    now: Option<&str>,
    wanted: &str,
) -> Option<TopicDifference> {
    if now.is_some_and(|now| is_same(name, now, wanted)) {
        return None;
    }
    let (class, why) = class_of(name, now, wanted);
    Some(TopicDifference {
        topic: topic.to_owned(),
        what: format!("{name}: {} -> {wanted}", now.unwrap_or("not set")),
        class: Some(class),
        why: why.map(str::to_owned),
        change: TopicChange::Set(name.to_owned(), wanted.to_owned()),
    })
}

/// Whether two values of a setting mean the same.
fn is_same(name: &str, now: &str, wanted: &str) -> bool {
    let number = |text: &str| text.parse::<f64>().ok();
    match (number(now), number(wanted)) {
        (Some(now), Some(wanted)) => now.to_bits() == wanted.to_bits(),
        _ if name == "cleanup.policy" => same_policy(now, wanted),
        _ => now.eq_ignore_ascii_case(wanted),
    }
}

/// What a changed setting does to the records that are there.
fn class_of(name: &str, now: Option<&str>, wanted: &str) -> (Class, Option<&'static str>) {
    // no limit is the largest one; what is not known may be that
    let limit = |text: Option<&str>| match text.and_then(|text| text.parse::<i64>().ok()) {
        None | Some(-1) => i64::MAX,
        Some(limit) => limit,
    };
    let less = limit(Some(wanted)) < limit(now);
    match name {
        "cleanup.policy" if wanted.contains("compact") => (
            Class::Destructive,
            Some(
                "of each key only the last record stays: history and deletes are gone for who has not \
                  read them yet",
            ),
        ),
        "cleanup.policy" => (
            Class::Destructive,
            Some("records above the retention are deleted, the last ones of their keys as well"),
        ),
        "retention.ms" | "retention.bytes" if less => {
            (Class::Destructive, Some("records above the new retention are deleted, read or not"))
        }
        "delete.retention.ms" | "min.compaction.lag.ms" | "max.compaction.lag.ms" if less => {
            (Class::Destructive, Some("on a compacted topic records are gone sooner, read or not"))
        }
        "unclean.leader.election.enable" if wanted.eq_ignore_ascii_case("true") => {
            (Class::Destructive, Some("records that only a lost leader had are lost with it"))
        }
        "max.message.bytes" if less => (
            Class::Rewrite,
            Some("larger records are refused from then on: Debezium stops at the first one"),
        ),
        _ => (Class::Safe, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(partitions: Option<i32>, config: &[(&str, &str)]) -> Topic {
        let config = config.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Topic { partitions, replication: Some(1), config: config.collect() }
    }

    fn found(partitions: i32, config: &[(&str, &str)]) -> Found {
        Found { partitions, replication: 1, config: topic(None, config).config }
    }

    fn differ(wanted: Topic, found: Option<Found>) -> Vec<(&'static str, String)> {
        let declared = Topics {
            connector: "k".to_owned(),
            topics: BTreeMap::from([("t".to_owned(), wanted)]),
            file: "topics.yaml".to_owned(),
        };
        let found = found.map(|found| ("t".to_owned(), found)).into_iter().collect();
        let all = differences(&declared, &found, Format::DebeziumJson);
        all.iter().map(|difference| (difference.word(), difference.what.clone())).collect()
    }

    #[test]
    fn a_topic_as_declared_differs_in_nothing() {
        let is =
            found(3, &[("cleanup.policy", "delete,compact"), ("retention.ms", "1000"), ("x", "y")]);
        let wanted =
            topic(Some(3), &[("cleanup.policy", "compact, delete"), ("retention.ms", "1000")]);
        assert_eq!(differ(wanted, Some(is.clone())), []);
        assert_eq!(differ(topic(None, &[]), Some(is)), []);
    }

    #[test]
    fn partitions_only_grow() {
        let cases = [(6, "rewrite", "partitions: 3 -> 6"), (1, "refused", "partitions: 3 -> 1")];
        for (wanted, word, what) in cases {
            let said = differ(topic(Some(wanted), &[]), Some(found(3, &[])));
            assert_eq!(said, [(word, what.to_owned())]);
        }
    }

    #[test]
    fn what_may_lose_records_is_destructive() {
        let cases = [
            ("retention.ms", "1000", "2000", "safe"),
            ("retention.ms", "1000", "-1", "safe"),
            ("retention.ms", "2000", "1000", "destructive"),
            ("retention.ms", "-1", "1000", "destructive"),
            ("retention.bytes", "-1", "1000", "destructive"),
            ("cleanup.policy", "delete", "compact", "destructive"),
            ("cleanup.policy", "compact", "delete", "destructive"),
            ("unclean.leader.election.enable", "false", "true", "destructive"),
            ("max.message.bytes", "2000", "1000", "rewrite"),
            ("compression.type", "producer", "zstd", "safe"),
        ];
        for (name, now, wanted, word) in cases {
            let said = differ(topic(None, &[(name, wanted)]), Some(found(1, &[(name, now)])));
            assert_eq!(said, [(word, format!("{name}: {now} -> {wanted}"))]);
        }
        let said = differ(topic(None, &[("retention.ms", "5")]), Some(found(1, &[])));
        assert_eq!(said, [("destructive", "retention.ms: not set -> 5".to_owned())]);
    }

    #[test]
    fn what_is_missing_is_made_and_copies_are_not_moved() {
        let said = differ(topic(Some(2), &[("retention.ms", "5")]), None);
        let what = "make it, with 2 partitions, replication 1, retention.ms=5";
        assert_eq!(said, [("safe", what.to_owned())]);
        let wanted = Topic { replication: Some(3), ..topic(None, &[]) };
        let said = differ(wanted, Some(found(1, &[])));
        assert_eq!(said, [("refused", "replication: 1 -> 3".to_owned())]);
    }
}
