//! Why brokers cannot be used, as librdkafka tells it beside the answers to questions: what is wrong with the
//! login or the certificates, and the property of the connector's file that mends it.
//!
//! The one place that reads its sentences. They name brokers, mechanisms and paths, never a password.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::error::{Error, Kind};
use crate::spec::Kafka;

/// How OpenSSL says that a certificate is not trusted, or is one of another name.
const UNTRUSTED: &str = "certificate verify failed";

/// A broker that is away is told of many times a second; people are told of it so often.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// What a client was told that went wrong.
#[derive(Default)]
pub struct Told(Mutex<Failures>);

#[derive(Default)]
struct Failures {
    last: Option<(RDKafkaErrorCode, String)>,
    /// when each of them was said to people
    said: HashMap<String, Instant>,
}

impl Told {
    /// Notes it; whether people are to be told. That all brokers are down says nothing beside why the last of
    /// them is.
    pub(super) fn note(&self, error: &KafkaError, reason: &str) -> bool {
        let Some(code) = error.rdkafka_error_code() else { return true };
        let mut failures = self.failures();
        if failures.last.is_some() && code == RDKafkaErrorCode::AllBrokersDown {
            return false;
        }
        failures.last = Some((code, reason.to_owned()));
        failures.said.retain(|_, at| at.elapsed() < SAID_EVERY);
        // how long it took is told behind it
        let heart = reason.split(" (after ").next().unwrap_or_default();
        let is_new = !failures.said.contains_key(heart);
        if is_new {
            failures.said.insert(heart.to_owned(), Instant::now());
        }
        is_new
    }

    /// Forgets it: the brokers have answered.
    pub(super) fn forget(&self) {
        *self.failures() = Failures::default();
    }

    /// Whether the brokers refuse us, or we them: that does not pass by itself.
    pub fn is_refusal(&self) -> bool {
        self.failures().last.as_ref().is_some_and(|(code, reason)| {
            is_login(*code) || *code == RDKafkaErrorCode::SSL || reason.contains(UNTRUSTED)
        })
    }

    /// The failure with its remedy; `doing` completes "while …". None where nothing went wrong.
    pub fn failure(&self, connector: &Kafka, doing: &str) -> Option<Error> {
        let failures = self.failures();
        let (code, reason) = failures.last.as_ref()?;
        let (kind, remedy) = match is_login(*code) {
            true => (Kind::Rights, login(&connector.file, reason)),
            false => (Kind::SourceAway, way(connector, reason)),
        };
        let what = format!("Kafka at {} failed while {doing}: {reason}", connector.brokers);
        Some(Error::new(kind, what).remedy(remedy))
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_login(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed)
}

fn login(file: &str, reason: &str) -> String {
    if reason.contains("nsupported") && reason.contains("mechanism") {
        return format!("set properties.sasl.mechanism in {file} to one that the brokers offer");
    }
    format!(
        "mend properties.sasl.username and properties.sasl.password in {file}, or let an administrator of \
         the brokers make that user for its properties.sasl.mechanism"
    )
}

/// What mends the way to the brokers. OpenSSL tells no name of a certificate from its authority, and a listener
/// that hangs up does not say why.
fn way(connector: &Kafka, reason: &str) -> String {
    let (file, says) = (&connector.file, |words: &str| reason.contains(words));
    let protocol = connector.properties.get("security.protocol");
    let by_tls = protocol.is_some_and(|given| given.expose().to_lowercase().contains("ssl"));
    if says(UNTRUSTED) {
        return format!(
            "let properties.ssl.ca.location in {file} name the file with the certificate of the authority \
             that signed the brokers' ones, and write brokers by a name that stands in those"
        );
    }
    if by_tls && (says("alert") || says("ApiVersion")) {
        return format!(
            "the brokers ask for a certificate of ours: let properties.ssl.certificate.location and \
             properties.ssl.key.location in {file} name one that they trust"
        );
    }
    if says("security.protocol") || says("SSL") {
        return format!(
            "see that brokers and properties.security.protocol in {file} are of one listener: ssl or \
             sasl_ssl with TLS, sasl_plaintext or sasl_ssl with a login"
        );
    }
    "see that the connector's brokers are right and can be reached from here".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_said_once_and_outlives_what_says_less() {
        let told = Told::default();
        let note = |code, reason: &str| told.note(&KafkaError::Global(code), reason);
        assert!(!told.is_refusal());
        assert!(note(RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down"));
        let lost = RDKafkaErrorCode::BrokerTransportFailure;
        assert!(note(lost, "a: Disconnected (after 0ms in state SSL_HANDSHAKE)"));
        assert!(note(lost, "a: SSL handshake failed (after 0ms in state SSL_HANDSHAKE)"));
        assert!(!note(lost, "a: Disconnected (after 9ms in state SSL_HANDSHAKE)"));
        assert!(!told.is_refusal());
        assert!(note(RDKafkaErrorCode::Authentication, "a: Invalid password (after 300ms)"));
        assert!(!note(RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down"));
        assert!(told.is_refusal());
        told.forget();
        assert!(!told.is_refusal());
        assert!(note(lost, "a: Disconnected (after 2ms in state UP)"));
    }
}
