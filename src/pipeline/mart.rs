//! Keeps one mart fresh, a turn after the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};

use super::marts::{Ground, RESOURCE};
use super::unheeded::refuse_shape;
use super::withheld::{Held, Hold};
use crate::error::{Error, Kind, Policy, Result};
use crate::merge::{Lock, Step};
use crate::postgres::{Session, Side, connect};
use crate::refresh::{self, Shape, Standing, Turn};
use crate::serve::MartReport;
use crate::spec::Mart;
use crate::warehouse::{Fence, Fenced, interrupt, register};

/// How often marks are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often a mart that nothing touches notes how far the logs are.
const STAMP_EVERY: Duration = Duration::from_secs(5);

/// How often it is looked whether a table that a mart reads is another one.
const REVIEW_EVERY: Duration = Duration::from_secs(15);

/// How often one that is held looks whether it still is.
const HELD_EVERY: Duration = Duration::from_millis(500);

/// The pauses of one that cannot go on: waiting for what passes by itself, and for a person.
const PAUSES: (Duration, Duration, Duration) =
    (Duration::from_millis(250), Duration::from_secs(5), Duration::from_secs(30));

/// How often one that cannot go on is tried where the service ends when all is done.
const TRIES_AT_END: i32 = 1;

/// How many marks one that cannot go on keeps before they become one that stands for all rows.
const MARKS: i64 = 100_000;

/// The state of one that a check holds.
const HELD: &str = "held";

/// How long a turn should take; more or fewer groups are taken to come near it.
const TURN: Duration = Duration::from_millis(500);
const GROUPS: (i64, i64, i64) = (1, 64, 20_000);

/// Keeps one mart.
pub(super) struct Keeper {
    pub(super) ground: Ground,
    pub(super) fence: Fence,
    pub(super) mart: Mart,
    pub(super) hold: Option<Hold>,
    pub(super) settle: watch::Receiver<bool>,
    pub(super) turns: Arc<Semaphore>,
}

