//! The replication slot: what is there, making it, and whether it still belongs to our position.
//!
//! A slot keeps the source's log for us, and confirms what it may forget. It is trusted only as far as
//! the position stored in the warehouse: the two together tell whether somebody recreated or advanced
//! the slot, or put back an older warehouse.

use std::any::Any;

use tokio_postgres::Row;

use crate::capture::walsender::Walsender;
use crate::error::{Error, Kind, Result};
use crate::position::Lsn;
use crate::postgres::{Session, quote};

/// A slot as the source shows it.
#[derive(Clone, Debug)]
pub struct Slot {
    /// The output plugin; none for a physical slot.
    pub plugin: Option<String>,
    /// The database it decodes.
    pub database: Option<String>,
    /// Everything before it is confirmed; none where the slot is unusable.
    pub confirmed: Option<Lsn>,
    /// Whether the log it needs is still there: `reserved`, `extended`, `unreserved`, `lost`.
    pub wal_status: Option<String>,
    /// The session that streams from it.
    pub active_pid: Option<i32>,
    /// Whether it decodes prepared transactions before they commit.
    pub two_phase: bool,
    /// Whether standbys take it over (Postgres 17 and newer).
    pub failover: Option<bool>,
    /// Whether it is a standby's copy of the primary's, or was one before the promotion.
    pub synced: bool,
    /// Bytes of log that it keeps.
    pub retained: u64,
}

impl Slot {
    /// Whether it is such a slot as we make for a database.
    pub fn is_like_ours(&self, database: &str) -> bool {
        self.plugin.as_deref() == Some("pgoutput") && self.database.as_deref() == Some(database)
    }
}

/// Reads a slot; none where there is no such slot.
pub async fn inspect(source: &Session, name: &str) -> Result<Option<Slot>> {
    const QUERY: &str = "
        select plugin::text, database::text, active_pid, wal_status, two_phase,
               (to_jsonb(s) ->> 'failover')::bool as failover,
               coalesce((to_jsonb(s) ->> 'synced')::bool, false) as synced,
               (confirmed_flush_lsn - '0/0')::int8 as confirmed,
               greatest(0, pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
                                                else pg_current_wal_lsn() end, restart_lsn))::int8 as retained
          from pg_replication_slots s where slot_name = $1";
    let failed = |error| Error::source("reading its replication slots", error);
    let row = source.query_opt(QUERY, &[&name]).await.map_err(failed)?;
    let Some(row) = row else { return Ok(None) };
    let read = || -> Result<Slot, tokio_postgres::Error> {
        let confirmed: Option<i64> = row.try_get("confirmed")?;
        let retained: Option<i64> = row.try_get("retained")?;
        Ok(Slot {
            plugin: row.try_get("plugin")?,
            database: row.try_get("database")?,
            confirmed: confirmed.map(Lsn::from_i64),
            wal_status: row.try_get("wal_status")?,
            active_pid: row.try_get("active_pid")?,
            two_phase: row.try_get("two_phase")?,
            failover: row.try_get("failover")?,
            synced: row.try_get("synced")?,
            retained: retained.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0),
        })
    };
    read().map(Some).map_err(failed)
}

/// A slot that nobody streams from.
#[derive(Clone, Debug)]
pub struct Orphan {
    /// Its name.
    pub name: String,
    /// Bytes of log that it keeps.
    pub retained: u64,
}

/// The slots of the source's database that are named as ours are by default, that nobody streams from
/// and that are none of `known`.
pub async fn orphans(source: &Session, known: &[String]) -> Result<Vec<Orphan>> {
    let failed = |error| Error::source("reading its replication slots", error);
    let query = "
        select slot_name::text,
               coalesce(greatest(0, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)), 0)::int8
          from pg_replication_slots
         where slot_name like 'siltstone\\_%' and plugin = 'pgoutput' and not active
           and database = current_database() and slot_name <> all ($1::text[])
         order by 1";
    let rows = source.query(query, &[&known]).await.map_err(failed)?;
    let orphan = |row: &tokio_postgres::Row| {
        let retained: i64 = row.try_get(1)?;
        Ok(Orphan { name: row.try_get(0)?, retained: u64::try_from(retained).unwrap_or(0) })
    };
    rows.iter().map(orphan).collect::<Result<_, tokio_postgres::Error>>().map_err(failed)
}

