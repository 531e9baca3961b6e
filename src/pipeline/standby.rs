//! Where the rows of a reading come from: the source, or a standby of it. A standby that is away, behind
//! or gives up a reading keeps its tables waiting, and says so at each; so does a source that has no room for
//! a slot. The stream goes on.

use std::time::Duration;

use super::awaited::{tell, telling};
use super::chunks::APPLICATION;
use super::cutting::Job;
use super::shared::Shared;
use super::tables::Planned;
use crate::capture::preflight;
use crate::capture::slot::{self, Created};
use crate::capture::standby::{self, Goal};
use crate::capture::walsender::Walsender;
use crate::error::{Error, Kind, Result};
use crate::names::shortened;
use crate::postgres::{Endpoint, Session, Side, connect};
use crate::progress;

/// The first and the longest pause before the standby is asked again.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Who is asked for a snapshot, as tables name it that wait.
const SOURCE: &str = "the source";
const STANDBY: &str = "the standby";

/// Where snapshots come from, one after the other.
pub(super) struct Origin<'s> {
    shared: &'s Shared,
    /// what a standby must have replayed: from there on changes are kept
    goal: Option<Goal>,
    attempt: u32,
    pause: Duration,
    /// who was asked last
    asked: &'static str,
    /// whether tables may say that they wait, if only since a session before
    told: bool,
}

impl<'s> Origin<'s> {
    pub(super) fn new(shared: &'s Shared) -> Origin<'s> {
        Origin { shared, goal: None, attempt: 0, pause: PAUSES.0, asked: SOURCE, told: true }
    }

    pub(super) fn is_standby(&self) -> bool {
        self.shared.connector().snapshot.standby.is_some()
    }

    /// A snapshot that lives as long as its connection, and its point.
    pub(super) async fn snapshot(&mut self, left: &[Job]) -> Result<Created> {
        let connector = self.shared.connector();
        let suffix = format!("_read_{}_{}", self.shared.reading, self.attempt);
        self.attempt += 1;
        self.asked = SOURCE;
        let name = shortened(&connector.slot, &suffix);
        let endpoint = &connector.endpoint;
        let Some(standby) = &connector.snapshot.standby else {
            let making = temporary(endpoint, &name);
            return telling(self.shared, &names(left), making).await;
        };
        let goal = match &mut self.goal {
            Some(goal) => goal,
            none => none.insert(standby::goal(endpoint).await?),
        };
        self.asked = STANDBY;
        let taken = standby::snapshot(standby, endpoint, goal, &name).await;
        // also a standby that is none any more is waited for: the stream does not need it
        taken.map_err(|error| error.with_kind(Kind::SourceAway))
    }

    /// Tells the tables that wait that they do so no more.
    pub(super) async fn answers(&mut self, left: &[Job]) -> Result<()> {
        if std::mem::take(&mut self.told) {
            tell(self.shared, &names(left), None).await?;
        }
        Ok(())
    }

    /// Waits for what passes, longer each time: a standby, or a source that has no room for another slot. One
    /// that is away ends the stream, and with it the session.
    pub(super) async fn wait(&mut self, left: &[Job], error: Error) -> Result<()> {
        if error.kind() != Kind::SourceAway {
            return Err(error);
        }
        let (asked, reason, remedy) = (self.asked, error.reason(), error.remedy_text());
        let seconds = self.pause.as_secs();
        tracing::warn!(remedy, "{reason}; asking {asked} again in {seconds} s");
        let why = format!("{asked}: {reason}");
        tell(self.shared, &names(left), Some((&why, remedy))).await?;
        self.told = true;
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSES.1);
        Ok(())
    }
}

/// The snapshot of a temporary slot at the source.
async fn temporary(endpoint: &Endpoint, name: &str) -> Result<Created> {
    let connection = Walsender::connect(endpoint, APPLICATION).await?;
    let source = connect(Side::Source, endpoint, APPLICATION).await?;
    slot::create(connection, &source, name, true).await
}

fn names(left: &[Job]) -> Vec<String> {
    left.iter().map(|job| job.chunk.table.to_string()).collect()
}

impl Shared {
    /// Whether an error is one of a server that rows are read from and that no stream needs, which is waited for:
    /// a standby, or the source of what topics tell.
    pub(super) fn waits_for(&self, error: &Error) -> bool {
        let beside = self.topics || self.connector().snapshot.standby.is_some();
        beside && error.kind() == Kind::SourceAway
    }

    /// What came of reading rows: where replay has cancelled it, the standby is waited for; where a page or
    /// an index is corrupt, that is the table's trouble and no other's.
    pub(super) fn of_rows<T>(&self, read: Result<T>) -> Result<T> {
        let standby = self.connector().snapshot.standby.is_some();
        read.map_err(|error| match error.kind() {
            Kind::Busy if standby => standby::passing(error),
            _ if error.code().is_some_and(|code| code.code().starts_with("XX")) => {
                let remedy = "mend the table where its rows are read, then siltstone table resync; or \
                              exclude it";
                error.with_kind(Kind::TableStops).remedy(remedy)
            }
            _ => error,
        })
    }
}

/// Refuses a server that is no standby of the source, where rows are to be read from it, before anything
/// streams. One that is away is waited for, and so is everything once there is a stream: it does not need one.
pub(super) async fn refuse_other(
    shared: &Shared,
    warehouse: &Session,
    planned: &[Planned],
) -> Result<()> {
    let connector = shared.connector();
    let Some(standby) = &connector.snapshot.standby else { return Ok(()) };
    if !planned.iter().any(|table| table.record.chunk_open || table.record.part_open) {
        return Ok(());
    }
    let record = progress::slot_record(&**warehouse, &connector.name).await?;
    let streams = record.is_some_and(|record| record.ready);
    match standby::inspect(standby, &connector.endpoint).await {
        Ok(findings) => {
            for finding in findings.iter().filter(|finding| streams || !finding.fatal) {
                tracing::warn!(remedy = finding.remedy, "{}", finding.what);
            }
            if streams { Ok(()) } else { preflight::refuse(&findings) }
        }
        Err(error) if error.kind() == Kind::Rights && !streams => Err(error),
        Err(error) => {
            tracing::warn!("the standby: {}", error.reason());
            Ok(())
        }
    }
}
