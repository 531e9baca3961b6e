//! What has to be remembered of a partition of a topic to tell where its changes stand, and what readings of
//! its table they are of. Pure.

use serde::{Deserialize, Serialize};

use super::order::Place;
use crate::names::fingerprint;
use crate::position::Order;

/// What has to be remembered of a partition, from record to record and from start to start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// The place of the last row that a snapshot read: what comes before the first commit is behind it.
    #[serde(skip_serializing_if = "is_zero")]
    pub read: i64,
    /// When the transaction began that read it, in microseconds: which reading it is of two at one place.
    #[serde(skip_serializing_if = "is_zero")]
    pub read_at: i64,
    /// The last end of a commit that was told before a change of a Postgres.
    #[serde(skip_serializing_if = "is_zero")]
    pub settled: i64,
    /// The MySQL whose log it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<i64>,
    /// The last transaction of it, by its name, and the place of the first change that we saw of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction: Option<(u64, i64)>,
    /// The number of its last file.
    #[serde(skip_serializing_if = "is_zero")]
    pub file: i64,
    /// The furthest place in it.
    #[serde(skip_serializing_if = "is_zero")]
    pub pos: i64,
    /// The latest time that a change of a MySQL told.
    #[serde(skip_serializing_if = "is_zero")]
    pub since: i64,
    /// Of the partition of the ends of transactions: the last one up to which all were applied as a whole.
    #[serde(skip_serializing_if = "is_zero")]
    pub ended: i64,
    /// Whether changes of a Postgres have followed what a snapshot read.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub streamed: bool,
    /// Where the first of them stood, in the source's log.
    #[serde(skip_serializing_if = "is_zero")]
    pub first: i64,
    /// Of flattened records the order of the last one that told it: a tombstone tells none of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<(i64, i64)>,
    /// Where flattened records tell the row's own place alone: when the last change was committed,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<i64>,
    /// and the places of the last rows that were read, each with what that was then.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<(i64, Option<i64>)>,
    /// The key of the last one, if it told a delete: the tombstone behind it says it once more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gone: Option<u64>,
}

/// What a row that a first snapshot read says of the reading that it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// The one that the partition knows, or no first snapshot's.
    Known,
    /// The first one that the partition hears of, or one that was begun again at the same place in the log: no
    /// commit lies between, so that each reads the same rows. Known by when its transaction began.
    Begun,
    /// One that was begun again at a later place, after the one before was broken off. What happened between
    /// the two is told by nothing but the rows that are read now.
    Later,
}

impl Memory {
    /// Notes the place of a flattened record, and the key that it told to be gone.
    pub fn note_flat(&mut self, place: &Place, deleted: Option<&[u8]>) {
        // thousands of rows may be read behind one change, and the next one is to be behind all of them
        if !place.behind {
            self.last = place.told.then_some((place.order.seq, place.order.ord));
        }
        self.gone = deleted.map(fingerprint);
    }

    /// Which reading the last row was of, by what was known before it; behind the first change every one is
    /// known.
    #[must_use]
    pub fn reading(&self, before: &Memory) -> Reading {
        let later = self.read > before.read;
        match (before.streamed, later && before.read > 0) {
            (true, _) => Reading::Known,
            (false, true) => Reading::Later,
            (false, false) if self.read_at > before.read_at => Reading::Begun,
            (false, false) => Reading::Known,
        }
    }

    /// Where the first change stood that followed a snapshot; none where none has followed.
    pub fn first_streamed(&self) -> Option<i64> {
        self.streamed.then_some(self.first)
    }

    /// Where the transaction of a change in a binlog begins: half of it may have come in an earlier batch, or come
    /// again.
    pub(super) fn begin_of(&mut self, gtid: &str, place: i64) -> i64 {
        let name = fingerprint(gtid.as_bytes());
        let known = self.transaction.filter(|(known, _)| *known == name);
        let begin = known.map_or(place, |(_, begin)| begin.min(place));
        self.transaction = Some((name, begin));
        begin
    }

    /// Whether a change that tells no commit before it is behind ones that did, and behind the last reading: one
    /// that is only sent again is not behind the commits that followed it.
    pub(super) fn is_made_again(&self, lsn: i64) -> bool {
        self.settled > self.read && lsn > self.settled
    }

    pub(super) fn note_streamed(&mut self, place: i64) {
        if !self.streamed {
            (self.streamed, self.first) = (true, place);
        }
    }

    /// Notes the place of a flattened row that was read beside changes that tell their own place alone.
    pub(super) fn note_flat_read(&mut self, place: i64) {
        match self.reads.last_mut() {
            Some((known, since)) if *since == self.at => *known = place.max(*known),
            _ => self.reads.push((place, self.at)),
        }
        if self.reads.len() > READS_KEPT {
            self.reads.remove(0);
        }
    }

    /// The order of a change that tells its own place alone. Those of one key are in the order of it, for its row
    /// is locked from the one to the end of the transaction. But where a row was read meanwhile, its transaction was
    /// still open: it comes behind the row, and its place lies before it. What is sent again was committed before
    /// and keeps the order that it had; where the times are equal, rather something comes twice than not at all.
    pub(super) fn own_place(&mut self, lsn: i64, committed_at: i64) -> Order {
        self.at = Some(committed_at);
        let came_before = self.reads.iter().filter(|(_, since)| *since <= Some(committed_at));
        match came_before.map(|(place, _)| *place).max() {
            Some(read) if lsn <= read => Order { seq: read, ord: lsn },
            _ => Order { seq: lsn, ord: 1 },
        }
    }

    /// Notes a row of a first snapshot.
    pub(super) fn note_read(&mut self, place: i64, at: Option<i64>) {
        if place > self.read {
            (self.read, self.read_at) = (place, 0);
        }
        if place == self.read {
            self.read_at = self.read_at.max(at.unwrap_or(0));
        }
    }
}

/// How many places of rows that were read are kept: what Debezium sends again behind more of them is rarely met.
const READS_KEPT: usize = 16;

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}
