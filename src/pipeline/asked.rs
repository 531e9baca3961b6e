//! What operators ask for of tables, whatever feeds them: that their changes are kept, that they go on, and what
//! becomes of their dead letters.

use tokio_postgres::Transaction;

use super::core::Core;
use crate::error::Result;
use crate::names::TableName;
use crate::postgres::Session;
use crate::progress::dead_letters::{self, Fate, Which};
use crate::progress::requests::{self, Request, Verb};
use crate::progress::tables::{self, State, TableRecord};
use crate::progress::turns;
use crate::warehouse::Fenced;

/// Pauses a table or lets it go on; whether that was done, and what is answered.
pub(super) async fn hold_or_let_go(
    transaction: &Transaction<'_>,
    verb: Verb,
    record: &TableRecord,
) -> Result<(bool, String)> {
    let table = &record.table;
    let word = record.state.word();
    match verb {
        Verb::Pause if matches!(record.state, State::Streaming | State::CatchingUp) => {
            let resume = format!("siltstone table resume {table}");
            let (reason, remedy) = (Some("an operator paused it"), Some(resume.as_str()));
            tables::set(transaction, table, State::Paused, reason, remedy).await?;
            Ok((true, format!("{table} is paused; its changes are kept")))
        }
        Verb::Pause => Ok((false, format!("{table} is {word}; pause it when it streams"))),
        _ if !record.is_held() => Ok((false, format!("{table} is {word}, not stopped"))),
        _ => {
            let unread = record.chunk_open || record.part_open;
            let state = if unread { State::Resyncing } else { State::CatchingUp };
            tables::set(transaction, table, state, None, None).await?;
            tables::answer(transaction, table).await?;
            Ok((true, format!("{table} goes on with its kept changes")))
        }
    }
}

/// Puts dead letters back among the kept changes, or drops them; what waits behind them goes on. Of many
/// processes each settles those of its partitions; the last one answers. Whether anything was settled.
pub(super) async fn settle(
    core: &Core,
    warehouse: &mut Session,
    request: &Request,
    table: Option<&TableName>,
) -> Result<bool> {
    let fate = if request.verb == Verb::Drop { Fate::Dropped } else { Fate::Replayed };
    let durations = &core.setup.durations;
    let transaction = Fenced::begin(warehouse, &core.fence, "request", durations).await?;
    if !requests::claim(&*transaction, request.id).await? {
        return Ok(false);
    }
    let records = tables::read(&*transaction, &core.connector().name).await?;
    let (mut settled, mut left) = (0, 0);
    for record in records.iter().filter(|of| table.is_none_or(|table| of.table == *table)) {
        let which = Which {
            table: &record.table,
            id: request.letter(),
            numbers: core.numbers(),
            request: request.id,
        };
        let count = dead_letters::settle(&transaction, &which, fate).await?;
        if count > 0 {
            turns::catch_up(&*transaction, &record.table).await?;
        }
        settled += count;
        left += dead_letters::left(&transaction, &which).await?;
    }
    let answer = match (settled, fate) {
        (0, _) => "there is no such dead letter".to_owned(),
        (count, Fate::Replayed) => format!("dead letters that are tried again: {count}"),
        (count, Fate::Dropped) => {
            format!("dead letters dropped: {count}; what waited behind them goes on")
        }
    };
    if left == 0 {
        requests::answer(&*transaction, request.id, settled > 0, &answer).await?;
    }
    transaction.commit().await?;
    if settled > 0 || left == 0 {
        tracing::info!(settled, "{answer}");
    }
    Ok(settled > 0)
}
