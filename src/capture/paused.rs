//! A snapshot of a physical standby whose replay is paused for a moment, where it can make no slot. The pause
//! ends whatever becomes of us.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::slot::{self, Created};
use super::standby::{BEHIND_AT_MOST, Goal, away, moment, promoted};
use crate::error::{Error, Kind, Result};
use crate::position::Lsn;
use crate::postgres::{Endpoint, Session, Side, connect};

const PAUSE: &str = include_str!("../../sql/source/pause.sql");

/// How long replay may take to pause. It stays paused no longer than this, whatever becomes of us.
const PAUSED_WITHIN: Duration = Duration::from_secs(10);

/// Our advisory locks; the other half of the key is the process that holds one.
const LOCK_CLASS: i32 = 0x5117;

/// The snapshot of a moment in which replay is paused: what is visible then is what was committed before
/// the end of what is replayed, for a standby shows commits in the order of the log.
///
/// One session of the standby pauses and resumes in one statement; in between it waits for a lock that
/// the reading session holds. Where we are killed that session ends, and replay goes on.
pub(super) async fn paused(
    (standby, source): (&Endpoint, &Endpoint),
    reader: Session,
    goal: &Goal,
) -> Result<Created> {
    let failed = |error| Error::source("pausing the standby's replay", error);
    ended(&reader, source, goal).await?;
    // somebody else's pause is as good, and stays
    if pause_state(&reader).await?.0 != "not paused" {
        return Ok(exported(&reader, goal).await?.held(reader));
    }
    let lock = "select pg_backend_pid() from pg_advisory_lock($1, pg_backend_pid())";
    let row = reader.query_one(lock, &[&LOCK_CLASS]).await.map_err(failed)?;
    let pid: i32 = row.try_get(0).map_err(failed)?;
    let pauser = connect(Side::Source, standby, "siltstone pause").await?;
    let limit = format!("set lock_timeout to {}", PAUSED_WITHIN.as_millis());
    pauser.batch_execute(&limit).await.map_err(failed)?;
    let (class, reader_pid) = (LOCK_CLASS.to_string(), pid.to_string());
    let statement = PAUSE.replace("{class}", &class).replace("{reader}", &reader_pid);
    let mut pausing = std::pin::pin!(pauser.batch_execute(&statement));
    let taken = tokio::select! {
        biased;
        ended = &mut pausing => Err(ended.map_or_else(failed, |()| early())),
        taken = once_paused(&reader, goal) => Ok(taken?),
    };
    let taken = match taken {
        Ok(taken) => taken,
        Err(error) => return Err(resumed(standby, error).await),
    };
    let unlock = "select pg_advisory_unlock($1, pg_backend_pid())";
    reader.query_one(unlock, &[&LOCK_CLASS]).await.map_err(failed)?;
    match pausing.await.map_err(failed) {
        Ok(()) => Ok(taken.held(reader)),
        Err(error) => Err(resumed(standby, error).await),
    }
}

/// Waits until every transaction that was open as the goal was asked for has ended in what the standby has
/// replayed: its changes from before its table was published are told by no stream, and must be among the
/// rows. The making of a slot waits for them by itself.
async fn ended(reader: &Session, source: &Endpoint, goal: &Goal) -> Result<()> {
    let began = Instant::now();
    while oldest_open(reader).await? < goal.next_xid {
        if began.elapsed() >= BEHIND_AT_MOST {
            return Err(still_open(source, goal).await);
        }
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// The oldest transaction that is open in what the standby has replayed; the next one where none is.
async fn oldest_open(standby: &Session) -> Result<i64> {
    let failed = |error| Error::source("looking for transactions that are open", error);
    let query = "select pg_snapshot_xmin(pg_current_snapshot())::text::int8";
    standby.query_one(query, &[]).await.map_err(failed)?.try_get(0).map_err(failed)
}

/// Says which transaction is waited for.
async fn still_open(source: &Endpoint, goal: &Goal) -> Error {
    let found = async {
        let source = connect(Side::Source, source, "siltstone catalogue").await?;
        slot::open_before(&source, goal.next_xid).await
    };
    match found.await {
        Ok(Some(slot::Awaited { what, remedy })) => {
            away(format!("until it ends, a snapshot there lacks {what}")).remedy(remedy)
        }
        _ => away("it has yet to replay the end of a transaction of the source".to_owned()),
    }
}

/// A snapshot that was exported, and its point.
struct Exported {
    consistent_point: Lsn,
    snapshot: String,
    taken_at: i64,
}

impl Exported {
    fn held(self, reader: Session) -> Created {
        let Exported { consistent_point, snapshot, taken_at } = self;
        Created { begun: Lsn(0), consistent_point, snapshot, taken_at, _held: Box::new(reader) }
    }
}

/// How far the standby is paused, and how far it has replayed.
async fn pause_state(standby: &Session) -> Result<(String, Lsn)> {
    let failed = |error| Error::source("looking whether the standby's replay is paused", error);
    let query = "select pg_get_wal_replay_pause_state(), (pg_last_wal_replay_lsn() - '0/0')::int8";
    let row = standby.query_one(query, &[]).await.map_err(failed)?;
    let replayed: i64 = row.try_get(1).map_err(failed)?;
    Ok((row.try_get(0).map_err(failed)?, Lsn::from_i64(replayed)))
}

async fn once_paused(reader: &Session, goal: &Goal) -> Result<Exported> {
    while pause_state(reader).await?.0 != "paused" {
        sleep(Duration::from_millis(5)).await;
    }
    exported(reader, goal).await
}

/// Exports a snapshot while replay is paused. It counts only where replay was paused before and behind,
/// at one place: a commit is visible a moment before the place moves over its record.
async fn exported(reader: &Session, goal: &Goal) -> Result<Exported> {
    let failed = |error| Error::source("taking a snapshot at the standby", error);
    let before = pause_state(reader).await?;
    let begin = "begin transaction isolation level repeatable read read only";
    reader.batch_execute(begin).await.map_err(failed)?;
    let row = reader.query_one("select pg_export_snapshot()", &[]).await.map_err(failed)?;
    let snapshot: String = row.try_get(0).map_err(failed)?;
    let behind = pause_state(reader).await?;
    let (recovers, taken_at) = moment(reader, goal).await?;
    if !recovers {
        return Err(promoted());
    }
    if before != behind || before.0 != "paused" {
        return Err(away("the standby's replay was resumed while a snapshot was taken".to_owned()));
    }
    Ok(Exported { consistent_point: before.1, snapshot, taken_at })
}

fn early() -> Error {
    away("the standby's replay was resumed before a snapshot was taken".to_owned())
}

/// Resumes what we have paused, where the session that was to do so was ended; passes its error on.
async fn resumed(standby: &Endpoint, error: Error) -> Error {
    if error.kind() != Kind::SourceAway {
        return error;
    }
    let resume = async {
        let session = connect(Side::Source, standby, "siltstone pause").await?;
        let resumed = session.query_one("select pg_wal_replay_resume()", &[]).await;
        resumed.map_err(|error| Error::source("resuming the standby's replay", error))
    };
    if let Err(failure) = resume.await {
        let remedy = "select pg_wal_replay_resume() at the standby";
        tracing::error!(remedy, "replay may be paused: {}", failure.reason());
    }
    error
}
