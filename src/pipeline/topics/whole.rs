//! `atomic: true`: a source transaction becomes visible as a whole, across tables and partitions.
//!
//! Debezium tells the end of each transaction, and how many events it had in each table, in a topic of their
//! own. The ends that have been read so far make a cut: events of transactions up to it are taken, a partition
//! whose next event is behind it waits, and a batch ends only where every event of the cut has come. So no
//! event is buffered here, and a batch is whole transactions. Interprets no row, stores nothing: the last end
//! is remembered with the partition of the ends.
//!
//! Source: Debezium documentation, PostgreSQL connector, "Transaction metadata". The id of an end is `xid:lsn`;
//! what its transaction changed was sent with the end before it as the last commit, so that its place in the
//! order is below the end's and not below the one before.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::decode::Boundary;
use crate::error::{Error, Kind, Result};

/// Transactions of one cut: between cuts every partition has its turn.
const CUT: usize = 1_000;

/// A cut that is complete but for records that nobody can read is given up after so long.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(5);

/// How often is said that something is waited for.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// What is known of the transactions that are not applied as a whole yet.
pub(super) struct Whole {
    /// the topics that are read
    topics: Vec<String>,
    /// where the ends come from
    ends_come_by: Option<usize>,
    /// by the place of its end, each transaction of the cut
    cut: BTreeMap<i64, Missing>,
    /// how many of them are not complete
    open: usize,
    /// transactions that end here or before were complete
    passed: i64,
    /// grows when events may be taken that had to wait
    version: u64,
    /// a record could not be read since the cut was made
    unread: bool,
    /// since when nothing came
    since: Instant,
    said: Instant,
}

/// The events of a transaction, by their number in it.
struct Missing {
    wanted: u64,
    came: HashSet<u64>,
}

impl Missing {
    fn is_complete(&self) -> bool {
        u64::try_from(self.came.len()).is_ok_and(|came| came >= self.wanted)
    }
}

/// Whether a record is taken now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is.
    Taken,
    /// It belongs to a transaction whose end is not read yet.
    Waits,
}

impl Whole {
    /// Nothing is read of these topics; transactions that end at `passed` or before were complete.
    pub(super) fn new(topics: Vec<String>, passed: i64) -> Whole {
        Whole {
            topics,
            ends_come_by: None,
            cut: BTreeMap::new(),
            open: 0,
            passed,
            version: 0,
            unread: false,
            since: Instant::now(),
            said: Instant::now(),
        }
    }

    /// Grows when events may be taken that had to wait.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Whether all of the cut has come.
    pub(super) fn is_complete(&self) -> bool {
        self.open == 0
    }

    /// Takes an event that stands behind the commit `seq`; `number` is its own in its transaction.
    pub(super) fn take(&mut self, seq: i64, number: u64) -> Step {
        if seq < self.passed {
            // it came again
            return Step::Taken;
        }
        let Some((_, missing)) = self.cut.range_mut(seq.saturating_add(1)..).next() else {
            return Step::Waits;
        };
        let was_complete = missing.is_complete();
        missing.came.insert(number);
        self.since = Instant::now();
        if !was_complete && missing.is_complete() {
            self.completed();
        }
        Step::Taken
    }

    /// The partition that the ends come by, once one has come.
    pub(super) fn ends_come_by(&self) -> Option<usize> {
        self.ends_come_by
    }

    /// Takes a boundary, which came by a partition. `room` says whether more may be read before a batch.
    pub(super) fn bound(
        &mut self,
        boundary: &Boundary<'_>,
        partition: usize,
        room: bool,
    ) -> Result<Step> {
        let Some(end) = self.end(boundary, partition)? else { return Ok(Step::Taken) };
        if end <= self.passed || self.cut.contains_key(&end) {
            return Ok(Step::Taken);
        }
        if !room || self.cut.len() >= CUT {
            return Ok(Step::Waits);
        }
        let wanted = boundary.tables.iter().filter(|(table, _)| self.is_read(table));
        let missing =
            Missing { wanted: wanted.map(|(_, events)| events).sum(), came: HashSet::new() };
        let complete = missing.is_complete();
        self.cut.insert(end, missing);
        self.open += 1;
        self.version += 1;
        self.since = Instant::now();
        if complete {
            self.completed();
        }
        Ok(Step::Taken)
    }

