//! What a backup holds, as a server has it that came up with it: the rows of its tables, and what their checks say of
//! them. Never asks the warehouse.

use std::time::Duration;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};

use super::Work;
use super::backup::Manifest;
use super::checks::{Judged, Restored};
use super::segments::{LaidOut, begins};
use crate::error::{Error, Kind, Result};
use crate::postgres::{Session, quote};
use crate::spec::{Drill, Variable};

/// Tables and checks that are named where they are not as they should be.
const NAMED: usize = 5;

/// Compares rows and judges checks; how many rows and checks there are.
pub(super) async fn judged(
    work: &Work<'_>,
    session: &mut Session,
    manifest: &Manifest,
    drill: &Drill,
) -> Result<(u64, usize)> {
    let rows = compared(session, manifest, drill).await?;
    let day = work.attempt.variable(Variable::Ds).parse::<Date>();
    let day = day.map_err(|error| Error::bug("a run has no day").because(error))?;
    // time is left to say what was found, and to end the server
    let time = work.attempt.task.timeout.saturating_sub(Duration::from_secs(10));
    let restored = Restored {
        tables: &drill.compare,
        taken_at: manifest.started_at,
        day,
        until: work.started.checked_add(time).unwrap_or(work.started),
    };
    let Judged { all, failed } = work.hands.checks.judge_restored(session, restored).await?;
    if failed.is_empty() {
        return Ok((rows, all));
    }
    let what = format!(
        "the backup restores, but {} of {all} checks fail on it: {}",
        failed.len(),
        first(failed)
    );
    let remedy = "see whether they fail on the warehouse, too (siltstone check list); if not, make another backup, \
                  and keep older ones";
    Err(Error::new(Kind::Differs, what).remedy(remedy))
}

/// An archive that has got nothing for so long does not go on: the service itself writes all the time.
const SILENT_FOR: SignedDuration = SignedDuration::from_mins(15);

/// Refuses an archive that has a gap, by how far the server has gone through it, and one that does not go on.
pub(super) async fn reached(
    session: &Session,
    laid_out: Option<&LaidOut>,
    now: Timestamp,
) -> Result<()> {
    let Some(LaidOut { newest, received }) = laid_out else { return Ok(()) };
    let failed = |error| Error::warehouse("asking how far the log was replayed", error);
    let asked = "select pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::int8, pg_last_wal_replay_lsn()::text,
                        pg_size_bytes(current_setting('wal_segment_size'))";
    let row = session.query_one(asked, &[]).await.map_err(failed)?;
    let at: Option<i64> = row.try_get(0).map_err(failed)?;
    let (shown, bytes): (Option<String>, i64) =
        (row.try_get(1).map_err(failed)?, row.try_get(2).map_err(failed)?);
    let shown = shown.unwrap_or_else(|| "nowhere".to_owned());
    let remedy = "see what the service says of its archive, then make another copy (backup: { base: … }): from it on \
                  the archive is whole";
    if at < begins(newest, bytes) {
        let what = format!(
            "the archive of the log has a gap: it was replayed up to {shown}, and its newest segment is {newest}"
        );
        return Err(Error::new(Kind::Differs, what).remedy(remedy));
    }
    let received = Timestamp::try_from(*received).unwrap_or(Timestamp::UNIX_EPOCH);
    if now.duration_since(received) > SILENT_FOR {
        let what = format!("the archive has got nothing of the log since {received}");
        return Err(Error::new(Kind::Differs, what).remedy(remedy));
    }
    tracing::info!("the log was replayed up to {shown}");
    Ok(())
}

/// The first of what is wrong, and how many more there are.
fn first(mut wrong: Vec<String>) -> String {
    let more = match wrong.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    wrong.truncate(NAMED);
    format!("{}{more}", wrong.join("; "))
}

/// Counts the rows of tables and compares them with what was backed up. A copy has what was written while it was
/// made as well: of its tables only one that is empty now and was not tells of a loss; and where log was replayed
/// behind it, only one that cannot be read.
async fn compared(session: &Session, manifest: &Manifest, drill: &Drill) -> Result<u64> {
    let meant = |name: &str| {
        name.parse().is_ok_and(|name| drill.compare.iter().any(|pattern| pattern.matches(&name)))
    };
    if !manifest.rows.iter().any(|(name, _)| meant(name)) {
        let what = "the backup has none of the tables that compare means";
        return Err(Error::new(Kind::Config, what).remedy("mend the patterns of compare"));
    }
    let (mut rows, mut wrong) = (0, Vec::new());
    for (name, had) in manifest.rows.iter().filter(|(name, _)| meant(name)) {
        let table = name.parse().map(|table| quote::table(&table)).unwrap_or_default();
        let counted = session.query_one(&format!("select count(*) from {table}"), &[]).await;
        let counted: Result<i64, _> = counted.and_then(|row| row.try_get(0));
        match counted {
            Ok(has) if has == *had || manifest.kind == "base" && (has > 0 || *had == 0) => {
                rows += u64::try_from(has).unwrap_or(0);
            }
            // it may well have been emptied meanwhile
            Ok(has) if drill.wal.is_some() => {
                tracing::warn!("{name} has {has} rows, and had {had}");
            }
            Ok(has) => wrong.push(format!("{name} has {has} rows of {had}")),
            Err(error) => {
                let said = error.as_db_error().map(|error| error.message().to_owned());
                wrong.push(format!("{name}: {}", said.unwrap_or_else(|| error.to_string())));
            }
        }
    }
    if wrong.is_empty() {
        return Ok(rows);
    }
    let what = format!("the backup does not restore: {}", first(wrong));
    Err(Error::new(Kind::Differs, what).remedy("make another backup, and keep older ones"))
}
