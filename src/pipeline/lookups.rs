//! Keeps the columns that are looked up: puts their lookups in place once what they read is there, and goes
//! through a table when that changed. One task a table, of whoever keeps the marts.
//!
//! It writes no row that is right already, and gives way to whoever else writes.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::marts::Ground;
use super::placing::{describe, looked_up, unreadable, unwatched};
use crate::error::{Error, Kind, Policy, Result};
use crate::names::TableName;
use crate::postgres::{Session, Side, connect, quote};
use crate::refresh::{self, Looks, Swath, Which};
use crate::spec::{Model, Spec};
use crate::warehouse::{Fence, Fenced, register};

/// How often marks are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often it is looked whether what a table reads is another one.
const REVIEW_EVERY: Duration = Duration::from_secs(15);

/// The pauses of one that cannot go on: the first, and the longest where it passes by itself or waits for a person.
const PAUSES: (Duration, Duration, Duration) =
    (Duration::from_millis(250), Duration::from_secs(2), Duration::from_secs(15));

/// How long writers of before are waited for until it is said, and where the service ends when all is done.
const WRITERS: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(10));

/// How often it is looked whether they have ended.
const WRITERS_EVERY: Duration = Duration::from_millis(20);

/// The rows of a part: the first one's, the fewest and the most; and how long one should take.
const PART: (i64, i64, i64) = (2_000, 50, 20_000);
const PART_TAKES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(200));

/// How long after lookups are put in place sessions may still write by the files of before.
const OLD_FILES: Duration = Duration::from_secs(15);

/// How many marks are kept apart.
const MARKS: i64 = 1_000;

/// Far below the time after which a deadlock is looked for: whoever else is in it goes on.
const YIELDING: &str = "set default_transaction_isolation to 'read committed'; set jit to off; \
     set lock_timeout to '300ms'; set enable_seqscan to off";

/// Looks the rows of one table up.
pub(super) struct Looker {
    ground: Ground,
    fence: Fence,
    settle: watch::Receiver<bool>,
    /// none of a table whose file has no lookups any more
    model: Option<Model>,
    table: TableName,
    others: Vec<TableName>,
    /// what was said last
    said: Option<String>,
}

/// Those of the files, and of the tables that had lookups before.
pub(super) async fn lookers(
    ground: &Ground,
    fence: &Fence,
    spec: &Spec,
    (session, settle): (&Session, &watch::Receiver<bool>),
) -> Result<Vec<Looker>> {
    let others = unreadable(spec);
    let looker = |table: &TableName, model: Option<&Model>| Looker {
        ground: ground.clone(),
        fence: fence.clone(),
        settle: settle.clone(),
        model: model.cloned(),
        table: table.clone(),
        others: others.clone(),
        said: None,
    };
    let mut lookers: Vec<Looker> =
        looked_up(spec).map(|model| looker(&model.table, Some(model))).collect();
    let known = refresh::lookups(&**session).await?;
    let gone = known.iter().filter(|known| !looked_up(spec).any(|of| of.table == known.table));
    lookers.extend(gone.map(|known| looker(&known.table, None)));
    Ok(lookers)
}

impl Looker {
    /// The table.
    pub(super) fn table(&self) -> &TableName {
        &self.table
    }

    /// Until it has settled, or there is nothing to look up; an error is that another instance has taken over.
    pub(super) async fn run(mut self) -> Result<()> {
        let mut pause = PAUSES.0;
        let mut session: Option<Session> = None;
        loop {
            let started = Instant::now();
            let settles = *self.settle.borrow();
            let Err(error) = self.follow(&mut session).await else { return Ok(()) };
            if error.kind() == Kind::Fenced {
                return Err(error);
            }
            if started.elapsed() > REVIEW_EVERY {
                pause = PAUSES.0;
            }
            let passes = error.kind().policy() == Policy::Retry;
            self.say(&mut session, &error, passes).await;
            if settles {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // once more, and that is it
                () = told(self.settle.clone()) => {}
            }
            pause = (pause * 2).min(if passes { PAUSES.1 } else { PAUSES.2 });
        }
    }

    /// Says why it does not go on: where it is asked, and once where it is read.
    async fn say(&mut self, session: &mut Option<Session>, error: &Error, passes: bool) {
        let (state, reason) = (if passes { "waiting" } else { "stopped" }, error.reason());
        if self.said.as_ref() != Some(&reason) {
            tracing::warn!(table = %self.table, remedy = error.remedy_text(), "{reason}; trying again");
        }
        // each time: what is read goes on to leave marks
        let told = (reason.clone(), error.remedy_text().map(str::to_owned));
        if let Err(error) = self.note(session, state, (Some(&told.0), told.1.as_deref())).await {
            tracing::debug!(table = %self.table, "it was not noted why it waits: {}", error.reason());
            return;
        }
        self.said = Some(reason);
    }

