//! Tells people what a session waits for that nothing stops: brokers that do not answer, and, where source
//! transactions are to become visible as a whole, what they lack.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::TopicSetup;
use super::checks::nothing_there;
use super::whole::Awaited;
use crate::capture::topics::Member;
use crate::error::{Error, Kind, Result};
use crate::postgres::Session;
use crate::progress::standing::{self, Standing};
use crate::serve::Phase;

use super::super::core::Core;
use super::super::standing::works;

/// How often people who ask without the service are told that it still waits.
const TOLD_EVERY: Duration = Duration::from_secs(20);

/// Brokers that do not answer for shorter than that are only changing places.
const AWAY_FOR: Duration = Duration::from_secs(10);

/// What is said of a member that is given nothing, as long as nobody knows more.
pub(super) const NOT_YET: &str = "the group has given no partitions yet";

/// Why a member is given nothing, where that is known better than by its `failure`: brokers only say that they do not
/// know a topic.
pub(super) async fn nothing_given(
    (setup, member): (&TopicSetup, &Member),
    failure: Error,
) -> Error {
    // those that are not reached would only let us wait
    if is_reached(member)
        && let Ok(Some(none)) = nothing_there(&setup.connector).await
    {
        return Error::new(failure.kind(), none.what).remedy(none.remedy);
    }
    if failure.kind() != Kind::Busy {
        return failure;
    }
    let group = &setup.connector.group;
    let what = format!(
        "{NOT_YET}: other members of {group} have them, or had them and ended without leaving it, and it waits for \
         those until session.timeout.ms is over (45 s by default)"
    );
    Error::new(Kind::Busy, what)
}

/// What is waited for, and what to do.
type Wait = (String, String);

/// What a session waits for, and what was told of it.
pub(super) struct Waits {
    awaited: watch::Receiver<Option<Awaited>>,
    /// since when no broker answers, and what was told then
    away: Option<(Instant, Option<Wait>)>,
    /// what was told last, and when
    told: Option<(String, Instant)>,
}

impl Waits {
    /// Of a session that waits for nothing yet.
    pub(super) fn of(awaited: watch::Receiver<Option<Awaited>>) -> Waits {
        Waits { awaited, away: None, told: None }
    }

    /// Tells what is waited for where that is another thing than before, and that nothing is any more.
    pub(super) async fn tell(
        &mut self,
        setup: &TopicSetup,
        (shared, member): (&Core, &Member),
        warehouse: &Session,
    ) -> Result<()> {
        let awaited = self.awaited.borrow_and_update().clone();
        let transactions_wait = awaited.is_some();
        let away = self.away(setup, member);
        let now = away.or(awaited.map(|awaited| (awaited.what, awaited.remedy.to_owned())));
        let before = self.told.as_ref().map(|(what, _)| what);
        let is_new = before != now.as_ref().map(|(what, _)| what);
        let again = self.told.as_ref().is_some_and(|(_, at)| at.elapsed() >= TOLD_EVERY);
        shared.setup.board.transactions_wait(transactions_wait);
        if !is_new && !again {
            return Ok(());
        }
        let (what, remedy) = now.unzip();
        if is_new {
            shared.setup.board.phase(Phase::Streaming, what.as_deref(), remedy.as_deref());
        }
        let Some(what) = what else {
            tracing::info!("what was waited for has come");
            self.told = None;
            return works(shared, &[]).await;
        };
        if self.told.is_none() {
            tracing::warn!(remedy, "{what}");
        }
        let who = (setup.connector.name.as_str(), &*setup.owner);
        let reason = (what.as_str(), remedy.as_deref());
        standing::tell(&**warehouse, who, Standing::Waiting, reason).await?;
        self.told = Some((what, Instant::now()));
        Ok(())
    }

    /// Why no broker answers, where none has for a while.
    fn away(&mut self, setup: &TopicSetup, member: &Member) -> Option<Wait> {
        if is_reached(member) {
            self.away = None;
            return None;
        }
        let (since, why) = self.away.get_or_insert_with(|| (Instant::now(), None));
        if since.elapsed() >= AWAY_FOR && why.is_none() {
            let failure = member.told().failure(&setup.connector, "reading its topics");
            *why = failure.map(|failure| {
                (failure.reason(), failure.remedy_text().unwrap_or_default().to_owned())
            });
        }
        why.clone()
    }
}

/// Whether a broker answers, as far as is known: what is told of failures may be of others, or past.
pub(super) fn is_reached(member: &Member) -> bool {
    let statistics = member.statistics();
    let statistics = statistics.borrow();
    statistics
        .as_ref()
        .is_none_or(|statistics| statistics.brokers.values().any(|broker| broker.state == "UP"))
}
