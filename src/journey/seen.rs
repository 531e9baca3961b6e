//! What a snapshot of the source has seen of the changes that topics tell: those are in the rows that were read
//! under it, and the others are yet to be applied over them.
//!
//! A snapshot with the point P sees the transactions whose commit record lies before P, and no others. A topic
//! tells a change's own place in the log and its transaction, but not where that one was committed. A place at P
//! or behind it, or a commit before it that is, says that the commit is behind P as well. A change that stands
//! before P is seen unless its transaction was open at P: the snapshot itself says which ones were. It names those
//! below `end` that were open or had failed, and whatever is at `end` or above had not been committed yet.
//!
//! The numbers of transactions have 32 bits in an event, and are compared as Postgres does, on a circle, which
//! tells only of those that are near. So what stands before `from` is seen without asking for its number: the log
//! was there before the slot was made whose snapshot it is, and the making of a slot waits for every transaction
//! that is open then (`SnapBuildFindSnapshot` of Postgres): one that is open at P has begun to write behind `from`.
//! A number is asked for only of transactions that were at work behind `from`: Postgres itself lets none of them be
//! half the circle away.

use serde::{Deserialize, Serialize};

use super::{Mark, Op, Target};
use crate::error::{Error, Kind, Result};
use crate::position::{Lsn, Order};
use crate::relation::Relation;

/// By how much a source's clock may have been put back, and the time of a commit be wrong by that: five minutes.
const SLACK: i64 = 300_000_000;

/// What a snapshot has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Where the log was before it was taken.
    from: i64,
    /// Its point in the log.
    point: i64,
    /// The first transaction that no commit was known of, nor of any above it.
    end: u32,
    /// The transactions below that were open, or had failed; in order.
    open: Vec<u32>,
    /// When it was taken, microseconds since 2000-01-01 UTC by the source's clock.
    taken_at: i64,
    /// The source's columns that no topic had told yet, or that it leaves out: the rows were read without them.
    skipped: Vec<String>,
}

/// Whether rows have a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// They do.
    Seen,
    /// They do not.
    Unseen,
    /// It stands before the point and tells no transaction.
    Unknown,
    /// It stands before the point and was committed later than that: it is of another log.
    Foreign,
}

impl Seen {
    /// What the snapshot of `point` has seen, with the numbers of transactions that it tells.
    pub fn new((from, point): (Lsn, Lsn), taken_at: i64, (end, open): (i64, &[i64])) -> Seen {
        let mut open: Vec<u32> = open.iter().copied().map(short).collect();
        open.sort_unstable();
        let (from, point) = (from.as_i64(), point.as_i64());
        Seen { from, point, end: short(end), open, taken_at, skipped: Vec::new() }
    }

    /// The same, of rows that were read without some of the source's columns.
    #[must_use]
    pub fn without(self, skipped: Vec<String>) -> Seen {
        Seen { skipped, ..self }
    }

    /// Whether its rows were read without some of the source's columns.
    pub fn is_partial(&self) -> bool {
        !self.skipped.is_empty()
    }

    /// Whether it has seen a change: `order` as a topic of a Postgres tells it, the commit before and the
    /// change's own place.
    pub fn judge(&self, order: Order, mark: Mark, op: Op) -> Sight {
        if order.seq >= self.point {
            return Sight::Unseen;
        }
        // A row that Debezium read tells where the log was then. All that it shows had been committed before; and
        // what was committed since tells of itself.
        if op == Op::Read {
            return Sight::Seen;
        }
        if mark.committed_at > self.taken_at.saturating_add(SLACK) {
            return Sight::Foreign;
        }
        let place = order.seq.max(order.ord);
        match mark.xid {
            _ if place >= self.point => Sight::Unseen,
            _ if place < self.from => Sight::Seen,
            // no transaction has this number
            0 => Sight::Unknown,
            xid if self.sees(xid) => Sight::Seen,
            _ => Sight::Unseen,
        }
    }

    /// Whether a transaction was committed for it.
    fn sees(&self, xid: u32) -> bool {
        const HALF: u32 = 1 << 31;
        let below = self.end.wrapping_sub(xid);
        below != 0 && below < HALF && self.open.binary_search(&xid).is_err()
    }
}

impl Target {
    /// Whether its rows have a change, for they were read behind it.
    pub fn has(&self, order: Order, mark: Mark, op: Op) -> Result<bool> {
        let Some(seen) = &self.seen else { return Ok(false) };
        let table = &self.model.table;
        let stops = |what: String| Error::new(Kind::TableStops, what).on_table(table.to_string());
        match seen.judge(order, mark, op) {
            Sight::Seen => Ok(true),
            Sight::Unseen => Ok(false),
            Sight::Unknown => {
                let what = "whether its rows have a change cannot be told, as that names no transaction of a Postgres \
                            (source.txId)";
                Err(stops(what.to_owned()).remedy(format!(
                    "let Debezium's Postgres connector write the whole source block; then siltstone table resync \
                     {table:#}"
                )))
            }
            Sight::Foreign => {
                let what = format!(
                    "its topics tell of a change at {}, before {}, up to which it was read again, that was committed \
                     after it was: the log is another one, as that of a server that has taken the former one's place",
                    Lsn::from_i64(order.seq),
                    Lsn::from_i64(seen.point)
                );
                Err(stops(what).remedy(format!(
                    "write the url of the server that Debezium reads now, then siltstone table resync {table:#}"
                )))
            }
        }
    }

