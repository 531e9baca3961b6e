//! The leaves of declared tables, made before rows ask for them, and old leaves of others, taken off.
//!
//! A leaf is detached CONCURRENTLY, which takes no lock that readers of the table wait behind, and no lock is
//! waited for longer than a moment: a reader that is in the way is come back for. What is to be dropped
//! carries a comment that says so, and of which table it was, before it is detached: so a crash leaves nothing
//! behind that nobody knows of. The comment goes with the decision.

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
pub(super) const LOCK_TIMEOUT: &str = "set lock_timeout to '1s'";
const PAUSE: Duration = Duration::from_secs(2);

/// What a leaf of a table is marked by that is to be dropped.
fn mark(table: &TableName) -> String {
    format!("siltstone: detached to be dropped, a leaf of {table}")
}

pub(super) async fn run(work: &Work<'_>, partitions: &Partitions) -> Result<Outcome> {
    let mut session = work.session().await?;
    let mut touched = 0;
    let meant = |table| partitions.tables.iter().any(|pattern| pattern.matches(table));
    for model in work.hands.models.iter().filter(|model| meant(&model.table)) {
        touched += work.hands.leaves.make(&mut session, work.hands, model).await?;
    }
    let failed = |error| Error::warehouse("setting up a session", error);
    session.batch_execute(LOCK_TIMEOUT).await.map_err(failed)?;
    // a run for a day that is yet to come would take what is new
    let end = work.attempt.about.end.min(work.hands.clock.now());
    let until = partitions.keep.map(|keep| {
        let keep = SignedDuration::try_from(keep).unwrap_or(SignedDuration::MAX);
        end.checked_sub(keep).unwrap_or(Timestamp::MIN)
    });
    let tables = tables(&*session, &partitions.tables).await?;
    for table in &tables {
        let old = match until {
            Some(until) => old_leaves(&session, table, until).await?,
            None => Vec::new(),
        };
        if !old.is_empty() && is_fed(work, &session, table).await? {
            let why = format!(
                "{table} is fed by a connector: its leaves are not taken off; those of a raw table are by retention"
            );
            return Ok(Outcome::FailedForGood(why));
        }
        let drops = partitions.drops && until.is_some();
        unmark(&session, table, &old, drops).await?;
        // an attempt before may have ended behind a leaf and before it said so
        if work.attempt.tries > 1 {
            tell_marts(&session, table).await?;
        }
        for leaf in old {
            detach(&session, table, &leaf, drops).await?;
            tell_marts(&session, table).await?;
            touched += 1;
        }
    }
    for table in tables.iter().filter(|_| partitions.drops && until.is_some()) {
        drop_detached(&session, table).await?;
    }
    Ok(Outcome::Done(Some(touched)))
}

/// Drops what is marked as a leaf of a table and is none any more.
pub(super) async fn drop_detached(session: &Session, table: &TableName) -> Result<()> {
    for (leaf, _) in marked(session, table).await?.iter().filter(|(_, attached)| !attached) {
        patiently(session, leaf, &format!("drop table {}", quote::table(leaf))).await?;
    }
    Ok(())
}

/// Takes the mark off leaves that are not to be dropped, or not any more: somebody may detach one by hand, or
/// attach it again.
pub(super) async fn unmark(
    session: &Session,
    table: &TableName,
    old: &[Leaf],
    drops: bool,
) -> Result<()> {
    for (leaf, attached) in marked(session, table).await? {
        let stays = drops && (!attached || old.iter().any(|old| old.name == leaf));
        if !stays {
            let comment = format!("comment on table {} is null", quote::table(&leaf));
            patiently(session, &leaf, &comment).await?;
        }
    }
    Ok(())
}

/// Rows that leave with their leaf fire no trigger: the marts that read the table are computed anew.
pub(super) async fn tell_marts(session: &Session, table: &TableName) -> Result<()> {
    touch(&**session, &table.to_string())
        .await
        .map_err(|error| Error::warehouse(format!("telling the marts that read {table}"), error))
}

/// Whether a connector feeds a table, or will: one that the files declare may not have begun yet.
async fn is_fed(work: &Work<'_>, session: &Session, table: &TableName) -> Result<bool> {
    if work.hands.models.iter().any(|model| model.table == *table) {
        return Ok(true);
    }
    let query = "select exists (select from audit.tables where table_name = $1)";
    let row = session.query_one(query, &[&table.to_string()]).await;
    row.and_then(|row| row.try_get(0))
        .map_err(|error| Error::warehouse(format!("asking who feeds {table}"), error))
}

/// A leaf, and whether its detaching broke off.
pub(super) struct Leaf {
    pub(super) name: TableName,
    pub(super) pending: bool,
}

/// The leaves of a table, partitioned by ranges of time, that end at or before a moment.
pub(super) async fn old_leaves(
    session: &Session,
    table: &TableName,
    until: Timestamp,
) -> Result<Vec<Leaf>> {
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
                and (i.inhdetachpending or case
                     -- conditions are tried in any order, and bounds of other types are no time
                     when a.atttypid in ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype)
                     then (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \\(''([^'']+)''\\)'))[1]
                          ::timestamptz <= $3 end)
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

pub(super) async fn detach(
    session: &Session,
    table: &TableName,
    leaf: &Leaf,
    drops: bool,
) -> Result<()> {
    let name = quote::table(&leaf.name);
    if drops && !leaf.pending {
        let mark = format!("comment on table {name} is {}", quote::literal(&mark(table)));
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

/// What is marked as a leaf of a table that is to be dropped, and whether it is still, or again, a leaf.
async fn marked(session: &Session, table: &TableName) -> Result<Vec<(TableName, bool)>> {
    let rows = session
        .query(
            "select n.nspname::text, c.relname::text, c.relispartition
               from pg_description d join pg_class c on c.oid = d.objoid
               join pg_namespace n on n.oid = c.relnamespace
              where d.classoid = 'pg_class'::regclass and d.objsubid = 0 and d.description = $1
                and c.relkind in ('r', 'p')
              order by 1, 2",
            &[&mark(table)],
        )
        .await
        .map_err(|error| Error::warehouse("looking for leaves to drop", error))?;
    let leaf = |row: &tokio_postgres::Row| {
        (TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)), row.get(2))
    };
    Ok(rows.iter().map(leaf).collect())
}
