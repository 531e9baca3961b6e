//! Which topics rest, judged by what was committed. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::places::READ_AGAIN;
use crate::names::TableName;
use crate::progress::resting::Resting;

/// Why a topic rests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Its retention took what is next, as said.
    Lost(String),
    /// So many of its records cannot be read.
    Unread(u64),
    /// So much is kept, and the table keeps more.
    NoRoom { table: TableName, keeps: Keeps, kept: u64, limit: u64 },
}

/// Why a table keeps changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeps {
    /// It is stopped or paused.
    Held,
    /// Its rows are read again: it goes on by itself.
    Read,
    /// Keys of it wait.
    Keys,
}

/// What is known of a topic.
#[derive(Clone, Debug, Default)]
pub(super) struct Stuck {
    /// what its records feed
    pub(super) tables: BTreeSet<TableName>,
    /// one of them that is stopped or paused, or is read again
    pub(super) held: Option<(TableName, bool)>,
    /// the one with the most changes that wait behind others, and their bytes
    pub(super) waits: Option<(u64, TableName)>,
    pub(super) unread: u64,
    pub(super) lost: Option<String>,
}

/// What it is judged by.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// the bytes that are kept, and that may be
    pub(super) kept: u64,
    pub(super) limit: u64,
    /// how many records of a topic may be unreadable
    pub(super) at_most: u64,
    pub(super) topics: BTreeMap<String, Stuck>,
}

impl Facts {
    /// Which topics rest, where these do already.
    pub(super) fn judge(&self, before: &BTreeSet<String>) -> BTreeMap<String, Why> {
        let why = |(topic, stuck): (&String, &Stuck)| {
            Some((topic.clone(), self.why(stuck, before.contains(topic))?))
        };
        self.topics.iter().filter_map(why).collect()
    }

    fn why(&self, stuck: &Stuck, rested: bool) -> Option<Why> {
        if let Some(what) = &stuck.lost {
            return Some(Why::Lost(what.clone()));
        }
        if stuck.unread > 0 && stuck.unread >= self.at_most {
            return Some(Why::Unread(stuck.unread));
        }
        let limit = self.limit;
        if self.kept < if rested { limit / 2 } else { limit / 4 * 3 } {
            return None;
        }
        self.fills(stuck, if rested { 1 } else { limit / 8 })
    }

    /// Why a topic is one of those that fill what may be kept; one of which `least` bytes wait does.
    fn fills(&self, stuck: &Stuck, least: u64) -> Option<Why> {
        let waits = stuck.waits.as_ref().filter(|(bytes, _)| *bytes >= least);
        let held = stuck.held.as_ref().map(|(table, is_read)| match is_read {
            true => (table, Keeps::Read),
            false => (table, Keeps::Held),
        });
        let (table, keeps) = held.or(waits.map(|(_, table)| (table, Keeps::Keys)))?;
        Some(Why::NoRoom { table: table.clone(), keeps, kept: self.kept, limit: self.limit })
    }

    /// What is to rest where there is no room at all: the topics of held tables, else the one of which most waits.
    pub(super) fn fullest(&self, before: &BTreeSet<String>) -> BTreeMap<String, Why> {
        // where a single batch is so large nothing but more room helps
        if self.kept < self.limit / 2 {
            return BTreeMap::new();
        }
        let new = || self.topics.iter().filter(|(topic, _)| !before.contains(*topic));
        let most = new().filter_map(|(_, stuck)| stuck.waits.as_ref()).map(|(bytes, _)| *bytes);
        let least = match new().any(|(_, stuck)| stuck.held.is_some()) {
            true => u64::MAX,
            false => most.max().unwrap_or(u64::MAX),
        };
        new()
            .filter_map(|(topic, stuck)| Some((topic.clone(), self.fills(stuck, least)?)))
            .collect()
    }

