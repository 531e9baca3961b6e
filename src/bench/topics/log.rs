//! Topics of the bench's broker: made, written and read back.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::change::{Change, Kind};
use super::event::{HEADERS, Writer};
use crate::error::{Error, Kind as ErrorKind, Result};

const WITHIN: Duration = Duration::from_secs(60);

/// A topic.
#[derive(Clone)]
pub(super) struct Topic {
    brokers: String,
    pub(super) name: String,
    pub(super) partitions: i32,
    pub(super) schemas: bool,
}

fn failed(doing: &str) -> impl FnOnce(KafkaError) -> Error {
    move |error| Error::new(ErrorKind::SourceAway, format!("Kafka: {doing}")).because(error)
}

/// A broken off task.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::bug("a part of the bench broke off").because(error))?
}

impl Topic {
    /// Makes a topic; the broker notes when it took each record.
    pub(super) async fn make(
        brokers: &str,
        name: &str,
        partitions: i32,
        schemas: bool,
    ) -> Result<Topic> {
        let topic =
            Topic { brokers: brokers.to_owned(), name: name.to_owned(), partitions, schemas };
        let admin: AdminClient<DefaultClientContext> =
            topic.config().create().map_err(failed("an admin"))?;
        let options = AdminOptions::new().operation_timeout(Some(WITHIN));
        let new = NewTopic::new(name, partitions, TopicReplication::Fixed(1))
            .set("message.timestamp.type", "LogAppendTime")
            .set("retention.ms", "-1");
        let made = admin.create_topics([&new], &options).await.map_err(failed("making a topic"))?;
        match made.into_iter().find_map(std::result::Result::err) {
            Some((_, code)) => Err(Error::new(
                ErrorKind::SourceAway,
                format!("the topic {name} is not made: {code}"),
            )),
            None => Ok(topic),
        }
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("broker.address.family", "v4");
        config
    }

    /// What writes into it, as the connector of `connectors/debezium/shop.json` is told to: lz4. The batches
    /// are those of a busy worker.
    pub(super) fn writer(&self) -> Result<TopicWriter> {
        let mut config = self.config();
        config
            .set("enable.idempotence", "true")
            .set("compression.type", "lz4")
            .set("batch.size", "131072")
            .set("linger.ms", "1")
            .set("queue.buffering.max.messages", "50000");
        let producer = config.create().map_err(failed("a producer"))?;
        let events = Writer::new(self.schemas);
        Ok(TopicWriter { topic: self.clone(), producer, events, bytes: 0 })
    }

    /// The partition of a key.
    fn partition(&self, id: u64) -> i32 {
        i32::try_from(id % u64::from(self.partitions.unsigned_abs())).unwrap_or(0)
    }

    /// The end of each partition.
    pub(super) async fn ends(&self) -> Result<Vec<i64>> {
        let topic = self.clone();
        blocking(move || {
            let consumer = topic.reader()?;
            let end = |partition| {
                let ends = consumer.fetch_watermarks(&topic.name, partition, WITHIN);
                ends.map(|(_, end)| end).map_err(failed("asking for ends"))
            };
            (0..topic.partitions).map(end).collect()
        })
        .await
    }

    fn reader(&self) -> Result<BaseConsumer> {
        let mut config = self.config();
        config.set("group.id", "bench-reader").set("enable.auto.commit", "false");
        config.create().map_err(failed("a consumer"))
    }

    /// When the broker took each of the records of its only partition that has a value, from an offset on:
    /// key and milliseconds.
    pub(super) async fn taken(&self, from: i64) -> Result<Vec<(String, i64)>> {
        let ends = self.ends().await?;
        let end = ends.first().copied().unwrap_or(0);
        let topic = self.clone();
        blocking(move || {
            let consumer = topic.reader()?;
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&topic.name, 0, Offset::Offset(from))
                .map_err(failed("reading"))?;
            consumer.assign(&list).map_err(failed("reading"))?;
            let mut taken = Vec::new();
            loop {
                let Some(next) = consumer.poll(WITHIN) else {
                    return Err(Error::new(
                        ErrorKind::SourceAway,
                        "Kafka: a topic cannot be read back",
                    ));
                };
                let record = next.map_err(failed("reading"))?;
                if record.payload().is_some() {
                    let key = String::from_utf8_lossy(record.key().unwrap_or_default());
                    taken.push((key.into_owned(), record.timestamp().to_millis().unwrap_or(0)));
                }
                if record.offset() + 1 >= end {
                    return Ok(taken);
                }
            }
        })
        .await
    }
}

/// Writes changes into a topic.
pub(super) struct TopicWriter {
    topic: Topic,
    producer: BaseProducer,
    events: Writer,
    /// of the values, as they are before they are compressed
    pub(super) bytes: u64,
}

impl TopicWriter {
    /// Sends a change, and the tombstone behind a delete.
    pub(super) fn send(&mut self, change: &Change) -> Result<()> {
        self.events.write(change);
        self.bytes += u64::try_from(self.events.value.len()).unwrap_or(0);
        let (key, value) = (self.events.key.as_bytes(), self.events.value.as_bytes());
        let partition = self.topic.partition(change.id);
        put(&self.producer, &self.topic.name, partition, (key, Some(value)))?;
        if change.kind == Kind::Delete {
            put(&self.producer, &self.topic.name, partition, (key, None))?;
        }
        Ok(())
    }

    /// Lets the producer do its work.
    pub(super) fn poll(&self) {
        self.producer.poll(Duration::ZERO);
    }

    /// Waits until the broker has everything.
    pub(super) fn flush(&self) -> Result<()> {
        self.producer.flush(WITHIN).map_err(failed("writing the backlog"))
    }
}

fn put(
    producer: &BaseProducer,
    topic: &str,
    partition: i32,
    (key, value): (&[u8], Option<&[u8]>),
) -> Result<()> {
    loop {
        let headers = HEADERS.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(*value) })
        });
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition).key(key);
        record.payload = value;
        match producer.send(record.headers(headers)) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                producer.poll(Duration::from_millis(20));
            }
            Err((error, _)) => return Err(failed("writing the backlog")(error)),
        }
    }
}
