//! Backups of the warehouse: a dump of its database by pg_dump, or a copy of its whole server by pg_basebackup.
//!
//! A backup is a folder. It is written under another name, has its manifest with a checksum of each file as the
//! last one, reaches the disk, and is renamed then: so what has its name is whole. Older ones beyond `keep` go when
//! a new one is there, never before. The password goes by the environment of the program, to nobody else.

use std::fs::{self, DirBuilder, File};
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::command::{ended, kept};
use super::programs::{self, Program};
use super::segments;
use super::{Outcome, Work, tables};
use crate::error::{Error, Kind, Result};
use crate::postgres::{Session, quote};
use crate::spec::{Backup, BackupKind, TablePattern};

/// What a backup says of itself.
pub(super) const MANIFEST: &str = "manifest.json";

/// The file of a dump.
pub(super) const DUMP: &str = "warehouse.dump";

/// What is known of a backup.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Manifest {
    pub(super) kind: String,
    pub(super) database: String,
    /// as whom the service asked
    pub(super) user: String,
    pub(super) encoding: String,
    /// as `server_version_num` has it
    pub(super) server_version: i32,
    pub(super) program: String,
    pub(super) job: String,
    pub(super) task: String,
    pub(super) run: i64,
    pub(super) started_at: Timestamp,
    pub(super) ended_at: Timestamp,
    /// the segment of the server's log that a copy needs first
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) wal_from: Option<String>,
    /// rows of each table: of a dump those that it has, of a copy those that were there as it began
    pub(super) rows: Vec<(String, i64)>,
    pub(super) files: Vec<Kept>,
}

/// A file of a backup.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Kept {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

pub(super) async fn run(work: &Work<'_>, backup: &Backup) -> Result<Outcome> {
    let mut session = work.session().await?;
    let (hands, attempt) = (work.hands, work.attempt);
    let began = hands.clock.now();
    let (word, name) = match backup.kind {
        BackupKind::Dump => ("dump", "pg_dump"),
        BackupKind::Base => ("base", "pg_basebackup"),
    };
    let row = session
        .query_one(
            "select current_setting('server_version_num')::int4, pg_encoding_to_char(encoding)::text
               from pg_database where datname = current_database()",
            &[],
        )
        .await
        .map_err(reading)?;
    let (version, encoding): (i32, String) = (row.get(0), row.get(1));
    let program = programs::find(name, version / 10_000, false).await?;
    let folder = hands.root.join(&backup.folder);
    let ours = format!(".{word}-{}.{}.", attempt.job, attempt.task.name);
    let partial = folder.join(format!("{ours}{}-{}", attempt.run, attempt.number));
    prepare(&folder, &ours, &partial).map_err(|error| unwritten(&folder, error))?;
    let wal_from = match backup.kind {
        BackupKind::Dump => None,
        // the checkpoint that a copy begins with is behind it
        BackupKind::Base => {
            let asked = "select pg_walfile_name(pg_current_wal_lsn())";
            let row = session.query_one(asked, &[]).await.map_err(reading)?;
            Some(row.try_get(0).map_err(reading)?)
        }
    };
    let (ran, rows) = make(work, &mut session, (backup.kind, &program, &partial)).await?;
    if let Some(outcome) = ran {
        return Ok(outcome);
    }
    let mut manifest = Manifest {
        kind: word.to_owned(),
        database: hands.endpoint.database().to_owned(),
        user: hands.endpoint.user().to_owned(),
        encoding,
        server_version: version,
        program: program.version.clone(),
        job: attempt.job.clone(),
        task: attempt.task.name.clone(),
        run: attempt.run,
        started_at: began,
        ended_at: hands.clock.now(),
        wal_from,
        rows,
        files: Vec::new(),
    };
    let named = folder.join(format!("{word}-{}", began.strftime("%Y%m%dT%H%M%SZ")));
    let keep = backup.keep;
    let archive = backup.wal.as_ref().map(|wal| hands.root.join(wal));
    let shown = named.clone();
    let kept = tokio::task::spawn_blocking(move || -> std::io::Result<u64> {
        manifest.files = files(&partial)?;
        finish(&partial, &named, &manifest)?;
        // the new one is whole, and another attempt would only make one more
        if let Err(error) = forget(&folder, &manifest, (keep, archive.as_deref())) {
            tracing::warn!(%error, "backups beyond keep cannot be removed from {}", folder.display());
        }
        Ok(manifest.files.iter().map(|file| file.bytes).sum())
    });
    let bytes = kept.await.map_err(|error| Error::bug("a backup broke off").because(error))?;
    let bytes = bytes.map_err(|error| unwritten(&shown, error))?;
    tracing::info!(bytes, "the backup {} is there", shown.display());
    Ok(Outcome::Done(None))
}

