//! The archive of the warehouse server's log: pg_receivewal writes it, segment by segment, for as long as this instance
//! owns the schedule, and a slot makes the server keep what is not written yet. Copies of the server
//! (`backup: { base: … }`) and the archive together restore any moment from the oldest copy on.
//!
//! What is older than the oldest copy goes as a new copy is made, never before. Never reads a record of the log.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::command::{ended, kept};
use super::programs;
use crate::error::{Error, Kind, Result};
use crate::names::fingerprint;
use crate::postgres::{Endpoint, Session, Side, connect, quote};
use crate::spec::{Spec, TaskKind};

/// How often it is looked how far the archive is behind.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The first and the longest pause behind a failure.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// The length of a segment's name: timeline, and its number in two parts, in hexadecimal.
const NAME: usize = 24;

/// Told how many bytes of the server's log are not in an archive yet.
pub trait WatchesArchives: Send + Sync {
    /// Of the archive in a folder of the root.
    fn behind(&self, folder: &str, bytes: i64);
}

/// Keeps the archives that the files ask for, until it is dropped.
pub async fn keep_archives(
    mut files: watch::Receiver<Arc<Spec>>,
    endpoint: Endpoint,
    watcher: Arc<dyn WatchesArchives>,
) {
    let mut known = None;
    let mut at_work = JoinSet::new();
    loop {
        let spec = files.borrow_and_update().clone();
        let wanted = folders(&spec);
        if known.as_ref() != Some(&wanted) {
            // a program that is dropped ends, and its slot is free a moment later
            at_work.shutdown().await;
            known = Some(wanted.clone());
            at_work.spawn(forget_archives(endpoint.clone(), wanted.clone()));
            for folder in wanted {
                let (root, endpoint) = (spec.root.clone(), endpoint.clone());
                at_work.spawn(keep(root, folder, endpoint, watcher.clone()));
            }
        }
        if files.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The folders that the files name.
fn folders(spec: &Spec) -> BTreeSet<String> {
    let tasks = spec.jobs.iter().flat_map(|job| &job.tasks);
    let folder = |kind: &TaskKind| match kind {
        TaskKind::Backup(backup) => backup.wal.clone(),
        _ => None,
    };
    tasks.filter_map(|task| folder(&task.kind)).collect()
}

/// What the slots of this warehouse begin with: others have theirs on the same server.
fn ours(endpoint: &Endpoint) -> String {
    format!("siltstone_wal_{:08x}_", fingerprint(endpoint.database().as_bytes()) >> 32)
}

fn slot(endpoint: &Endpoint, folder: &str) -> String {
    format!("{}{:08x}", ours(endpoint), fingerprint(folder.as_bytes()) >> 32)
}

async fn session(endpoint: &Endpoint) -> Result<Session> {
    connect(Side::Warehouse, endpoint, "siltstone archive").await
}

/// Drops the slots of archives that no file asks for, as soon as they are free: they would fill the server's disk.
pub async fn forget_archives(endpoint: Endpoint, wanted: BTreeSet<String>) {
    loop {
        match forget_slots(&endpoint, &wanted).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!("slots of archives that no file asks for: {}", error.reason());
            }
        }
        tokio::time::sleep(PAUSES.1).await;
    }
}

/// Whether none is left.
async fn forget_slots(endpoint: &Endpoint, wanted: &BTreeSet<String>) -> Result<bool> {
    let session = session(endpoint).await?;
    let wanted: Vec<String> = wanted.iter().map(|folder| slot(endpoint, folder)).collect();
    let failed = |error| Error::warehouse("looking for slots of archives", error);
    let found = "select slot_name::text, active from pg_replication_slots
                  where slot_type = 'physical' and starts_with(slot_name::text, $1)
                    and slot_name::text <> all ($2)";
    let mut none = true;
    for row in session.query(found, &[&ours(endpoint), &wanted]).await.map_err(failed)? {
        let name: String = row.try_get(0).map_err(failed)?;
        if row.try_get(1).map_err(failed)? {
            none = false;
            continue;
        }
        let drop = "select pg_drop_replication_slot($1::text)";
        session.execute(drop, &[&name]).await.map_err(failed)?;
        tracing::info!(slot = name, "no file asks for an archive by it any more: it is dropped");
    }
    Ok(none)
}