    /// A topic that rests, as people are told of it.
    pub(super) fn told(&self, topic: &str, why: &Why) -> Resting {
        let tables = self.topics.get(topic).map(|stuck| stuck.tables.iter().cloned().collect());
        let tables: Vec<TableName> = tables.unwrap_or_default();
        let (reason, remedy) = match why {
            Why::Lost(what) => (format!("the topic {topic} rests: {what}"), READ_AGAIN.to_owned()),
            Why::Unread(count) => {
                let of = tables.first().map_or_else(String::new, |table| format!(" {table:#}"));
                (
                    format!(
                        "the topic {topic} rests, its records stay in Kafka: {count} of them cannot be read \
                         (dead_letters.max_keys)"
                    ),
                    format!(
                        "siltstone dead-letter list{of}; mend what writes them, or take the topic out of \
                         `topics`; then siltstone dead-letter replay{of}, or drop"
                    ),
                )
            }
            Why::NoRoom { table, keeps, kept, limit } => (
                format!(
                    "the topic {topic} rests, its records stay in Kafka: {kept} bytes of changes are kept \
                     of at most {limit} (pending.max_bytes), and {table} {}",
                    match keeps {
                        Keeps::Held => "takes none",
                        Keeps::Read => "is being read again",
                        Keeps::Keys => "has keys that wait",
                    }
                ),
                match keeps {
                    Keeps::Held => format!(
                        "siltstone why {table:#}, mend it and siltstone table resume {table:#}; or raise \
                         pending.max_bytes"
                    ),
                    Keeps::Read => format!(
                        "nothing, as long as the topic keeps its records: it goes on when {table:#} is read; or raise \
                         pending.max_bytes"
                    ),
                    Keeps::Keys => format!(
                        "siltstone dead-letter list {table:#}, replay or drop them; or raise pending.max_bytes"
                    ),
                },
            ),
        };
        Resting { topic: topic.to_owned(), tables, reason, remedy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> TableName {
        TableName::new("cleansed", "t")
    }

    fn facts(kept: u64, stuck: Stuck) -> Facts {
        let topics =
            [("s.public.t".to_owned(), stuck), ("s.public.u".to_owned(), Stuck::default())];
        Facts { kept, limit: 800, at_most: 3, topics: topics.into() }
    }

    fn rests(facts: &Facts, rested: bool) -> bool {
        let before = rested.then(|| "s.public.t".to_owned()).into_iter().collect();
        let found = facts.judge(&before);
        assert!(!found.contains_key("s.public.u"));
        found.contains_key("s.public.t")
    }

    #[test]
    fn a_topic_rests_with_as_many_unreadable_records_as_there_may_be() {
        let unread = |count| facts(0, Stuck { unread: count, ..Stuck::default() });
        assert!(!rests(&unread(2), true) && rests(&unread(3), false));
        let none = Facts { at_most: 0, ..unread(0) };
        assert!(!rests(&none, true), "where there may be none, those that have none are read");
    }

    #[test]
    fn a_topic_whose_table_takes_nothing_rests_while_there_is_little_room() {
        for is_read in [false, true] {
            let held = Stuck { held: Some((table(), is_read)), ..Stuck::default() };
            let held = |kept| facts(kept, held.clone());
            let at = |kept| (rests(&held(kept), false), rests(&held(kept), true));
            assert_eq!(at(399), (false, false));
            assert_eq!(at(400), (false, true), "it goes on resting, and does not begin to");
            assert_eq!(at(600), (true, true));
        }
        assert!(!rests(&facts(700, Stuck::default()), true), "its table takes all");
        let waits = |bytes| facts(700, Stuck { waits: Some((bytes, table())), ..Stuck::default() });
        assert!(!rests(&waits(99), false), "it is not what fills the room");
        assert!(rests(&waits(99), true) && rests(&waits(100), false));
    }

    #[test]
    fn where_there_is_no_room_at_all_the_tables_that_take_nothing_go_first() {
        let waits = Stuck { waits: Some((5, table())), ..Stuck::default() };
        let mut of = facts(790, waits.clone());
        let names = |of: &Facts, before: &[&str]| -> Vec<String> {
            let before = before.iter().map(|topic| (*topic).to_owned()).collect();
            of.fullest(&before).into_keys().collect()
        };
        assert_eq!(names(&of, &[]), ["s.public.t"]);
        let held = Some((table(), false));
        of.topics.insert("s.public.v".to_owned(), Stuck { held, ..waits });
        assert_eq!(names(&of, &[]), ["s.public.v"]);
        assert_eq!(names(&of, &["s.public.v"]), ["s.public.t"]);
        assert_eq!(names(&of, &["s.public.v", "s.public.t"]), [""; 0]);
        of.kept = 300;
        assert_eq!(names(&of, &[]), [""; 0], "a single batch is too large");
    }

    #[test]
    fn a_table_that_is_read_goes_on_by_itself() {
        let stuck = Stuck { held: Some((table(), true)), ..Stuck::default() };
        let facts = facts(790, stuck);
        let why = facts.fullest(&BTreeSet::new()).remove("s.public.t").unwrap();
        let told = facts.told("s.public.t", &why);
        assert!(told.reason.ends_with("and cleansed.t is being read again"), "{}", told.reason);
        assert!(told.remedy.starts_with("nothing"), "{}", told.remedy);
    }

    #[test]
    fn what_is_lost_is_told_first() {
        let stuck = Stuck { lost: Some("gone".to_owned()), unread: 9, ..Stuck::default() };
        let facts = facts(0, stuck);
        let why = facts.judge(&BTreeSet::new()).remove("s.public.t").unwrap();
        assert_eq!(why, Why::Lost("gone".to_owned()));
        assert_eq!(facts.told("s.public.t", &why).reason, "the topic s.public.t rests: gone");
    }
}