impl Keeper {
    /// Until it has settled; an error is that another instance has taken over.
    pub(super) async fn run(self) -> Result<()> {
        let (mut pause, mut tries) = (PAUSES.0, 0);
        // one for all tries: each that is opened is recorded with the lease
        let mut session: Option<Session> = None;
        loop {
            let started = Instant::now();
            let Err(error) = self.follow(&mut session).await else { return Ok(()) };
            if error.kind() == Kind::Fenced {
                return Err(error);
            }
            if started.elapsed() > REVIEW_EVERY {
                pause = PAUSES.0;
            }
            let passes = error.kind().policy() == Policy::Retry;
            self.note(&mut session, &error, passes).await;
            tries += i32::from(*self.settle.borrow());
            if tries > TRIES_AT_END {
                return Ok(());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(if passes { PAUSES.1 } else { PAUSES.2 });
        }
    }

    /// Says why it does not go on.
    async fn note(&self, session: &mut Option<Session>, error: &Error, passes: bool) {
        let (state, reason) = (if passes { "waiting" } else { "stopped" }, error.reason());
        if !passes {
            let mart = self.mart.table.to_string();
            self.ground.events.mart(&mart, Duration::ZERO, Err(&reason));
        }
        let known =
            self.ground.board.mart_says(&self.mart.table, state, &reason, error.remedy_text());
        if !known {
            tracing::warn!(mart = %self.mart.table, remedy = error.remedy_text(), "{reason}; trying again");
        }
        let noted = async {
            let session = self.session(session).await?;
            let transaction =
                Fenced::begin(session, &self.fence, "mart", &self.ground.durations).await?;
            let why = (Some(reason.as_str()), error.remedy_text());
            refresh::note(&*transaction, &self.mart.table, state, why, None).await?;
            refresh::gather(&*transaction, &self.mart.table, MARKS).await?;
            transaction.commit().await
        };
        if let Err(error) = noted.await {
            tracing::debug!(mart = %self.mart.table, "it was not noted why it waits: {}", error.reason());
        }
    }

    async fn session<'s>(&self, held: &'s mut Option<Session>) -> Result<&'s mut Session> {
        match held {
            Some(session) if !session.is_closed() => {}
            _ => *held = Some(self.open().await?),
        }
        held.as_mut().ok_or_else(|| Error::bug("a session was just opened"))
    }

    async fn open(&self) -> Result<Session> {
        let name = format!("siltstone mart {}", self.mart.table);
        let session = connect(Side::Warehouse, &self.ground.settings.warehouse, &name).await?;
        register(&session, &self.fence).await?;
        Ok(session)
    }

    async fn follow(&self, session: &mut Option<Session>) -> Result<()> {
        let session = self.session(session).await?;
        let (ground, name) = (&self.ground, self.mart.table.to_string());
        let shape = prepare(session, &self.mart, &self.fence, ground).await?;
        Turn::set_up(session).await?;
        let (mut groups, mut stamped, mut reviewed) = (GROUPS.1, Instant::now(), Instant::now());
        let mut last = Duration::ZERO;
        let mut ended = Instant::now();
        loop {
            // before the look: what was there when it was to settle is seen by it
            let settles = *self.settle.borrow();
            let standing = refresh::standings(&**session, Some(&name)).await?.pop();
            let Some(standing) = standing else {
                let what = format!("{name} is no longer noted in audit.marts");
                return Err(Error::new(Kind::Busy, what));
            };
            ground.board.mart(report(&standing));
            let stamp = standing.moved && stamped.elapsed() >= STAMP_EVERY
                || standing.as_of.is_none()
                || standing.state == HELD;
            let rested = ended.elapsed() >= self.rest(last, &standing);
            if !(standing.due && rested || stamp && !standing.due) {
                if !standing.due && settles {
                    return Ok(());
                }
                if reviewed.elapsed() >= REVIEW_EVERY {
                    self.review(session, &shape).await?;
                    reviewed = Instant::now();
                }
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            if self.is_held(session, &standing, &mut reviewed).await? {
                if settles {
                    return Ok(());
                }
                tokio::time::sleep(HELD_EVERY).await;
                continue;
            }
            let _turn = self
                .turns
                .acquire()
                .await
                .map_err(|error| Error::bug("no turns").because(error))?;
            let started = Instant::now();
            let turn = Turn { fence: &self.fence, durations: &ground.durations, groups };
            let turned = turn.take(session, &shape).await?;
            let took = started.elapsed();
            if turned.groups > 0 || turned.written > 0 {
                ground.events.mart(&name, took, Ok(turned.written));
            }
            last = if turned.left { Duration::ZERO } else { took };
            if turned.groups > 0 && took > TURN * 2 {
                groups = (groups / 2).max(GROUPS.0);
            } else if turned.left && took < TURN / 2 {
                groups = (groups * 2).min(GROUPS.2);
            }
            (stamped, ended) = (Instant::now(), Instant::now());
        }
    }

    /// Whether a check that it waits for fails. It stays as it is then, and says why.
    async fn is_held(
        &self,
        session: &mut Session,
        standing: &Standing,
        reviewed: &mut Instant,
    ) -> Result<bool> {
        let Some(hold) = &self.hold else { return Ok(false) };
        let Some(Held { reason, remedy }) = hold.held(session).await? else { return Ok(false) };
        let known = standing.state == HELD && standing.reason.as_deref() == Some(&reason);
        // what it is not told of meanwhile must not fill the disk
        if known && reviewed.elapsed() < REVIEW_EVERY {
            return Ok(true);
        }
        let (mart, durations) = (&self.mart.table, &self.ground.durations);
        let transaction = Fenced::begin(session, &self.fence, "mart", durations).await?;
        if !known {
            tracing::warn!(%mart, remedy, "{reason}");
            let why = (Some(reason.as_str()), Some(remedy.as_str()));
            refresh::note(&*transaction, mart, HELD, why, None).await?;
        }
        refresh::gather(&*transaction, mart, MARKS).await?;
        transaction.commit().await?;
        *reviewed = Instant::now();
        Ok(true)
    }

    /// How long it rests behind a turn: half of the time at most goes into one mart, and what is computed as a
    /// whole is not so more often than its age asks for.
    fn rest(&self, last: Duration, standing: &Standing) -> Duration {
        if standing.stale_groups > 0 && last.is_zero() {
            return Duration::ZERO;
        }
        let half = self.mart.max_age / 2;
        match self.mart.refresh_by {
            Some(_) => last.min(half.max(LOOK_EVERY)),
            None => half.max(last),
        }
    }

    /// Whether what it reads is still what it was.
    async fn review(&self, session: &mut Session, shape: &Shape) -> Result<()> {
        let found = {
            let transaction = begin(session).await?;
            refresh::describe(&transaction, &self.mart).await?
        };
        let told =
            |shape: &Shape| format!("{:?}{:?}{:?}", shape.columns, shape.inputs, shape.views);
        let unwatched = refresh::unwatched(&**session, shape.reader()).await?;
        if told(&found) != told(shape) || !unwatched.is_empty() {
            let what = format!("what {} reads is another table than before", self.mart.table);
            return Err(Error::new(Kind::Busy, what));
        }
        Ok(())
    }
}

