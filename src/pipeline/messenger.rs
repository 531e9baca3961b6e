//! Puts messages on their way to the channels of the files: for alerts, and for tasks that tell of their run.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_postgres::Transaction;

use crate::alerts::{self, Message, MessageKind, Sender};
use crate::clock::Clock;
use crate::error::Result;
use crate::schedule::{Posting, Telling, Tells, Told};
use crate::serve::Board;
use crate::spec::{Channel, Secret, Spec};

/// What tasks tell by.
pub(super) struct Messenger {
    pub(super) files: watch::Receiver<Arc<Spec>>,
    pub(super) sender: Sender,
    pub(super) board: Board,
    pub(super) clock: Clock,
}

impl Tells for Messenger {
    fn tell<'t>(
        &'t self,
        transaction: &'t Transaction<'t>,
        channels: &'t [String],
        told: &'t Told,
    ) -> Telling<'t> {
        Box::pin(async move {
            let spec = self.files.borrow().clone();
            let message = notice(told, self.clock.now());
            for channel in channels {
                dispatch(transaction, (&spec, &self.board), channel, &message).await?;
            }
            Ok(())
        })
    }

    fn post<'p>(
        &'p self,
        url: &'p Secret,
        bearer: Option<&'p Secret>,
        body: &'p serde_json::Value,
    ) -> Posting<'p> {
        Box::pin(self.sender.post(url, bearer, body))
    }
}

/// Puts a message on its way. One for a channel that has no address, or where too many wait, is left out.
pub(super) async fn dispatch(
    transaction: &Transaction<'_>,
    (spec, board): (&Spec, &Board),
    channel: &str,
    message: &Message,
) -> Result<()> {
    let known = spec.alerts.iter().flat_map(|alerts| &alerts.channels);
    let mut known = known.filter(|known| known.name == channel);
    if !known.next().is_some_and(Channel::is_set) {
        tracing::debug!(channel, "no address: {}", message.title());
        return Ok(());
    }
    if !alerts::queue(transaction, channel, message, message.at).await? {
        tracing::warn!(channel, "too many messages wait: one is left out: {}", message.title());
        board.alert_sent(channel, "dropped");
    }
    Ok(())
}

/// A run, for people.
fn notice(told: &Told, at: jiff::Timestamp) -> Message {
    let so_far = if told.failed { "has failed" } else { "went well" };
    let mut text = format!("{} for {}: the run {so_far}.", told.job, told.ds);
    for task in &told.tasks {
        text.push_str(&format!("\n{}: {}", task.name, task.state));
        if let Some(reason) = &task.reason {
            text.push_str(&format!(" ({reason})"));
        }
    }
    Message {
        kind: MessageKind::Notice,
        rule: "notify".to_owned(),
        subject: format!("{} {}", told.job, told.ds),
        text,
        remedy: None,
        since: None,
        at,
        bad: told.failed,
        details: serde_json::to_value(told).unwrap_or_default(),
    }
}