    async fn note(
        &self,
        session: &mut Option<Session>,
        state: &str,
        why: (Option<&str>, Option<&str>),
    ) -> Result<()> {
        let Some(model) = &self.model else { return Ok(()) };
        let session = self.session(session).await?;
        let transaction = self.begin(session).await?;
        refresh::note_lookups(&*transaction, model, state, why).await?;
        refresh::gather(&*transaction, &self.table, MARKS).await?;
        transaction.commit().await
    }

    async fn session<'s>(&self, held: &'s mut Option<Session>) -> Result<&'s mut Session> {
        match held {
            Some(session) if !session.is_closed() => {}
            _ => *held = Some(self.open().await?),
        }
        held.as_mut().ok_or_else(|| Error::bug("a session was just opened"))
    }

    async fn open(&self) -> Result<Session> {
        let name = format!("siltstone lookups {}", self.table);
        let session = connect(Side::Warehouse, &self.ground.settings.warehouse, &name).await?;
        let set = session.batch_execute(&format!("{YIELDING}; {}", refresh::settings())).await;
        set.map_err(|error| Error::warehouse("setting up a session", error))?;
        register(&session, &self.fence).await?;
        Ok(session)
    }

    async fn begin<'s>(&self, session: &'s mut Session) -> Result<Fenced<'s>> {
        Fenced::begin(session, &self.fence, "lookup", &self.ground.durations).await
    }

    async fn follow(&mut self, held: &mut Option<Session>) -> Result<()> {
        let session = self.session(held).await?;
        let Some(model) = self.model.clone() else { return self.retire(session).await };
        while !refresh::is_made(&**session, &self.table).await? {
            if *self.settle.borrow() {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let (looks, placed) = self.prepare(session, &model).await?;
        let (mut reviewed, mut noted) = (Instant::now(), false);
        let mut once_more = placed.then(|| Instant::now() + OLD_FILES);
        loop {
            if once_more.is_some_and(|then| then <= Instant::now()) {
                let transaction = self.begin(session).await?;
                refresh::mark(&*transaction, &self.table).await?;
                transaction.commit().await?;
                once_more = None;
            }
            // before the look: what was there when it was to settle is seen by it
            let settles = *self.settle.borrow();
            let marks = refresh::marks(&**session, &self.table).await?;
            if !refresh::is_placed(&**session, &model).await? {
                let what = format!("the lookups of {} are not in place any more", self.table);
                return Err(Error::new(Kind::Busy, what));
            }
            if !marks.is_empty() || !noted {
                self.sweep(session, &model, &marks).await?;
                noted = true;
                continue;
            }
            if settles {
                return Ok(());
            }
            if reviewed.elapsed() >= REVIEW_EVERY {
                let found = describe(session, &model, &self.others).await?;
                let other = found != looks
                    || !refresh::unwatched(&**session, looks.reader()).await?.is_empty();
                if other {
                    let what = format!("what {} is looked up in is another table", self.table);
                    return Err(Error::new(Kind::Busy, what));
                }
                reviewed = Instant::now();
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Lets what is read tell of its changes, then puts the lookups in place: so none is missed.
    /// Tells what they read, and whether they were not in place before.
    async fn prepare(&self, session: &mut Session, model: &Model) -> Result<(Looks, bool)> {
        let looks = describe(session, model, &self.others).await?;
        let unwatched = unwatched(session, &looks).await?;
        let placed = refresh::is_placed(&**session, model).await?;
        if self.ground.no_ddl && !(placed && unwatched.is_empty()) {
            let what =
                format!("lookups of {} are to be made, and this service makes none", self.table);
            return Err(Error::new(Kind::TableStops, what).remedy("siltstone apply"));
        }
        for input in &unwatched {
            let transaction = self.begin(session).await?;
            let watched = refresh::watch(&*transaction, looks.reader(), input).await;
            watched.map_err(|error| match error.kind() {
                Kind::Rights => error.remedy(format!(
                    "alter table {} owner to the warehouse's role: only so it can tell of its changes",
                    quote::table(&input.read.table)
                )),
                _ => error,
            })?;
            transaction.commit().await?;
        }
        if !placed {
            let transaction = self.begin(session).await?;
            refresh::place(&*transaction, model, &looks).await?;
            transaction.commit().await?;
            tracing::info!(table = %self.table, "its lookups are in place; its rows are looked up");
        }
        Ok((looks, !placed))
    }

    /// Sets all rows right that were looked up before these marks.
    async fn sweep(&mut self, session: &mut Session, model: &Model, marks: &[i64]) -> Result<()> {
        let mut rows = 0;
        if !marks.is_empty() {
            self.outlast(session, model).await?;
            for which in [Which::First, Which::Rest] {
                // versions that ended meanwhile have what the current ones had then
                for swath in refresh::swaths(&**session, model, which).await? {
                    rows += self.sweep_leaf(session, (model, &swath)).await?;
                }
            }
        }
        let table = &self.table;
        let transaction = self.begin(session).await?;
        refresh::forget_marks(&*transaction, table, marks).await?;
        refresh::note_lookups(&*transaction, model, "fresh", (None, None)).await?;
        transaction.commit().await?;
        tracing::debug!(%table, rows, "its rows have what is looked up");
        self.said = None;
        Ok(())
    }

    /// Sets a leaf right, part by part; whoever has locked a row of one goes first.
    async fn sweep_leaf(
        &self,
        session: &mut Session,
        (model, swath): (&Model, &Swath),
    ) -> Result<u64> {
        let (mut swept, mut size, mut since) = (0, PART.0, Instant::now());
        let mut next = Some(swath.begin());
        while let Some(begin) = next.clone() {
            let began = Instant::now();
            let transaction = self.begin(session).await?;
            match refresh::sweep(&*transaction, (model, swath), (&begin, size)).await {
                Err(error) if error.kind() == Kind::Busy => {
                    drop(transaction);
                    if *self.settle.borrow() && since.elapsed() > WRITERS.1 {
                        return Err(error);
                    }
                    tokio::time::sleep(LOOK_EVERY).await;
                    continue;
                }
                part => {
                    let (rows, behind) = part?;
                    transaction.commit().await?;
                    (swept, next, since) = (swept + rows, behind, Instant::now());
                }
            }
            // merges of versions wait for it
            let took = began.elapsed();
            size = match (took < PART_TAKES.0, took > PART_TAKES.1) {
                (true, _) => (size * 2).min(PART.2),
                (_, true) => (size / 2).max(PART.1),
                _ => size,
            };
        }
        Ok(swept)
    }

    /// Waits for the end of whoever has written the table and may have looked up what was there before.
    async fn outlast(&mut self, session: &mut Session, model: &Model) -> Result<()> {
        let (started, mut said) = (Instant::now(), false);
        let mut writers = refresh::writers(&**session, &self.table, None).await?;
        while !writers.is_empty() {
            let waited = started.elapsed();
            let what = || {
                format!(
                    "the lookups of {} wait for a transaction that has written it and goes on",
                    self.table
                )
            };
            let remedy = || {
                format!(
                    "nothing, where it is soon over; else end it: select pid from pg_locks where relation = {}::regclass",
                    quote::literal(&quote::table(&self.table))
                )
            };
            if *self.settle.borrow() && waited > WRITERS.1 {
                return Err(Error::new(Kind::Busy, what()).remedy(remedy()));
            }
            if !said && waited > WRITERS.0 {
                said = true;
                let (what, remedy) = (what(), remedy());
                let transaction = self.begin(session).await?;
                let why = (Some(what.as_str()), Some(remedy.as_str()));
                refresh::note_lookups(&*transaction, model, "waiting", why).await?;
                transaction.commit().await?;
            }
            tokio::time::sleep(WRITERS_EVERY).await;
            // of others it is known that they write what is there now
            writers = refresh::writers(&**session, &self.table, Some(&writers)).await?;
        }
        Ok(())
    }

    /// Takes away what sets columns that no file looks up any more.
    async fn retire(&self, session: &mut Session) -> Result<()> {
        if self.ground.no_ddl {
            tracing::warn!(table = %self.table, remedy = "siltstone apply", "its file looks nothing up any more");
            let marks = refresh::marks(&**session, &self.table).await?;
            let transaction = self.begin(session).await?;
            refresh::forget_marks(&*transaction, &self.table, &marks).await?;
            return transaction.commit().await;
        }
        let transaction = self.begin(session).await?;
        refresh::unplace(&*transaction, &self.table).await?;
        transaction.commit().await?;
        tracing::info!(table = %self.table, "nothing is looked up any more: its columns keep what they hold");
        Ok(())
    }
}

/// Waits until something turns true.
async fn told(mut turns: watch::Receiver<bool>) {
    if turns.wait_for(|turned| *turned).await.is_err() {
        std::future::pending::<()>().await;
    }
}
