//! Topics of a broker, written and read whole.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// How long a broker may take to answer.
const WITHIN: Duration = Duration::from_secs(30);

/// A record, as it is written or as it was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    pub topic: String,
    /// Where it goes; without one the key decides. Always there in what was read.
    pub partition: Option<i32>,
    /// Where it was; nothing to the writer.
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    /// None is a tombstone.
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Milliseconds; without one the time of writing.
    pub timestamp: Option<i64>,
}

impl Record {
    /// A record with a key and a value.
    pub fn new(topic: &str, key: &str, value: &str) -> Record {
        Record {
            topic: topic.to_owned(),
            key: Some(key.into()),
            value: Some(value.into()),
            ..Record::default()
        }
    }

    /// The same, for one partition.
    pub fn at(mut self, partition: i32) -> Record {
        self.partition = Some(partition);
        self
    }

    /// The value as JSON; null for a tombstone.
    pub fn json(&self) -> serde_json::Value {
        let value = self.value.as_deref().map(|value| serde_json::from_slice(value).unwrap());
        value.unwrap_or_default()
    }
}

/// The topics of a broker.
#[derive(Clone)]
pub struct Topics {
    brokers: String,
}

impl Topics {
    /// Those of the broker at an address.
    pub fn at(brokers: &str) -> Topics {
        Topics { brokers: brokers.to_owned() }
    }

