//! Tries the newest backup: its files are what they were, a server of its own comes up with it on this machine, and
//! tables have the rows that were backed up and pass their checks. The server listens at a socket in a folder that goes with it; it ends
//! with its attempt, also where the service is killed, and what is left of its folder then goes with the next try.
//! Never touches the warehouse.

use std::fs;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::process::Command;
use tokio::sync::Notify;

use super::backup::{DUMP, Manifest, backups, digest};
use super::command::{ended, kept};
use super::programs;
use super::restored::{judged, reached};
use super::scratch::{Scratch, at};
use super::segments::{LaidOut, lay_out};
use super::{Outcome, Work};
use crate::error::{Error, Kind, Result};
use crate::names::fingerprint;
use crate::postgres::{Endpoint, Session, Side, connect, quote};
use crate::spec::Drill;

/// Nobody asks at a port: the number names the socket.
const PORT: u16 = 5432;

pub(super) async fn run(work: &Work<'_>, drill: &Drill) -> Result<Outcome> {
    let began = Instant::now();
    let folder = work.hands.root.join(&drill.folder);
    // the next one finds what this one may leave behind
    let seed = format!("{} {}.{}", folder.display(), work.attempt.job, work.attempt.task.name);
    let until = drill.ago.and_then(|ago| work.hands.clock.now().checked_sub(ago).ok());
    let replays = drill.wal.is_some();
    let (path, manifest) = blocking(move || newest(&folder, (replays, until))).await?;
    let name = format!("siltstone-drill-{:016x}", fingerprint(seed.as_bytes()));
    let scratch = blocking(move || Scratch::make(name)).await?;
    let stop = Notify::new();
    let archive = drill.wal.as_ref().map(|wal| work.hands.root.join(wal));
    let (server, newest) = prepared(&scratch, (&path, &manifest), (archive, until)).await?;
    let mut serving = Box::pin(ended(server, &stop));
    let tried = tokio::select! {
        tried = tried(work, &scratch, (&path, &manifest), (drill, newest)) => tried,
        () = work.given_up.notified() => {
            Err(Error::new(Kind::Cancelled, "the attempt was given up"))
        }
        ended = &mut serving => {
            return Err(gave_up(broken_off(ended)));
        }
    };
    stop.notify_one();
    // it ends within seconds
    drop(tokio::time::timeout(Duration::from_secs(7), serving).await);
    let (rows, checks) = tried?;
    let took = began.elapsed().as_secs_f64();
    tracing::info!(rows, checks, "{} was restored and looked at in {took:.1} s", path.display());
    Ok(Outcome::Done(Some(rows)))
}

/// Why the server that is tried has ended by itself.
fn gave_up(why: Error) -> Error {
    if why.to_string().contains("recovery ended before configured recovery target was reached") {
        let what = "the archive of the log does not reach the moment that is asked for: it has a gap, or ends before";
        return Error::new(Kind::Differs, what)
            .because(why)
            .remedy("see what the service says of its archive, then make another copy");
    }
    let what = "the server that the backup is tried in has ended";
    Error::new(Kind::Config, what).because(why)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::bug("a drill broke off").because(error))?
}

/// The newest backup of a folder that was whole at a time, whose files are as its manifest says; where log is
/// replayed on it, a copy.
fn newest(
    folder: &Path,
    (replays, until): (bool, Option<Timestamp>),
) -> Result<(PathBuf, Manifest)> {
    let was_there = |manifest: &Manifest| {
        (!replays || manifest.kind == "base")
            && until.is_none_or(|until| manifest.ended_at <= until)
    };
    let mut found = backups(folder).map_err(at(folder))?.into_iter();
    let found = found.find(|(_, manifest)| was_there(manifest));
    let (path, manifest) = found.ok_or_else(|| {
        let when = until.map_or(String::new(), |until| format!(" that was made before {until}"));
        Error::new(Kind::Config, format!("no whole backup{when} lies in {}", folder.display()))
            .remedy("let a task of backup make one there")
    })?;
    for file in &manifest.files {
        let name = path.join(&file.name);
        let found = digest(&name).map_err(at(&name))?;
        if found != (file.bytes, file.sha256.clone()) {
            let what =
                format!("{} is not what was backed up: its checksum differs", name.display());
            return Err(Error::new(Kind::Differs, what)
                .remedy("remove that backup, make another one, and look at the disk"));
        }
    }
    Ok((path, manifest))
}

