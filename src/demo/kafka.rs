//! A throw-away Kafka: a broker, a Kafka Connect worker, and Debezium's connectors in it.
//!
//! - [`java`] finds a Java; [`jars`] downloads what runs on it, each file known by its digest.
//! - [`Broker`] is one Kafka process, broker and controller at once; [`Connect`] is one worker, to which
//!   connectors are given as a person would, over its REST interface.
//!
//! Both listen on 127.0.0.1, run as the current user, keep everything in a folder of their own and end
//! with us, even by SIGKILL. Nothing here reads a topic or knows what stands in one.

mod archive;
mod broker;
mod connect;
pub mod jars;
pub mod java;
mod jvm;
mod rest;

use std::path::PathBuf;

use crate::postgres::{Endpoint, Host};
use crate::spec::Env;

pub use broker::{BROKER_SETTINGS, Broker};
pub use connect::{CONNECT_SETTINGS, Connect};
pub use jars::Plugin;

/// What a broker or a worker should be like.
#[derive(Clone, Default)]
pub struct ServerOptions {
    /// A word for its folder's name and for messages.
    pub name: String,
    /// Properties of Kafka or of the worker, over ours.
    pub settings: Vec<(String, String)>,
    /// Variables of its environment; a connector's configuration reads them as `${env:NAME}`.
    pub variables: Vec<(String, String)>,
    /// What further listeners of a broker are called.
    pub listeners: Vec<String>,
    /// The most memory that its objects take, in MiB.
    pub heap_mib: u32,
    /// Whether its speed is measured: it then takes longer to start and more threads to run.
    pub measured: bool,
    /// Where its folder is made; `$TMPDIR` or /tmp where none is given.
    pub base: Option<PathBuf>,
    /// Where `JAVA_HOME`, `PATH`, `XDG_CACHE_HOME`, `HOME` and `TMPDIR` are looked up.
    pub env: Env,
}

impl ServerOptions {
    /// A small server with our settings.
    pub fn new(name: &str, env: &Env) -> ServerOptions {
        ServerOptions {
            name: name.to_owned(),
            env: env.clone(),
            heap_mib: 384,
            ..ServerOptions::default()
        }
    }

    /// The same with one more setting.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> ServerOptions {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with one more listener at localhost, on a port of its own. Its protocol, and what that asks for,
    /// are settings as any others.
    #[must_use]
    pub fn listener(mut self, name: &str) -> ServerOptions {
        self.listeners.push(name.to_owned());
        self
    }

    /// The same with one more variable in its environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> ServerOptions {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with the variables by which `connectors/debezium/shop.json` finds its database.
    #[must_use]
    pub fn shop(self, endpoint: &Endpoint) -> ServerOptions {
        let host = endpoint.hosts().into_iter().find_map(|(host, port)| match host {
            Host::Tcp(host) => Some((host, port)),
            Host::Unix(_) => None,
        });
        let (host, port) = host.unwrap_or(("127.0.0.1".to_owned(), 5432));
        let password = String::from_utf8_lossy(endpoint.password().unwrap_or_default());
        self.variable("SHOP_HOST", &host)
            .variable("SHOP_PORT", &port.to_string())
            .variable("SHOP_USER", endpoint.user())
            .variable("SHOP_PASSWORD", &password)
            .variable("SHOP_DATABASE", endpoint.database())
    }
}
