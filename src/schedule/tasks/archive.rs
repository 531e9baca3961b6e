//! The archive of the warehouse server's log: pg_receivewal writes it, segment by segment, for as long as this instance
//! owns the schedule, and a slot makes the server keep what is not written yet. Copies of the server
//! (`backup: { base: … }`) and the archive together restore any moment from the oldest copy on.
//!
//! What is older than the oldest copy goes as a new copy is made, never before. An archive that does not go on, for
//! the server has not kept what comes next, begins anew, and what it had is set aside. Never reads a record of the log.

use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::command::{ended, kept};
use super::programs;
use super::segments::{lacks, set_aside};
use crate::error::{Error, Kind, Result};
use crate::names::fingerprint;
use crate::postgres::{Endpoint, Session, Side, connect};
use crate::spec::{Spec, TaskKind};
use crate::warehouse::{Fence, register};

/// How often it is looked how far the archive is behind.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The first and the longest pause behind a failure.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// Told how many bytes of the server's log are not in an archive yet.
pub trait WatchesArchives: Send + Sync {
    /// Of the archive in a folder of the root.
    fn behind(&self, folder: &str, bytes: i64);
}

/// Keeps the archives that the files ask for, until it is dropped: as long as the place that `fence` is of is ours.
pub async fn keep_archives(
    mut files: watch::Receiver<Arc<Spec>>,
    (endpoint, fence): (Endpoint, Fence),
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
            at_work.spawn(forget_slots((endpoint.clone(), fence.clone()), wanted.clone()));
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

/// Waits for slots of archives that no file asks for any more; for ever where there are none.
pub async fn archives_left(endpoint: &Endpoint) {
    loop {
        match left(endpoint, &[]).await {
            Ok(left) if left.is_empty() => std::future::pending::<()>().await,
            Ok(_) => return,
            Err(error) => tracing::debug!("looking for slots of archives: {}", error.reason()),
        }
        tokio::time::sleep(PAUSES.1).await;
    }
}

/// The slots beside those of these names, and whether each is in use.
async fn left(endpoint: &Endpoint, wanted: &[String]) -> Result<Vec<(String, bool)>> {
    let session = session(endpoint).await?;
    let failed = |error| Error::warehouse("looking for slots of archives", error);
    let found = "select slot_name::text, active from pg_replication_slots
                  where slot_type = 'physical' and starts_with(slot_name::text, $1)
                    and slot_name::text <> all ($2)";
    let rows = session.query(found, &[&ours(endpoint), &wanted]).await.map_err(failed)?;
    let slot = |row: &tokio_postgres::Row| Ok((row.try_get(0)?, row.try_get(1)?));
    rows.iter().map(slot).collect::<Result<_, _>>().map_err(failed)
}

/// Drops the slots of archives that no file asks for, as soon as they are free: they would fill the server's disk.
async fn forget_slots((endpoint, fence): (Endpoint, Fence), wanted: BTreeSet<String>) {
    let wanted: Vec<String> = wanted.iter().map(|folder| slot(&endpoint, folder)).collect();
    loop {
        match drop_slots((&endpoint, &fence), &wanted).await {
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
async fn drop_slots((endpoint, fence): (&Endpoint, &Fence), wanted: &[String]) -> Result<bool> {
    let session = session(endpoint).await?;
    // whoever takes the place over ends it
    register(&session, fence).await?;
    let mut none = true;
    for (name, active) in left(endpoint, wanted).await? {
        if active {
            none = false;
            continue;
        }
        let drop = "select pg_drop_replication_slot($1::text)";
        let dropped = session.execute(drop, &[&name]).await;
        dropped.map_err(|error| Error::warehouse("dropping the slot of an archive", error))?;
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
    if session.execute(make, &[&slot]).await.map_err(failed)? > 0 {
        // nothing has kept what lies between: it would go on from there, and not from the slot
        set_aside(&path).map_err(unwritten)?;
    }
    let asked = "select current_setting('server_version_num')::int4, \
                        coalesce((select wal_status = 'lost' from pg_replication_slots where slot_name = $1), false)";
    let row = session.query_one(asked, &[&slot]).await.map_err(failed)?;
    let version: i32 = row.try_get(0).map_err(failed)?;
    if row.try_get(1).map_err(failed)? {
        let drop = "select pg_drop_replication_slot($1::text)";
        session.execute(drop, &[&slot]).await.map_err(failed)?;
        let what =
            "the server has removed log that the archive has not got: the archive begins anew";
        return Err(Error::new(Kind::SourceLacks, what).remedy(COPY_AGAIN));
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
    command.current_dir(root).envs(endpoint.libpq("siltstone archive")).env("LC_ALL", "C");
    let ended = ended(command, &Notify::new()).await;
    let what = format!("{} ended", program.path.display());
    let why = match ended {
        Ok(Some((_, said))) => said.trim().to_owned(),
        Ok(None) => String::new(),
        Err(error) => error.to_string(),
    };
    let kept = kept_from(endpoint, &slot).await?;
    let is_gap = kept.is_some_and(|(first, bytes)| lacks(&path, &first, bytes).unwrap_or(false));
    if is_gap || why.contains(OTHER_LOG) {
        set_aside(&path).map_err(unwritten)?;
        let what = format!(
            "the server has not the log that the archive goes on with ({why}): it begins anew"
        );
        return Err(Error::new(Kind::SourceLacks, what).remedy(COPY_AGAIN));
    }
    Err(Error::new(Kind::SourceAway, format!("{what}: {why}")))
}

/// What makes an archive whole that has begun anew.
const COPY_AGAIN: &str =
    "make a copy (a task with backup: { base: … }): from it on the archive is whole";

/// What a server says that was restored, or promoted, behind another place in its log; where it speaks English.
const OTHER_LOG: &str = "is not in this server's history";

/// The first segment that the server keeps for a slot, and how long segments are.
async fn kept_from(endpoint: &Endpoint, slot: &str) -> Result<Option<(String, i64)>> {
    let asked =
        "select pg_walfile_name(restart_lsn), pg_size_bytes(current_setting('wal_segment_size'))
                   from pg_replication_slots where slot_name = $1 and restart_lsn is not null";
    let failed = |error| Error::warehouse("asking what its slot keeps", error);
    let row = session(endpoint).await?.query_opt(asked, &[&slot]).await.map_err(failed)?;
    row.map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose().map_err(failed)
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
