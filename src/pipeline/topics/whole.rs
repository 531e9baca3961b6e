//! `atomic: true`: a source transaction becomes visible as a whole, across tables and partitions.
//!
//! Debezium tells the end of each transaction, and how many events it had in each table, in a topic of their
//! own. The ends that have been read so far make a cut: events of transactions up to it are taken, a partition
//! whose next event is behind it waits, and a batch ends only where every event of the cut has come. So no
//! event is buffered here, and a batch is whole transactions. Interprets no row, stores nothing: the last end
//! is remembered with the partition of the ends.
//!
//! What does not come is waited for, and told: nobody but its source knows whether it will. Only a record that
//! could not be read may stand for an event that never comes.
//!
//! Source: Debezium documentation, PostgreSQL connector, "Transaction metadata". The id of an end is `xid:lsn`;
//! what its transaction changed was sent with the end before it as the last commit, so that its place in the
//! order is below the end's and not below the one before.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use crate::decode::Boundary;
use crate::error::{Error, Kind, Result};

/// Transactions of one cut: between cuts every partition has its turn.
const CUT: usize = 1_000;

/// A cut that lacks no more events than there were records that nobody can read goes on without them, once
/// nothing came for so long: longer than a broker takes to give up its partitions to another one.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(20);

/// When people are told that something is waited for.
const TOLD_AFTER: Duration = Duration::from_secs(10);

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
    /// records that could not be read, and have not been taken for events that are missing yet: which
    /// transaction they are of nobody knows, it may be one whose end comes later
    unread: u64,
    /// how long there was nothing to read since something came that was waited for; while the lane keeps us
    /// from reading nothing can come
    idle: Duration,
}

/// What is waited for, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Awaited {
    pub(super) what: String,
    pub(super) remedy: &'static str,
}

const NO_ENDS: &str = "name Debezium's transaction topic (topic.prefix.transaction) among the connector's topics, with \
     provide.transaction.metadata=true; or set atomic: false";

const NO_END: &str = "it goes on by itself when the end comes: see that Debezium's connector runs, and that its \
     transaction topic is among the connector's topics and has one partition";

const NO_EVENTS: &str = "it goes on by itself when they come: see that the brokers of their topics are there; events that \
     a filter of Debezium's connector takes out never come: take the filter out, or set atomic: false";

/// The events of a transaction, by their number in it.
struct Missing {
    /// as its end tells it
    id: String,
    wanted: u64,
    came: HashSet<u64>,
}

impl Missing {
    fn is_complete(&self) -> bool {
        self.lacks() == 0
    }