/// Runs a program to its end.
async fn finished(command: Command, what: &str) -> Result<()> {
    let ended = ended(command, &Notify::new()).await;
    match ended {
        Ok(Some((status, _))) if status.success() => Ok(()),
        ended => Err(Error::new(Kind::Config, format!("{what} failed")).because(broken_off(ended))),
    }
}

fn broken_off(ended: std::io::Result<Option<(std::process::ExitStatus, String)>>) -> Error {
    match ended {
        Ok(Some((status, said))) => {
            Error::new(Kind::Config, format!("it ended with {status}: {}", said.trim()))
        }
        Ok(None) => Error::new(Kind::Cancelled, "it was ended"),
        Err(error) => Error::new(Kind::Config, "it cannot be run").because(error),
    }
}

/// Makes the data folder of a server, and the command that starts it; with the log of an archive the newest segment
/// that it has to come to.
async fn prepared(
    scratch: &Scratch,
    (backup, manifest): (&Path, &Manifest),
    (archive, until): (Option<PathBuf>, Option<Timestamp>),
) -> Result<(Command, Option<LaidOut>)> {
    let major = manifest.server_version / 10_000;
    let is_dump = manifest.kind == "dump";
    let server = programs::find("postgres", major, !is_dump).await?;
    let text = |path: &Path| path.display().to_string();
    let data = scratch.data();
    if is_dump {
        let initdb = server.path.with_file_name("initdb");
        let words = [
            text(&initdb),
            format!("--pgdata={}", data.display()),
            "--username=postgres".to_owned(),
            "--auth=trust".to_owned(),
            format!("--encoding={}", manifest.encoding),
            // what letters are is then as it mostly is there
            format!("--locale={}", if manifest.encoding == "UTF8" { "C.UTF-8" } else { "C" }),
            "--no-sync".to_owned(),
        ];
        finished(scratch.command(&words), "initdb").await?;
    } else {
        unpack(scratch, backup).await?;
    }
    let mut newest = None;
    if let Some(archive) = archive.as_deref().filter(|_| !is_dump) {
        newest = Some(replay(scratch, (archive, manifest)).await?);
    }
    if !is_dump {
        scratch.own_all(&data)?;
    }
    let settings = scratch.path.join("postgresql.conf");
    let access = scratch.path.join("hba.conf");
    for (path, text) in [(&settings, ""), (&access, "local all all trust\n")] {
        let written = fs::File::create(path).and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(at(path))?;
        scratch.own(path)?;
    }
    let mut words = vec![text(&server.path), "-D".to_owned(), text(&data)];
    let given = [
        format!("config_file={}", settings.display()),
        format!("hba_file={}", access.display()),
        format!("unix_socket_directories={}", scratch.path.display()),
        format!("port={PORT}"),
        "listen_addresses=".to_owned(),
        "archive_mode=off".to_owned(),
        "fsync=off".to_owned(),
        "ssl=off".to_owned(),
        "logging_collector=off".to_owned(),
        "lc_messages=C".to_owned(),
        "shared_preload_libraries=".to_owned(),
        // what the backed up server may have had
        "max_prepared_transactions=100".to_owned(),
        "max_locks_per_transaction=1024".to_owned(),
        // what it had for a machine of its own, and its subscriptions, whose slots are others'
        "shared_buffers=128MB".to_owned(),
        "huge_pages=off".to_owned(),
        "max_logical_replication_workers=0".to_owned(),
    ];
    words.extend(given.into_iter().flat_map(|given| ["-c".to_owned(), given]));
    if archive.is_some() {
        words.extend(recovery(until).into_iter().flat_map(|given| ["-c".to_owned(), given]));
    }
    // behind another moment than the last one nobody knows where in the log it is
    Ok((scratch.command(&words), newest.filter(|_| until.is_none())))
}

