//! Where the rows of a reading come from: the source, or a standby of it. A standby that is away, behind
//! or gives up a reading keeps its tables waiting, and says so at each; the stream goes on.

use std::time::Duration;

use super::awaited::{tell, telling};
use super::cutting::Job;
use super::shared::Shared;
use super::tables::Planned;
use crate::capture::preflight;
use crate::capture::slot::{self, Created};
use crate::capture::standby::{self, Goal};
use crate::capture::walsender::Walsender;
use crate::error::{Error, Kind, Result};
use crate::names::shortened;
use crate::postgres::{Side, connect};

/// The first and the longest pause before the standby is asked again.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Where snapshots come from, one after the other.
pub(super) struct Origin<'s> {
    shared: &'s Shared,
    /// what a standby must have replayed: from there on changes are kept
    goal: Option<Goal>,
    attempt: u32,
    pause: Duration,
    told: bool,
}

impl<'s> Origin<'s> {
    pub(super) fn new(shared: &'s Shared) -> Origin<'s> {
        Origin { shared, goal: None, attempt: 0, pause: PAUSES.0, told: false }
    }

    pub(super) fn is_standby(&self) -> bool {
        self.shared.connector().snapshot.standby.is_some()
    }

    /// A snapshot that lives as long as its connection, and its point.
    pub(super) async fn snapshot(&mut self, left: &[Job]) -> Result<Created> {
        const APPLICATION: &str = "siltstone snapshot";
        let connector = self.shared.connector();
        let suffix = format!("_read_{}_{}", self.shared.fence.epoch(), self.attempt);
        self.attempt += 1;
        let name = shortened(&connector.slot, &suffix);
        let endpoint = &connector.endpoint;
        let Some(standby) = &connector.snapshot.standby else {
            let connection = Walsender::connect(endpoint, APPLICATION).await?;
            let source = connect(Side::Source, endpoint, APPLICATION).await?;
            let making = slot::create(connection, &source, &name, true);
            return telling(self.shared, &names(left), making).await;
        };
        let goal = match &mut self.goal {
            Some(goal) => goal,
            none => none.insert(standby::goal(endpoint).await?),
        };
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

    /// Waits for a standby, longer each time; a failure of anything else is the session's.
    pub(super) async fn wait(&mut self, left: &[Job], error: Error) -> Result<()> {
        if !self.shared.waits_for(&error) {
            return Err(error);
        }
        let (reason, remedy) = (error.reason(), error.remedy_text());
        let seconds = self.pause.as_secs();
        tracing::warn!(remedy, "{reason}; asking the standby again in {seconds} s");
        let why = format!("the standby: {reason}");
        tell(self.shared, &names(left), Some((&why, remedy))).await?;
        self.told = true;
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSES.1);
        Ok(())
    }
}

fn names(left: &[Job]) -> Vec<String> {
    left.iter().map(|job| job.chunk.table.to_string()).collect()
}

impl Shared {
    /// Whether an error is one of the standby that rows are read from, which is waited for.
    pub(super) fn waits_for(&self, error: &Error) -> bool {
        self.connector().snapshot.standby.is_some() && error.kind() == Kind::SourceAway
    }

    /// What came of reading rows: where replay has cancelled it, the standby is waited for.
    pub(super) fn of_rows<T>(&self, read: Result<T>) -> Result<T> {
        let standby = self.connector().snapshot.standby.is_some();
        read.map_err(|error| match error.kind() {
            Kind::Busy if standby => standby::passing(error),
            _ => error,
        })
    }
}

/// Refuses a server that is no standby of the source, where rows are to be read from it. One that is away
/// is waited for.
pub(super) async fn refuse_other(shared: &Shared, planned: &[Planned]) -> Result<()> {
    let connector = shared.connector();
    let Some(standby) = &connector.snapshot.standby else { return Ok(()) };
    if !planned.iter().any(|table| table.record.chunk_open || table.record.part_open) {
        return Ok(());
    }
    match standby::inspect(standby, &connector.endpoint).await {
        Ok(findings) => {
            for finding in findings.iter().filter(|finding| !finding.fatal) {
                tracing::warn!(remedy = finding.remedy, "{}", finding.what);
            }
            preflight::refuse(&findings)
        }
        Err(error) if error.kind() == Kind::Rights => Err(error),
        Err(error) => {
            tracing::warn!("the standby: {}", error.reason());
            Ok(())
        }
    }
}
