//! What a Kafka cluster has: its topics with their settings, and who reads them. Makes topics, partitions
//! and settings where it is told to; takes nothing away, whoever tells it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
    TopicResult,
};
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::admin;
use super::group::Partition;
use super::refusal::Told;
use super::topics::configuration;
use super::unfit::unfit;
use crate::error::{Error, Kind, Result};
use crate::spec::{Kafka, Topic};

/// How long the brokers may take to answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// A broker that refuses us is waited for no longer: another one may answer.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);

/// How many failures are listened to at once, and how long for each: of brokers that are away there is no end.
const FAILURES: u32 = 10;
const HEARD_WITHIN: Duration = Duration::from_millis(100);

/// Of how many topics the settings are asked for at once.
const AT_ONCE: usize = 200;

/// Whatever the broker's default is.
const BROKERS_DEFAULT: i32 = -1;

/// A topic as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// How many partitions it has.
    pub partitions: i32,
    /// How many brokers have a copy of them; of several the least.
    pub replication: i32,
    /// The settings that it works under, those that are the broker's included.
    pub config: BTreeMap<String, String>,
}

/// What a partition has.
#[derive(Clone, Debug)]
pub struct Ends {
    /// The partition.
    pub partition: Partition,
    /// Its first offset.
    pub first: i64,
    /// The one behind its last.
    pub end: i64,
}

/// A consumer group as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupFound {
    /// In Kafka's words.
    pub state: String,
    /// What its members call themselves.
    pub members: Vec<String>,
}

/// A cluster that can be asked.
#[derive(Clone)]
pub struct Brokers {
    admin: Arc<AdminClient<Listener>>,
    /// tells why it does not get through, which the other does not
    reader: Arc<BaseConsumer<Listener>>,
    connector: Arc<Kafka>,
    told: Arc<Told>,
}

/// Hears what goes wrong beside the answers to questions.
struct Listener(Arc<Told>);

impl ClientContext for Listener {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, "kafka: {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if self.0.note(&error, reason) {
            tracing::debug!("kafka: {error}: {reason}");
        }
    }
}

impl ConsumerContext for Listener {}

impl Brokers {
    /// The brokers of a connector. Connects when they are first asked.
    pub fn of(connector: &Kafka) -> Result<Brokers> {
        let told = Arc::<Told>::default();
        let refused = |error| unfit(&connector.file, &error);
        let mut config = configuration(connector);
        let admin = AdminClient::from_config_and_context(&config, Listener(told.clone()));
        let admin = Arc::new(admin.map_err(refused)?);
        // it joins no group, but must have one
        config.set("group.id", &connector.group).set("enable.auto.commit", "false");
        let reader = BaseConsumer::from_config_and_context(&config, Listener(told.clone()));
        let reader = Arc::new(reader.map_err(refused)?);
        Ok(Brokers { admin, reader, connector: Arc::new(connector.clone()), told })
    }

    /// All topics, without their settings. Makes none, as asking for one by its name may.
    pub async fn topics(&self) -> Result<BTreeMap<String, Found>> {
        let (reader, told) = (self.reader.clone(), self.told.clone());
        let asked = move || {
            let until = Instant::now() + ANSWERED_WITHIN;
            loop {
                let answer = reader.fetch_metadata(None, REFUSED_WITHIN);
                if answer.is_err() {
                    (0..FAILURES).any(|_| reader.poll(HEARD_WITHIN).is_none());
                }
                let waits = !told.is_refusal() && Instant::now() < until;
                if answer.is_ok() || !waits {
                    return answer;
                }
            }
        };
        let metadata = self.blocking("reading its topics", asked).await?;
        let found = metadata.topics().iter().filter(|topic| topic.error().is_none());
        let found = found.map(|topic| {
            let copies = topic.partitions().iter().map(|partition| partition.replicas().len());
            let found = Found {
                partitions: count(topic.partitions().len()),
                replication: copies.min().map_or(0, count),
                config: BTreeMap::new(),
            };
            (topic.name().to_owned(), found)
        });
        Ok(found.collect())
    }

    /// The first offset of each partition of topics, and the end of what is committed in it.
    pub async fn ends(&self, topics: &BTreeMap<String, Found>) -> Result<Vec<Ends>> {
        let of = |(topic, found): (&String, &Found)| {
            let topic: Arc<str> = topic.as_str().into();
            (0..found.partitions).map(move |number| Partition { topic: topic.clone(), number })
        };
        let partitions: Vec<Partition> = topics.iter().flat_map(of).collect();
        let reader = self.reader.clone();
        let ask = move || {
            let ends = partitions.into_iter().map(|partition| {
                let (topic, number) = (&*partition.topic, partition.number);
                let (first, end) = reader.fetch_watermarks(topic, number, ANSWERED_WITHIN)?;
                Ok(Ends { partition, first, end })
            });
            ends.collect()
        };
        self.blocking("asking for the ends of topics", ask).await
    }

    /// Reads the settings of topics.
    pub async fn read_settings(&self, topics: &mut BTreeMap<String, Found>) -> Result<()> {
        let names: Vec<String> = topics.keys().cloned().collect();
        for names in names.chunks(AT_ONCE) {
            let asked: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
            let doing = "reading the settings of topics";
            let answers = self.admin.describe_configs(&asked, &options()).await;
            let answers = answers.map_err(|error| self.failed(doing, &error))?;
            for (name, answer) in names.iter().zip(answers) {
                let doing = format!("reading the settings of {name}");
                let read = answer.map_err(|code| self.refused(&doing, code))?;
                let Some(found) = topics.get_mut(name) else { continue };
                let known = read.entries.into_iter();
                found.config = known.filter_map(|entry| Some((entry.name, entry.value?))).collect();
            }
        }
        Ok(())
    }

