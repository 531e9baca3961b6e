//! Topics that rest: where too many of their records cannot be read, the next million will not be either. They
//! stay in Kafka instead of becoming dead letters, until people have looked at those that are there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::capture::topics::Partition;
use crate::error::{Error, Kind, Result};
use crate::names::TableName;
use crate::position::Positions;
use crate::postgres::Session;
use crate::progress::poison;
use crate::spec::Kafka;

/// How many records of each topic cannot be read, and which topics rest; shared with who watches the letters.
#[derive(Clone)]
pub(super) struct Rest {
    at_most: u64,
    /// whether any topic has reached it: looked at before each record
    reached: Arc<AtomicBool>,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    /// by topic how many are open dead letters, and the table in whose name the last one is
    unread: BTreeMap<String, (u64, Option<TableName>)>,
    resting: BTreeSet<String>,
}

impl Rest {
    /// Counts on from what is open.
    pub(super) fn new(at_most: usize, open: Vec<(String, u64)>) -> Rest {
        let unread = open.into_iter().map(|(topic, count)| (topic, (count, None))).collect();
        let known = Known { unread, resting: BTreeSet::new() };
        let at_most = u64::try_from(at_most).unwrap_or(u64::MAX);
        let reached = known.unread.values().any(|(count, _)| *count >= at_most);
        Rest { at_most, reached: Arc::new(reached.into()), known: Arc::new(Mutex::new(known)) }
    }

    /// The same for a connector, by what is open of it.
    pub(super) async fn read(connector: &Kafka, warehouse: &Session) -> Result<Rest> {
        let open = poison::unreadable_by_topic(&**warehouse, &connector.name).await?;
        Ok(Rest::new(connector.held_keys, open))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a record that cannot be read.
    pub(super) fn note(&self, topic: &str, table: &TableName) {
        let mut known = self.known();
        let (count, last) = known.unread.entry(topic.to_owned()).or_default();
        *count += 1;
        *last = Some(table.clone());
        if *count >= self.at_most {
            self.reached.store(true, Ordering::SeqCst);
        }
    }

    /// Why a topic is not read on, if it is not, and whether that is new. `named` is what its name says.
    pub(super) fn rests(&self, topic: &str, named: &TableName) -> Option<(Error, bool)> {
        if !self.reached.load(Ordering::SeqCst) {
            return None;
        }
        let mut known = self.known();
        let (count, table) = known.unread.get(topic)?;
        if *count < self.at_most {
            return None;
        }
        let table = table.clone().unwrap_or_else(|| named.clone());
        let error = too_many(topic, *count, &table);
        Some((error, known.resting.insert(topic.to_owned())))
    }

    /// Whether any topic rests.
    pub(super) fn is_any(&self) -> bool {
        !self.known().resting.is_empty()
    }

    /// Why nothing more comes, where all is read but what rests.
    pub(super) fn ends(&self, stored: &Positions, ends: &Positions) -> Option<Error> {
        let known = self.known();
        let topic = known.resting.first()?;
        let rests = |name: &str| {
            Partition::of_name(name).is_some_and(|of| known.resting.contains(&*of.topic))
        };
        let others = ends.iter().filter(|(name, _)| !rests(name));
        let others: Positions = others.map(|(name, end)| (name.clone(), end)).collect();
        let (count, table) = known.unread.get(topic)?;
        let table = table.clone().unwrap_or_else(|| TableName::new("", topic.as_str()));
        stored.reach(&others).then(|| too_many(topic, *count, &table))
    }

    /// Whether one that rests may be read on, now that these are open.
    pub(super) fn may_go_on(&self, open: &[(String, u64)]) -> bool {
        let count = |topic: &String| open.iter().find(|(of, _)| of == topic).map_or(0, |of| of.1);
        self.known().resting.iter().any(|topic| count(topic) < self.at_most)
    }
}

fn too_many(topic: &str, count: u64, table: &TableName) -> Error {
    let what = format!(
        "{count} records of the topic {topic} cannot be read: it rests, and the others stay in Kafka \
         (dead_letters.max_keys)"
    );
    Error::new(Kind::SourceLacks, what).on_table(table.to_string()).remedy(format!(
        "siltstone dead-letter list {table}; mend what writes them, or take the topic out of `topics`; then \
         siltstone dead-letter replay {table}, or drop"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_rests_from_its_limit_on_until_letters_are_settled() {
        let rest = Rest::new(2, vec![("b".to_owned(), 2)]);
        let table = TableName::new("public", "t");
        assert!(rest.rests("a", &table).is_none() && !rest.is_any());
        rest.note("a", &table);
        assert!(rest.rests("a", &table).is_none());
        rest.note("a", &table);
        let (why, is_new) = rest.rests("a", &table).unwrap();
        assert!(is_new && !rest.rests("a", &table).unwrap().1);
        assert!(why.to_string().contains("2 records of the topic a cannot be read"), "{why}");
        assert!(rest.rests("b", &table).is_some() && rest.is_any());
        let open = |a, b| vec![("a".to_owned(), a), ("b".to_owned(), b)];
        assert!(!rest.may_go_on(&open(2, 2)));
        assert!(rest.may_go_on(&open(1, 2)));
        assert!(rest.may_go_on(&[("a".to_owned(), 2)]));
    }
}