    fn lacks(&self) -> u64 {
        self.wanted.saturating_sub(u64::try_from(self.came.len()).unwrap_or(u64::MAX))
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
    /// Nothing is read of these topics; transactions that end at `passed` or before were complete, and `unread`
    /// records could not be read.
    pub(super) fn new(topics: Vec<String>, passed: i64, unread: u64) -> Whole {
        Whole {
            topics,
            ends_come_by: None,
            cut: BTreeMap::new(),
            open: 0,
            passed,
            version: 0,
            unread,
            idle: Duration::ZERO,
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
        self.idle = Duration::ZERO;
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
        let missing = Missing {
            id: boundary.id.to_string(),
            wanted: wanted.map(|(_, events)| events).sum(),
            came: HashSet::new(),
        };
        let complete = missing.is_complete();
        self.cut.insert(end, missing);
        self.open += 1;
        self.version += 1;
        self.idle = Duration::ZERO;
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
        self.idle = Duration::ZERO;
        self.version += 1;
    }

    /// Transactions that end here or before were complete.
    pub(super) fn passed(&self) -> i64 {
        self.passed
    }

    /// Notes that a record could not be read, which may have been an event of the cut.
    pub(super) fn note_unread(&mut self) {
        self.unread += 1;
    }

    /// Notes that there was nothing to read for so long. A cut that lacks nothing but what could not be read is
    /// given up.
    pub(super) fn note_idle(&mut self, time: Duration) {
        self.idle += time;
        if self.open > 0 && self.idle >= GIVEN_UP_AFTER && self.lacking() <= self.unread {
            tracing::warn!(
                transactions = self.open,
                "transactions go on without a record that could not be read, see siltstone dead-letter list"
            );
            self.unread -= self.lacking();
            self.open = 1;
            self.completed();
        }
    }

    /// How many events of the cut have not come.
    fn lacking(&self) -> u64 {
        self.cut.values().map(Missing::lacks).sum()
    }

    /// What is waited for, once that takes long; `waits` says whether events do.
    pub(super) fn awaited(&mut self, waits: bool) -> Option<Awaited> {
        let open = self.cut.values().find(|missing| !missing.is_complete());
        if open.is_none() && !waits {
            self.idle = Duration::ZERO;
        }
        if self.idle < TOLD_AFTER {
            return None;
        }
        let (what, remedy) = match open {
            Some(missing) => {
                let (id, lacks, wanted) = (&missing.id, missing.lacks(), missing.wanted);
                let others = match self.open {
                    ..=1 => String::new(),
                    open => format!(", and {} transactions behind it", open - 1),
                };
                let what = format!(
                    "{lacks} of the {wanted} events of transaction {id} have not come{others}"
                );
                (what, NO_EVENTS)
            }
            None if self.ends_come_by.is_none() && self.passed == 0 => {
                let what =
                    "events wait for the ends of their transactions, of which none has ever come";
                (what.to_owned(), NO_ENDS)
            }
            None => {
                let what = "events wait for the end of their transaction, which has not come";
                (what.to_owned(), NO_END)
            }
        };
        Some(Awaited { what: format!("atomic: true: {what}"), remedy })
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
        Whole::new(vec!["shop.public.a".to_owned(), "shop.public.b".to_owned()], 0, 0)
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
        let id = Whole::new(Vec::new(), 0, 0).bound(&end("file=1,pos=4", &[]), 0, true);
        assert!(id.is_err());
    }

    fn waited(whole: &mut Whole, seconds: u64, waits: bool) -> String {
        whole.note_idle(Duration::from_secs(seconds));
        whole.awaited(waits).map_or(String::new(), |awaited| awaited.what + "; " + awaited.remedy)
    }

    #[test]
    fn what_does_not_come_is_told_and_waited_for() {
        let mut whole = whole();
        // nothing is waited for
        assert_eq!(waited(&mut whole, 90, false), "");
        assert_eq!(whole.take(10, 1), Step::Waits);
        assert_eq!(waited(&mut whole, 9, true), "");
        let told = waited(&mut whole, 2, true);
        assert!(told.contains("of which none has ever come; name Debezium's"), "{told}");
        whole.bound(&end("7:20", &[("public.a", 2)]), 0, true).unwrap();
        assert_eq!(waited(&mut whole, 5, true), "", "it came");
        whole.bound(&end("8:30", &[("public.b", 1)]), 0, true).unwrap();
        assert_eq!(whole.take(10, 1), Step::Taken);
        let told = waited(&mut whole, 100_000, true);
        let expected =
            "1 of the 2 events of transaction 7:20 have not come, and 1 transactions behind it";
        assert!(told.contains(expected), "{told}");
        assert!(!whole.is_complete(), "it is not given up");
        assert_eq!(whole.take(10, 2), Step::Taken);
        assert_eq!(whole.take(20, 1), Step::Taken);
        assert!(whole.is_complete());
        // the next end only lets itself be waited for
        assert_eq!(whole.take(30, 1), Step::Waits);
        let told = waited(&mut whole, 11, true);
        assert!(told.contains("the end of their transaction, which has not come"), "{told}");
    }

    #[test]
    fn what_could_not_be_read_is_given_up_once_nothing_else_comes() {
        let mut whole = whole();
        whole.bound(&end("7:20", &[("public.a", 2)]), 0, true).unwrap();
        whole.note_unread();
        whole.note_idle(Duration::from_secs(60));
        assert!(!whole.is_complete(), "one record is none of two events");
        assert_eq!(whole.take(10, 1), Step::Taken);
        whole.note_idle(Duration::from_secs(19));
        assert!(!whole.is_complete(), "the other one may yet come");
        whole.note_idle(Duration::from_secs(1));
        assert!(whole.is_complete() && whole.passed() == 20);
        // it stood for one event
        whole.bound(&end("8:30", &[("public.a", 1)]), 0, true).unwrap();
        whole.note_idle(Duration::from_secs(60));
        assert!(!whole.is_complete());
    }
}
