//! Kafka for tests: one broker and one Connect worker for the whole run, brokers and workers of a
//! test's own, and librdkafka's mock cluster.
//!
//! A test that needs a real Kafka begins with `let Some(kafka) = kafka() else { return };`. Where it
//! was not asked for, or there is no Java, that says loudly what was skipped; with CI=true a missing
//! Java is a failure.

mod mock;
mod recording;
pub mod secure;
mod topics;

pub use mock::Mock;
pub use recording::{Load, Recording};
pub use topics::{Record, Topics};

use std::io::Write;

/// The configuration that a worker is given for the shop: what docker-compose.yml and the demo
/// register.
pub use siltstone::demo::files::DEBEZIUM as SHOP;

use siltstone::demo::kafka::{Broker, Connect, Plugin, ServerOptions, java};
use tokio::sync::OnceCell;

use super::{clusters, env};

/// The Kafka of the run. Its servers start when they are first asked for.
pub struct Kafka(());

/// Says that a test runs with Kafka, or why not.
pub fn kafka() -> Option<&'static Kafka> {
    let is_ci = env().get("CI") == Some("true");
    let is_asked_for = is_ci || env().get("SILTSTONE_TEST_KAFKA") == Some("1");
    let why = match java::find(&env()) {
        _ if !is_asked_for => "./dev test --kafka runs it".to_owned(),
        Ok(_) => return Some(&Kafka(())),
        Err(error) => error.to_string(),
    };
    assert!(!is_ci, "CI runs the tests with a real Kafka, and {why}");
    let test = std::thread::current();
    let test = test.name().unwrap_or("a test with a real Kafka");
    // not by a macro, whose output the test runner captures
    let mut terminal = std::io::stderr();
    writeln!(terminal, "\nSKIPPED: {test}: {why}").unwrap();
    None
}

impl Kafka {
    /// The broker that all tests share. Topics are told apart by their names.
    pub async fn broker(&self) -> &'static Broker {
        static BROKER: OnceCell<Broker> = OnceCell::const_new();
        BROKER.get_or_init(|| own_broker("test-broker", &[])).await
    }

    /// Topics of the shared broker.
    pub async fn topics(&self) -> Topics {
        Topics::at(&self.broker().await.address())
    }

    /// The worker that all tests share, on the shared broker. `${env:SHOP_HOST}` and its like are those
    /// of the source cluster of the run, with a database named `shop`.
    pub async fn connect(&self) -> &'static Connect {
        static CONNECT: OnceCell<Connect> = OnceCell::const_new();
        let broker = self.broker().await;
        CONNECT.get_or_init(|| own_connect("test-connect", broker, &[])).await
    }
}

/// A broker that a test may kill. It is gone with the test.
pub async fn own_broker(name: &str, settings: &[(&str, &str)]) -> Broker {
    let options = ServerOptions::new(name, &env());
    Broker::start(with(options, settings)).await.unwrap()
}

/// A worker that a test may kill, with Debezium's connector for Postgres. It is gone with the test.
pub async fn own_connect(name: &str, broker: &Broker, settings: &[(&str, &str)]) -> Connect {
    let (source, _) = clusters().await;
    let options = ServerOptions::new(name, &env()).shop(&source.endpoint("shop"));
    let options = with(options, settings);
    Connect::start(&broker.address(), &[Plugin::Postgres], options).await.unwrap()
}

fn with(options: ServerOptions, settings: &[(&str, &str)]) -> ServerOptions {
    settings.iter().fold(options, |options, (name, value)| options.set(name, value))
}

/// The shop's configuration for another database: its topics, slot and publication are named after
/// `name`. `changes` are further fields; an empty value takes a field away.
pub fn shop_connector(name: &str, database: &str, changes: &[(&str, &str)]) -> String {
    let mut fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(SHOP).unwrap();
    let named = [
        ("name", name),
        ("topic.prefix", name),
        ("slot.name", name),
        ("publication.name", name),
        ("database.dbname", database),
    ];
    for (field, value) in named.iter().chain(changes) {
        if value.is_empty() {
            fields.remove(*field);
        } else {
            fields.insert((*field).to_owned(), (*value).into());
        }
    }
    serde_json::to_string(&fields).unwrap()
}
