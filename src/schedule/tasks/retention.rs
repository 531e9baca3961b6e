//! Drops what is kept no longer: leaves of raw tables behind their `keep`, and rows of our own books.
//!
//! A raw table is what its source's other tables can be built from. So before a leaf goes, the rows of it that are
//! the newest image of their key are carried into the current leaf, with their own `seq` and marked `carried`; so
//! are those whose values later rows leave out as unchanged. A row is carried once, whatever breaks off: what has
//! its copy in another leaf is not carried again. Never touches tables of another layout.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::partitions::{self, LOCK_TIMEOUT};
use super::{Outcome, Work};
use crate::error::{Error, Kind, Result};
use crate::names::TableName;
use crate::postgres::{Session, quote};
use crate::spec::{History, Model, Retention};
use crate::warehouse::Fenced;

/// Rows of a transaction.
const ROWS: i64 = 2_000;

/// Rows of our books that are deleted by a transaction.
const BOOK_ROWS: i64 = 5_000;

/// From how many keys before a value is looked up that a row which moved has left out.
const MOVES: u32 = 64;

/// What of our own books is old, as the condition of a delete: $1 is the moment. The last run of a job stays, so does
/// the last result of a check, which a mart may wait for, and what goes on or is yet to be answered.
const BOOKS: [(&str, &str); 4] = [
    ("audit.etl_logs", "created_at < $1 and status <> 'running'"),
    (
        "audit.data_quality",
        "created_at < $1 and (table_name is null or exists (select from audit.data_quality later
            where later.table_name = t.table_name and later.check_name = t.check_name
              and later.check_id > t.check_id))",
    ),
    (
        "audit.job_runs",
        "finished_at < $1 and exists (select from audit.job_runs later
            where later.job = t.job and later.run <> t.run and later.finished_at > t.finished_at)",
    ),
    ("audit.requests", "state <> 'open' and answered_at < $1"),
];

pub(super) async fn run(work: &Work<'_>, retention: &Retention) -> Result<Outcome> {
    let mut session = work.session().await?;
    // a run for a day that is yet to come would take what is new
    let end = work.attempt.about.end.min(work.hands.clock.now());
    let meant = |model: &&Model| model.history == History::Raw && retention.means(&model.table);
    let mut gone = 0;
    for model in work.hands.models.iter().filter(meant) {
        let Some(keep) = model.keep else { continue };
        gone += table(work, &mut session, model, before(end, keep)).await?;
    }
    for (book, old) in BOOKS {
        gone += clear(work, &mut session, (book, old), before(end, retention.audit)).await?;
    }
    Ok(Outcome::Done(Some(gone)))
}

fn before(end: Timestamp, keep: Duration) -> Timestamp {
    let keep = SignedDuration::try_from(keep).unwrap_or(SignedDuration::MAX);
    end.checked_sub(keep).unwrap_or(Timestamp::MIN)
}

/// Deletes what is old of one of our books, a bounded number of rows at a time.
async fn clear(
    work: &Work<'_>,
    session: &mut Session,
    (book, old): (&str, &str),
    until: Timestamp,
) -> Result<u64> {
    let delete = format!(
        "delete from {book} where ctid = any (array(
             select ctid from {book} t where {old} order by ctid limit {BOOK_ROWS}))"
    );
    let mut gone = 0;
    loop {
        let transaction = begin(work, session).await?;
        let deleted = transaction.execute(&delete, &[&until]).await;
        let deleted =
            deleted.map_err(|error| Error::warehouse(format!("clearing {book}"), error))?;
        transaction.commit().await?;
        gone += deleted;
        if deleted < BOOK_ROWS.unsigned_abs() {
            return Ok(gone);
        }
    }
}

async fn begin<'s>(work: &Work<'_>, session: &'s mut Session) -> Result<Fenced<'s>> {
    Fenced::begin(session, &work.hands.fence, "retention", &work.hands.durations).await
}

/// Drops the leaves of a raw table that end at or before a moment, the oldest first; how many rows were carried.
async fn table(
    work: &Work<'_>,
    session: &mut Session,
    model: &Model,
    until: Timestamp,
) -> Result<u64> {
    let table = &model.table;
    let found = "select to_regclass($1) is not null";
    let there: bool = session
        .query_one(found, &[&quote::table(table)])
        .await
        .and_then(|row| row.try_get(0))
        .map_err(|error| Error::warehouse(format!("looking for {table}"), error))?;
    if !there {
        return Ok(0);
    }
    // the one that carried rows go to
    work.hands.leaves.make(session, work.hands, model).await?;
    let set = session.batch_execute(LOCK_TIMEOUT).await;
    set.map_err(|error| Error::warehouse("setting up a session", error))?;
    let old = partitions::old_leaves(session, table, until).await?;
    partitions::unmark(session, table, &old, true).await?;
    if work.attempt.tries > 1 {
        partitions::tell_marts(session, table).await?;
    }
    let mut carried = 0;
    for leaf in old {
        if !leaf.pending {
            carried += carry(work, session, model, &leaf.name).await?;
        }
        partitions::detach(session, table, &leaf, true).await?;
        partitions::tell_marts(session, table).await?;
    }
    partitions::drop_detached(session, table).await?;
    Ok(carried)
}

/// Carries the rows of a leaf that are still needed into the current one.
async fn carry(
    work: &Work<'_>,
    session: &mut Session,
    model: &Model,
    leaf: &TableName,
) -> Result<u64> {
    let table = &model.table;
    let failed = |error| Error::warehouse(format!("carrying rows of {leaf} on"), error);
    let (parent, name) = (quote::table(table), quote::table(leaf));
    let rendered = |template: &str| {
        template
            .replace("{{table}}", &parent)
            .replace("{{leaf}}", &name)
            .replace("{{oid}}", &format!("{}::regclass", quote::literal(&name)))
            .replace("{{source}}", &quote::literal(&model.from.source))
    };
    let list = rendered(include_str!("../../../sql/raw/carried.sql"));
    session.batch_execute(&list).await.map_err(failed)?;
    let fill = rendered(include_str!("../../../sql/raw/filled.sql"));
    for _ in 0..MOVES {
        let wanted = "select exists (select from pg_temp.siltstone_wanted)";
        let wanted = session.query_one(wanted, &[]).await.and_then(|row| row.try_get(0));
        match wanted.map_err(failed)? {
            true => session.batch_execute(&fill).await.map_err(failed)?,
            false => break,
        }
    }
    let insert = format!(
        "with page as (
             delete from pg_temp.siltstone_carried c
              where c.n in (select n from pg_temp.siltstone_carried order by n limit {ROWS})
          returning c.*)
         insert into {parent} (raw_data, source_system, load_id, created_at)
         select coalesce(page.raw_data, l.raw_data) || '{{\"carried\": true}}', l.source_system, l.load_id, l.created_at
           from page join {name} l on l.id = page.id and l.loaded_at = page.loaded_at
          order by page.n"
    );
    let mut carried = 0;
    loop {
        let transaction = begin(work, session).await?;
        let rows = transaction.execute(&insert, &[]).await.map_err(failed)?;
        transaction.commit().await?;
        carried += rows;
        if rows == 0 {
            break;
        }
    }
    let left = "select exists (select from pg_temp.siltstone_carried)";
    let left = session.query_one(left, &[]).await.and_then(|row| row.try_get(0));
    if left.map_err(failed)? {
        let what = format!("rows of {leaf} are gone that were to be carried on");
        return Err(Error::new(Kind::Busy, what));
    }
    if carried > 0 {
        tracing::info!("{leaf}: {carried} rows are carried on, the newest of their keys");
    }
    Ok(carried)
}
