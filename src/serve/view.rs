//! What a connector shows of itself.

use std::collections::BTreeMap;

use crate::names::TableName;
use crate::position::Lsn;

/// What a connector is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Finding out where it stands.
    #[default]
    Starting,
    /// Another instance owns it.
    Standby,
    /// Some tables are being read.
    Snapshotting,
    /// Changes are applied as they come.
    Streaming,
    /// Source or warehouse is away, and waited for.
    Waiting,
    /// It cannot go on by itself.
    Stopped,
    /// An operator lets it rest.
    Paused,
    /// An operator stopped it.
    Halted,
}

impl Phase {
    /// The word in `/status`.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Standby => "standby",
            Phase::Snapshotting => "snapshotting",
            Phase::Streaming => "streaming",
            Phase::Waiting => "waiting",
            Phase::Stopped => "stopped",
            Phase::Paused => "paused",
            Phase::Halted => "halted",
        }
    }
}

/// A table's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableReport {
    /// As in `audit.tables`.
    pub state: String,
    /// Why it stopped.
    pub reason: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
    /// Rows read by its snapshot.
    pub rows_read: u64,
    /// Rows the source's planner thinks it has.
    pub rows_estimated: u64,
    /// Bytes of changes kept for it.
    pub pending_bytes: u64,
    /// Changes that it refuses.
    pub dead_letters: u64,
    /// Changes that wait behind those.
    pub waiting: u64,
}

/// Sums since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Source transactions.
    pub transactions: u64,
    /// Changes, before they were folded.
    pub events: u64,
    /// Versions opened.
    pub versions: u64,
}

/// A connector's state, as it is read.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The connector.
    pub name: String,
    /// What it is doing.
    pub phase: Phase,
    /// Why it waits or stopped.
    pub reason: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
    /// The stored position.
    pub stored: Lsn,
    /// How far the stream was read.
    pub received: Lsn,
    /// The end of the source's log, as it last told.
    pub source_end: Lsn,
    /// An end of the source's log that is not stored yet, and when it was the end by the source's clock.
    pub(super) ahead: Option<(Lsn, i64)>,
    /// What the source committed before is in the warehouse: microseconds since 2000-01-01 UTC by its
    /// clock, 0 where that is not known yet.
    pub fresh_to: i64,
    /// The commit time of the last applied transaction, microseconds since 2000-01-01 UTC.
    pub applied_commit: i64,
    /// The commit time of the last received transaction, likewise.
    pub received_commit: i64,
    /// The commit time of the first transaction that is not applied, likewise.
    pub waiting_commit: i64,
    /// When the position last moved, or there last was nothing to move it: microseconds since 2000-01-01 UTC by our clock.
    pub moved_at: i64,
    /// Bytes of log that the slot keeps at the source.
    pub retained: u64,
    /// What is done about them: calm, warn, landing, slot_dropped.
    pub wal_step: &'static str,
    /// Bytes of open transactions on disk.
    pub spooled: u64,
    /// The tables.
    pub tables: BTreeMap<TableName, TableReport>,
    /// The partitions of topics that are read, by their names; none of a connector that reads a Postgres.
    pub partitions: BTreeMap<String, PartitionReport>,
    /// Since when transactions wait that are to become visible as a whole, microseconds since 2000-01-01 UTC; none where
    /// none does for long.
    pub transactions_wait: Option<i64>,
    /// Dead letters that the topic for them does not have yet; none without such a topic.
    pub unsent_letters: Option<u64>,
    /// Sums.
    pub totals: Totals,
    /// The tables' names by their place in the session.
    pub(super) names: BTreeMap<usize, TableName>,
}

/// How far a partition of a topic is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionReport {
    /// The offset of the next record to apply.
    pub stored: i64,
    /// The offset behind the last record.
    pub end: i64,
    /// Whether nothing more of it is read for now.
    pub rests: bool,
}

impl PartitionReport {
    /// Records that are not applied.
    pub fn lag(self) -> u64 {
        u64::try_from(self.end - self.stored).unwrap_or(0)
    }
}

impl View {
    /// What was the end of the log is in the warehouse.
    pub(super) fn settle_freshness(&mut self) {
        if let Some((_, at)) = self.ahead.take_if(|(end, _)| *end <= self.stored) {
            self.fresh_to = at;
        }
    }

    /// Records of topics that are not applied.
    pub fn lag_records(&self) -> u64 {
        self.partitions.values().map(|partition| partition.lag()).sum()
    }

    /// Bytes of log between what is applied and the end of the source's log; of topics nobody counts them.
    pub fn lag_bytes(&self) -> u64 {
        if self.partitions.is_empty() && self.backlog() {
            self.source_end.since(self.stored)
        } else {
            0
        }
    }

    /// Whether something was received that is not yet applied.
    pub fn backlog(&self) -> bool {
        if !self.partitions.is_empty() && self.phase == Phase::Streaming {
            // what rests is told of its tables, and is no work that does not go on
            return self.partitions.values().any(|of| of.lag() > 0 && !of.rests);
        }
        self.received_commit != self.applied_commit || self.phase != Phase::Streaming
    }

    /// How long ago the oldest change that is not applied was committed, at most: none left, 0.
    pub fn lag_micros(&self, now: i64) -> i64 {
        if !self.backlog() {
            return 0;
        }
        // behind a quiet hour a new change is not an hour late, and what was committed before the moment to
        // which it is fresh is in
        let since = self.applied_commit.max(self.waiting_commit).max(self.fresh_to);
        // nothing was received yet: how long it has waited nobody knows
        if since == 0 { 0 } else { now.saturating_sub(since).max(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lags_no_more_than_it_is_not_fresh() {
        let away = View {
            phase: Phase::Waiting,
            applied_commit: 1_000_000,
            received_commit: 1_000_000,
            fresh_to: 66_000_000,
            ..View::default()
        };
        assert_eq!(away.lag_micros(150_000_000), 84_000_000);
        let behind = View { waiting_commit: 90_000_000, ..away };
        assert_eq!(behind.lag_micros(150_000_000), 60_000_000);
    }

    #[test]
    fn it_lags_before_its_first_batch() {
        let partition = PartitionReport { stored: 0, end: 9, rests: false };
        let first = View {
            phase: Phase::Streaming,
            received_commit: 2_000_000,
            waiting_commit: 1_000_000,
            partitions: BTreeMap::from([("shop.users/0".to_owned(), partition)]),
            ..View::default()
        };
        assert_eq!(first.lag_micros(8_000_000), 7_000_000);
        let silent = View { received_commit: 0, waiting_commit: 0, ..first };
        assert_eq!(silent.lag_micros(8_000_000), 0, "nothing was received yet");
    }
}
