//! The leaves of declared tables, made before rows ask for them, and old leaves of others, taken off.
//!
//! A leaf is detached CONCURRENTLY, which takes no lock that readers of the table wait behind, and no lock is
//! waited for longer than a moment: a reader that is in the way is come back for. What is to be dropped
//! carries a comment that says so before it is detached, so that a crash leaves nothing behind that nobody
//! knows of.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio_postgres::error::SqlState;

use super::{Outcome, Work, tables};
use crate::error::{Error, Kind, Result};
use crate::names::TableName;
use crate::postgres::{Session, quote};
use crate::spec::Partitions;
use crate::warehouse::touch;

/// How long a lock is waited for, and for how long it is then let be.
const LOCK_TIMEOUT: &str = "set lock_timeout to '1s'";
const PAUSE: Duration = Duration::from_secs(2);

/// What a leaf is marked by that is to be dropped.
const MARK: &str = "siltstone: detached to be dropped";

pub(super) async fn run(work: &Work<'_>, partitions: &Partitions) -> Result<Outcome> {
    let mut session = work.session().await?;
    let mut touched = 0;
    let meant = |table| partitions.tables.iter().any(|pattern| pattern.matches(table));
    for model in work.hands.models.iter().filter(|model| meant(&model.table)) {
        touched += work.hands.leaves.make(&mut session, work.hands, model).await?;
    }
    let Some(keep) = partitions.keep else { return Ok(Outcome::Done(Some(touched))) };
    let failed = |error| Error::warehouse("setting up a session", error);
    session.batch_execute(LOCK_TIMEOUT).await.map_err(failed)?;
    let keep = SignedDuration::try_from(keep).unwrap_or(SignedDuration::MAX);
    // a run for a day that is yet to come would take what is new
    let end = work.attempt.about.end.min(work.hands.clock.now());
    let until = end.checked_sub(keep).unwrap_or(Timestamp::MIN);
    for table in tables(&session, &partitions.tables).await? {
        let old = old_leaves(&session, &table, until).await?;
        if !old.is_empty() && is_fed(&session, &table).await? {
            let why = format!("{table} is fed by a connector: its leaves are not taken off yet");
            return Ok(Outcome::FailedForGood(why));
        }
        // an attempt before may have ended behind a leaf and before it said so
        if work.attempt.tries > 1 {
            tell_marts(&session, &table).await?;
        }
        for leaf in old {
            detach(&session, &table, &leaf, partitions.drops).await?;
            tell_marts(&session, &table).await?;
            touched += 1;
        }
    }
    for leaf in marked(&session, partitions).await? {
        patiently(&session, &leaf, &format!("drop table {}", quote::table(&leaf))).await?;
    }
    Ok(Outcome::Done(Some(touched)))
}

/// Rows that leave with their leaf fire no trigger: the marts that read the table are computed anew.
async fn tell_marts(session: &Session, table: &TableName) -> Result<()> {
    touch(&**session, &table.to_string())
        .await
        .map_err(|error| Error::warehouse(format!("telling the marts that read {table}"), error))
}

async fn is_fed(session: &Session, table: &TableName) -> Result<bool> {
    let query = "select exists (select from audit.tables where table_name = $1)";
    let row = session.query_one(query, &[&table.to_string()]).await;
    row.and_then(|row| row.try_get(0))
        .map_err(|error| Error::warehouse(format!("asking who feeds {table}"), error))
}

/// A leaf, and whether its detaching broke off.
struct Leaf {
    name: TableName,
    pending: bool,
}

/// The leaves of a table, partitioned by ranges of time, that end at or before a moment.
async fn old_leaves(session: &Session, table: &TableName, until: Timestamp) -> Result<Vec<Leaf>> {
    let rows = session
        .query(
            "select n.nspname::text, c.relname::text, i.inhdetachpending
               from pg_inherits i
               join pg_class c on c.oid = i.inhrelid join pg_namespace n on n.oid = c.relnamespace
               join pg_partitioned_table p on p.partrelid = i.inhparent
               join pg_class t on t.oid = i.inhparent join pg_namespace s on s.oid = t.relnamespace
               join pg_attribute a on a.attrelid = t.oid and a.attnum = p.partattrs[0]
              where s.nspname = $1 and t.relname = $2 and p.partstrat = 'r' and p.partnatts = 1
                and a.atttypid in ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype)
                and (i.inhdetachpending
                     or (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \\(''([^'']+)''\\)'))[1]
                        ::timestamptz <= $3)
              order by 1, 2",
            &[&table.schema, &table.name, &until],
        )
        .await
        .map_err(|error| Error::warehouse(format!("looking at the leaves of {table}"), error))?;
    let leaf = |row: &tokio_postgres::Row| Leaf {
        name: TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
        pending: row.get(2),
    };
    Ok(rows.iter().map(leaf).collect())
}

async fn detach(session: &Session, table: &TableName, leaf: &Leaf, drops: bool) -> Result<()> {
    let name = quote::table(&leaf.name);
    if drops && !leaf.pending {
        let mark = format!("comment on table {name} is {}", quote::literal(MARK));
        patiently(session, &leaf.name, &mark).await?;
    }
    let detach = format!("alter table {} detach partition {name}", quote::table(table));
    let mut pending = leaf.pending;
    loop {
        let how = if pending { "finalize" } else { "concurrently" };
        match session.batch_execute(&format!("{detach} {how}")).await {
            Ok(()) => {
                tracing::info!("{} is detached", leaf.name);
                return Ok(());
            }
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                tokio::time::sleep(PAUSE).await;
                pending = is_pending(session, &leaf.name).await?;
            }
            Err(error) => return Err(Error::warehouse(format!("detaching {}", leaf.name), error)),
        }
    }
}

/// Whether the first half of a leaf's detaching is done.
async fn is_pending(session: &Session, leaf: &TableName) -> Result<bool> {
    let query = "select coalesce(bool_or(i.inhdetachpending), false) from pg_inherits i
                   join pg_class c on c.oid = i.inhrelid join pg_namespace n on n.oid = c.relnamespace
                  where n.nspname = $1 and c.relname = $2";
    let row = session.query_one(query, &[&leaf.schema, &leaf.name]).await;
    row.and_then(|row| row.try_get(0))
        .map_err(|error| Error::warehouse(format!("looking at {leaf}"), error))
}

/// Runs a statement that a reader may be in the way of, until the attempt's time is over.
async fn patiently(session: &Session, leaf: &TableName, statement: &str) -> Result<()> {
    loop {
        match session.batch_execute(statement).await {
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                tokio::time::sleep(PAUSE).await;
            }
            // an attempt before has dropped it
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => return Ok(()),
            ended => {
                return ended.map_err(|error| {
                    Error::warehouse(format!("taking {leaf} off"), error).with_kind(Kind::Busy)
                });
            }
        }
    }
}

/// What was detached to be dropped.
async fn marked(session: &Session, partitions: &Partitions) -> Result<Vec<TableName>> {
    if !partitions.drops {
        return Ok(Vec::new());
    }
    let rows = session
        .query(
            "select n.nspname::text, c.relname::text
               from pg_class c join pg_namespace n on n.oid = c.relnamespace
              where c.relkind in ('r', 'p') and not c.relispartition
                and obj_description(c.oid, 'pg_class') = $1
              order by 1, 2",
            &[&MARK],
        )
        .await
        .map_err(|error| Error::warehouse("looking for leaves to drop", error))?;
    let all =
        rows.iter().map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)));
    Ok(all.collect())
}
