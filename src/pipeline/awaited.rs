//! Making a slot waits for the transactions that are open at the source, for as long as they are: meanwhile the
//! tables that are to be read say for which one, and what ends it. Never gives up waiting.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use super::core::Core;
use super::shared::Shared;
use crate::capture::slot::{self, Awaited};
use crate::error::Result;
use crate::postgres::{Side, connect};
use crate::progress::waiting;
use crate::warehouse::Fenced;

/// How often it is looked what is waited for.
const EVERY: Duration = Duration::from_secs(5);

/// Waits for a slot that is being made, and tells `tables` what for.
pub(super) async fn telling<T>(
    shared: &Shared,
    tables: &[String],
    making: impl Future<Output = Result<T>>,
) -> Result<T> {
    let mut making = pin!(making);
    let mut told = None;
    loop {
        tokio::select! {
            made = &mut making => {
                if told.is_some() {
                    tell(shared, tables, None).await?;
                }
                return made;
            }
            () = tokio::time::sleep(EVERY) => {
                let found = awaited(shared).await.unwrap_or_else(|error| {
                    tracing::debug!("what a slot waits for is not known: {}", error.reason());
                    None
                });
                if found == told {
                    continue;
                }
                if let Some(Awaited { what, remedy }) = &found {
                    tracing::warn!(remedy, "reading waits for {what}");
                    let why = format!("the source: {what}");
                    tell(shared, tables, Some((&why, Some(remedy)))).await?;
                }
                told = found;
            }
        }
    }
}

async fn awaited(shared: &Shared) -> Result<Option<Awaited>> {
    let endpoint = &shared.connector().endpoint;
    let source = connect(Side::Source, endpoint, "siltstone catalogue").await?;
    slot::awaited(&source).await
}

/// Notes why tables wait, or that they do so no more.
pub(super) async fn tell(
    core: &Core,
    tables: &[String],
    why: Option<(&str, Option<&str>)>,
) -> Result<()> {
    let setup = &core.setup;
    let mut side = core.side_session().await;
    let transaction =
        Fenced::begin(side.session_mut(), &core.fence, "wait", &setup.durations).await?;
    let told = waiting::wait_for(&*transaction, tables, why).await?;
    transaction.commit().await?;
    for table in told {
        let (reason, remedy) = (table.reason.as_deref(), table.remedy.as_deref());
        setup.board.table_state(&table.table, &table.state, reason, remedy);
    }
    Ok(())
}
