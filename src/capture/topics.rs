//! The membership in a consumer group: which partitions are ours, and their records.
//!
//! librdkafka is polled on a thread of its own, so that a merge of minutes costs no membership. The group
//! only says which partitions are ours; at which offset they are read is said by whoever reads them, from
//! what the warehouse has stored, in the list that is assigned. Records wait in a queue of each partition:
//! who does not take them holds them back, and nothing else. Interprets no record, stores no offset; what
//! is committed to the group is a hint for people's tools.
//!
//! Source: librdkafka, INTRODUCTION.md, "Rebalancing" and "Partition queues".

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, RebalanceProtocol};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message, OwnedMessage};
use rdkafka::{Offset, Statistics, TopicPartitionList};
use tokio::sync::{Notify, watch};

use super::admin;
pub use super::group::{Assignment, Partition};
use super::group::{Group, list_of, partitions_of};
pub use super::refusal::Told;
use super::unfit::unfit;
use crate::error::{Error, Kind, Result};
use crate::journey::TopicRecord;
use crate::position::Positions;
use crate::spec::{Kafka, TopicPattern};

/// How long a question to the brokers may take.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// How long one look of the polling thread lasts.
const POLL: Duration = Duration::from_millis(100);

/// A member of a consumer group. It leaves the group when it is dropped.
pub struct Member {
    consumer: Arc<BaseConsumer<Group>>,
    group: Arc<Group>,
    stop: Arc<AtomicBool>,
    polling: Option<std::thread::JoinHandle<()>>,
}

/// The settings that a connector's consumer has: ours, behind those of its file.
pub fn configuration(connector: &Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("client.id", format!("siltstone-{}", connector.name))
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("topic.metadata.refresh.interval.ms", "10000")
        .set("fetch.wait.max.ms", "100")
        // our queues are small: with the default of a second they would stand empty for most of it
        .set("fetch.queue.backoff.ms", "5")
        .set("statistics.interval.ms", "2000");
    for (name, value) in &connector.properties {
        config.set(name, value.expose());
    }
    config.set("bootstrap.servers", &connector.brokers);
    config
}

impl Member {
    /// Joins the group. `buffer` bytes of records may wait to be read in each partition.
    pub fn join(connector: &Kafka, buffer: u64) -> Result<Member> {
        let mut config = configuration(connector);
        // librdkafka takes at least 1 KiB
        let kilobytes = (buffer / 1024).clamp(1, 2_097_151);
        config
            .set("group.id", &connector.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("queued.max.messages.kbytes", kilobytes.to_string());
        let context = Group {
            name: connector.group.clone(),
            given: watch::Sender::default(),
            state: Mutex::default(),
            let_go: Condvar::new(),
            statistics: watch::Sender::default(),
            told: Default::default(),
        };
        let refused = |error: KafkaError| unfit(&connector.file, &error);
        let consumer = BaseConsumer::from_config_and_context(&config, context).map_err(refused)?;
        let consumer = Arc::new(consumer);
        let group = consumer.context().clone();
        let topics: Vec<String> = connector.topics.iter().map(TopicPattern::subscription).collect();
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics).map_err(refused)?;
        let stop = Arc::new(AtomicBool::new(false));
        let polling = std::thread::Builder::new()
            .name(format!("kafka {}", connector.name))
            .spawn({
                let (consumer, stop) = (consumer.clone(), stop.clone());
                move || poll(&consumer, &stop)
            })
            .map_err(|error| Error::bug("no thread for Kafka").because(error))?;
        Ok(Member { consumer, group, stop, polling: Some(polling) })
    }

    /// What is ours, as it changes.
    pub fn given(&self) -> watch::Receiver<Assignment> {
        self.group.given.subscribe()
    }

    /// What librdkafka tells of partitions every two seconds.
    pub fn statistics(&self) -> watch::Receiver<Option<Arc<Statistics>>> {
        self.group.statistics.subscribe()
    }

    /// What went wrong last, as a broker that cannot be reached, since the group spoke to us.
    pub fn told(&self) -> &Told {
        &self.group.told
    }

    /// The first offset of a partition, and the end of what is committed in it. Asks a broker.
    pub async fn watermarks(&self, partition: &Partition) -> Result<(i64, i64)> {
        let (consumer, asked) = (self.consumer.clone(), partition.clone());
        let answer = tokio::task::spawn_blocking(move || {
            consumer.fetch_watermarks(&asked.topic, asked.number, ANSWERED_WITHIN)
        });
        let answer = answer.await.map_err(|e| Error::bug("a question broke off").because(e))?;
        answer.map_err(|error| away(format!("asking for the ends of {}", partition.name()), error))
    }

