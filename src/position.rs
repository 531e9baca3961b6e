//! Where we are in a source's log, and the order of its changes.
//!
//! Positions are ordered only within one log: an [`Lsn`] of one Postgres says nothing about
//! another's, which is why progress carries the system identifier beside it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A byte position in a Postgres write-ahead log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The form kept in `bigint` columns. A log would need 8 EiB to leave the range.
    pub fn as_i64(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// Reads back what [`Lsn::as_i64`] stored.
    pub fn from_i64(stored: i64) -> Lsn {
        Lsn(u64::try_from(stored).unwrap_or(0))
    }

    /// Bytes of log between an earlier position and this one; 0 if it is not earlier.
    pub fn since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// The text is not a log position such as `0/1FCA0C70`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a log position such as 0/1FCA0C70")]
pub struct NotAnLsn(String);

impl FromStr for Lsn {
    type Err = NotAnLsn;

    fn from_str(text: &str) -> Result<Lsn, NotAnLsn> {
        let refuse = || NotAnLsn(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(refuse)?;
        let high = u32::from_str_radix(high, 16).map_err(|_| refuse())?;
        let low = u32::from_str_radix(low, 16).map_err(|_| refuse())?;
        Ok(Lsn(u64::from(high) << 32 | u64::from(low)))
    }
}

/// The order of a change at its source: every kept row carries it as `(_seq, _ord)`.
///
/// On the Postgres route `seq` is where the transaction's commit record starts (Begin.final_lsn)
/// and `ord` counts the changes of the transaction from 1. A row's own LSN is never used: two
/// transactions interleave in the log, and only their commits are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Order {
    /// Where the commit record starts.
    pub seq: i64,
    /// Which change of the transaction, from 1; 0 for a row read by a snapshot.
    pub ord: i64,
}

impl Order {
    /// Of a row that was read for a table that topics feed: before every change that a topic can tell. Which of
    /// those are in the row is not a matter of order.
    pub const BEFORE_TOPICS: Order = Order { seq: 0, ord: -1 };

    /// The order of a row read under a snapshot whose consistent point is `as_of`: before every
    /// commit that may start exactly there.
    pub fn of_snapshot(as_of: Lsn) -> Order {
        Order { seq: as_of.as_i64() - 1, ord: 0 }
    }
}

/// How far each partition of a log is applied: of a Postgres its slot, of topics `topic/partition`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions(BTreeMap<Arc<str>, i64>);

impl Positions {
    /// The position of a log that has one partition.
    pub fn of_log(slot: &str, lsn: Lsn) -> Positions {
        Positions(BTreeMap::from([(Arc::from(slot), lsn.as_i64())]))
    }

    /// The position of a partition.
    pub fn of(&self, partition: &str) -> Option<i64> {
        self.0.get(partition).copied()
    }

    /// Notes the position of a partition.
    pub fn set(&mut self, partition: Arc<str>, position: i64) {
        self.0.insert(partition, position);
    }

    /// The position of a log that has one partition; zero where nothing is known.
    pub fn lsn(&self) -> Lsn {
        self.0.values().next().map_or(Lsn(0), |position| Lsn::from_i64(*position))
    }

    /// Whether every partition that both know is at the goal or behind it.
    pub fn reach(&self, goal: &Positions) -> bool {
        goal.0.iter().all(|(partition, wanted)| {
            self.0.get(partition).is_none_or(|position| position >= wanted)
        })
    }

    /// Each partition and its position.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, i64)> {
        self.0.iter().map(|(partition, position)| (partition, *position))
    }
}

impl FromIterator<(Arc<str>, i64)> for Positions {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, i64)>>(positions: I) -> Positions {
        Positions(positions.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_reads_back_what_it_prints() {
        for lsn in [Lsn(0), Lsn(0x1F_CA0C70), Lsn(0xABC_0000_0001)] {
            assert_eq!(lsn.to_string().parse(), Ok(lsn));
            assert_eq!(Lsn::from_i64(lsn.as_i64()), lsn);
        }
        assert!("16".parse::<Lsn>().is_err());
    }

    #[test]
    fn a_snapshot_row_is_older_than_a_commit_that_starts_at_its_point() {
        let commit = Order { seq: 100, ord: 1 };
        assert!(Order::of_snapshot(Lsn(100)) < commit);
        assert!(Order::of_snapshot(Lsn(100)) > Order { seq: 99, ord: 0 } || Lsn(100).0 - 1 == 99);
    }
}
