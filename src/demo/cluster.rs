//! A throw-away Postgres: a folder, a server in it, and the login for it.
//!
//! The server listens on 127.0.0.1 and on a socket in its folder, with a random password, logical
//! decoding and fsync on. It ends and its folder goes when the [`Cluster`] is dropped, and also when
//! our process is killed. Nothing of it is meant to be kept, and no other cluster is ever touched.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use super::binaries::{self, Binaries};
use super::place::{self, PORT_ATTEMPTS, free_port, hex};
use super::server::{Account, Launch, Log, Manner, Server, Signal, command};
use crate::error::{Error, Kind, Result};
use crate::postgres::{Endpoint, Side, SslMode, connect, quote};
use crate::spec::Env;

/// What a cluster should be like.
#[derive(Clone, Default)]
pub struct ClusterOptions {
    /// A word for its folder's name and for messages.
    pub name: String,
    /// Settings of postgresql.conf, over ours.
    pub settings: Vec<(String, String)>,
    /// Where its folder is made; `$TMPDIR` or /tmp where none is given.
    pub base: Option<PathBuf>,
    /// The wanted major version; without one any from 15 on.
    pub version: Option<u32>,
    /// Where `PG_BIN_DIR`, `PATH`, `XDG_CACHE_HOME`, `HOME` and `TMPDIR` are looked up.
    pub env: Env,
}

impl ClusterOptions {
    /// A cluster with our settings, of any version.
    pub fn new(name: &str, env: &Env) -> ClusterOptions {
        ClusterOptions { name: name.to_owned(), env: env.clone(), ..ClusterOptions::default() }
    }

    /// The same with one more setting.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> ClusterOptions {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    fn folder(&self, account: Option<Account>) -> Result<PathBuf> {
        place::make_folder(&self.name, self.base.as_deref(), &self.env, account)
    }
}

const SUPERUSER: &str = "postgres";

const POSTGRES: Manner = Manner {
    name: "postgres",
    ready: "ready to accept",
    orphaned: Signal::Interrupt,
    dropped: Signal::Quit,
};

/// What replication needs, and what keeps a small machine responsive. Autovacuum and durability stay
/// as they are in production.
const SETTINGS: [(&str, &str); 9] = [
    ("listen_addresses", "127.0.0.1"),
    ("wal_level", "logical"),
    ("max_wal_senders", "20"),
    ("max_replication_slots", "20"),
    ("max_prepared_transactions", "10"),
    ("wal_sender_timeout", "60s"),
    ("max_wal_size", "2GB"),
    ("log_line_prefix", "%m [%p] "),
    ("timezone", "UTC"),
];

/// The longest path of a Unix socket on Linux, less `/.s.PGSQL.` and a port.
const LONGEST_SOCKET_FOLDER: usize = 107 - 15;

/// A running or stopped throw-away Postgres.
pub struct Cluster {
    name: String,
    folder: PathBuf,
    binaries: Binaries,
    account: Option<Account>,
    port: u16,
    password: String,
    log: Log,
    server: Option<Server>,
}

impl Cluster {
    /// Makes a cluster and starts it. Fails where no programs are found or downloaded, and where they
    /// do not run; the error carries what they wrote.
    pub async fn start(options: ClusterOptions) -> Result<Cluster> {
        let binaries = binaries::find(&options.env, options.version).await?;
        let account = account()?;
        let folder = options.folder(account)?;
        let mut cluster = Cluster {
            name: options.name,
            folder,
            binaries,
            account,
            port: 0,
            password: hex(16)?,
            log: Log::default(),
            server: None,
        };
        cluster.initialise(&options.settings)?;
        for attempt in 1.. {
            cluster.port = free_port()?;
            match cluster.start_again().await {
                Ok(()) => break,
                Err(error) if attempt == PORT_ATTEMPTS || !cluster.port_was_taken() => {
                    return Err(error);
                }
                Err(_) => tracing::debug!(port = cluster.port, "the port has just been taken"),
            }
        }
        Ok(cluster)
    }

    fn initialise(&self, settings: &[(String, String)]) -> Result<()> {
        let failed = |error: std::io::Error| self.failed("initdb cannot be run").because(error);
        let password_file = self.folder.join("password");
        fs::write(&password_file, format!("{}\n", self.password)).map_err(failed)?;
        self.give(&password_file).map_err(failed)?;
        let data = self.folder.join("data");
        let mut initdb = command(&self.binaries.folder.join("initdb"), &self.folder, self.account);
        initdb.args(["--no-sync", "--encoding=UTF8", "--locale=C", "--auth=scram-sha-256"]);
        initdb.arg("--username").arg(SUPERUSER).arg("--pgdata").arg(&data);
        let output = initdb.arg("--pwfile").arg(&password_file).output().map_err(failed)?;
        fs::remove_file(&password_file).map_err(failed)?;
        if !output.status.success() {
            return Err(self.failed(&format!("initdb failed: {}", last_lines(&output))));
        }
        let conf = data.join("postgresql.conf");
        let text = fs::read_to_string(&conf).map_err(failed)?;
        let ours = SETTINGS.iter().map(|(name, value)| setting(name, value));
        let given = settings.iter().map(|(name, value)| setting(name, value));
        let all: String = ours.chain([self.socket_setting()]).chain(given).collect();
        fs::write(&conf, text + "\n" + &all).map_err(failed)
    }

