//! A physical standby that rows are read from, so that the source has no load of it: whether it is one of
//! this source, and snapshots there whose point in the source's log is known.
//!
//! It replays the source's log, so its positions are the source's. It never writes, and pauses replay only
//! for the moment in which a snapshot is taken, where it cannot make a slot.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::paused::paused;
use super::preflight::Finding;
use super::slot::{self, Created, Lasts, System, identify};
use super::walsender::Walsender;
use crate::error::{Error, Kind, Result};
use crate::position::Lsn;
use crate::postgres::{Endpoint, Session, Side, connect, quote};

const SETTINGS: &str = include_str!("../../sql/source/standby.sql");

const APPLICATION: &str = "siltstone snapshot";

/// How long the standby may take to replay what the reading needs, before its tables say why they wait.
pub(super) const BEHIND_AT_MOST: Duration = Duration::from_secs(10);

/// How long the making of a slot may wait for transactions that are open at the source.
const SLOT_WITHIN: Duration = Duration::from_secs(30);

const LETS_READ: &str = "set hot_standby_feedback = on at the standby, or raise its \
    max_standby_streaming_delay; the reading goes on by itself";

/// Where the source is when a reading begins: what it streamed before is in the rows of every snapshot
/// from there on.
#[derive(Clone, Debug)]
pub struct Goal {
    /// The source, and the end of its log.
    pub system: System,
    /// Its clock, a moment before.
    pub(super) at: i64,
    /// Transactions from before it may have changed a table before it was published: of those changes no
    /// stream tells.
    pub(super) next_xid: i64,
}

/// Asks the source where it is, behind the publishing of what is to be read.
pub async fn goal(source: &Endpoint) -> Result<Goal> {
    let session = connect(Side::Source, source, APPLICATION).await?;
    let mut walsender = Walsender::connect(source, APPLICATION).await?;
    let at = slot::now(&session).await?;
    let next_xid = slot::next_xid(&session).await?;
    Ok(Goal { system: identify(&mut walsender).await?, at, next_xid })
}

/// What a standby says of itself.
struct About {
    recovers: bool,
    decodes: bool,
    pauses: bool,
    feeds_back: bool,
    role: String,
    replayed: Option<Lsn>,
}

async fn about(standby: &Session) -> Result<About> {
    let failed = |error| Error::source("reading the settings of the standby", error);
    let row = standby.query_one(SETTINGS, &[]).await.map_err(failed)?;
    let read = || -> Result<About, tokio_postgres::Error> {
        let replayed: Option<i64> = row.try_get("replayed")?;
        Ok(About {
            recovers: row.try_get("recovers")?,
            decodes: row.try_get("decodes")?,
            pauses: row.try_get("pauses")?,
            feeds_back: row.try_get("feeds_back")?,
            role: row.try_get("role")?,
            replayed: replayed.map(Lsn::from_i64),
        })
    };
    read().map_err(failed)
}

/// Refuses a server that is no standby of the source, or that gives no snapshots.
fn refuse_other(about: &About, here: &System, source: &System) -> Result<()> {
    let refuse = |what: String, remedy: String| {
        Err(Error::new(Kind::SourceLacks, format!("snapshot.url: {what}")).remedy(remedy))
    };
    let another = "name a physical standby of the connector's source, or remove snapshot.url";
    if here.id != source.id {
        let what = format!(
            "it is another system ({}) than the source ({}), and no standby of it",
            here.id, source.id
        );
        return refuse(what, another.to_owned());
    }
    if !about.recovers {
        let what = "it is not a standby: it is not in recovery".to_owned();
        return refuse(what, another.to_owned());
    }
    if !about.decodes && !about.pauses {
        let role = quote::ident(&about.role);
        let what = format!("role {} can neither make a slot there nor pause replay", about.role);
        return refuse(
            what,
            format!(
                "at the source: grant execute on function pg_wal_replay_pause(), \
                 pg_wal_replay_resume() to {role}; or, from Postgres 16 on, wal_level = logical at \
                 the standby"
            ),
        );
    }
    Ok(())
}

/// What is wrong with the standby of a source. An error is a server that does not answer.
pub async fn inspect(standby: &Endpoint, source: &Endpoint) -> Result<Vec<Finding>> {
    let system = identify(&mut Walsender::connect(source, APPLICATION).await?).await?;
    let session = connect(Side::Source, standby, APPLICATION).await?;
    let here = identify(&mut Walsender::connect(standby, APPLICATION).await?).await?;
    let about = about(&session).await?;
    if let Err(error) = refuse_other(&about, &here, &system) {
        let remedy = error.remedy_text().unwrap_or_default().to_owned();
        return Ok(vec![Finding { fatal: true, what: error.reason(), remedy }]);
    }
    Ok(if about.feeds_back {
        Vec::new()
    } else {
        vec![Finding {
            fatal: false,
            what: "snapshot.url: its hot_standby_feedback is off, so that a long reading is \
                   cancelled where the source has removed what it reads"
                .to_owned(),
            remedy: "alter system set hot_standby_feedback = on; select pg_reload_conf()"
                .to_owned(),
        }]
    })
}

/// Takes a snapshot at the standby, of a point that is not below the goal. What passes with time is
/// [`Kind::SourceAway`].
pub async fn snapshot(
    standby: &Endpoint,
    source: &Endpoint,
    goal: &Goal,
    slot: &str,
) -> Result<Created> {
    let taken = take(standby, source, goal, slot).await.map_err(passing)?;
    // what was streamed before the goal was not kept
    if taken.consistent_point < goal.system.end {
        return Err(Error::bug("a snapshot of the standby is older than what it had replayed"));
    }
    Ok(taken)
}