    /// The ids of topics, as far as the brokers tell them; none where they do not answer. Asks a broker.
    pub async fn topic_ids(
        &self,
        topics: Vec<Arc<str>>,
    ) -> Result<Option<HashMap<String, String>>> {
        const WITHIN: Duration = Duration::from_secs(3);
        let consumer = self.consumer.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let topics: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
            admin::topic_ids(consumer.client(), &topics, WITHIN)
        });
        let answer = answer.await.map_err(|e| Error::bug("a question broke off").because(e))?;
        match answer {
            Ok(ids) => Ok(Some(ids)),
            // older ones have none
            Err(refused) if refused.code == Some(RDKafkaErrorCode::UnsupportedFeature) => {
                Ok(Some(HashMap::new()))
            }
            Err(refused) if refused.code == Some(RDKafkaErrorCode::OperationTimedOut) => Ok(None),
            Err(refused) => {
                let what = "Kafka failed while asking for the ids of its topics";
                Err(Error::new(Kind::SourceAway, what).because(refused))
            }
        }
    }

    /// Reads partitions from these offsets on; who reads lets go when it is told of another assignment.
    /// Fails where they are not ours any more.
    pub fn read(&self, assignment: &Assignment, from: &Positions) -> Result<Reading> {
        let mut state = self.group.state();
        if *self.group.given.borrow() != *assignment {
            return Err(Error::new(Kind::Busy, "the group has given other partitions meanwhile"));
        }
        let failed = |error| away("taking up its partitions".to_owned(), error);
        let cooperative =
            matches!(self.consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let before = std::mem::take(&mut state.assigned);
        if cooperative && !before.is_empty() {
            self.consumer.incremental_unassign(&list_of(&before)).map_err(failed)?;
        }
        let mut list = TopicPartitionList::new();
        let mut queues = Vec::new();
        let filled = Arc::new(Notify::new());
        for partition in &assignment.partitions {
            let Some(offset) = from.of(&partition.name()) else { continue };
            // before it is assigned, or its first records would take another way
            let queue = self.consumer.split_partition_queue(&partition.topic, partition.number);
            let mut queue = queue.ok_or_else(|| Error::bug("a partition without a queue"))?;
            let notify = filled.clone();
            queue.set_nonempty_callback(move || notify.notify_one());
            queues.push(Queue { partition: partition.clone(), queue, back: None });
            list.add_partition_offset(&partition.topic, partition.number, Offset::Offset(offset))
                .map_err(failed)?;
        }
        match cooperative {
            true => self.consumer.incremental_assign(&list).map_err(failed)?,
            false => self.consumer.assign(&list).map_err(failed)?,
        }
        state.assigned = partitions_of(&list);
        state.reads = true;
        Ok(Reading { group: self.group.clone(), queues, filled })
    }

    /// Tells the group what is stored, for tools that show how far a group is.
    pub fn commit(&self, stored: &Positions) {
        let mut list = TopicPartitionList::new();
        for (name, offset) in stored.iter() {
            let Some(partition) = Partition::of_name(name) else { continue };
            let offset = Offset::Offset(offset);
            let (topic, number) = (&partition.topic, partition.number);
            drop(list.add_partition_offset(topic, number, offset));
        }
        if let Err(error) = self.consumer.commit(&list, CommitMode::Async) {
            tracing::debug!("kafka: committing to the group: {error}");
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(polling) = self.polling.take() {
            drop(polling.join());
        }
    }
}

/// Serves librdkafka's callbacks until told to stop.
fn poll(consumer: &BaseConsumer<Group>, stop: &AtomicBool) {
    while !stop.load(Ordering::SeqCst) {
        match consumer.poll(POLL) {
            None => {}
            Some(Ok(_)) => tracing::error!("kafka: a record came by the wrong queue"),
            Some(Err(error)) => consumer.context().polled(error),
        }
    }
}

/// A failure of the brokers, which passes.
fn away(doing: String, error: KafkaError) -> Error {
    Error::new(Kind::SourceAway, format!("Kafka failed while {doing}")).because(error)
}

/// Partitions that are read.
pub struct Reading {
    group: Arc<Group>,
    /// The queue of each partition.
    pub queues: Vec<Queue>,
    filled: Arc<Notify>,
}

impl Reading {
    /// Waits until a queue that was empty is filled.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.group.state().reads = false;
        self.group.let_go.notify_all();
    }
}

