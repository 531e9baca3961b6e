//! Changes of definitions inside a transaction that also does other work: they must not queue behind a
//! long reader, for everyone else would queue behind them.

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{GenericClient, Transaction};

/// How often a lock is tried for, each time for `TIMEOUT`, before the transaction gives way.
pub const PATIENT: u32 = 20;
/// The same where everybody else's rows wait meanwhile.
pub const SOON: u32 = 3;
const TIMEOUT: &str = "1s";
const PAUSE: Duration = Duration::from_millis(500);

/// Changes a table's definition as [`ddl`] does, in so many tries. What a definition does to rows fires no
/// trigger: the marts that read the table are computed anew.
pub async fn reshape(
    transaction: &Transaction<'_>,
    table: &str,
    (statements, tries): (&[String], u32),
) -> Result<(), tokio_postgres::Error> {
    if statements.is_empty() {
        return Ok(());
    }
    locked(transaction, statements, tries).await?;
    touch(transaction, table).await
}

/// Marks a table for all marts that read it.
pub async fn touch(client: &impl GenericClient, table: &str) -> Result<(), tokio_postgres::Error> {
    client.execute("select audit.touch_all($1)", &[&table]).await.map(drop)
}

/// Runs statements, all or none. A lock that is not granted soon is let go of and tried for again, a
/// number of times; the last error is the caller's.
pub async fn ddl(
    transaction: &Transaction<'_>,
    statements: &[String],
) -> Result<(), tokio_postgres::Error> {
    locked(transaction, statements, PATIENT).await
}

async fn locked(
    transaction: &Transaction<'_>,
    statements: &[String],
    most: u32,
) -> Result<(), tokio_postgres::Error> {
    if statements.is_empty() {
        return Ok(());
    }
    let row = transaction.query_one("select current_setting('lock_timeout')", &[]).await?;
    let before: String = row.try_get(0)?;
    let mut tries = 1;
    loop {
        transaction
            .batch_execute(&format!("savepoint ddl; set local lock_timeout = '{TIMEOUT}'"))
            .await?;
        match run(transaction, statements).await {
            Ok(()) => break,
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) && tries < most => {
                transaction.batch_execute("rollback to savepoint ddl").await?;
                tokio::time::sleep(PAUSE).await;
                tries += 1;
            }
            Err(error) => return Err(error),
        }
    }
    transaction.batch_execute("release savepoint ddl").await?;
    transaction.execute("select set_config('lock_timeout', $1, true)", &[&before]).await?;
    Ok(())
}

async fn run(
    transaction: &Transaction<'_>,
    statements: &[String],
) -> Result<(), tokio_postgres::Error> {
    for statement in statements {
        transaction.batch_execute(statement).await?;
    }
    Ok(())
}