    /// Who reads as a group; none where nobody ever did.
    pub async fn group(&self, name: &str) -> Result<Option<GroupFound>> {
        let (admin, asked) = (self.admin.clone(), name.to_owned());
        let doing = format!("asking for the group {name}");
        let list = move || {
            let list = admin.inner().fetch_group_list(Some(&asked), ANSWERED_WITHIN)?;
            let found = list.groups().iter().find(|group| group.name() == asked);
            // one that nobody has joined yet is told as dead
            Ok(found.filter(|group| !matches!(group.state(), "Dead" | "")).map(|group| {
                let members = group.members().iter();
                let members = members.map(|member| member.client_id().to_owned()).collect();
                GroupFound { state: group.state().to_owned(), members }
            }))
        };
        self.blocking(&doing, list).await
    }

    /// Makes a topic as it is declared.
    pub async fn make(&self, name: &str, topic: &Topic) -> Result<()> {
        let copies = TopicReplication::Fixed(topic.replication.unwrap_or(BROKERS_DEFAULT));
        let mut new = NewTopic::new(name, topic.partitions.unwrap_or(BROKERS_DEFAULT), copies);
        for (setting, value) in &topic.config {
            new = new.set(setting, value);
        }
        let answers = self.admin.create_topics([&new], &options()).await;
        self.done(&format!("making {name}"), answers)
    }

    /// Gives a topic more partitions.
    pub async fn grow(&self, name: &str, partitions: usize) -> Result<()> {
        let new = NewPartitions::new(name, partitions);
        let answers = self.admin.create_partitions([&new], &options()).await;
        self.done(&format!("giving {name} partitions"), answers)
    }

    /// Changes these settings of a topic, all or none, and no others.
    pub async fn set(&self, name: &str, settings: Vec<(String, String)>) -> Result<()> {
        let (admin, topic) = (self.admin.clone(), name.to_owned());
        let asked = tokio::task::spawn_blocking(move || {
            let settings: Vec<(&str, &str)> =
                settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            admin::set(admin.inner(), &topic, &settings, ANSWERED_WITHIN)
        });
        let answer = asked.await.map_err(|error| Error::bug("a question broke off").because(error));
        answer?.map_err(|refused| {
            let kind = refused.code.map_or(Kind::SourceAway, kind_of);
            let what = format!("Kafka failed while changing the settings of {name}");
            Error::new(kind, what).because(refused).remedy(remedy_of(kind))
        })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        doing: &str,
        ask: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T> {
        let answer = tokio::task::spawn_blocking(ask).await;
        let answer = answer.map_err(|error| Error::bug("a question broke off").because(error))?;
        answer.map_err(|error| self.failed(doing, &error))
    }

    fn done(&self, doing: &str, answers: Result<Vec<TopicResult>, KafkaError>) -> Result<()> {
        let answers = answers.map_err(|error| self.failed(doing, &error))?;
        let refused = answers.into_iter().find_map(Result::err);
        refused.map_or(Ok(()), |(_, code)| Err(self.refused(doing, code)))
    }

    fn failed(&self, doing: &str, error: &KafkaError) -> Error {
        let kind = error.rdkafka_error_code().map_or(Kind::SourceAway, kind_of);
        // an answer says more than what was heard beside it
        let heard = (kind == Kind::SourceAway).then_some(&self.told);
        heard.and_then(|told| told.failure(&self.connector, doing)).unwrap_or_else(|| {
            let what = format!("Kafka at {} failed while {doing}", self.connector.brokers);
            Error::new(kind, what).because(error.clone()).remedy(remedy_of(kind))
        })
    }

    fn refused(&self, doing: &str, code: RDKafkaErrorCode) -> Error {
        let kind = kind_of(code);
        let what = format!("Kafka at {} failed while {doing}", self.connector.brokers);
        Error::new(kind, what).because(code).remedy(remedy_of(kind))
    }
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(ANSWERED_WITHIN))
        .operation_timeout(Some(ANSWERED_WITHIN))
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// What a broker's refusal means.
fn kind_of(code: RDKafkaErrorCode) -> Kind {
    match code {
        RDKafkaErrorCode::TopicAuthorizationFailed
        | RDKafkaErrorCode::GroupAuthorizationFailed
        | RDKafkaErrorCode::ClusterAuthorizationFailed
        | RDKafkaErrorCode::SaslAuthenticationFailed
        | RDKafkaErrorCode::Authentication => Kind::Rights,
        RDKafkaErrorCode::InvalidPartitions
        | RDKafkaErrorCode::InvalidReplicationFactor
        | RDKafkaErrorCode::InvalidConfig
        | RDKafkaErrorCode::InvalidRequest
        | RDKafkaErrorCode::InvalidTopic
        | RDKafkaErrorCode::PolicyViolation => Kind::Config,
        _ => Kind::SourceAway,
    }
}

fn remedy_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Rights => {
            "mend the user and password in the connector's properties, or let an administrator allow \
             it: Describe and Read of the topics and the group, DescribeConfigs; for `topics apply` Create, \
             Alter and AlterConfigs"
        }
        Kind::Config => "mend topics.yaml: the brokers do not take it",
        _ => "see that the connector's brokers are right and can be reached from here",
    }
}