/// The records of a partition that have been fetched.
pub struct Queue {
    /// The partition.
    pub partition: Partition,
    queue: PartitionQueue<Group>,
    /// a record that was put back
    back: Option<OwnedMessage>,
}

/// What is next in a queue.
pub enum Next<'q> {
    /// A record.
    Record(Record<'q>),
    /// Nothing yet.
    Nothing,
    /// Nothing up to the end that the partition had when it was fetched.
    End,
}

impl Queue {
    /// The next record that has been fetched.
    pub fn take(&mut self) -> Result<Next<'_>> {
        if let Some(message) = self.back.take() {
            return Ok(Next::Record(Record { message: Fetched::PutBack(message) }));
        }
        match self.queue.poll(Duration::ZERO) {
            None => Ok(Next::Nothing),
            Some(Ok(message)) => Ok(Next::Record(Record { message: Fetched::Now(message) })),
            Some(Err(KafkaError::PartitionEOF(_))) => Ok(Next::End),
            Some(Err(error)) => Err(self.failed(error)),
        }
    }

    /// Puts the record back that came last: it is the next one again.
    pub fn put_back(&mut self, record: OwnedMessage) {
        self.back = Some(record);
    }

    fn failed(&self, error: KafkaError) -> Error {
        let name = self.partition.name();
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                // whoever begins anew finds out what became of it
                let what =
                    format!("the offset that {name} is read from is not in the topic any more");
                Error::new(Kind::Busy, what).because(error)
            }
            _ => away(format!("reading {name}"), error),
        }
    }
}

/// The headers of a record, of which it mostly has so few that they need no room of their own.
#[derive(Default)]
pub struct RecordHeaders<'r> {
    few: [(&'r str, Option<&'r [u8]>); 8],
    count: usize,
    many: Vec<(&'r str, Option<&'r [u8]>)>,
}

impl<'r> RecordHeaders<'r> {
    fn of<H: Headers>(given: Option<&'r H>) -> RecordHeaders<'r> {
        let mut headers = RecordHeaders::default();
        let Some(given) = given else { return headers };
        let pair = |at: usize| {
            let header = given.get(at);
            (header.key, header.value)
        };
        match headers.few.get_mut(..given.count()) {
            Some(few) => {
                few.iter_mut().enumerate().for_each(|(at, place)| *place = pair(at));
                headers.count = given.count();
            }
            None => headers.many = (0..given.count()).map(pair).collect(),
        }
        headers
    }

    /// All of them, in their order.
    pub fn all(&self) -> &[(&'r str, Option<&'r [u8]>)] {
        match self.many.is_empty() {
            true => self.few.get(..self.count).unwrap_or_default(),
            false => &self.many,
        }
    }
}

/// A record as Kafka gave it.
pub struct Record<'q> {
    message: Fetched<'q>,
}

enum Fetched<'q> {
    Now(BorrowedMessage<'q>),
    PutBack(OwnedMessage),
}

impl Record<'_> {
    /// Its place in the partition.
    pub fn offset(&self) -> i64 {
        match &self.message {
            Fetched::Now(message) => message.offset(),
            Fetched::PutBack(message) => message.offset(),
        }
    }

    /// Its headers.
    pub fn headers(&self) -> RecordHeaders<'_> {
        match &self.message {
            Fetched::Now(message) => RecordHeaders::of(message.headers()),
            Fetched::PutBack(message) => RecordHeaders::of(message.headers()),
        }
    }

    /// The record with its headers.
    pub fn with<'r>(&'r self, headers: &'r [(&'r str, Option<&'r [u8]>)]) -> TopicRecord<'r> {
        match &self.message {
            Fetched::Now(message) => record(message, headers),
            Fetched::PutBack(message) => record(message, headers),
        }
    }

    /// The record for itself, as it can be put back.
    pub fn detach(self) -> OwnedMessage {
        match self.message {
            Fetched::Now(message) => message.detach(),
            Fetched::PutBack(message) => message,
        }
    }
}

fn record<'r, M: Message>(
    message: &'r M,
    headers: &'r [(&'r str, Option<&'r [u8]>)],
) -> TopicRecord<'r> {
    TopicRecord {
        topic: message.topic(),
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis().unwrap_or(0),
        key: message.key(),
        value: message.payload(),
        headers,
    }
}
