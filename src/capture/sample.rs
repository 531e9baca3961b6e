//! Single records of topics, read beside everything else: by no group, and nothing is committed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::topics::configuration;
use super::unfit::unfit;
use crate::error::{Error, Kind, Result};
use crate::journey::TopicRecord;
use crate::spec::Kafka;

/// How many records of each partition are looked at.
const OF_EACH: i64 = 20;

/// Longer records are left out: what they would tell is in others.
const LONGEST: usize = 1 << 20;

/// What has not come by then is not looked at.
const WITHIN: Duration = Duration::from_secs(10);

/// A record that was read.
#[derive(Clone, Debug)]
pub struct Sampled {
    /// Its topic.
    pub topic: String,
    partition: i32,
    offset: i64,
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Sampled {
    /// When it was written, in milliseconds since 1970; 0 where it does not tell.
    pub fn written_at(&self) -> i64 {
        self.timestamp
    }

    /// Hands it over as a topic's record.
    pub fn with<T>(&self, look: impl FnOnce(&TopicRecord<'_>) -> T) -> T {
        let headers = self.headers.iter();
        let headers: Vec<(&str, Option<&[u8]>)> =
            headers.map(|(name, value)| (name.as_str(), value.as_deref())).collect();
        look(&TopicRecord {
            topic: &self.topic,
            partition: self.partition,
            offset: self.offset,
            timestamp: self.timestamp,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: &headers,
        })
    }
}

/// Reads the last records of topics: their names, each with how many partitions it has. Fewer where they
/// do not come in time.
pub async fn last_records(connector: &Kafka, topics: Vec<(String, i32)>) -> Result<Vec<Sampled>> {
    let each = topics.into_iter().flat_map(|(topic, partitions)| {
        (0..partitions).map(move |number| (topic.clone(), number, Offset::OffsetTail(OF_EACH)))
    });
    records(connector, each.collect(), OF_EACH, "reading the last records of topics").await
}

/// Reads the first record of each partition from an offset on, where there is one.
pub async fn first_records(
    connector: &Kafka,
    places: Vec<(String, i32, i64)>,
) -> Result<Vec<Sampled>> {
    let from = places.into_iter();
    let from = from.map(|(topic, number, offset)| (topic, number, Offset::Offset(offset)));
    records(connector, from.collect(), 1, "reading the next records of topics").await
}

async fn records(
    connector: &Kafka,
    places: Vec<(String, i32, Offset)>,
    of_each: i64,
    doing: &'static str,
) -> Result<Vec<Sampled>> {
    let mut config = configuration(connector);
    config
        .set("group.id", &connector.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        .set("queued.max.messages.kbytes", "16384");
    let (file, brokers) = (connector.file.clone(), connector.brokers.clone());
    let read = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = config.create().map_err(|error| unfit(&file, &error))?;
        read(&consumer, &places, of_each).map_err(|error| {
            let what = format!("Kafka at {brokers} failed while {doing}");
            let kind = match error.rdkafka_error_code() {
                Some(
                    RDKafkaErrorCode::TopicAuthorizationFailed
                    | RDKafkaErrorCode::GroupAuthorizationFailed,
                ) => Kind::Rights,
                _ => Kind::SourceAway,
            };
            Error::new(kind, what).because(error).remedy(
                "let the connector's user read its topics, and see that brokers are reached",
            )
        })
    });
    read.await.map_err(|error| Error::bug("reading records broke off").because(error))?
}

fn read(
    consumer: &BaseConsumer,
    places: &[(String, i32, Offset)],
    of_each: i64,
) -> KafkaResult<Vec<Sampled>> {
    let mut list = TopicPartitionList::new();
    for (topic, partition, from) in places {
        list.add_partition_offset(topic, *partition, *from)?;
    }
    let mut open = list.count();
    consumer.assign(&list)?;
    let mut taken: HashMap<(String, i32), i64> = HashMap::new();
    let mut sampled = Vec::new();
    let until = Instant::now() + WITHIN;
    while open > 0 {
        let Some(patience) = until.checked_duration_since(Instant::now()) else { break };
        match consumer.poll(patience) {
            None => break,
            Some(Ok(message)) => {
                let place = (message.topic().to_owned(), message.partition());
                let many = taken.entry(place).or_default();
                // more came meanwhile
                if *many < of_each && (message.payload_len() <= LONGEST || of_each == 1) {
                    *many += 1;
                    sampled.push(record(&message));
                    open -= usize::from(of_each == 1);
                }
            }
            // of which only the first record is asked for has not come to its end yet
            Some(Err(KafkaError::PartitionEOF(_))) => open -= usize::from(of_each > 1),
            Some(Err(error)) => {
                let code = error.rdkafka_error_code();
                // it was retried already by the client itself
                if !matches!(
                    code,
                    Some(
                        RDKafkaErrorCode::BrokerTransportFailure
                            | RDKafkaErrorCode::AllBrokersDown
                            | RDKafkaErrorCode::OffsetOutOfRange
                    )
                ) {
                    return Err(error);
                }
            }
        }
    }
    Ok(sampled)
}

fn record(message: &BorrowedMessage<'_>) -> Sampled {
    let headers = message.headers().into_iter().flat_map(Headers::iter);
    Sampled {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis().unwrap_or(0),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers
            .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
            .collect(),
    }
}