/// Ends the session that streams from the slot: an owner that was taken over.
pub async fn release(source: &Session, name: &str) -> Result<()> {
    const ATTEMPTS: u32 = 50;
    for _ in 0..ATTEMPTS {
        let Some(Slot { active_pid: Some(pid), .. }) = inspect(source, name).await? else {
            return Ok(());
        };
        source
            .execute("select pg_terminate_backend($1)", &[&pid])
            .await
            .map_err(|error| Error::source("ending the session that holds the slot", error))?;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    Err(Error::new(Kind::Busy, format!("slot {name} is held by a session that does not end")))
}

/// Drops a slot of ours.
pub async fn drop(source: &Session, name: &str) -> Result<()> {
    release(source, name).await?;
    source
        .execute("select pg_drop_replication_slot($1)", &[&name])
        .await
        .map_err(|error| Error::source("dropping a slot", error))?;
    Ok(())
}

/// A transaction that the making of a slot waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Awaited {
    /// Which it is.
    pub what: String,
    /// What ends it.
    pub remedy: String,
}

/// What the making of a slot of ours waits for, if it does.
pub async fn awaited(source: &Session) -> Result<Option<Awaited>> {
    let failed = |error| Error::source("looking what a slot waits for", error);
    let row = source.query_opt(include_str!("../../sql/source/awaited.sql"), &[]).await;
    row.and_then(read_awaited).map_err(failed)
}

/// The oldest transaction that is open at the source since before `xid`, if there is one.
pub(super) async fn open_before(source: &Session, xid: i64) -> Result<Option<Awaited>> {
    let failed = |error| Error::source("looking for transactions that are open", error);
    let row = source.query_opt(include_str!("../../sql/source/open.sql"), &[&xid]).await;
    row.and_then(read_awaited).map_err(failed)
}

fn read_awaited(row: Option<Row>) -> Result<Option<Awaited>, tokio_postgres::Error> {
    row.map(|row| Ok(Awaited { what: row.try_get("what")?, remedy: row.try_get("remedy")? }))
        .transpose()
}

/// The number of a transaction that begins now. At a standby, which gives none, of one that was seen last.
pub(super) async fn next_xid(source: &Session) -> Result<i64> {
    let failed = |error| Error::source("asking for a transaction's number", error);
    // the end of a snapshot is no bound: a transaction beyond it may have written already
    let query = "select (case when pg_is_in_recovery() then pg_snapshot_xmax(pg_current_snapshot())
                              else pg_current_xact_id() end)::text::int8";
    source.query_one(query, &[]).await.map_err(failed)?.try_get(0).map_err(failed)
}

/// A slot that was made, and the snapshot of exactly its starting point. The snapshot lives as long
/// as the connection is left alone.
pub struct Created {
    /// Where the log was before it was made. A transaction that is open at its point has begun to write since: the
    /// making waits for all others.
    pub begun: Lsn,
    /// Where the slot starts.
    pub consistent_point: Lsn,
    /// The exported snapshot, for SET TRANSACTION SNAPSHOT.
    pub snapshot: String,
    /// When the snapshot was taken, at the latest: microseconds since 2000-01-01 UTC by the source's
    /// clock. Its rows are read later, some of them hours later.
    pub taken_at: i64,
    /// The connection that the snapshot lives in.
    pub(super) _held: Box<dyn Any + Send>,
}