async fn begin(session: &mut Session) -> Result<tokio_postgres::Transaction<'_>> {
    let begun = session.transaction().await;
    begun.map_err(|error| Error::warehouse("beginning a transaction", error))
}

/// What a mart's query answers and reads; refuses one that would not be told of all that it reads.
async fn describe(session: &mut Session, mart: &Mart) -> Result<Shape> {
    let transaction = begin(session).await?;
    let shape = refresh::describe(&transaction, mart).await?;
    refuse_shape(&shape)?;
    Ok(shape)
}

/// Makes what a mart needs: its table, and that the tables it reads tell of their changes.
async fn prepare(
    session: &mut Session,
    mart: &Mart,
    fence: &Fence,
    ground: &Ground,
) -> Result<Shape> {
    let patience =
        "set default_transaction_isolation to 'read committed'; set lock_timeout to '900ms'";
    let set = session.batch_execute(patience).await;
    set.map_err(|error| Error::warehouse("setting up a session", error))?;
    let shape = describe(session, mart).await?;
    let definition = refresh::define(&**session, &shape, &ground.settings.readers).await?;
    let unwatched: Vec<refresh::Input> =
        refresh::unwatched(&**session, shape.reader()).await?.into_iter().cloned().collect();
    if ground.no_ddl && (!definition.statements.is_empty() || !unwatched.is_empty()) {
        let what = format!("{} is to be made, and this service makes no tables", mart.table);
        return Err(Error::new(Kind::TableStops, what).remedy("siltstone apply"));
    }
    make(session, fence, ground, &shape, &definition, &unwatched).await?;
    Ok(shape)
}

/// What a mart lacks, as `siltstone plan` tells it; none where it has everything, an error where it waits or
/// does not fit.
pub(super) async fn lacks(
    session: &mut Session,
    mart: &Mart,
    readers: &[String],
) -> Result<Option<Step>> {
    let shape = describe(session, mart).await?;
    let definition = refresh::define(&**session, &shape, readers).await?;
    let mut statements = definition.statements;
    let unwatched = refresh::unwatched(&**session, shape.reader()).await?;
    statements.extend(unwatched.into_iter().map(refresh::watching));
    let what = "make the mart, and let the tables that it reads tell of their changes".to_owned();
    Ok((!statements.is_empty()).then(|| Step::new(what, statements, Lock::Share)))
}

