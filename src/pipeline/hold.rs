//! What becomes of a table that cannot go on: it is taken out of the stream, its changes are kept, and the
//! others flow. Errors that name no table, or that waiting mends, are the connector's.

use super::core::Core;
use super::intake::End;
use super::locked;
use super::note::Then;
use crate::error::{Error, Kind, Policy, Result};
use crate::names::TableName;
use crate::progress::tables::State;

/// Takes the table that an error names out of the stream: from the next session on its changes are
/// kept, until it is resumed, its rows are read again, or a lock on it is gone. Any other error stays one.
pub(super) async fn hold_table(shared: &Core, error: Error) -> Result<End> {
    let named = error.table().and_then(|table| table.parse::<TableName>().ok());
    if let Some(table) = named.as_ref().filter(|_| locked::is_locked(&error)) {
        // one that is yet to be made keeps no changes: it is tried again
        if locked::hold(shared, table).await?.is_none() {
            return Err(error.with_kind(Kind::Busy));
        }
        return Ok(End::Restart);
    }
    let reread = match error.kind().policy() {
        Policy::StopTable | Policy::Sift => false,
        Policy::RereadTable => true,
        // a right that one table lacks
        Policy::Human if error.kind() == Kind::Rights => false,
        _ => return Err(error),
    };
    let Some(table) = named else { return Err(error) };
    let reason = error.reason();
    if reread {
        shared.define(&[], &table, Then::OpenChunk(State::Resyncing)).await?;
        tracing::warn!(%table, "{reason}: the table is read again, its changes are kept meanwhile");
    } else if error.kind() == Kind::Poison {
        let resync = format!("siltstone table resync {table:#}");
        let remedy = error.remedy_text().unwrap_or(&resync);
        shared.define(&[], &table, Then::Sift { reason: &reason, remedy }).await?;
        tracing::warn!(%table, "a change is refused: the table's changes are sifted ({reason})");
    } else {
        let resync = format!("siltstone table resync {table:#}");
        let remedy = error.remedy_text().unwrap_or(&resync);
        let unread = error.kind() == Kind::Skipped;
        shared.define(&[], &table, Then::Stop { reason: &reason, remedy, unread }).await?;
        tracing::error!(%table, reason, remedy, "the table stops, its changes are kept");
    }
    Ok(End::Restart)
}