/// Keeps one archive; what fails is said and tried again.
async fn keep(
    root: PathBuf,
    folder: String,
    endpoint: Endpoint,
    watcher: Arc<dyn WatchesArchives>,
) {
    let mut pause = PAUSES.0;
    loop {
        let began = tokio::time::Instant::now();
        let ended = tokio::select! {
            ended = receive(&root, &folder, &endpoint) => ended,
            failed = look(&folder, &endpoint, &*watcher) => failed,
        };
        if let Err(error) = ended {
            let remedy = error.remedy_text();
            tracing::warn!(folder, remedy, "the archive of the log: {}", error.reason());
        }
        if began.elapsed() > PAUSES.1 {
            pause = PAUSES.0;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Receives the log until that fails.
async fn receive(root: &Path, folder: &str, endpoint: &Endpoint) -> Result<()> {
    let path = root.join(folder);
    let unwritten = |error| {
        Error::new(Kind::Config, format!("{} cannot be written", path.display()))
            .remedy("make room there, and let the service write to it")
            .because(error)
    };
    // what is in there is all that the warehouse has
    DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(unwritten)?;
    let slot = slot(endpoint, folder);
    let session = session(endpoint).await?;
    let failed = |error| {
        Error::warehouse("making the slot of an archive", error).remedy(
            "let the role of the warehouse have REPLICATION, and the server wal_level = replica and a free slot \
             (max_replication_slots)",
        )
    };
    let make = "select pg_create_physical_replication_slot($1, true)
                 where not exists (select from pg_replication_slots where slot_name = $1)";
    session.execute(make, &[&slot]).await.map_err(failed)?;
    let version = "select current_setting('server_version_num')::int4, \
                          coalesce((select wal_status = 'lost' from pg_replication_slots where slot_name = $1), false)";
    let row = session.query_one(version, &[&slot]).await.map_err(failed)?;
    let version: i32 = row.try_get(0).map_err(failed)?;
    if row.try_get(1).map_err(failed)? {
        let what = format!(
            "the server has removed log that {folder} has not got yet: the archive has a gap"
        );
        return Err(Error::new(Kind::SourceLacks, what).remedy(format!(
            "move the files of {folder} elsewhere, select pg_drop_replication_slot({}), then make a copy \
             (backup: {{ base: … }}) from which the new archive goes on",
            quote::literal(&slot)
        )));
    }
    drop(session);
    let program = programs::find("pg_receivewal", version / 10_000, false).await?;
    let words = [
        program.path.display().to_string(),
        format!("--directory={}", path.display()),
        format!("--slot={slot}"),
        "--no-loop".to_owned(),
        "--no-password".to_owned(),
        // what the server may forget is on our disk
        "--synchronous".to_owned(),
    ];
    let mut command = kept(&words);
    command.current_dir(root).envs(endpoint.libpq("siltstone archive"));
    let ended = ended(command, &Notify::new()).await;
    let what = format!("{} ended", program.path.display());
    let why = match ended {
        Ok(Some((_, said))) => said.trim().to_owned(),
        Ok(None) => String::new(),
        Err(error) => error.to_string(),
    };
    Err(Error::new(Kind::SourceAway, format!("{what}: {why}")))
}

/// Tells how far the archive is behind, until that cannot be asked.
async fn look(folder: &str, endpoint: &Endpoint, watcher: &dyn WatchesArchives) -> Result<()> {
    let session = session(endpoint).await?;
    let slot = slot(endpoint, folder);
    let failed = |error| Error::warehouse("asking how far an archive is", error);
    let behind = "select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::int8
                    from pg_replication_slots where slot_name = $1";
    loop {
        if let Some(row) = session.query_opt(behind, &[&slot]).await.map_err(failed)?
            && let Some(bytes) = row.try_get(0).map_err(failed)?
        {
            watcher.behind(folder, bytes);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A segment's place in the log, whatever its timeline.
fn number(name: &str) -> Option<(u32, u32)> {
    let hex = name.len() == NAME && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let part = |from: usize| u32::from_str_radix(name.get(from..from + 8)?, 16).ok();
    if hex { part(8).zip(part(16)) } else { None }
}

/// Removes the segments before one; how many there were.
pub(super) fn forget(folder: &Path, first: &str) -> std::io::Result<usize> {
    let Some(first) = number(first) else { return Ok(0) };
    let mut gone = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if number(&name).is_some_and(|number| number < first) {
            fs::remove_file(entry.path())?;
            gone += 1;
        }
    }
    Ok(gone)
}

/// Puts the segments from one on where a server finds them that comes up with a copy, and the last one that was not
/// received whole. Returns the name of the newest whole one.
pub(super) fn lay_out(folder: &Path, first: &str, into: &Path) -> std::io::Result<Option<String>> {
    let first = number(first);
    let mut newest: Option<String> = None;
    let mut partial = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(whole) = name.strip_suffix(".partial") {
            if number(whole).is_some() {
                partial.push((entry.path(), whole.to_owned()));
            }
        } else if number(&name).is_some_and(|number| Some(number) >= first) {
            fs::copy(entry.path(), into.join(&name))?;
            newest = newest.max(Some(name));
        } else if name.ends_with(".history") {
            fs::copy(entry.path(), into.join(&name))?;
        }
    }
    for (path, whole) in partial {
        // what the copy brought of it itself may reach further than what was received
        if !into.join(&whole).exists() {
            fs::copy(path, into.join(&whole))?;
        }
    }
    Ok(newest)
}

/// Where a segment begins in the log, where each has so many bytes.
pub(super) fn begins(segment: &str, bytes: i64) -> Option<i64> {
    let (high, low) = number(segment)?;
    i64::from(low).checked_mul(bytes)?.checked_add(i64::from(high) << 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_known_by_their_names() {
        assert_eq!(number("000000010000000A000000FE"), Some((10, 254)));
        let none =
            ["00000002.history", "000000010000000A000000FE.partial", "000000010000000A000000FG"];
        assert_eq!(none.map(number), [None; 3]);
        assert_eq!(begins("000000010000000A00000002", 16 << 20), Some((10 << 32) + (2 << 24)));
    }

    #[test]
    fn what_is_before_the_oldest_copy_goes() {
        let folder = tempfile::tempdir().unwrap();
        let (old, kept) = ("000000010000000000000009", "00000002000000000000000A");
        let others = ["00000002.history", "00000002000000000000000B.partial", "notes"];
        for name in [old, kept].into_iter().chain(others) {
            fs::write(folder.path().join(name), name).unwrap();
        }
        assert_eq!(forget(folder.path(), kept).unwrap(), 1);
        assert!(!folder.path().join(old).exists());
        let into = tempfile::tempdir().unwrap();
        let newest = lay_out(folder.path(), kept, into.path()).unwrap();
        assert_eq!(newest.as_deref(), Some(kept));
        let mut names: Vec<_> = fs::read_dir(into.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["00000002.history", kept, "00000002000000000000000B"]);
    }
}
