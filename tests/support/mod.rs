//! What tests stand on: two Postgres clusters for the whole run, and for each test a `Site` of its
//! own: a source database, a warehouse database and a folder with files. `kafka` is for those that need
//! a Kafka, which is started when the first of them asks.

mod api;
mod dice;
mod kafka;
mod mailbox;
mod posts;
mod proxy;
mod site;

pub use api::{Api, Asked, Reply, by_offset};
pub use dice::Dice;
pub use kafka::{
    Kafka, Load, Mock, Record, Recording, SHOP, Topics, kafka, own_broker, own_connect, secure,
    shop_connector,
};
pub use mailbox::{Mailbox, issue};
pub use posts::Posts;
pub use proxy::Proxy;
pub use site::Site;

use std::process::{Child, Command};
use std::sync::LazyLock;

use siltstone::clock::Clock;
use siltstone::demo::cluster::{Cluster, ClusterOptions};
use siltstone::postgres::{Side, connect};
use siltstone::spec::Env;
use tokio::runtime::Runtime;

/// One runtime for all tests: the clusters' watchers live in it.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let installed = rustls::crypto::ring::default_provider().install_default();
    assert!(installed.is_ok(), "another TLS provider was there first");
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
});

/// Runs a test.
pub fn block_on<T>(test: impl Future<Output = T>) -> T {
    RUNTIME.block_on(test)
}

/// The process's environment.
pub fn env() -> Env {
    Env::of_process(&Clock::system())
}

/// Sends a process a signal, as `-HUP`.
pub fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

/// Tells a service to end, which must end well.
pub fn end(mut child: Child) {
    signal(&child, "-TERM");
    assert!(child.wait().unwrap().success());
}

/// Whether this is the run with the issue's counts: `./dev test --full`.
pub fn is_full() -> bool {
    env().get("SILTSTONE_TEST_TIER") == Some("full")
}

/// The clusters of the run, started when the first test asks.
pub async fn clusters() -> &'static (Cluster, Cluster) {
    static CLUSTERS: tokio::sync::OnceCell<(Cluster, Cluster)> = tokio::sync::OnceCell::const_new();
    CLUSTERS
        .get_or_init(|| async {
            let source = own_cluster("test-source").await;
            let warehouse = own_cluster("test-warehouse").await;
            (source, warehouse)
        })
        .await
}

/// A cluster that a test may stop and break. It is gone with the test. `SILTSTONE_TEST_POSTGRES` says
/// which major version; any is taken where it is not set.
pub async fn own_cluster(name: &str) -> Cluster {
    let version = env().get("SILTSTONE_TEST_POSTGRES").map(|text| text.parse().unwrap());
    cluster_of(name, version).await
}

/// A cluster of a major version with a physical standby that follows it.
pub async fn with_standby(
    name: &str,
    version: u32,
    settings: &[(&str, &str)],
) -> (Cluster, Cluster) {
    let mut source = cluster_of(name, Some(version)).await;
    if let Some((_, slot)) = settings.iter().find(|(setting, _)| *setting == "primary_slot_name") {
        let session = connect(Side::Source, &source.endpoint("postgres"), "test").await.unwrap();
        let make = "select pg_create_physical_replication_slot($1, true)";
        session.execute(make, &[slot]).await.unwrap();
    }
    let mut options = ClusterOptions::new(&format!("{name}-standby"), &env());
    for (setting, value) in settings {
        options = options.set(setting, value);
    }
    let standby = source.standby(options).await.unwrap();
    (source, standby)
}

/// A cluster of a major version.
pub async fn cluster_of(name: &str, version: Option<u32>) -> Cluster {
    let mut options = ClusterOptions::new(name, &env())
        .set("fsync", "off")
        .set("max_connections", "200")
        // every test leaves its slots behind
        .set("max_replication_slots", "600")
        .set("max_wal_senders", "140")
        .set("max_locks_per_transaction", "512");
    options.version = version;
    Cluster::start(options).await.unwrap()
}