/// Makes a slot. Without TWO_PHASE: a prepared transaction then arrives whole when it commits. One that
/// stays is carried to the source's standbys, where they can take it over.
/// `source` tells the time: a command on `connection` would end the snapshot.
pub async fn create(
    mut connection: Walsender,
    source: &Session,
    name: &str,
    temporary: bool,
) -> Result<Created> {
    let lasts = match (temporary, carries(source).await?) {
        (true, _) => Lasts::Temporary,
        (false, true) => Lasts::Failover,
        (false, false) => Lasts::Here,
    };
    let begun = end_of_log(source).await?;
    let (consistent_point, snapshot) = make(&mut connection, name, lasts).await?;
    let taken_at = now(source).await?;
    Ok(Created { begun, consistent_point, snapshot, taken_at, _held: Box::new(connection) })
}

/// How long a slot is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lasts {
    /// As long as its connection.
    Temporary,
    /// At this server alone.
    Here,
    /// Also at standbys that are promoted.
    Failover,
}

/// Whether standbys of the source can take its slots over.
async fn carries(source: &Session) -> Result<bool> {
    let failed = |error| Error::source("asking for its version", error);
    let query = "select current_setting('server_version_num')::int4 >= 170000
                    and not pg_is_in_recovery()";
    source.query_one(query, &[]).await.map_err(failed)?.try_get(0).map_err(failed)
}

/// Lets standbys take over a slot that was made by an older version of ours, or before an upgrade.
pub async fn carry(connection: &mut Walsender, slot: &Slot, name: &str) -> Result<()> {
    if slot.failover == Some(false) && !slot.synced {
        let command = format!("ALTER_REPLICATION_SLOT {} (FAILOVER true)", quote::ident(name));
        connection.command("letting standbys take over its slot", &command).await?;
    }
    Ok(())
}

/// Makes a slot; its point, and the snapshot that lives until the connection's next command.
pub(super) async fn make(
    connection: &mut Walsender,
    name: &str,
    lasts: Lasts,
) -> Result<(Lsn, String)> {
    let name = quote::ident(name);
    let command = match lasts {
        Lasts::Temporary => {
            format!("CREATE_REPLICATION_SLOT {name} TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT")
        }
        Lasts::Here => format!("CREATE_REPLICATION_SLOT {name} LOGICAL pgoutput EXPORT_SNAPSHOT"),
        Lasts::Failover => format!(
            "CREATE_REPLICATION_SLOT {name} LOGICAL pgoutput (SNAPSHOT 'export', FAILOVER true)"
        ),
    };
    let rows = connection.command("creating a replication slot", &command).await?;
    let answer = rows.into_iter().next().unwrap_or_default();
    let mut fields = answer.into_iter().skip(1);
    match (fields.next().flatten(), fields.next().flatten()) {
        (Some(point), Some(snapshot)) => {
            let consistent_point = point
                .parse()
                .map_err(|error| Error::bug("the source's slot has no position").because(error))?;
            Ok((consistent_point, snapshot))
        }
        _ => Err(Error::bug("the source answered the creation of a slot with something else")),
    }
}

/// How far the source's log was written.
async fn end_of_log(source: &Session) -> Result<Lsn> {
    let failed = |error| Error::source("asking for the end of its log", error);
    let query = "select (case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
                              else pg_current_wal_insert_lsn() end - '0/0')::int8";
    let row = source.query_one(query, &[]).await.map_err(failed)?;
    row.try_get(0).map(Lsn::from_i64).map_err(failed)
}

/// The source's clock, in microseconds since 2000-01-01 UTC.
pub(super) async fn now(source: &Session) -> Result<i64> {
    let failed = |error| Error::source("reading its clock", error);
    let query =
        "select (extract(epoch from clock_timestamp()) * 1000000)::int8 - 946684800000000::int8";
    source.query_one(query, &[]).await.map_err(failed)?.try_get(0).map_err(failed)
}

/// Which log a source writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// The cluster's identifier.
    pub id: String,
    /// Its timeline.
    pub timeline: i32,
    /// The end of its log.
    pub end: Lsn,
}

