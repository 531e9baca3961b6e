//! A Kafka Connect worker with Debezium. It keeps what it knows in topics of its broker, so that a new
//! process of that name on the same broker goes on with the same connectors where the last one was.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::ServerOptions;
use super::jars::{Group, Plugin};
use super::jvm::{Jvm, files, merged};
use super::rest::Rest;
use crate::demo::server::{Manner, Signal};
use crate::error::{Error, Kind, Result};

const CONNECT: Manner = Manner {
    name: "Kafka Connect worker",
    ready: "Kafka Connect started",
    orphaned: Signal::Kill,
    dropped: Signal::Kill,
};

/// How long a worker may take to answer after its start, and a connector to run.
const WITHIN: Duration = Duration::from_secs(90);

/// How long a task stays failed before that is told: a new configuration may be on its way to it.
const FAILED_FOR: Duration = Duration::from_secs(3);

const JSON: &str = "org.apache.kafka.connect.json.JsonConverter";

/// One worker that shares its work with nobody, and variables in connectors' configurations.
pub const CONNECT_SETTINGS: [(&str, &str); 14] = [
    ("key.converter", JSON),
    ("value.converter", JSON),
    ("config.storage.replication.factor", "1"),
    ("offset.storage.replication.factor", "1"),
    ("status.storage.replication.factor", "1"),
    ("offset.storage.partitions", "1"),
    ("status.storage.partitions", "1"),
    ("offset.flush.interval.ms", "1000"),
    ("scheduled.rebalance.max.delay.ms", "0"),
    ("task.shutdown.graceful.timeout.ms", "5000"),
    ("config.providers", "env"),
    ("config.providers.env.class", "org.apache.kafka.common.config.provider.EnvVarConfigProvider"),
    ("plugin.discovery", "service_load"),
    ("rest.advertised.host.name", "127.0.0.1"),
];

/// A running or stopped throw-away worker.
pub struct Connect {
    jvm: Jvm,
    properties: Properties,
    port: u16,
    starts: u32,
    rest: Rest,
}

impl Connect {
    /// Makes a worker on a broker, with these connectors to be had, and starts it. Fails as
    /// [`super::Broker::start`] does.
    pub async fn start(
        brokers: &str,
        plugins: &[Plugin],
        options: ServerOptions,
    ) -> Result<Connect> {
        const MAIN: &str = "org.apache.kafka.connect.cli.ConnectDistributed";
        let jvm = Jvm::new(&options, Group::Connect, MAIN, &CONNECT).await?;
        let properties = Properties {
            name: options.name.clone(),
            brokers: brokers.to_owned(),
            plugins: jvm.folder().join("plugins"),
            settings: merged(&CONNECT_SETTINGS, &options),
        };
        let rest = Rest::new()?;
        let mut connect = Connect { jvm, properties, port: 0, starts: 0, rest };
        for plugin in plugins {
            connect.install(*plugin, &options).await?;
        }
        let first = |ports: &[u16]| ports.first().copied().unwrap_or_default();
        let properties = |ports: &[u16]| connect.properties.of(first(ports), 0);
        connect.port = first(&connect.jvm.start(1, properties).await?);
        connect.rest.listen_at(connect.port);
        connect.answers().await?;
        Ok(connect)
    }

    /// Every connector has a folder of its own, whose classes the others do not see.
    async fn install(&self, plugin: Plugin, options: &ServerOptions) -> Result<()> {
        let group = Group::Plugin(plugin);
        let jars = files(options, group).await?;
        let folder = self.properties.plugins.join(group.word());
        let linked = fs::create_dir_all(&folder).and_then(|()| {
            let mut named = jars.iter().filter_map(|jar| Some((jar, jar.file_name()?)));
            named.try_for_each(|(jar, name)| symlink(jar, folder.join(name)))
        });
        linked.map_err(|error| self.jvm.failed("a plugin cannot be put there").because(error))
    }

