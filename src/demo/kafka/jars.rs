//! The jars of Kafka, Kafka Connect and Debezium, from Maven Central into the cache.
//!
//! `jars.tsv` lists them with their digests; `jars.sh` makes that list. What is in the cache is whole
//! and is what its digest says; a second run downloads nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::demo::central;
use crate::error::{Error, Kind, Result};

const LIST: &str = include_str!("jars.tsv");

/// How many files are downloaded at once.
const AT_ONCE: usize = 6;

/// A connector that a worker can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// Debezium's connector for Postgres.
    Postgres,
    /// Debezium's connector for MariaDB.
    MariaDb,
    /// Debezium's JDBC sink, which writes topics into a Postgres.
    JdbcSink,
}

/// What runs together on one class path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// The broker.
    Broker,
    /// The worker, with the JSON converter and Kafka's own transforms.
    Connect,
    /// A connector.
    Plugin(Plugin),
}

impl Group {
    /// Its word in the list.
    pub fn word(self) -> &'static str {
        match self {
            Group::Broker => "broker",
            Group::Connect => "connect",
            Group::Plugin(Plugin::Postgres) => "postgres",
            Group::Plugin(Plugin::MariaDb) => "mariadb",
            Group::Plugin(Plugin::JdbcSink) => "jdbc",
        }
    }
}

/// A line of the list.
struct Jar {
    group: &'static str,
    sha256: &'static str,
    path: &'static str,
}

impl Jar {
    /// Its name in the cache, which holds its version.
    fn name(&self) -> &'static str {
        self.path.rsplit_once('/').map_or(self.path, |(_, name)| name)
    }
}

fn list() -> impl Iterator<Item = Jar> {
    LIST.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut fields = line.split('\t');
        Some(Jar { group: fields.next()?, sha256: fields.next()?, path: fields.next()? })
    })
}

/// The files of a group below `cache`, downloaded where they are missing.
pub async fn files(cache: &Path, group: Group) -> Result<Vec<PathBuf>> {
    let folder = cache.join("jars");
    let (word, jars) = (group.word(), list().filter(|jar| jar.group == group.word()));
    let jars: Vec<Jar> = jars.collect();
    let missing = jars.iter().filter(|jar| !folder.join(jar.name()).is_file());
    let missing: Vec<&Jar> = missing.collect();
    if !missing.is_empty() {
        let files = missing.len();
        tracing::info!(group = word, files, url = central::url(""), "downloading jars");
        central::make_folder(&folder).map_err(|error| failed(&folder, error))?;
        let client = central::client()?;
        let downloads = missing.iter().map(|jar| download(&client, jar, &folder));
        stream::iter(downloads).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    }
    Ok(jars.iter().map(|jar| folder.join(jar.name())).collect())
}

/// Writes beside the target and renames.
async fn download(client: &reqwest::Client, jar: &Jar, folder: &Path) -> Result<()> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let bytes = central::fetch(client, jar.path, jar.sha256).await?;
    let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let beside = folder.join(format!(".{}-{process}-{count}", jar.name()));
    let written = fs::write(&beside, bytes);
    let moved = written.and_then(|()| fs::rename(&beside, folder.join(jar.name())));
    moved.map_err(|error| {
        drop(fs::remove_file(&beside));
        failed(folder, error)
    })
}

fn failed(folder: &Path, error: std::io::Error) -> Error {
    let what = format!("{} cannot be written", folder.display());
    Error::new(Kind::Config, what)
        .remedy("make room there, or set XDG_CACHE_HOME to another folder")
        .because(error)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const GROUPS: [Group; 5] = [
        Group::Broker,
        Group::Connect,
        Group::Plugin(Plugin::Postgres),
        Group::Plugin(Plugin::MariaDb),
        Group::Plugin(Plugin::JdbcSink),
    ];

    #[test]
    fn every_line_is_a_jar_of_a_group_and_a_name_is_one_file() {
        let mut digests = HashMap::new();
        for jar in list() {
            assert!(GROUPS.iter().any(|group| group.word() == jar.group), "{}", jar.group);
            assert_eq!(jar.sha256.len(), 64, "{}", jar.path);
            assert!(jar.path.ends_with(".jar") && !jar.path.starts_with('/'), "{}", jar.path);
            assert_eq!(*digests.entry(jar.name()).or_insert(jar.sha256), jar.sha256);
        }
        let lines = LIST.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(list().count(), lines);
        let has = |group: Group, name: &str| {
            list().any(|jar| jar.group == group.word() && jar.name().starts_with(name))
        };
        assert!(has(Group::Broker, "kafka_2.13-4.") && has(Group::Connect, "connect-runtime-4."));
        assert!(has(GROUPS[2], "debezium-connector-postgres-"));
        assert!(has(GROUPS[4], "postgresql-") && !has(GROUPS[4], "kafka-clients-"));
        assert!(GROUPS[2..].iter().all(|group| !has(*group, "jackson-")));
    }

    #[tokio::test]
    #[ignore = "downloads 120 MB from Maven Central: cargo test --lib every_jar -- --ignored"]
    async fn every_jar_is_what_its_digest_says() {
        let cache = tempfile::tempdir().unwrap();
        for group in GROUPS {
            let found = files(cache.path(), group).await.unwrap();
            assert!(found.iter().all(|path| path.is_file()), "{group:?}");
        }
    }
}