/// Lays the log of an archive out and lets the server go through it; the newest segment.
async fn replay(scratch: &Scratch, (archive, manifest): (&Path, &Manifest)) -> Result<LaidOut> {
    let first = manifest.wal_from.clone().ok_or_else(|| {
        let what = "the copy was made by a version that did not note which log it needs";
        Error::new(Kind::Config, what).remedy("make another one")
    })?;
    let (from, data) = (archive.to_owned(), scratch.data());
    blocking(move || {
        fs::write(data.join("recovery.signal"), "").map_err(at(&data))?;
        let laid_out = lay_out(&from, &first, &data.join("pg_wal")).map_err(at(&from))?;
        laid_out.ok_or_else(|| {
            let what = format!("{} has nothing of the log from the copy on", from.display());
            Error::new(Kind::Differs, what)
                .remedy("see what the service says of its archive, then make another copy")
        })
    })
    .await
}

/// How far the server goes, and that nobody gets in before.
fn recovery(until: Option<Timestamp>) -> Vec<String> {
    let mut given = vec![
        // all that there is lies where it looks by itself
        "restore_command=false".to_owned(),
        "hot_standby=off".to_owned(),
        "recovery_target_action=promote".to_owned(),
    ];
    // it does not take every form of a time here
    let written = |until: Timestamp| until.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string();
    given.extend(until.map(|until| format!("recovery_target_time={}", written(until))));
    given
}

/// Unpacks the copy of a server.
async fn unpack(scratch: &Scratch, backup: &Path) -> Result<()> {
    let data = scratch.data();
    for (archive, folder) in [("base.tar.gz", data.clone()), ("pg_wal.tar.gz", data.join("pg_wal"))]
    {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(at(&folder))?;
        let words = [
            "tar".to_owned(),
            "-xzf".to_owned(),
            backup.join(archive).display().to_string(),
            "-C".to_owned(),
            folder.display().to_string(),
        ];
        // as ourselves: nobody else may read a backup
        finished(kept(&words), "tar").await?;
    }
    let others = fs::read_dir(data.join("pg_tblspc")).map_err(at(&data))?.next().is_some();
    // an archive has it in any case
    let map = fs::metadata(data.join("tablespace_map")).is_ok_and(|map| map.len() > 0);
    if others || map {
        let what = format!("{} has tablespaces, which a drill does not restore", backup.display());
        return Err(Error::new(Kind::Config, what).remedy("try a dump instead"));
    }
    Ok(())
}

/// Waits for the server, fills it where it is empty, and looks at it; how many rows there are, and how many checks
/// were judged.
async fn tried(
    work: &Work<'_>,
    scratch: &Scratch,
    (backup, manifest): (&Path, &Manifest),
    (drill, newest): (&Drill, Option<LaidOut>),
) -> Result<(u64, usize)> {
    let host = scratch.path.display().to_string();
    let is_dump = manifest.kind == "dump";
    let (user, first) = match is_dump {
        true => ("postgres", "postgres"),
        false => (manifest.user.as_str(), manifest.database.as_str()),
    };
    let mut session = ready(&Endpoint::from_parts(&host, PORT, first, user)).await?;
    if !is_dump {
        reached(&session, newest.as_ref(), work.hands.clock.now()).await?;
        return judged(work, &mut session, manifest, drill).await;
    }
    let failed = |error| Error::warehouse("making the database that is tried", error);
    // initdb has made one of that name
    if manifest.database != first {
        let database = quote::ident(&manifest.database);
        let make = format!("create database {database} template template0");
        session.batch_execute(&make).await.map_err(failed)?;
    }
    let restore = programs::find("pg_restore", manifest.server_version / 10_000, false).await?;
    let words = [
        restore.path.display().to_string(),
        "--no-password".to_owned(),
        "--no-owner".to_owned(),
        "--no-privileges".to_owned(),
        "--exit-on-error".to_owned(),
        "--jobs=2".to_owned(),
        backup.join(DUMP).display().to_string(),
    ];
    let mut command = kept(&words);
    let endpoint = Endpoint::from_parts(&host, PORT, &manifest.database, user);
    command.arg("--dbname").arg(&manifest.database);
    command.envs(endpoint.libpq("siltstone drill"));
    finished(command, "pg_restore").await?;
    let mut session = ready(&endpoint).await?;
    judged(work, &mut session, manifest, drill).await
}

/// Connects, as soon as the server takes it; the attempt's time is its limit.
async fn ready(endpoint: &Endpoint) -> Result<Session> {
    loop {
        match connect(Side::Warehouse, endpoint, "siltstone drill").await {
            Ok(session) => return Ok(session),
            Err(error) if error.kind() == Kind::Rights => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}
