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

/// Whether a request is about a table: about the one that it names, or about each that it can be carried out
/// for.
pub(super) fn means(request: &Request, record: &TableRecord) -> bool {
    match (&request.table, request.verb) {
        (Some(table), _) => record.table == *table,
        (None, Verb::Pause) => matches!(record.state, State::Streaming | State::CatchingUp),
        (None, _) => record.is_held(),
    }
}

/// What is answered of all tables that a request is about: whether all of it was done, and how.
pub(super) fn together(request: &Request, answers: Vec<(bool, String)>) -> (bool, String) {
    if answers.is_empty() {
        return match &request.table {
            Some(table) => (false, format!("the connector feeds no table {table}")),
            None => (true, "there is no such table".to_owned()),
        };
    }
    let done = answers.iter().all(|(done, _)| *done);
    let texts: Vec<String> = answers.into_iter().map(|(_, text)| text).collect();
    (done, texts.join("; "))
}

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
            let resume = format!("siltstone table resume {table:#}");
            let (reason, remedy) = ("an operator paused it", Some(resume.as_str()));
            tables::set(transaction, table, State::Paused, Some(reason), remedy).await?;
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
    let (mut restart, mut left) = (false, 0);
    let mut outcome = (0, 0);
    let mut held = Vec::new();
    let meant: Vec<&TableName> = match table {
        // it may be one whose first record nobody could read
        Some(table) => vec![table],
        None => records.iter().map(|record| &record.table).collect(),
    };
    for table in meant {
        let which =
            Which { table, id: request.letter(), numbers: core.numbers(), request: request.id };
        let settled = dead_letters::settle(&transaction, &which, fate).await?;
        if settled.letters > 0 {
            turns::catch_up(&*transaction, table).await?;
        }
        // those that nobody could read are read again when a session begins
        restart |= settled.letters + settled.unread > 0;
        left += dead_letters::left(&transaction, &which).await?;
        let (done, unreadable) = dead_letters::outcome(&transaction, &which).await?;
        outcome = (outcome.0 + done, outcome.1 + unreadable);
        let is_held = |record: &&TableRecord| record.table == *table && record.is_held();
        held.extend(records.iter().find(is_held).filter(|_| done > 0).map(waits));
    }
    let (done, mut answer) = answer(outcome, fate);
    answer.extend(held);
    if left == 0 {
        requests::answer(&*transaction, request.id, done, &answer).await?;
    }
    transaction.commit().await?;
    if left == 0 {
        tracing::info!("{answer}");
    }
    Ok(restart)
}

/// What is said of a table whose kept changes nobody applies.
fn waits(record: &TableRecord) -> String {
    let (table, word) = (&record.table, record.state.word());
    format!("; {table} is {word}: siltstone table resume {table:#}")
}

/// Whether a request was carried out, and what is answered.
fn answer((settled, unreadable): (u64, u64), fate: Fate) -> (bool, String) {
    let still = match unreadable {
        0 => String::new(),
        count => format!("; that still cannot be read: {count} (siltstone dead-letter list)"),
    };
    match (settled, fate) {
        (0, _) if unreadable == 0 => (false, "there is no such dead letter".to_owned()),
        (count, Fate::Replayed) => {
            (count > 0, format!("dead letters that are tried again: {count}{still}"))
        }
        (count, Fate::Dropped) => {
            (true, format!("dead letters dropped: {count}; what waited behind them goes on"))
        }
    }
}