/// How often what `apply` makes is tried, each time with locks that are waited for less than a second.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// Makes what a mart lacks, for a service that makes no tables. It begins anew then.
pub(super) async fn make_for(session: &mut Session, mart: &Mart, readers: &[String]) -> Result<()> {
    let mut tries = 1;
    loop {
        match try_make_for(session, mart, readers).await {
            Err(error) if error.kind() == Kind::Busy && tries < TRIES => tries += 1,
            ended => return ended,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One time; what it has made stays. A table is locked by itself and not for long: its writers wait meanwhile.
async fn try_make_for(session: &mut Session, mart: &Mart, readers: &[String]) -> Result<()> {
    let shape = describe(session, mart).await?;
    let definition = refresh::define(&**session, &shape, readers).await?;
    let unwatched: Vec<refresh::Input> =
        refresh::unwatched(&**session, shape.reader()).await?.into_iter().cloned().collect();
    let failed = |error| Error::warehouse(format!("making {}", mart.table), error);
    if definition.anew || !definition.statements.is_empty() {
        let transaction = patient(session).await?;
        interrupt(&transaction, RESOURCE).await.map_err(failed)?;
        define(&transaction, &shape, &definition).await?;
        transaction.commit().await.map_err(failed)?;
    }
    for (at, input) in unwatched.iter().enumerate() {
        let transaction = patient(session).await?;
        // behind the last one: it lacks nothing then
        if at + 1 == unwatched.len() {
            interrupt(&transaction, RESOURCE).await.map_err(failed)?;
        }
        refresh::watch(&transaction, shape.reader(), input).await?;
        transaction.commit().await.map_err(failed)?;
    }
    Ok(())
}

/// Begins a transaction that others do not queue behind for long.
async fn patient(session: &mut Session) -> Result<tokio_postgres::Transaction<'_>> {
    let transaction = begin(session).await?;
    let set = transaction.batch_execute("set local lock_timeout to '900ms'").await;
    set.map_err(|error| Error::warehouse("beginning a transaction", error))?;
    Ok(transaction)
}

/// Makes its table and notes by which file.
async fn define(
    transaction: &tokio_postgres::Transaction<'_>,
    shape: &Shape,
    definition: &refresh::Definition,
) -> Result<()> {
    let mart = &shape.mart;
    for statement in &definition.statements {
        transaction
            .batch_execute(statement)
            .await
            .map_err(|error| Error::warehouse(format!("making {}", mart.table), error))?;
    }
    let state = if definition.anew { "building" } else { "stale" };
    refresh::note(transaction, &mart.table, state, (None, None), Some(&mart.digest())).await?;
    if definition.anew {
        refresh::ask(transaction, &mart.table).await?;
    }
    Ok(())
}

async fn make(
    session: &mut Session,
    fence: &Fence,
    ground: &Ground,
    shape: &Shape,
    definition: &refresh::Definition,
    unwatched: &[refresh::Input],
) -> Result<()> {
    let mart = &shape.mart;
    let transaction = Fenced::begin(session, fence, "mart", &ground.durations).await?;
    define(&transaction, shape, definition).await?;
    transaction.commit().await?;
    if definition.anew {
        tracing::info!(mart = %mart.table, "it is computed from all rows");
    }
    for input in unwatched {
        let transaction = Fenced::begin(session, fence, "mart", &ground.durations).await?;
        refresh::watch(&*transaction, shape.reader(), input).await?;
        transaction.commit().await?;
    }
    Ok(())
}

fn report(standing: &Standing) -> MartReport {
    MartReport {
        mart: standing.mart.clone(),
        state: standing.state.clone(),
        reason: standing.reason.clone(),
        remedy: standing.remedy.clone(),
        as_of: standing.as_of.clone(),
        stale_groups: standing.stale_groups,
        lag_seconds: standing.lag_seconds,
        refreshed_at: standing.refreshed_at.clone(),
        rows_written: standing.rows_written,
    }
}