/// Makes the files and counts the rows of tables. A dump is of the moment that its rows are counted at; a copy is
/// not, and holds no locks while it is made.
async fn make(
    work: &Work<'_>,
    session: &mut Session,
    (kind, program, partial): (BackupKind, &Program, &Path),
) -> Result<(Option<Outcome>, Vec<(String, i64)>)> {
    let transaction = session
        .build_transaction()
        .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await
        .map_err(reading)?;
    let snapshot = transaction.query_one("select pg_export_snapshot()", &[]).await;
    let snapshot: String = snapshot.and_then(|row| row.try_get(0)).map_err(reading)?;
    let words = words(kind, program, partial, &snapshot);
    match kind {
        BackupKind::Dump => {
            let (ran, rows) = tokio::join!(execute(work, program, words), count(&transaction));
            // what was given up is no fault of the counting
            Ok(match ran? {
                Some(outcome) => (Some(outcome), Vec::new()),
                None => (None, rows?),
            })
        }
        BackupKind::Base => {
            let rows = count(&transaction).await?;
            drop(transaction);
            Ok((execute(work, program, words).await?, rows))
        }
    }
}

fn reading(error: tokio_postgres::Error) -> Error {
    Error::warehouse("looking at what is backed up", error)
}

fn unwritten(path: &Path, error: std::io::Error) -> Error {
    Error::new(Kind::Config, format!("{} cannot be written", path.display()))
        .remedy("make room there, and let the service write to it")
        .because(error)
}

/// Makes the folders; what attempts before have left of theirs goes.
fn prepare(folder: &Path, ours: &str, partial: &Path) -> std::io::Result<()> {
    // what is in there is all that the warehouse has
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(ours) || name.starts_with(".gone-") {
            fs::remove_dir_all(entry.path())?;
        }
    }
    DirBuilder::new().mode(0o700).create(partial)
}

fn words(kind: BackupKind, program: &Program, partial: &Path, snapshot: &str) -> Vec<String> {
    let mut words = vec![program.path.display().to_string(), "--no-password".to_owned()];
    match kind {
        BackupKind::Dump => words.extend([
            "--format=custom".to_owned(),
            format!("--snapshot={snapshot}"),
            "--lock-wait-timeout=60s".to_owned(),
            format!("--file={}", partial.join(DUMP).display()),
        ]),
        BackupKind::Base => words.extend([
            "--format=tar".to_owned(),
            "--gzip".to_owned(),
            "--wal-method=stream".to_owned(),
            "--checkpoint=fast".to_owned(),
            "--label=siltstone".to_owned(),
            format!("--pgdata={}", partial.display()),
        ]),
    }
    words
}

