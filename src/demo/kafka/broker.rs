//! A Kafka broker that is its own controller (KRaft), for one machine: every internal topic has one
//! replica, and a group does not wait for members that may come.

use std::fs;
use std::path::PathBuf;

use super::ServerOptions;
use super::jars::Group;
use super::jvm::{Jvm, merged};
use crate::demo::place::hex;
use crate::demo::server::{Manner, Signal};
use crate::error::Result;

const KAFKA: Manner = Manner {
    name: "Kafka broker",
    ready: "Kafka Server started",
    orphaned: Signal::Kill,
    dropped: Signal::Kill,
};

/// One replica of everything, few partitions of what is internal, and no waiting for others.
pub const BROKER_SETTINGS: [(&str, &str); 16] = [
    ("process.roles", "broker,controller"),
    ("node.id", "1"),
    ("controller.listener.names", "CONTROLLER"),
    ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"),
    ("offsets.topic.num.partitions", "1"),
    ("offsets.topic.replication.factor", "1"),
    ("transaction.state.log.num.partitions", "1"),
    ("transaction.state.log.replication.factor", "1"),
    ("transaction.state.log.min.isr", "1"),
    ("group.initial.rebalance.delay.ms", "0"),
    ("group.min.session.timeout.ms", "1000"),
    // a killed broker is not let in again before its session has ended
    ("broker.heartbeat.interval.ms", "500"),
    ("broker.session.timeout.ms", "3000"),
    // what is too old goes within a second, so that tests of retention need not wait
    ("log.retention.check.interval.ms", "1000"),
    ("log.segment.delete.delay.ms", "1000"),
    // the default of 128 MiB is a third of our heap
    ("log.cleaner.dedupe.buffer.size", "4194304"),
];

/// A running or stopped throw-away broker.
pub struct Broker {
    jvm: Jvm,
    settings: Vec<(String, String)>,
    listeners: Vec<String>,
    /// of clients, of the controller, and then of each further listener
    ports: Vec<u16>,
}

impl Broker {
    /// Makes a broker and starts it. Fails where no Java is found, where the jars cannot be downloaded,
    /// and where it does not start; the error carries what it wrote.
    pub async fn start(options: ServerOptions) -> Result<Broker> {
        let jvm = Jvm::new(&options, Group::Broker, "kafka.Kafka", &KAFKA).await?;
        let settings = merged(&BROKER_SETTINGS, &options);
        let listeners = options.listeners;
        let mut broker = Broker { jvm, settings, listeners, ports: Vec::new() };
        broker.format()?;
        let (settings, data) = (broker.settings.clone(), broker.data_dir());
        let listeners = broker.listeners.clone();
        let properties = |ports: &[u16]| properties(&settings, &data, &listeners, ports);
        broker.ports = broker.jvm.start(2 + listeners.len(), properties).await?;
        Ok(broker)
    }

    /// What `kafka-storage format` leaves in an empty folder; a Java only for that costs as much time as
    /// a third of the start.
    fn format(&self) -> Result<()> {
        let text = format!("version=1\nnode.id=1\ncluster.id={}\n", hex(11)?);
        let data = self.data_dir();
        let made = fs::create_dir(&data);
        let written = made.and_then(|()| fs::write(data.join("meta.properties"), text));
        written.map_err(|error| self.jvm.failed("its storage cannot be made").because(error))
    }

    /// Starts the stopped broker on its port and data; nothing where it runs.
    pub async fn start_again(&mut self) -> Result<()> {
        let data = self.data_dir();
        let properties = properties(&self.settings, &data, &self.listeners, &self.ports);
        self.jvm.start_with(&properties).await
    }

    /// Stops in order: clients are told, everything is written out.
    pub async fn stop(&mut self) -> Result<()> {
        self.jvm.stop().await
    }

    /// `kill -9`.
    pub async fn kill(&mut self) -> Result<()> {
        self.jvm.kill().await
    }

    /// `kill -9` and a start on the same port and data.
    pub async fn crash(&mut self) -> Result<()> {
        self.kill().await?;
        self.start_again().await
    }

    /// Whether the broker's process is there.
    pub fn is_running(&mut self) -> bool {
        self.jvm.is_running()
    }

    /// Host and port, as clients are given them; the same over restarts.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// The TCP port that clients use.
    pub fn port(&self) -> u16 {
        self.ports.first().copied().unwrap_or_default()
    }

    /// The TCP port of a further listener; none where there is no such listener.
    pub fn port_of(&self, listener: &str) -> Option<u16> {
        let at = self.listeners.iter().position(|name| name == listener)?;
        self.ports.get(2 + at).copied()
    }

    /// Where the topics are.
    pub fn data_dir(&self) -> PathBuf {
        self.jvm.folder().join("data")
    }

    /// A process of which the broker's is a child, to measure both; none where it does not run.
    pub fn pid(&self) -> Option<u32> {
        self.jvm.pid()
    }

    /// Where everything that it writes is kept while it lives.
    pub fn log_file(&self) -> PathBuf {
        self.jvm.log_file()
    }

    /// The last lines of its log since its start.
    pub fn log_tail(&self, lines: usize) -> Vec<String> {
        self.jvm.log_tail(lines)
    }
}

/// The settings with what depends on ports and folder.
fn properties(
    settings: &[(String, String)],
    data: &std::path::Path,
    further: &[String],
    ports: &[u16],
) -> Vec<(String, String)> {
    let port = |at: usize| ports.get(at).copied().unwrap_or_default();
    let (client, controller) = (port(0), port(1));
    let mut listeners =
        format!("PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}");
    let mut told = format!("PLAINTEXT://127.0.0.1:{client}");
    for (at, name) in further.iter().enumerate() {
        let port = port(2 + at);
        listeners.push_str(&format!(",{name}://127.0.0.1:{port}"));
        // certificates are issued to a name
        told.push_str(&format!(",{name}://localhost:{port}"));
    }
    let ours = [
        ("log.dirs", data.display().to_string()),
        ("listeners", listeners),
        ("advertised.listeners", told),
        ("controller.quorum.voters", format!("1@127.0.0.1:{controller}")),
    ];
    let ours = ours.map(|(name, value)| (name.to_owned(), value));
    ours.into_iter().chain(settings.iter().cloned()).collect()
}
