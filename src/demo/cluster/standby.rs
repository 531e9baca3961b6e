//! A physical standby of a throw-away Postgres, for tests: the programs that we download have no
//! pg_basebackup, so its folder is a copy of the stopped primary's.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{Cluster, ClusterOptions, Log, PORT_ATTEMPTS, free_port, setting};
use crate::error::{Error, Kind, Result};
use crate::postgres::{Side, connect};

impl Cluster {
    /// Makes a standby that follows this cluster, which is stopped and started again for it.
    pub async fn standby(&mut self, options: ClusterOptions) -> Result<Cluster> {
        let folder = options.folder(self.account)?;
        let mut standby = Cluster {
            name: options.name,
            folder,
            binaries: self.binaries.clone(),
            account: self.account,
            port: 0,
            password: self.password.clone(),
            log: Log::default(),
            server: None,
        };
        self.stop_fast().await?;
        let copied = standby.follow(self, &options.settings);
        self.start_again().await?;
        copied.map_err(|error| self.failed("its folder cannot be copied").because(error))?;
        for attempt in 1.. {
            standby.port = free_port()?;
            match standby.start_again().await {
                Ok(()) => break,
                Err(error) if attempt == PORT_ATTEMPTS || !standby.port_was_taken() => {
                    return Err(error);
                }
                Err(_) => tracing::debug!(port = standby.port, "the port has just been taken"),
            }
        }
        Ok(standby)
    }

    fn follow(&self, primary: &Cluster, settings: &[(String, String)]) -> std::io::Result<()> {
        self.copy(&primary.data_dir(), &self.data_dir())?;
        let signal = self.data_dir().join("standby.signal");
        fs::write(&signal, "")?;
        self.give(&signal)?;
        let (port, password) = (primary.port, &primary.password);
        let primary = format!(
            "host=127.0.0.1 port={port} user={} password={password} dbname=postgres",
            super::SUPERUSER
        );
        let given = settings.iter().map(|(name, value)| setting(name, value));
        let ours = [self.socket_setting(), setting("primary_conninfo", &primary)];
        let all: String = ours.into_iter().chain(given).collect();
        let conf = self.data_dir().join("postgresql.conf");
        fs::OpenOptions::new().append(true).open(conf)?.write_all(all.as_bytes())
    }

    fn copy(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        fs::create_dir(to)?;
        fs::set_permissions(to, fs::Permissions::from_mode(0o700))?;
        self.give(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let beside = to.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                self.copy(&entry.path(), &beside)?;
            } else {
                fs::copy(entry.path(), &beside)?;
                self.give(&beside)?;
            }
        }
        Ok(())
    }

    /// Makes a standby a primary.
    pub async fn promote(&self) -> Result<()> {
        let session = connect(Side::Source, &self.endpoint("postgres"), "promote").await?;
        let promoted = session.query_one("select pg_promote()", &[]).await;
        let promoted = promoted.and_then(|row| row.try_get(0));
        match promoted.map_err(|error| self.failed("it is not promoted").because(error))? {
            true => Ok(()),
            false => Err(Error::new(Kind::SourceAway, "it was not promoted in time")),
        }
    }
}
