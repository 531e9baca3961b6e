//! What a consumer group gives and takes, as librdkafka's callbacks tell it.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Statistics, TopicPartitionList};
use tokio::sync::watch;

use super::refusal::Told;

/// How long a partition that is taken away is waited for until its records are stored.
const LETTING_GO: Duration = Duration::from_secs(5);

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// The topic.
    pub topic: Arc<str>,
    /// Its number.
    pub number: i32,
}

impl Partition {
    /// As control tables know it: `topic/3`.
    pub fn name(&self) -> Arc<str> {
        format!("{}/{}", self.topic, self.number).into()
    }

    /// Reads a name back.
    pub fn of_name(name: &str) -> Option<Partition> {
        let (topic, number) = name.rsplit_once('/')?;
        Some(Partition { topic: topic.into(), number: number.parse().ok()? })
    }
}

/// What is ours, in versions: a newer one follows each change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// The version.
    pub version: u64,
    /// The partitions.
    pub partitions: BTreeSet<Partition>,
}

/// What the callbacks of librdkafka and the readers share.
pub(super) struct Group {
    pub(super) name: String,
    pub(super) given: watch::Sender<Assignment>,
    pub(super) state: Mutex<State>,
    /// told when nobody reads any more
    pub(super) let_go: Condvar,
    pub(super) statistics: watch::Sender<Option<Arc<Statistics>>>,
    pub(super) told: Told,
}

#[derive(Default)]
pub(super) struct State {
    /// a session reads
    pub(super) reads: bool,
    /// what librdkafka fetches
    pub(super) assigned: BTreeSet<Partition>,
}

impl Group {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn give(&self, partitions: BTreeSet<Partition>) {
        self.given.send_modify(|given| {
            given.version += 1;
            given.partitions.extend(partitions);
        });
    }

    /// Takes an error that polling gave. Those of brokers were told before, with their reasons.
    pub(super) fn polled(&self, error: KafkaError) {
        let of_brokers = matches!(
            error.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::AllBrokersDown
                    | RDKafkaErrorCode::Authentication
                    | RDKafkaErrorCode::BrokerTransportFailure
                    | RDKafkaErrorCode::Resolve
                    | RDKafkaErrorCode::SSL
            )
        );
        if !of_brokers {
            let words = error.to_string();
            self.error(error, &words);
        }
    }

    /// Takes partitions away, and waits until nobody reads them any more.
    pub(super) fn take(&self, partitions: &BTreeSet<Partition>) -> BTreeSet<Partition> {
        self.given.send_modify(|given| {
            given.version += 1;
            given.partitions.retain(|partition| !partitions.contains(partition));
        });
        let state = self.state();
        let waited = self.let_go.wait_timeout_while(state, LETTING_GO, |state| state.reads);
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            tracing::warn!(group = self.name, "partitions are taken away while they are read");
        }
        let ours = state.assigned.intersection(partitions).cloned().collect();
        state.assigned.retain(|partition| !partitions.contains(partition));
        ours
    }
}

impl ClientContext for Group {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(facility, "kafka: {message}");
            }
            // what a broker fails with is told to `error` as well
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning if facility != "FAIL" => {
                tracing::warn!(facility, "kafka: {message}");
            }
            _ => tracing::debug!(facility, "kafka: {message}"),
        }
    }

    fn stats(&self, statistics: Statistics) {
        self.statistics.send_replace(Some(Arc::new(statistics)));
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match self.told.note(&error, reason) {
            true => tracing::warn!(group = self.name, "kafka: {error}: {reason}"),
            false => tracing::debug!(group = self.name, "kafka: {error}: {reason}"),
        }
    }
}

impl ConsumerContext for Group {
    /// Notes what the group gives and takes. What is given is fetched once somebody has said from where.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Group>,
        event: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        // its coordinator has answered
        self.told.forget();
        let partitions: BTreeSet<Partition> = partitions_of(list);
        let nothing = TopicPartitionList::new();
        let cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let done = match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                tracing::info!(group = self.name, "given {} partitions", partitions.len());
                let done = match cooperative {
                    true => consumer.incremental_assign(&nothing),
                    false => consumer.assign(&nothing),
                };
                self.give(partitions);
                done
            }
            _ => {
                tracing::info!(group = self.name, "{} partitions are taken away", partitions.len());
                let ours = self.take(&partitions);
                match cooperative {
                    true => consumer.incremental_unassign(&list_of(&ours)),
                    false => consumer.unassign(),
                }
            }
        };
        if let Err(error) = done {
            tracing::warn!(group = self.name, "kafka: rebalancing: {error}");
        }
    }
}

pub(super) fn partitions_of(list: &TopicPartitionList) -> BTreeSet<Partition> {
    let elements = list.elements();
    let partition = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
        Partition { topic: element.topic().into(), number: element.partition() }
    };
    elements.iter().map(partition).collect()
}

pub(super) fn list_of(partitions: &BTreeSet<Partition>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition(&partition.topic, partition.number);
    }
    list
}
