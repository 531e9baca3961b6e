//! The topic to which dead letters are sent, as Kafka Connect's sinks do it: the record as it came, and beside
//! its own headers the ones by which Connect says what happened.
//!
//! Source: org.apache.kafka.connect.runtime.errors.DeadLetterQueueReporter.

use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::unfit::unfit;
use crate::error::{Error, Kind, Result};
use crate::journey::{Letter, read_headers};
use crate::spec::Kafka;

/// How long the brokers may take for a letter.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);

/// The largest message that librdkafka takes: the topic's own limit counts.
const LONGEST: &str = "1000000000";

/// What is said of a letter.
#[derive(Clone, Copy, Debug)]
pub struct Context<'c> {
    /// The connector.
    pub connector: &'c str,
    /// Whether the record was read, and its table refused the change.
    pub readable: bool,
    /// Why it became a dead letter.
    pub reason: &'c str,
}

/// What became of a letter.
#[derive(Debug)]
pub enum Sent {
    /// The topic has it.
    Taken,
    /// The topic will never take it.
    Never(String),
}

/// A producer for one topic.
pub struct Outlet {
    producer: FutureProducer<Quiet>,
    topic: String,
}

/// A broker that is away is told by what is not sent.
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, "kafka: {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!("kafka: {error}: {reason}");
    }
}

impl Outlet {
    /// A producer with the connector's properties.
    pub fn open(connector: &Kafka, topic: &str) -> Result<Outlet> {
        let mut config = ClientConfig::new();
        config
            .set("client.id", format!("siltstone-{}", connector.name))
            .set("message.max.bytes", LONGEST);
        for (name, value) in &connector.properties {
            config.set(name, value.expose());
        }
        config
            .set("bootstrap.servers", &connector.brokers)
            .set("message.timeout.ms", TAKEN_WITHIN.as_millis().to_string());
        let producer = FutureProducer::from_config_and_context(&config, Quiet);
        let producer = producer.map_err(|error| unfit(&connector.file, &error))?;
        Ok(Outlet { producer, topic: topic.to_owned() })
    }

    /// Sends a letter, and waits until the topic has it.
    pub async fn send(&self, letter: &Letter, context: &Context<'_>) -> Result<Sent> {
        let mut record: FutureRecord<'_, [u8], [u8]> =
            FutureRecord::to(&self.topic).headers(headers(letter, context));
        if letter.at > 0 {
            record = record.timestamp(letter.at);
        }
        if let Some(key) = &letter.key {
            record = record.key(key.as_slice());
        }
        if let Some(value) = &letter.value {
            record = record.payload(value.as_slice());
        }
        let Err((error, _)) = self.producer.send(record, TAKEN_WITHIN).await else {
            return Ok(Sent::Taken);
        };
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::MessageSizeTooLarge
                | RDKafkaErrorCode::InvalidMessageSize
                | RDKafkaErrorCode::InvalidRecord
                | RDKafkaErrorCode::InvalidTimestamp,
            ) => Ok(Sent::Never(error.to_string())),
            _ => {
                let what = format!("a dead letter could not be sent to {}", self.topic);
                Err(Error::new(Kind::SourceAway, what).because(error).remedy(
                    "see that the brokers are reached, that the topic is there and that the connector \
                     may write to it",
                ))
            }
        }
    }
}

fn headers(letter: &Letter, context: &Context<'_>) -> OwnedHeaders {
    let mut headers = OwnedHeaders::new();
    for (name, value) in read_headers(&letter.headers) {
        headers = headers.insert(Header { key: &name, value: value.as_deref() });
    }
    let (partition, offset) = (letter.partition.to_string(), letter.offset.to_string());
    let (stage, class) = match context.readable {
        true => ("TASK_PUT", "siltstone.Refused"),
        false => ("VALUE_CONVERTER", "siltstone.Unreadable"),
    };
    let told = [
        ("topic", letter.topic.as_str()),
        ("partition", &partition),
        ("offset", &offset),
        ("connector.name", context.connector),
        ("task.id", "0"),
        ("stage", stage),
        ("class.name", "siltstone"),
        ("exception.class.name", class),
        ("exception.message", context.reason),
        ("exception.stacktrace", context.reason),
    ];
    told.into_iter().fold(headers, |headers, (name, value)| {
        headers.insert(Header { key: &format!("__connect.errors.{name}"), value: Some(value) })
    })
}
