//! Sends dead letters to the connector's topic for them, from what `audit.dead_letters` holds: at least once,
//! and never in the way of the tables. A broker that is away leaves them unsent, which the metrics show.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;

use super::super::core::{Core, writer};
use super::super::session::Ended;
use crate::capture::outlet::{Context, Outlet, Sent};
use crate::error::Result;
use crate::postgres::Session;
use crate::progress::poison::{self, Unsent};
use crate::spec::Kafka;
use crate::warehouse::Fenced;

/// How often it is looked for letters that are not sent.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long it is waited at most after a failure.
const AGAIN_WITHIN: Duration = Duration::from_secs(60);

/// Sends the letters of our partitions as they come, as long as the session lasts.
pub(super) async fn send_letters(connector: Arc<Kafka>, shared: Arc<Core>) -> Ended {
    let Some(topic) = &connector.dead_letter_topic else { return std::future::pending().await };
    let mut wait = LOOK_EVERY;
    let mut open: Option<(Outlet, Session)> = None;
    loop {
        match round(&connector, &shared, topic, &mut open).await {
            Ok(()) => wait = LOOK_EVERY,
            Err(error) => {
                let remedy = error.remedy_text().unwrap_or_default();
                tracing::warn!(topic, remedy, "dead letters are not sent: {}", error.reason());
                open = None;
                wait = (wait * 2).min(AGAIN_WITHIN);
            }
        }
        tokio::time::sleep(wait).await;
    }
}

async fn round(
    connector: &Kafka,
    shared: &Core,
    topic: &str,
    open: &mut Option<(Outlet, Session)>,
) -> Result<()> {
    let (outlet, warehouse) = match open {
        Some(open) => open,
        None => {
            let session = writer(&shared.setup, &shared.fence, "dead letters").await?;
            open.insert((Outlet::open(connector, topic)?, session))
        }
    };
    let numbers = shared.numbers().unwrap_or_default();
    loop {
        let unsent = poison::count_unsent(&**warehouse, &connector.name).await?;
        shared.setup.board.unsent_letters(unsent);
        if unsent == 0 {
            return Ok(());
        }
        let letters = poison::unsent(&**warehouse, &connector.name, numbers).await?;
        if letters.is_empty() {
            return Ok(());
        }
        let sent = letters.iter().map(|letter| send(outlet, &connector.name, letter));
        let sent: Vec<(i64, Option<String>)> = try_join_all(sent).await?;
        let durations = &shared.setup.durations;
        let transaction =
            Fenced::begin(warehouse, &shared.fence, "dead letters", durations).await?;
        poison::sent(&transaction, &sent).await?;
        transaction.commit().await?;
    }
}

/// Sends a letter; why it will never be taken, if so.
async fn send(outlet: &Outlet, connector: &str, letter: &Unsent) -> Result<(i64, Option<String>)> {
    let context = Context { connector, readable: letter.readable, reason: &letter.reason };
    match outlet.send(&letter.record, &context).await? {
        Sent::Taken => Ok((letter.id, None)),
        Sent::Never(why) => {
            tracing::warn!(letter = letter.id, why, "the topic of dead letters does not take it");
            Ok((letter.id, Some(why)))
        }
    }
}