    /// A folder with too long a name has no socket.
    fn socket_setting(&self) -> String {
        let folder = self.folder.display().to_string();
        let folder = if folder.len() > LONGEST_SOCKET_FOLDER { "" } else { folder.as_str() };
        setting("unix_socket_directories", folder)
    }

    fn give(&self, path: &Path) -> std::io::Result<()> {
        self.account.map_or(Ok(()), |account| chown(path, Some(account.uid), Some(account.gid)))
    }

    fn failed(&self, what: &str) -> Error {
        Error::new(Kind::Config, format!("the Postgres for {}: {what}", self.name))
    }

    fn port_was_taken(&self) -> bool {
        self.log.tail(20).iter().any(|line| line.contains("Address already in use"))
    }

    /// Starts the stopped server on its port and data; nothing where it runs.
    pub async fn start_again(&mut self) -> Result<()> {
        if self.is_running() {
            return Ok(());
        }
        self.log.clear();
        let data = self.folder.join("data").display().to_string();
        let arguments = ["-D".to_owned(), data, "-p".to_owned(), self.port.to_string()];
        let launch = Launch {
            manner: &POSTGRES,
            program: &self.binaries.folder.join("postgres"),
            arguments: &arguments,
            variables: &[],
            folder: &self.folder,
            account: self.account,
            log_file: None,
        };
        let server = Server::start(launch, &self.log).await;
        self.server = Some(server.map_err(|error| self.failed(&error.reason()))?);
        Ok(())
    }

    /// Stops in order: sessions are ended, everything is written out. As a crash after 30 s, which a
    /// replication client that does not answer can cause.
    pub async fn stop_fast(&mut self) -> Result<()> {
        let Some(server) = self.server.as_mut() else { return Ok(()) };
        if server.stop(Signal::Interrupt, Duration::from_secs(30)).await {
            self.server = None;
            return Ok(());
        }
        self.stop_immediate().await
    }

    /// Stops as a crash would: what is committed and flushed is there again after recovery.
    pub async fn stop_immediate(&mut self) -> Result<()> {
        let Some(server) = self.server.as_mut() else { return Ok(()) };
        if !server.stop(Signal::Quit, Duration::from_secs(15)).await {
            return Err(self.failed("it does not stop"));
        }
        self.server = None;
        Ok(())
    }

    /// A crash and a restart with recovery, on the same port and data.
    pub async fn restart_immediate(&mut self) -> Result<()> {
        self.stop_immediate().await?;
        self.start_again().await
    }

    /// Whether the server's process is there.
    pub fn is_running(&mut self) -> bool {
        self.server.as_mut().is_some_and(|server| !server.ended())
    }

    /// The superuser's login to a database.
    pub fn endpoint(&self, database: &str) -> Endpoint {
        let mut endpoint = Endpoint::from_parts("127.0.0.1", self.port, database, SUPERUSER)
            .with_password(&self.password);
        endpoint.ssl_mode = SslMode::Disable;
        endpoint
    }

    /// The same as a URL, password included. The database's name stands in it as it is.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// Creates a database.
    pub async fn create_database(&self, name: &str) -> Result<()> {
        let session =
            connect(Side::Warehouse, &self.endpoint("postgres"), "siltstone demo").await?;
        let statement = format!("create database {}", quote::ident(name));
        let created = session.batch_execute(&statement).await;
        created.map_err(|error| self.failed("a database cannot be created").because(error))
    }

    /// The TCP port; it stays the same over restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder with `initdb` and `postgres`; `psql` is there where it belongs to a package.
    pub fn bin_dir(&self) -> &Path {
        &self.binaries.folder
    }

    /// The major version.
    pub fn major(&self) -> u32 {
        self.binaries.major
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The last lines of the server's log since its start.
    pub fn log_tail(&self, lines: usize) -> Vec<String> {
        self.log.tail(lines)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            server.stop_now();
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::debug!(%error, folder = %self.folder.display(), "a cluster's folder stays");
        }
    }
}

/// A line of postgresql.conf.
fn setting(name: &str, value: &str) -> String {
    format!("{name} = {}\n", quote::literal(value))
}

/// Postgres refuses to run as root, and as a user without a line in /etc/passwd.
fn account() -> Result<Option<Account>> {
    if !binaries::is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = account_of(&users, "postgres").or_else(|| account_of(&users, "nobody"));
    found.map(Some).ok_or_else(|| {
        Error::new(Kind::Config, "Postgres does not run as root, and there is no other user")
            .remedy("add a user named postgres")
    })
}

fn account_of(users: &str, name: &str) -> Option<Account> {
    let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(Account { uid, gid })
}

fn last_lines(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.iter().skip(lines.len().saturating_sub(4)).copied().collect::<Vec<_>>().join(" | ")
}

mod standby;

#[cfg(test)]
mod tests;