/// Runs the program; none where it went well, and how the task ends otherwise.
async fn execute(
    work: &Work<'_>,
    program: &Program,
    words: Vec<String>,
) -> Result<Option<Outcome>> {
    let mut command = kept(&words);
    command.current_dir(&work.hands.root).envs(work.hands.endpoint.libpq("siltstone backup"));
    let ended = ended(command, &work.given_up).await.map_err(|error| {
        let what = format!("{} cannot be run", program.path.display());
        Error::new(Kind::Config, what).because(error)
    })?;
    let Some((status, said)) = ended else {
        return Err(Error::new(Kind::Cancelled, "the attempt was given up"));
    };
    if status.success() {
        return Ok(None);
    }
    let how = status.code().map_or("a signal".to_owned(), |code| format!("exit code {code}"));
    let why = format!("{} ended with {how}: {}", program.path.display(), said.trim());
    Ok(Some(Outcome::Failed(why)))
}

/// How many rows each table has.
async fn count(transaction: &tokio_postgres::Transaction<'_>) -> Result<Vec<(String, i64)>> {
    let mut rows = Vec::new();
    let all = "*.*".parse::<TablePattern>().into_iter().collect::<Vec<_>>();
    for table in tables(transaction, &all).await? {
        let query = format!("select count(*) from {}", quote::table(&table));
        let row = transaction.query_one(&query, &[]).await;
        rows.push((table.to_string(), row.and_then(|row| row.try_get(0)).map_err(reading)?));
    }
    Ok(rows)
}

/// The files of a folder, with their checksums.
fn files(folder: &Path) -> std::io::Result<Vec<Kept>> {
    let mut names: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    names.sort();
    let kept = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (bytes, sha256) = digest(path)?;
        Ok(Kept { name, bytes, sha256 })
    };
    names.iter().map(kept).collect()
}

/// The length of a file and its checksum; it is on the disk then.
pub(super) fn digest(path: &Path) -> std::io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let (mut digest, mut read, mut bytes) = (Sha256::new(), vec![0; 1 << 20], 0);
    loop {
        let length = file.read(&mut read)?;
        if length == 0 {
            break;
        }
        digest.update(read.get(..length).unwrap_or_default());
        bytes += length as u64;
    }
    file.sync_all()?;
    let hex = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((bytes, hex))
}

/// Writes the manifest and gives the backup its name.
fn finish(partial: &Path, named: &Path, manifest: &Manifest) -> std::io::Result<()> {
    let path = partial.join(MANIFEST);
    fs::write(&path, serde_json::to_vec_pretty(manifest).map_err(std::io::Error::other)?)?;
    File::open(&path)?.sync_all()?;
    File::open(partial)?.sync_all()?;
    fs::rename(partial, named)?;
    match named.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// The backups in a folder that are whole, the newest first.
pub(super) fn backups(folder: &Path) -> std::io::Result<Vec<(PathBuf, Manifest)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        let text = fs::read(path.join(MANIFEST)).ok().filter(|_| !hidden);
        let manifest = text.and_then(|text| serde_json::from_slice::<Manifest>(&text).ok());
        found.extend(manifest.map(|manifest| (path, manifest)));
    }
    found.sort_by_key(|(_, manifest)| std::cmp::Reverse(manifest.started_at));
    Ok(found)
}

/// Removes backups of the same kind and database beyond those that are kept, and what of the archive is before them.
fn forget(
    folder: &Path,
    manifest: &Manifest,
    (keep, archive): (usize, Option<&Path>),
) -> std::io::Result<()> {
    let alike = |(_, other): &(PathBuf, Manifest)| {
        other.kind == manifest.kind && other.database == manifest.database
    };
    let mut kept = Vec::new();
    for (path, other) in backups(folder)?.into_iter().filter(alike) {
        if kept.len() < keep {
            kept.push(other.wal_from);
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let gone = folder.join(format!(".gone-{name}"));
        fs::rename(&path, &gone)?;
        fs::remove_dir_all(&gone)?;
    }
    let first = segments::oldest(kept.iter().map(Option::as_deref));
    match archive.filter(|archive| archive.is_dir()).zip(first) {
        Some((archive, first)) => segments::forget(archive, first).map(drop),
        // of a copy of an older version it is not known what it needs
        None => Ok(()),
    }
}