    /// The broker's address.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("broker.address.family", "v4");
        // a broker that comes back is found at once
        config.set("reconnect.backoff.max.ms", "500").set("log_level", "3");
        config
    }

    fn admin(&self) -> (AdminClient<DefaultClientContext>, AdminOptions) {
        let options =
            AdminOptions::new().operation_timeout(Some(WITHIN)).request_timeout(Some(WITHIN));
        (self.config().create().unwrap(), options)
    }

    /// Makes a topic.
    pub async fn create(&self, topic: &str, partitions: i32) {
        self.create_with(topic, partitions, &[]).await;
    }

    /// Makes a topic with settings of its own, such as `cleanup.policy`.
    pub async fn create_with(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        let (admin, options) = self.admin();
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        for (name, value) in settings {
            new = new.set(name, value);
        }
        let made = admin.create_topics([&new], &options).await.unwrap();
        assert!(made.iter().all(Result::is_ok), "{topic}: {made:?}");
        // the broker hears of it from its controller
        while self.partitions(topic).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Gives a topic more partitions.
    pub async fn grow(&self, topic: &str, partitions: usize) {
        let (admin, options) = self.admin();
        let new = NewPartitions::new(topic, partitions);
        let made = admin.create_partitions([&new], &options).await.unwrap();
        assert!(made.iter().all(Result::is_ok), "{topic}: {made:?}");
    }

    /// Deletes a topic, and waits until it is gone.
    pub async fn delete(&self, topic: &str) {
        let (admin, options) = self.admin();
        let gone = admin.delete_topics(&[topic], &options).await.unwrap();
        assert!(gone.iter().all(Result::is_ok), "{topic}: {gone:?}");
        while !self.partitions(topic).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Deletes a partition's records before an offset, as retention would.
    pub async fn forget(&self, topic: &str, partition: i32, before: i64) {
        let (admin, options) = self.admin();
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(topic, partition, Offset::Offset(before)).unwrap();
        admin.delete_records(&offsets, &options).await.unwrap();
    }

    /// Writes records, in their order, and waits until the broker has them all.
    pub async fn write(&self, records: Vec<Record>) {
        let mut config = self.config();
        config.set("enable.idempotence", "true").set("linger.ms", "5");
        config.set("message.max.bytes", "67108864");
        self.write_with(config, records).await;
    }

    /// Writes a single record.
    pub async fn put(&self, record: Record) {
        self.write(vec![record]).await;
    }

    async fn write_with(&self, config: ClientConfig, records: Vec<Record>) {
        blocking(move || {
            let producer: BaseProducer = config.create().unwrap();
            records.iter().for_each(|record| send(&producer, record));
            producer.flush(WITHIN).unwrap();
        })
        .await;
    }

    /// Writes records in one Kafka transaction, which is committed or given up.
    pub async fn transact(&self, id: &str, records: Vec<Record>, commits: bool) {
        let mut config = self.config();
        config.set("transactional.id", id);
        blocking(move || {
            let producer: BaseProducer = config.create().unwrap();
            producer.init_transactions(WITHIN).unwrap();
            producer.begin_transaction().unwrap();
            records.iter().for_each(|record| send(&producer, record));
            producer.flush(WITHIN).unwrap();
            if commits {
                producer.commit_transaction(WITHIN).unwrap();
            } else {
                producer.abort_transaction(WITHIN).unwrap();
            }
        })
        .await;
    }

    /// A topic's partitions; none where there is no such topic.
    pub async fn partitions(&self, topic: &str) -> Vec<i32> {
        let (consumer, topic) = (self.reader(), topic.to_owned());
        blocking(move || partitions(&consumer, &topic)).await
    }

    /// The names of all topics that begin with a prefix.
    pub async fn names(&self, prefix: &str) -> Vec<String> {
        let (consumer, prefix) = (self.reader(), prefix.to_owned());
        blocking(move || {
            let metadata = answered(|| consumer.fetch_metadata(None, WITHIN));
            let names = metadata.topics().iter().map(|topic| topic.name().to_owned());
            let mut names: Vec<String> = names.filter(|name| name.starts_with(&prefix)).collect();
            names.sort();
            names
        })
        .await
    }

    /// The offset that each partition's next record will have.
    pub async fn ends(&self, topic: &str) -> Vec<i64> {
        let (consumer, topic) = (self.reader(), topic.to_owned());
        blocking(move || {
            let end =
                |partition| answered(|| consumer.fetch_watermarks(&topic, partition, WITHIN)).1;
            partitions(&consumer, &topic).into_iter().map(end).collect()
        })
        .await
    }

    /// Every record of a topic that is committed, partition by partition, as far as it goes now.
    pub async fn read(&self, topic: &str) -> Vec<Record> {
        let (consumer, topic) = (self.reader(), topic.to_owned());
        blocking(move || read(&consumer, &topic)).await
    }

    /// Waits until a topic holds at least `count` records, and reads it.
    pub async fn read_at_least(&self, topic: &str, count: usize) -> Vec<Record> {
        for _ in 0..600 {
            let ends = self.ends(topic).await;
            if usize::try_from(ends.iter().sum::<i64>()).unwrap() >= count {
                let records = self.read(topic).await;
                if records.len() >= count {
                    return records;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{topic}: {:?} records after a minute, expected {count}", self.ends(topic).await);
    }

    fn reader(&self) -> BaseConsumer {
        let mut config = self.config();
        config.set("group.id", "test-reader").set("enable.auto.commit", "false");
        config.set("enable.partition.eof", "true").set("isolation.level", "read_committed");
        config.set("fetch.wait.max.ms", "20").set("fetch.message.max.bytes", "67108864");
        config.create().unwrap()
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// Asks until the broker answers: one that has just come back knows no leaders for a moment.
fn answered<T>(ask: impl Fn() -> KafkaResult<T>) -> T {
    let started = std::time::Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(error) => assert!(started.elapsed() < WITHIN, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Vec<i32> {
    let metadata = answered(|| consumer.fetch_metadata(Some(topic), WITHIN));
    let topic = metadata.topics().iter().find(|found| found.name() == topic);
    let topic = topic.filter(|topic| topic.error().is_none());
    let partitions = topic.map(MetadataTopic::partitions).unwrap_or_default();
    let mut partitions: Vec<i32> = partitions.iter().map(MetadataPartition::id).collect();
    partitions.sort_unstable();
    partitions
}

fn read(consumer: &BaseConsumer, topic: &str) -> Vec<Record> {
    let mut records = Vec::new();
    for partition in partitions(consumer, topic) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        consumer.assign(&list).unwrap();
        loop {
            match consumer.poll(WITHIN) {
                Some(Ok(message)) => records.push(record(&message)),
                Some(Err(KafkaError::PartitionEOF(_))) => break,
                Some(Err(error)) => panic!("{topic}: {error}"),
                None => panic!("{topic}: nothing within {WITHIN:?}"),
            }
        }
    }
    records
}

fn record(message: &impl Message) -> Record {
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    Record {
        topic: message.topic().to_owned(),
        partition: Some(message.partition()),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers
            .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
            .collect(),
        timestamp: message.timestamp().to_millis(),
    }
}

/// Hands a record to the producer, which waits where its queue is full.
fn send(producer: &BaseProducer, record: &Record) {
    loop {
        let mut sent = BaseRecord::<[u8], [u8]>::to(&record.topic);
        sent.partition = record.partition;
        sent.key = record.key.as_deref();
        sent.payload = record.value.as_deref();
        sent.timestamp = record.timestamp;
        if !record.headers.is_empty() {
            let headers =
                record.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
                    headers.insert(Header { key, value: value.as_deref() })
                });
            sent.headers = Some(headers);
        }
        match producer.send(sent) {
            Ok(()) => return,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                producer.poll(Duration::from_millis(50));
            }
            Err((error, _)) => panic!("{}: {error}", record.topic),
        }
    }
}
