//! A connector that reads topics: a session for each assignment of partitions, each from the stored offsets.
//!
//! The stages are those of every connector; here is what a log of many partitions asks for beside: each
//! partition has a position and a fence of its own, tables show themselves by their records, and a record
//! that nobody can read is set aside with its bytes.

mod again;
mod anew;
mod asking;
mod beside;
mod checks;
mod control;
mod intake;
mod judge;
mod letters;
mod outlet;
mod places;
mod plans;
mod reading;
mod rest;
mod retention;
mod session;
mod sources;
mod tables;
mod turns;
mod unplanned;
mod waits;
mod whole;

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::core::Basis;
use crate::capture::brokers::Brokers;
use crate::capture::topics::Member;
use crate::error::{Kind, Result};
use crate::spec::{Kafka, Topics};

pub(super) use asking::{not_read, not_read_again};
pub(super) use beside::{ends, of_another, unread};
pub(super) use checks::inspect;
pub(super) use session::run;

/// What a connector of topics is run with, from session to session.
#[derive(Clone)]
pub(super) struct TopicSetup {
    pub(super) basis: Basis,
    pub(super) connector: Arc<Kafka>,
    /// how the topics of its cluster are to be
    declared: Option<Arc<Topics>>,
    /// the topics were looked at
    checked: Arc<AtomicBool>,
    /// while they are
    looking: Arc<Mutex<Option<JoinHandle<()>>>>,
    /// the membership in the group, which outlives a session
    member: Arc<Mutex<Option<Arc<Member>>>>,
}

impl Deref for TopicSetup {
    type Target = Basis;

    fn deref(&self) -> &Basis {
        &self.basis
    }
}

impl TopicSetup {
    /// What a connector starts with.
    pub(super) fn new(
        basis: Basis,
        connector: Arc<Kafka>,
        declared: Option<Arc<Topics>>,
    ) -> TopicSetup {
        let (checked, looking, member) = (Arc::default(), Arc::default(), Arc::default());
        TopicSetup { basis, connector, declared, checked, looking, member }
    }

    /// The same connector with other files.
    pub(super) fn with(self, basis: Basis, new: TopicSetup) -> TopicSetup {
        // with other brokers, topics or properties it joins anew
        let member = if self.connector == new.connector { self.member } else { new.member };
        TopicSetup { basis, member, ..new }
    }

    /// Says, once, what of the topics people should know, beside everything else.
    fn check(&self) {
        if self.checked.swap(true, Ordering::SeqCst) {
            return;
        }
        let setup = self.clone();
        let said = tokio::spawn(async move {
            let name = &setup.connector.name;
            let declared = setup.declared.as_deref();
            match checks::at_start(&setup.connector, declared, &setup.models).await {
                Ok(findings) => {
                    for finding in findings {
                        tracing::warn!(
                            connector = name,
                            remedy = finding.remedy,
                            "{}",
                            finding.what
                        );
                    }
                }
                Err(error) => {
                    tracing::warn!(
                        connector = name,
                        "the topics were not checked: {}",
                        error.reason()
                    );
                }
            }
        });
        *self.looking.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
    }

    /// Waits until what people should know of the topics is said: a service that ends when it has caught up
    /// may be through before the brokers have answered.
    async fn said(&self) {
        const WITHIN: Duration = Duration::from_secs(2);
        let looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(looking) = looking.filter(|_| self.until_caught_up) {
            drop(tokio::time::timeout(WITHIN, looking).await);
        }
    }

    /// The membership; joins the group where there is none.
    async fn member(&self) -> Result<Arc<Member>> {
        /// Records that are fetched may take this share of the memory.
        const SHARE: u64 = 4;
        let known = || self.member.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(member) = &*known() {
            return Ok(member.clone());
        }
        // a member may be given all partitions, and each has a queue of its own
        let buffer = self.settings.memory / SHARE / self.partitions().await?;
        let joined = Arc::new(Member::join(&self.connector, buffer)?);
        *known() = Some(joined.clone());
        Ok(joined)
    }

    /// How many partitions the topics have, or may well have where the brokers do not answer. Fails where they
    /// refuse us.
    async fn partitions(&self) -> Result<u64> {
        const UNKNOWN: u64 = 16;
        let Ok(brokers) = Brokers::of(&self.connector) else { return Ok(UNKNOWN) };
        let topics = match brokers.topics().await {
            Ok(topics) => topics,
            Err(error) if error.kind() == Kind::Rights => return Err(error),
            Err(_) => return Ok(UNKNOWN),
        };
        let ours = |name: &str| self.connector.topics.iter().any(|pattern| pattern.matches(name));
        let ours = topics.iter().filter(|(name, _)| ours(name));
        let count: i64 = ours.map(|(_, found)| i64::from(found.partitions)).sum();
        Ok(u64::try_from(count).unwrap_or(UNKNOWN).max(1))
    }

    /// Leaves the group, and waits until it knows: else the partitions are nobody's until the session of a
    /// member that is not there any more times out.
    async fn leave(&self) {
        const WITHIN: Duration = Duration::from_secs(5);
        let member = self.member.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.said().await;
        let Some(member) = member else { return };
        // it waits for librdkafka's threads
        let left = tokio::task::spawn_blocking(move || drop(member));
        if tokio::time::timeout(WITHIN, left).await.is_err() {
            let group = &self.connector.group;
            tracing::warn!(
                group,
                "the group does not answer: it finds out by itself that we are gone"
            );
        }
    }
}
