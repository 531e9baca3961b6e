//! What the source lacks, each with the statement that mends it. Read at every start and by
//! `validate --connect`; changes nothing.

use tokio_postgres::Row;

use crate::error::{Error, Kind, Result};
use crate::postgres::{Session, quote};

/// A finding about the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether nothing can be replicated before it is mended.
    pub fatal: bool,
    /// What is wrong.
    pub what: String,
    /// The statement or setting that mends it.
    pub remedy: String,
}

/// What the settings of a source say.
#[derive(Clone, Debug)]
pub struct Source {
    /// `server_version_num`.
    pub version: i32,
    /// The server's wal_sender_timeout in milliseconds; 0 for none.
    pub wal_sender_timeout: i64,
    /// Whether it is a standby.
    pub standby: bool,
    /// What keeps the role from making a publication, which matters where one is missing.
    pub cannot_publish: Option<Finding>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// The oldest source that is supported.
const OLDEST: i32 = 140_000;

const SETTINGS: &str = include_str!("../../sql/source/settings.sql");

/// Reads the settings. `slots` is how many more slots a start needs.
pub async fn inspect(source: &Session, slots: i64) -> Result<Source> {
    let failed = |error| Error::source("reading its settings", error);
    let row = source.query_one(SETTINGS, &[]).await.map_err(failed)?;
    let version: i32 = row.try_get("version").map_err(failed)?;
    let mut findings = Vec::new();
    let mut find = |fatal: bool, what: String, remedy: String| {
        findings.push(Finding { fatal, what, remedy });
    };
    if version < OLDEST {
        find(
            true,
            format!("its version is {version}"),
            "upgrade it to Postgres 14 or newer".into(),
        );
    }
    let wal_level: String = row.try_get("wal_level").map_err(failed)?;
    if wal_level != "logical" {
        let remedy = "alter system set wal_level = logical; then restart the server";
        find(true, format!("its wal_level is {wal_level}"), remedy.to_owned());
    }
    let count = |name: &str| row.try_get::<_, i64>(name).map_err(failed);
    let (max_slots, used) = (count("max_slots")?, count("slots")?);
    if used + slots > max_slots {
        let remedy = format!(
            "alter system set max_replication_slots = {}; then restart the server",
            used + slots + 2
        );
        find(slots > 0, format!("{used} of its {max_slots} replication slots are in use"), remedy);
    }
    let (max_senders, senders) = (count("max_senders")?, count("senders")?);
    if senders + 2 > max_senders {
        let remedy =
            format!("alter system set max_wal_senders = {}; then restart the server", senders + 4);
        find(false, format!("{senders} of its {max_senders} WAL senders are in use"), remedy);
    }
    let role: String = row.try_get("role").map_err(failed)?;
    if !row.try_get::<_, Option<bool>>("replicates").map_err(failed)?.unwrap_or(false) {
        let remedy = format!("alter role {} replication", quote::ident(&role));
        find(true, format!("role {role} may not replicate"), remedy);
    }
    let creates: bool = row.try_get("creates").map_err(failed)?;
    let database: String = row.try_get("database").map_err(failed)?;
    let (of, to) = (quote::ident(&database), quote::ident(&role));
    let cannot_publish = (!creates).then(|| Finding {
        fatal: false,
        what: format!("role {role} may not create a publication"),
        remedy: format!("grant create on database {of} to {to}"),
    });
    if count("keep")? == -1 {
        let what = "its max_slot_wal_keep_size is -1: a stopped connector would fill its disk";
        let remedy = "alter system set max_slot_wal_keep_size = '20GB'; select pg_reload_conf()";
        find(false, what.to_owned(), remedy.to_owned());
    }
    let standby: bool = row.try_get("standby").map_err(failed)?;
    if standby && version < 160_000 {
        let what = "it is a standby, from which Postgres before 16 cannot decode";
        find(true, what.to_owned(), "use the primary's address".to_owned());
    }
    findings.extend(runs_ahead(&row, version, standby).map_err(failed)?);
    let wal_sender_timeout = count("timeout")?;
    Ok(Source { version, wal_sender_timeout, standby, cannot_publish, findings })
}

/// Whether changes reach us before the standbys that may be promoted: from 17 on they can take our slot over.
fn runs_ahead(
    row: &Row,
    version: i32,
    standby: bool,
) -> Result<Option<Finding>, tokio_postgres::Error> {
    let (waits_for, slots): (String, Option<String>) =
        (row.try_get("waits_for")?, row.try_get("standbys")?);
    let slots = slots.filter(|_| version >= 170_000 && !standby && waits_for.is_empty());
    Ok(slots.map(|slots| Finding {
        fatal: false,
        what: "its synchronized_standby_slots is empty: a standby that is promoted may lack what the \
               warehouse has, and then every table is read again"
            .to_owned(),
        remedy: format!(
            "alter system set synchronized_standby_slots = {} (of these the slots of standbys that may \
             be promoted); select pg_reload_conf()",
            quote::literal(&slots)
        ),
    }))
}

/// The first finding that nothing can go on with, as an error.
pub fn refuse(findings: &[Finding]) -> Result<()> {
    match findings.iter().find(|finding| finding.fatal) {
        None => Ok(()),
        Some(finding) => {
            let what = format!("the source is not ready: {}", finding.what);
            Err(Error::new(Kind::SourceLacks, what).remedy(finding.remedy.clone()))
        }
    }
}