    async fn answers(&self) -> Result<()> {
        let deadline = Instant::now() + WITHIN;
        loop {
            match self.rest.get("/connectors").await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Starts the stopped worker on its port; its connectors go on by themselves. Nothing where it runs.
    pub async fn start_again(&mut self) -> Result<()> {
        self.starts += 1;
        let properties = self.properties.of(self.port, self.starts);
        self.jvm.start_with(&properties).await?;
        self.answers().await
    }

    /// Stops in order: offsets are written.
    pub async fn stop(&mut self) -> Result<()> {
        self.jvm.stop().await
    }

    /// `kill -9`: what was sent since the last offsets were written is sent again.
    pub async fn kill(&mut self) -> Result<()> {
        self.jvm.kill().await
    }

    /// `kill -9` and a start.
    pub async fn crash(&mut self) -> Result<()> {
        self.kill().await?;
        self.start_again().await
    }

    /// Whether the worker's process is there.
    pub fn is_running(&mut self) -> bool {
        self.jvm.is_running()
    }

    /// The address of its REST interface.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A process of which the worker's is a child, to measure both; none where it does not run.
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

/// What a worker's properties are made of.
struct Properties {
    name: String,
    brokers: String,
    plugins: PathBuf,
    settings: Vec<(String, String)>,
}

impl Properties {
    /// The properties of a worker's `starts`th start. Each is a group of its own: what a killed one
    /// leaves behind in its group is waited for until its session ends, and nothing but the membership
    /// stands there. What is known of connectors stands in topics with the worker's name, which the
    /// groups have in common.
    fn of(&self, port: u16, starts: u32) -> Vec<(String, String)> {
        let name = &self.name;
        let ours = [
            ("config.storage.topic", format!("{name}-configs")),
            ("offset.storage.topic", format!("{name}-offsets")),
            ("status.storage.topic", format!("{name}-status")),
            ("bootstrap.servers", self.brokers.clone()),
            ("group.id", format!("{name}-{port}-{starts}")),
            ("plugin.path", self.plugins.display().to_string()),
            ("listeners", format!("http://127.0.0.1:{port}")),
        ];
        let ours = ours.map(|(name, value)| (name.to_owned(), value));
        ours.into_iter().chain(self.settings.iter().cloned()).collect()
    }
}

/// What a person does over REST.
impl Connect {
    /// Gives the worker a connector, or a connector another configuration, and waits until it runs.
    /// `configuration` is a JSON object of strings.
    pub async fn register(&self, name: &str, configuration: &str) -> Result<()> {
        self.rest.put(&format!("/connectors/{name}/config"), configuration).await?;
        self.running(name).await
    }

    /// Waits until a connector and its tasks run. The error where one has failed carries its trace.
    pub async fn running(&self, name: &str) -> Result<()> {
        let deadline = Instant::now() + WITHIN;
        let mut failed_since = None;
        loop {
            // there is no status before the worker has seen the configuration
            let status = self.status(name).await.unwrap_or_default();
            let parts = parts(&status);
            if parts.len() > 1 && parts.iter().all(|part| part["state"] == "RUNNING") {
                return Ok(());
            }
            let failed = parts.iter().find(|part| part["state"] == "FAILED");
            let since = failed.map(|_| failed_since.unwrap_or_else(Instant::now));
            failed_since = since;
            if let (Some(part), Some(since)) = (failed, since)
                && since.elapsed() > FAILED_FOR
            {
                let trace = part["trace"].as_str().unwrap_or_default();
                return Err(refused(&format!("the connector {name} failed: {}", causes(trace))));
            }
            if Instant::now() > deadline {
                let what = format!("the connector {name} does not run: {status}");
                return Err(refused(&what));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until a connector and its tasks are in a state, such as `PAUSED` or `FAILED`.
    pub async fn until(&self, name: &str, state: &str) -> Result<()> {
        let deadline = Instant::now() + WITHIN;
        loop {
            let status = self.status(name).await.unwrap_or_default();
            let parts = parts(&status);
            let mut tasks = parts.iter().skip(1).peekable();
            if tasks.peek().is_some() && tasks.all(|task| task["state"] == state) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(refused(&format!("the connector {name} is not {state}: {status}")));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What the worker says of a connector and its tasks.
    pub async fn status(&self, name: &str) -> Result<Value> {
        let text = self.rest.get(&format!("/connectors/{name}/status")).await?;
        serde_json::from_str(&text).map_err(|error| refused("a status is no JSON").because(error))
    }

    /// Starts a connector and its tasks anew, failed or not.
    pub async fn restart(&self, name: &str) -> Result<()> {
        let path = format!("/connectors/{name}/restart?includeTasks=true");
        self.rest.post(&path).await
    }

    /// Lets a connector rest until [`Connect::resume`], and waits until it does.
    pub async fn pause(&self, name: &str) -> Result<()> {
        self.rest.put(&format!("/connectors/{name}/pause"), "").await?;
        self.until(name, "PAUSED").await
    }

    /// Lets a connector go on, and waits until it does.
    pub async fn resume(&self, name: &str) -> Result<()> {
        self.rest.put(&format!("/connectors/{name}/resume"), "").await?;
        self.running(name).await
    }

    /// Takes a connector away. Its slot at the source stays, and so do its topics and its offsets.
    pub async fn remove(&self, name: &str) -> Result<()> {
        self.rest.delete(&format!("/connectors/{name}")).await
    }
}

/// The connector and its tasks.
fn parts(status: &Value) -> Vec<&Value> {
    let tasks = status["tasks"].as_array().map(Vec::as_slice).unwrap_or_default();
    [&status["connector"]].into_iter().chain(tasks).filter(|part| part.is_object()).collect()
}

/// The messages of a stack trace, without the places.
fn causes(trace: &str) -> String {
    let lines = trace.lines().filter(|line| !line.trim_start().starts_with("at "));
    lines.map(str::trim).filter(|line| !line.starts_with("...")).collect::<Vec<_>>().join(" | ")
}

fn refused(what: &str) -> Error {
    Error::new(Kind::SourceLacks, what.to_owned())
}
