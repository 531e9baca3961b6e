//! Where a Postgres is and how to reach it, from a URL or from single settings.
//!
//! tokio-postgres knows `disable`, `prefer` and `require`; `verify-ca`, `verify-full` and
//! `sslrootcert` are ours, with libpq's meaning. A password is never printed.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use tokio_postgres::Config;
use tokio_postgres::config::TargetSessionAttrs;

use crate::error::{Error, Kind, Result};

/// How far TLS is asked for and checked; libpq's `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SslMode {
    /// Never.
    Disable,
    /// If the server offers it, unchecked.
    #[default]
    Prefer,
    /// Always, unchecked.
    Require,
    /// Always, with a certificate our roots vouch for.
    VerifyCa,
    /// As `VerifyCa`, and it must name the host.
    VerifyFull,
}

impl FromStr for SslMode {
    type Err = String;

    fn from_str(text: &str) -> Result<SslMode, String> {
        match text {
            "disable" => Ok(SslMode::Disable),
            "allow" | "prefer" => Ok(SslMode::Prefer),
            "require" => Ok(SslMode::Require),
            "verify-ca" => Ok(SslMode::VerifyCa),
            "verify-full" => Ok(SslMode::VerifyFull),
            _ => Err(format!(
                "sslmode {text:?} is none of disable, prefer, require, verify-ca, verify-full"
            )),
        }
    }
}

/// A host to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A name or an address.
    Tcp(String),
    /// A directory with the server's Unix socket.
    Unix(PathBuf),
}

/// A Postgres database and the login for it.
#[derive(Clone, PartialEq)]
pub struct Endpoint {
    config: Config,
    /// How far TLS is asked for.
    pub ssl_mode: SslMode,
    /// Roots to trust instead of the system's.
    pub ssl_root_cert: Option<PathBuf>,
}