    /// The place of a transaction's end; none of its begin.
    fn end(&mut self, boundary: &Boundary<'_>, partition: usize) -> Result<Option<i64>> {
        if *self.ends_come_by.get_or_insert(partition) != partition {
            let what = "atomic: true, and the ends of transactions come by several partitions";
            return Err(Error::new(Kind::SourceLacks, what).remedy(
                "the ends have an order in a topic of one partition only: make the transaction topic anew \
                 with one, or set atomic: false",
            ));
        }
        if boundary.events.is_none() {
            return Ok(None);
        }
        let place = boundary.id.rsplit_once(':').and_then(|(_, place)| place.parse().ok());
        place.map(Some).ok_or_else(|| {
            let what = format!(
                "atomic: true, and the end of transaction {} does not tell its place in a Postgres log",
                boundary.id
            );
            Error::new(Kind::SourceLacks, what).remedy("set atomic: false")
        })
    }

    /// Whether a topic of the table is among those that are read: others are not waited for.
    fn is_read(&self, table: &str) -> bool {
        self.topics.iter().any(|topic| {
            topic.strip_suffix(table).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
    }

    fn completed(&mut self) {
        self.open = self.open.saturating_sub(1);
        if self.open > 0 {
            return;
        }
        if let Some((end, _)) = self.cut.last_key_value() {
            self.passed = *end;
        }
        self.cut.clear();
        self.unread = false;
        self.version += 1;
    }

    /// Transactions that end here or before were complete.
    pub(super) fn passed(&self) -> i64 {
        self.passed
    }

    /// Notes that a record could not be read, which may have been an event of the cut.
    pub(super) fn note_unread(&mut self) {
        self.unread = true;
    }

    /// Looks at what is waited for: gives up a cut of which a record could not be read.
    pub(super) fn look(&mut self, waits: bool) {
        let waited = self.since.elapsed();
        if self.open > 0 && self.unread && waited >= GIVEN_UP_AFTER {
            tracing::warn!(
                transactions = self.open,
                "transactions go on without a record that could not be read, see siltstone dead-letter list"
            );
            self.open = 1;
            self.completed();
        } else if (self.open > 0 || waits)
            && waited >= SAID_EVERY
            && self.said.elapsed() >= SAID_EVERY
        {
            self.said = Instant::now();
            let seconds = waited.as_secs();
            let open = self.open;
            tracing::warn!(
                seconds,
                open,
                "atomic: true: events are waited for that the ends of transactions tell, or the end of a \
                 transaction whose events came; is the transaction topic among the topics?"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(id: &'static str, tables: &[(&str, u64)]) -> Boundary<'static> {
        let tables: Vec<_> =
            tables.iter().map(|(name, events)| ((*name).to_owned(), *events)).collect();
        Boundary { id: id.into(), events: Some(tables.iter().map(|(_, n)| n).sum()), tables }
    }

    fn whole() -> Whole {
        Whole::new(vec!["shop.public.a".to_owned(), "shop.public.b".to_owned()], 0)
    }

    #[test]
    fn events_wait_for_the_end_and_the_batch_for_all_events() {
        let mut whole = whole();
        assert_eq!(whole.take(10, 1), Step::Waits);
        let read = whole.bound(&end("7:20", &[("public.a", 1), ("public.b", 1)]), 0, true);
        assert_eq!(read.unwrap(), Step::Taken);
        assert!(!whole.is_complete());
        assert_eq!(whole.take(10, 1), Step::Taken);
        // the same again is not the other one
        assert_eq!(whole.take(10, 1), Step::Taken);
        assert!(!whole.is_complete());
        assert_eq!(whole.take(20, 1), Step::Waits);
        assert_eq!(whole.take(10, 2), Step::Taken);
        assert!(whole.is_complete());
        assert_eq!(whole.passed(), 20);
        // both came again, and the end
        assert_eq!(whole.take(10, 2), Step::Taken);
        let again = whole.bound(&end("7:20", &[("public.a", 1), ("public.b", 1)]), 0, true);
        assert_eq!(again.unwrap(), Step::Taken);
        assert!(whole.is_complete());
    }

    #[test]
    fn tables_that_are_not_read_are_not_waited_for() {
        let mut whole = whole();
        whole.bound(&end("7:20", &[("public.c", 3), ("lic.a", 2)]), 0, true).unwrap();
        assert!(whole.is_complete());
    }

    #[test]
    fn what_tells_no_order_is_refused() {
        let mut whole = whole();
        whole.bound(&end("7:20", &[]), 0, true).unwrap();
        let other = whole.bound(&end("8:30", &[]), 1, true).unwrap_err().to_string();
        assert!(other.contains("several partitions"), "{other}");
        let id = Whole::new(Vec::new(), 0).bound(&end("file=1,pos=4", &[]), 0, true);
        assert!(id.is_err());
    }
}