/// A failure at the standby as one that passes, but for what a person must mend.
pub fn passing(error: Error) -> Error {
    match error.kind() {
        Kind::Rights | Kind::SourceLacks | Kind::SourceAway | Kind::Bug => error,
        _ => error.with_kind(Kind::SourceAway).remedy(LETS_READ),
    }
}

async fn take(standby: &Endpoint, source: &Endpoint, goal: &Goal, slot: &str) -> Result<Created> {
    let session = connect(Side::Source, standby, APPLICATION).await?;
    let mut walsender = Walsender::connect(standby, APPLICATION).await?;
    let here = identify(&mut walsender).await?;
    let about = about(&session).await?;
    refuse_other(&about, &here, &goal.system)?;
    if here.timeline != goal.system.timeline {
        return Err(away(format!(
            "the standby is on timeline {}, the source on {}",
            here.timeline, goal.system.timeline
        ))
        .remedy("let the standby follow the source, or name another one in snapshot.url"));
    }
    replayed(&session, goal.system.end).await?;
    if !about.decodes {
        return paused((standby, source), session, goal).await;
    }
    match by_slot(&session, walsender, source, (goal, slot)).await.map_err(passing) {
        Err(error) if error.kind() == Kind::SourceAway && about.pauses => {
            tracing::info!("{}; replay is paused for a moment instead", error.reason());
            let session = connect(Side::Source, standby, APPLICATION).await?;
            paused((standby, source), session, goal).await
        }
        made => made,
    }
}

/// Waits until the standby has replayed the source's log up to `end`.
async fn replayed(standby: &Session, end: Lsn) -> Result<()> {
    let began = Instant::now();
    loop {
        let at = about(standby).await?.replayed.unwrap_or(Lsn(0));
        if at >= end {
            return Ok(());
        }
        if began.elapsed() >= BEHIND_AT_MOST {
            let what = format!("the standby is behind: it has replayed {at}, and {end} is needed");
            return Err(away(what).remedy(
                "look whether it follows the source and replays: pg_stat_wal_receiver, \
                 pg_get_wal_replay_pause_state(), recovery_min_apply_delay",
            ));
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// The snapshot of a temporary slot at the standby (Postgres 16 and newer).
///
/// The slot alone does not keep the rows of its snapshot from being removed before that is exported: of
/// the source's clean-ups, only those of catalogues mind a standby's slot. So an older snapshot is held
/// meanwhile. Replay cancels it before it removes a row that it, or any later one, could see.
async fn by_slot(
    session: &Session,
    mut walsender: Walsender,
    source: &Endpoint,
    (goal, slot): (&Goal, &str),
) -> Result<Created> {
    let failed = |error| Error::source("holding a snapshot at the standby", error);
    let hold = "begin transaction isolation level repeatable read read only; select 1";
    session.batch_execute(hold).await.map_err(failed)?;
    let making = async {
        tokio::select! {
            made = slot::make(&mut walsender, slot, Lasts::Temporary) => made,
            never = hurry(source) => match never {},
        }
    };
    let (consistent_point, snapshot) =
        timeout(SLOT_WITHIN, making).await.unwrap_or_else(|_elapsed| {
            Err(away(
                "a slot at the standby waits for transactions that are open at the source, or for \
                 the source to write which ones are"
                    .to_owned(),
            )
            .remedy(format!(
                "at the source, end long transactions (pg_stat_activity.xact_start), and grant \
                 execute on function pg_log_standby_snapshot() to {}",
                quote::ident(source.user())
            )))
        })?;
    // fails where the snapshot was cancelled
    let (recovers, taken_at) = moment(session, goal).await?;
    session.batch_execute("commit").await.map_err(failed)?;
    if !recovers {
        return Err(promoted());
    }
    Ok(Created { begun: Lsn(0), consistent_point, snapshot, taken_at, _held: Box::new(walsender) })
}

/// Lets the source write which transactions are open, again and again: a slot at a standby waits for
/// that, and an idle source writes it never.
async fn hurry(source: &Endpoint) -> Infallible {
    let source = match connect(Side::Source, source, APPLICATION).await {
        Ok(source) => source,
        Err(error) => {
            tracing::debug!(
                "the source is not asked for its open transactions: {}",
                error.reason()
            );
            return std::future::pending().await;
        }
    };
    loop {
        if let Err(error) = source.query_one("select pg_log_standby_snapshot()", &[]).await {
            // a busy source writes it by itself every 15 s
            tracing::debug!(%error, "the source may not be asked to write its open transactions");
            return std::future::pending().await;
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// Whether it is a standby still, and when its snapshot was taken by the source's clock: what is in it
/// was committed before, what is not, behind.
pub(super) async fn moment(standby: &Session, goal: &Goal) -> Result<(bool, i64)> {
    let failed = |error| Error::source("looking how far the standby has replayed", error);
    let query = "select pg_is_in_recovery(), (extract(epoch from pg_last_xact_replay_timestamp())
                     * 1000000)::int8 - 946684800000000::int8";
    let row = standby.query_one(query, &[]).await.map_err(failed)?;
    let last: Option<i64> = row.try_get(1).map_err(failed)?;
    Ok((row.try_get(0).map_err(failed)?, last.unwrap_or(goal.at).max(goal.at)))
}

pub(super) fn promoted() -> Error {
    away("the standby was promoted while a snapshot was taken".to_owned())
}

pub(super) fn away(what: String) -> Error {
    Error::new(Kind::SourceAway, what)
}
