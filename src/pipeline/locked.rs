//! A table whose definition is to change while somebody has a lock on it, as a dump has for hours: it waits alone,
//! its changes are kept, and it goes on by itself when nobody is in the way any more.

use tokio_postgres::error::SqlState;

use super::core::Core;
use super::note::Then;
use crate::error::{Error, Result};
use crate::names::TableName;
use crate::postgres::Session;
use crate::progress::holds::Hold;
use crate::progress::{tables, turns};
use crate::warehouse::{Fenced, Holder, holders};

/// Why a table waits.
const WAITS: &str = "its definition is to change, and a lock is in the way";

/// Whether a lock was not to be had.
pub(super) fn is_locked(error: &Error) -> bool {
    error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
}

/// Holds a table until nobody is in the way; the reason and the remedy. None where nothing is known of it.
pub(super) async fn hold(core: &Core, table: &TableName) -> Result<Option<(String, String)>> {
    let connector = &core.connector().name;
    let found = {
        let side = core.side_session().await;
        if tables::read_one(&**side.session(), connector, table).await?.is_none() {
            return Ok(None);
        }
        holders(&**side.session(), table).await?
    };
    let (reason, remedy) = told(&found);
    core.define(&[], table, Then::Wait { reason: &reason, remedy: &remedy }).await?;
    tracing::warn!(%table, reason, remedy, "the table waits, its changes are kept");
    Ok(Some((reason, remedy)))
}

fn told(holders: &[Holder]) -> (String, String) {
    let goes_on = "it goes on by itself when that is over".to_owned();
    let Some(first) = holders.first() else { return (WAITS.to_owned(), goes_on) };
    let who: Vec<&str> = holders.iter().map(|holder| holder.who.as_str()).collect();
    let remedy = match first.pid {
        Some(pid) => format!("{goes_on}; or select pg_terminate_backend({pid}) at the warehouse"),
        None => format!("{goes_on}; or commit prepared or rollback prepared at the warehouse"),
    };
    (format!("{WAITS}: that of {}", who.join(", ")), remedy)
}

/// Lets the tables go on that have waited and may be changed now; whether there were some.
pub(super) async fn let_go(core: &Core, warehouse: &mut Session) -> Result<bool> {
    let records = tables::read(&**warehouse, &core.connector().name).await?;
    let mut some = false;
    for record in records.iter().filter(|record| record.is_locked()) {
        let table = &record.table;
        if !holders(&**warehouse, table).await?.is_empty() {
            continue;
        }
        let durations = &core.setup.durations;
        let transaction = Fenced::begin(warehouse, &core.fence, "locked", durations).await?;
        turns::let_go(&*transaction, table, Hold::Locked).await?;
        transaction.commit().await?;
        tracing::info!(%table, "nobody has a lock on it any more: it goes on");
        some = true;
    }
    Ok(some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_named_first_and_can_be_ended() {
        let holder = |pid, who: &str| Holder { pid, who: who.to_owned() };
        let dump = holder(Some(7), "process 7 of ann (pg_dump)");
        let other = holder(Some(9), "process 9 of bob");
        let (reason, remedy) = told(&[dump, other]);
        assert!(reason.starts_with(WAITS) && reason.ends_with("(pg_dump), process 9 of bob"));
        assert!(remedy.contains("pg_terminate_backend(7)"), "{remedy}");
        assert_eq!(told(&[]).0, WAITS);
        assert!(told(&[holder(None, "a prepared transaction")]).1.contains("prepared"));
    }
}