    /// The shape in which its rows are to be read again, where a relation tells columns that they were read without:
    /// what both have, for the shapes of topics come in no order.
    pub fn untold(&self, relation: &Relation) -> Option<Relation> {
        let skipped = &self.seen.as_ref()?.skipped;
        let tells = |name: &String| relation.column(name).is_some();
        if !skipped.iter().any(tells) {
            return None;
        }
        let known = &self.relation.columns;
        let others = known.iter().filter(|column| relation.column(&column.name).is_none());
        let columns = relation.columns.iter().chain(others).cloned().collect();
        Some(Relation { columns, ..relation.clone() })
    }
}

/// The number as events tell it.
fn short(xid: i64) -> u32 {
    u32::try_from(xid & 0xffff_ffff).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: i64 = 1_000;

    /// Before it the slot was being made.
    const FROM: i64 = 800;

    const TAKEN_AT: i64 = 1_000_000_000;

    /// Transactions below 50 were committed but for 40 and 45; 50 and above were not.
    fn seen() -> Seen {
        Seen::new((Lsn(800), Lsn(1_000)), TAKEN_AT, (50, &[45, 40]))
    }

    fn judge(seen: &Seen, (before, place): (i64, i64), xid: u32) -> Sight {
        let mark = Mark { xid, ..Mark::default() };
        seen.judge(Order { seq: before, ord: place }, mark, Op::Update)
    }

    #[test]
    fn what_stands_behind_the_point_is_not_seen() {
        for xid in [1, 40, 49, 50, 60] {
            assert_eq!(judge(&seen(), (P - 5, P), xid), Sight::Unseen);
            assert_eq!(judge(&seen(), (P, P + 7), xid), Sight::Unseen);
            // a flattened row's place alone
            assert_eq!(judge(&seen(), (P, 1), xid), Sight::Unseen);
        }
    }

    #[test]
    fn what_stands_before_it_is_seen_unless_its_transaction_was_open() {
        for (xid, sight) in [
            (1, Sight::Seen),
            (39, Sight::Seen),
            (40, Sight::Unseen),
            (44, Sight::Seen),
            (45, Sight::Unseen),
            (49, Sight::Seen),
            (50, Sight::Unseen),
            (51, Sight::Unseen),
        ] {
            assert_eq!(judge(&seen(), (P - 200, P - 1), xid), sight, "{xid}");
            assert_eq!(judge(&seen(), (0, FROM), xid), sight, "{xid}");
            // a commit since, between a row and the commit of its own
            assert_eq!(judge(&seen(), (FROM, FROM - 9), xid), sight, "{xid}");
        }
    }

    #[test]
    fn what_stands_before_the_slot_was_made_is_seen_whatever_its_number() {
        for xid in [0, 1, 40, 45, 50, 60, 1 << 31, u32::MAX] {
            assert_eq!(judge(&seen(), (FROM - 9, FROM - 1), xid), Sight::Seen);
            assert_eq!(judge(&seen(), (0, 1), xid), Sight::Seen);
        }
    }

    #[test]
    fn numbers_go_round() {
        const ROUND: i64 = 1 << 32;
        let numbers: (i64, &[i64]) = (7 * ROUND + 10, &[7 * ROUND - 3, 7 * ROUND + 4]);
        let seen = Seen::new((Lsn(800), Lsn(1_000)), TAKEN_AT, numbers);
        let last = u32::MAX;
        for (xid, sight) in [
            (last - 1_000, Sight::Seen),
            (last - 3, Sight::Seen),
            (last - 2, Sight::Unseen),
            (last, Sight::Seen),
            (3, Sight::Seen),
            (4, Sight::Unseen),
            (9, Sight::Seen),
            (10, Sight::Unseen),
            (11, Sight::Unseen),
        ] {
            assert_eq!(judge(&seen, (P - 200, P - 1), xid), sight, "{xid}");
        }
    }

    #[test]
    fn a_change_without_transaction_is_told_only_behind_the_point() {
        assert_eq!(judge(&seen(), (P - 5, P - 1), 0), Sight::Unknown);
        assert_eq!(judge(&seen(), (P - 5, P), 0), Sight::Unseen);
    }

    #[test]
    fn a_row_that_debezium_read_before_is_seen_whatever_was_open() {
        let read = |seq: i64, xid: u32| {
            let mark = Mark { xid, ..Mark::default() };
            seen().judge(Order { seq, ord: -77 }, mark, Op::Read)
        };
        assert_eq!(read(P - 1, 45), Sight::Seen);
        assert_eq!(read(P - 1, 0), Sight::Seen);
        assert_eq!(read(P, 45), Sight::Unseen);
    }

    #[test]
    fn what_was_committed_since_and_stands_before_is_of_another_log() {
        let at = |committed_at: i64, place: i64, op: Op| {
            let mark = Mark { xid: 1, committed_at, ..Mark::default() };
            seen().judge(Order { seq: place - 1, ord: place }, mark, op)
        };
        let late = TAKEN_AT + SLACK + 1;
        assert_eq!(at(late, FROM - 9, Op::Update), Sight::Foreign);
        assert_eq!(at(late, P - 1, Op::Delete), Sight::Foreign);
        // its place in the log is behind, as is to be expected
        assert_eq!(at(late, P + 1, Op::Update), Sight::Unseen);
        // a clock may go back a little
        assert_eq!(at(late - 1, FROM - 9, Op::Update), Sight::Seen);
        // a row that is read beside the stream stands where that was, however long ago
        assert_eq!(at(late, FROM - 9, Op::Read), Sight::Seen);
    }

    #[test]
    fn it_is_kept_as_it_was() {
        let seen = seen().without(vec!["tier".to_owned()]);
        let text = serde_json::to_string(&seen).unwrap();
        let expected = r#"{"from":800,"point":1000,"end":50,"open":[40,45],"taken_at":1000000000,"skipped":["tier"]}"#;
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<Seen>(&text).unwrap(), seen);
    }
}