/// Asks the source who it is.
pub async fn identify(connection: &mut Walsender) -> Result<System> {
    let rows = connection.command("asking who it is", "IDENTIFY_SYSTEM").await?;
    let mut fields = rows.into_iter().next().unwrap_or_default().into_iter().flatten();
    let strange = || Error::bug("the source does not say who it is");
    let id = fields.next().ok_or_else(strange)?;
    let timeline = fields.next().and_then(|text| text.parse().ok()).ok_or_else(strange)?;
    let end = fields.next().and_then(|text| text.parse().ok()).ok_or_else(strange)?;
    Ok(System { id, timeline, end })
}

/// Where the source left the timeline `left` behind; none where it never was on it.
pub async fn switch_point(
    connection: &mut Walsender,
    system: &System,
    left: i32,
) -> Result<Option<Lsn>> {
    let command = format!("TIMELINE_HISTORY {}", system.timeline);
    let rows = connection.command("reading its timeline's history", &command).await?;
    let history = rows.into_iter().next().and_then(|row| row.into_iter().nth(1)).flatten();
    let history = history.unwrap_or_default();
    let line = history.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let timeline: i32 = words.next()?.parse().ok()?;
        (timeline == left).then(|| words.next()).flatten()?.parse().ok()
    });
    Ok(line)
}

/// What is stored about a connector's log.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The stored position.
    pub position: Lsn,
    /// The system it belongs to.
    pub system_id: String,
    /// The timeline it belongs to.
    pub timeline: i32,
}

/// Whether the slot still belongs to the stored position. Refuses with the remedy where it does not.
pub fn check(name: &str, slot: Option<&Slot>, stored: &Stored, system: &System) -> Result<()> {
    let lost = |what: String| {
        Err(Error::new(Kind::PositionLost, what)
            .remedy("siltstone table resync --all (makes a new slot and reads every table again)"))
    };
    if stored.system_id != system.id {
        return lost(format!(
            "the source is another system ({}) than the one the stored position belongs to ({})",
            system.id, stored.system_id
        ));
    }
    let Some(slot) = slot else {
        return lost(format!("the replication slot {name} is gone"));
    };
    if slot.plugin.as_deref() != Some("pgoutput") {
        return lost(format!("the replication slot {name} is not one of pgoutput"));
    }
    if slot.wal_status.as_deref() == Some("lost") {
        return lost(format!(
            "the source has removed log that slot {name} needed (max_slot_wal_keep_size)"
        ));
    }
    match slot.confirmed {
        None => lost(format!("the replication slot {name} has no confirmed position")),
        Some(confirmed) if confirmed > stored.position => lost(format!(
            "slot {name} has confirmed {confirmed}, behind the stored position {}: it was recreated \
             or advanced, or the warehouse is an older copy",
            stored.position
        )),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(confirmed: u64) -> Slot {
        Slot {
            plugin: Some("pgoutput".to_owned()),
            database: Some("shop".to_owned()),
            confirmed: Some(Lsn(confirmed)),
            wal_status: Some("reserved".to_owned()),
            active_pid: None,
            two_phase: false,
            failover: None,
            synced: false,
            retained: 0,
        }
    }

    #[test]
    fn a_slot_belongs_to_the_position_or_is_refused() {
        let system = System { id: "7".to_owned(), timeline: 1, end: Lsn(500) };
        let stored = Stored { position: Lsn(100), system_id: "7".to_owned(), timeline: 1 };
        let verdict = |slot: Option<Slot>| check("s", slot.as_ref(), &stored, &system).is_ok();
        assert!(verdict(Some(slot(100))) && verdict(Some(slot(90))));
        assert!(!verdict(Some(slot(101))), "advanced");
        assert!(!verdict(None), "dropped");
        assert!(!verdict(Some(Slot { confirmed: None, ..slot(1) })), "unusable");
        assert!(!verdict(Some(Slot { wal_status: Some("lost".to_owned()), ..slot(1) })), "lost");
        let other = System { id: "8".to_owned(), ..system.clone() };
        assert!(check("s", Some(&slot(1)), &stored, &other).is_err(), "another system");
    }
}