impl Endpoint {
    /// Reads `postgres://user:password@host:port/database?sslmode=…&sslrootcert=…`.
    pub fn parse(url: &str) -> Result<Endpoint> {
        let refuse = |why: String| Error::new(Kind::Config, format!("the connection URL: {why}"));
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut kept = Vec::new();
        let mut ssl_mode = None;
        let mut ssl_root_cert = None;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", mode)) => ssl_mode = Some(mode.parse().map_err(refuse)?),
                Some(("sslrootcert", path)) => ssl_root_cert = Some(PathBuf::from(path)),
                _ => kept.push(pair),
            }
        }
        let separator = if kept.is_empty() { "" } else { "?" };
        let config = Config::from_str(&format!("{base}{separator}{}", kept.join("&")))
            .map_err(|error| refuse(error.to_string()))?;
        if config.get_hosts().is_empty() || config.get_dbname().is_none() {
            return Err(refuse("it must name a host and a database".to_owned()));
        }
        Ok(Endpoint { config, ssl_mode: ssl_mode.unwrap_or_default(), ssl_root_cert })
    }

    /// An endpoint from single settings.
    pub fn from_parts(host: &str, port: u16, database: &str, user: &str) -> Endpoint {
        let mut config = Config::new();
        config.host(host).port(port).dbname(database).user(user);
        Endpoint { config, ssl_mode: SslMode::Prefer, ssl_root_cert: None }
    }

    /// The same endpoint with a password.
    #[must_use]
    pub fn with_password(mut self, password: &str) -> Endpoint {
        self.config.password(password);
        self
    }

    /// The same server and login, another database.
    #[must_use]
    pub fn with_database(mut self, database: &str) -> Endpoint {
        self.config.dbname(database);
        self
    }

    /// The client settings for an SQL session, TLS mode included.
    pub fn config(&self) -> Config {
        let mut config = self.config.clone();
        config.ssl_mode(match self.ssl_mode {
            SslMode::Disable => tokio_postgres::config::SslMode::Disable,
            SslMode::Prefer => tokio_postgres::config::SslMode::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => {
                tokio_postgres::config::SslMode::Require
            }
        });
        config
    }

    /// The hosts with their ports, in the order they are tried.
    pub fn hosts(&self) -> Vec<(Host, u16)> {
        let ports = self.config.get_ports();
        let port = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(5432);
        let host = |host: &tokio_postgres::config::Host| match host {
            tokio_postgres::config::Host::Tcp(name) => Host::Tcp(name.clone()),
            tokio_postgres::config::Host::Unix(path) => Host::Unix(path.clone()),
        };
        self.config.get_hosts().iter().enumerate().map(|(at, h)| (host(h), port(at))).collect()
    }

    /// Whether a host that is a standby is passed over (`target_session_attrs=read-write`).
    pub fn wants_primary(&self) -> bool {
        self.config.get_target_session_attrs() == TargetSessionAttrs::ReadWrite
    }

    /// The user to log in as; the database's name where none is given, as libpq has it.
    pub fn user(&self) -> &str {
        self.config.get_user().or(self.config.get_dbname()).unwrap_or("postgres")
    }

    /// The password, where one is given.
    pub fn password(&self) -> Option<&[u8]> {
        self.config.get_password()
    }

    /// The database.
    pub fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or_default()
    }

    /// The environment by which programs of Postgres reach it. One of the values is the password: the environment
    /// of a process is shown to its own user alone.
    pub fn libpq(&self, application: &str) -> Vec<(&'static str, OsString)> {
        let (mut hosts, mut ports) = (Vec::new(), Vec::new());
        for (host, port) in self.hosts() {
            hosts.push(match host {
                Host::Tcp(name) => name,
                Host::Unix(path) => path.display().to_string(),
            });
            ports.push(port.to_string());
        }
        let mode = match self.ssl_mode {
            SslMode::Disable => "disable",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        };
        let mut given: Vec<(&'static str, OsString)> = vec![
            ("PGHOST", hosts.join(",").into()),
            ("PGPORT", ports.join(",").into()),
            ("PGDATABASE", self.database().into()),
            ("PGUSER", self.user().into()),
            ("PGSSLMODE", mode.into()),
            ("PGAPPNAME", application.into()),
            ("PGCONNECT_TIMEOUT", "10".into()),
        ];
        given.extend(self.ssl_root_cert.iter().map(|path| ("PGSSLROOTCERT", path.into())));
        given.extend(self.password().map(|word| ("PGPASSWORD", OsStr::from_bytes(word).into())));
        if self.wants_primary() {
            given.push(("PGTARGETSESSIONATTRS", "read-write".into()));
        }
        given
    }

    /// The URL with a placeholder for the password, for people to copy.
    pub fn shown(&self) -> String {
        let host = match self.hosts().into_iter().next() {
            Some((Host::Tcp(name), port)) => format!("{name}:{port}"),
            Some((Host::Unix(path), port)) => format!("{}:{port}", path.display()),
            None => String::new(),
        };
        format!("postgres://{}@{host}/{}", self.user(), self.database())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_and_never_shows_its_password() {
        let url = "postgres://shop:s3cret@db.example:6432/shop?sslmode=verify-full&sslrootcert=/ca.pem&connect_timeout=3";
        let endpoint = Endpoint::parse(url).unwrap();
        assert_eq!(endpoint.ssl_mode, SslMode::VerifyFull);
        assert_eq!(endpoint.ssl_root_cert, Some(PathBuf::from("/ca.pem")));
        assert_eq!(endpoint.hosts(), [(Host::Tcp("db.example".to_owned()), 6432)]);
        assert_eq!(format!("{endpoint:?}"), "postgres://shop@db.example:6432/shop");
    }

    #[test]
    fn a_url_without_a_database_is_refused() {
        assert!(Endpoint::parse("postgres://shop@localhost").is_err());
        assert!(Endpoint::parse("postgres://h/d?sslmode=always").is_err());
    }
}
