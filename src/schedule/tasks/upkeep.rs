//! What keeps tables quick: vacuum, the planner's statistics, indexes built anew. Each statement stands for
//! itself, so an attempt that breaks off has done a part, and another one does it all again.

use super::{Outcome, Work, tables};
use crate::error::{Error, Result};
use crate::names::TableName;
use crate::postgres::{Session, quote};
use crate::spec::TablePattern;

pub(super) async fn vacuum(work: &Work<'_>, patterns: &[TablePattern]) -> Result<Outcome> {
    each(work, patterns, "vacuum").await
}

pub(super) async fn analyze(work: &Work<'_>, patterns: &[TablePattern]) -> Result<Outcome> {
    each(work, patterns, "analyze").await
}

async fn each(work: &Work<'_>, patterns: &[TablePattern], verb: &'static str) -> Result<Outcome> {
    let session = work.session().await?;
    for table in tables(&*session, patterns).await? {
        still_ours(work, &session).await?;
        let statement = format!("{verb} {}", quote::table(&table));
        run(&session, &table, &statement).await?;
    }
    Ok(Outcome::Done(None))
}

pub(super) async fn reindex(work: &Work<'_>, patterns: &[TablePattern]) -> Result<Outcome> {
    let session = work.session().await?;
    for table in tables(&*session, patterns).await? {
        still_ours(work, &session).await?;
        // one that broke off leaves its half behind
        for index in broken(&session, &table).await? {
            let statement = format!("drop index concurrently if exists {}", quote::table(&index));
            run(&session, &table, &statement).await?;
        }
        let statement = format!("reindex table concurrently {}", quote::table(&table));
        run(&session, &table, &statement).await?;
    }
    Ok(Outcome::Done(None))
}

/// Nothing is begun by one that was taken over.
async fn still_ours(work: &Work<'_>, session: &Session) -> Result<()> {
    // its row shows the epoch; what goes on at that moment does no harm twice
    let ours = session
        .query_one(
            "select exists (select from audit.etl_logs where run = $1 and task_id = $2 \
                              and attempt = $3 and status = 'running')",
            &[&work.attempt.run, &work.attempt.task.name, &work.attempt.number],
        )
        .await
        .and_then(|row| row.try_get(0))
        .map_err(|error| Error::warehouse("looking whether the attempt goes on", error))?;
    match ours {
        true => Ok(()),
        false => Err(Error::new(crate::error::Kind::Cancelled, "the attempt was given up")),
    }
}

async fn run(session: &Session, table: &TableName, statement: &str) -> Result<()> {
    session.batch_execute(statement).await.map_err(|error| {
        let verb = statement.split(' ').next().unwrap_or_default();
        Error::warehouse(format!("running {verb} on {table}"), error)
    })
}

/// The halves that a REINDEX CONCURRENTLY has left at a table and its leaves.
async fn broken(session: &Session, table: &TableName) -> Result<Vec<TableName>> {
    let rows = session
        .query(
            "select n.nspname::text, c.relname::text
               from pg_index i join pg_class c on c.oid = i.indexrelid
               join pg_namespace n on n.oid = c.relnamespace
              where not i.indisvalid and c.relkind = 'i' and c.relname ~ '_cc(new|old)[0-9]*$'
                and i.indrelid in (select $1::oid union
                                   select relid::oid from pg_partition_tree($1::oid::regclass))",
            &[&oid_of(session, table).await?],
        )
        .await
        .map_err(|error| Error::warehouse(format!("looking at the indexes of {table}"), error))?;
    let name = |row: &tokio_postgres::Row| {
        TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))
    };
    Ok(rows.iter().map(name).collect())
}

async fn oid_of(session: &Session, table: &TableName) -> Result<u32> {
    let query = "select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace \
                 where n.nspname = $1 and c.relname = $2";
    let row = session.query_one(query, &[&table.schema, &table.name]).await;
    row.and_then(|row| row.try_get(0))
        .map_err(|error| Error::warehouse(format!("looking for {table}"), error))
}
