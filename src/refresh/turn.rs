//! A turn of a mart: what touched it is expanded, a bounded number of stale groups is computed anew, and how far it
//! is now is noted, in one transaction under one snapshot.

use std::time::Instant;

use tokio_postgres::Transaction;

use super::shape::Shape;
use super::stale::{Marks, expand};
use super::watch::unwatched;
use super::write::{Groups, failed, write};
use crate::error::{Error, Kind, Result};
use crate::postgres::{Session, quote};
use crate::warehouse::{Durations, Fence, Fenced};

/// What a turn is made with.
pub struct Turn<'t> {
    /// The right to write.
    pub fence: &'t Fence,
    /// Where its duration is told.
    pub durations: &'t Durations,
    /// How many groups at most.
    pub groups: i64,
}

/// What a turn did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Turned {
    /// How many rows were written.
    pub written: i64,
    /// How many groups were computed anew.
    pub groups: usize,
    /// Whether groups are left that are stale.
    pub left: bool,
}

/// What the session is to be set to: what a turn reads is of one moment.
const SNAPSHOT: &str = "set default_transaction_isolation to 'repeatable read'; set jit to off; set lock_timeout to '5s'";

impl Turn<'_> {
    /// Makes a session fit for turns.
    pub async fn set_up(session: &Session) -> Result<()> {
        let set = session.batch_execute(SNAPSHOT).await;
        set.map_err(|error| Error::warehouse("setting up a session", error))
    }

    /// Takes a turn.
    pub async fn take(&self, session: &mut Session, shape: &Shape) -> Result<Turned> {
        let started = Instant::now();
        let transaction = Fenced::begin(session, self.fence, "mart", self.durations).await?;
        // what its snapshot has is to be what its marks tell of
        if let Some(input) = unwatched(&*transaction, shape.reader()).await?.first() {
            let (mart, table) = (&shape.mart.table, &input.read.table);
            let what = format!("{table}, which {mart} reads, is another table than before");
            return Err(Error::new(Kind::Busy, what));
        }
        let whole = matches!(expand(&transaction, shape).await?, Marks::All);
        let mut turned = Turned::default();
        if whole {
            turned.written = match shape.mart.refresh_by {
                Some(_) => write(&transaction, shape, Groups::All).await?,
                None => refresh_view(&transaction, shape).await?,
            };
            forget_groups(&transaction, shape).await?;
        } else {
            let groups = take_groups(&transaction, shape, self.groups).await?;
            turned.groups = groups.len();
            if !groups.is_empty() {
                turned.written = write(&transaction, shape, Groups::Of(&groups)).await?;
            }
            turned.left = groups.len() == usize::try_from(self.groups).unwrap_or(usize::MAX)
                && has_groups(&transaction, shape).await?;
        }
        let worked = whole || turned.groups > 0;
        stamp(&transaction, shape, turned, worked.then_some(started)).await?;
        transaction.commit().await?;
        Ok(turned)
    }
}

/// Takes the groups that have been stale for longest.
async fn take_groups(
    transaction: &Transaction<'_>,
    shape: &Shape,
    most: i64,
) -> Result<Vec<Option<String>>> {
    let taken = transaction
        .query(
            "delete from audit.stale_groups
              where ctid = any (array(select ctid from audit.stale_groups where mart = $1 order by since limit $2))
             returning value",
            &[&shape.mart.table.to_string(), &most],
        )
        .await;
    let taken = taken.and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect());
    taken.map_err(|error| failed(shape, error))
}

async fn has_groups(transaction: &Transaction<'_>, shape: &Shape) -> Result<bool> {
    let left = "select exists (select from audit.stale_groups where mart = $1)";
    let left = transaction.query_one(left, &[&shape.mart.table.to_string()]).await;
    left.and_then(|row| row.try_get(0)).map_err(|error| failed(shape, error))
}

async fn forget_groups(transaction: &Transaction<'_>, shape: &Shape) -> Result<()> {
    let all = "delete from audit.stale_groups where mart = $1";
    let deleted = transaction.execute(all, &[&shape.mart.table.to_string()]).await;
    deleted.map(|_| ()).map_err(|error| failed(shape, error))
}

/// Computes a materialized view anew. Readers wait only where its rows cannot be told apart.
async fn refresh_view(transaction: &Transaction<'_>, shape: &Shape) -> Result<i64> {
    let view = quote::table(&shape.mart.table);
    let apart = transaction
        .query_one(
            "select c.relispopulated
                and exists (select from pg_index i where i.indrelid = c.oid and i.indisunique and i.indisvalid
                               and i.indpred is null and i.indexprs is null)
               from pg_class c where c.oid = to_regclass($1)",
            &[&view],
        )
        .await
        .and_then(|row| row.try_get::<_, Option<bool>>(0))
        .map_err(|error| failed(shape, error))?;
    let concurrently = match apart {
        Some(true) => "concurrently ",
        _ => {
            tracing::warn!(
                "{}: readers wait for its refresh, for it has no unique index",
                shape.mart.table
            );
            ""
        }
    };
    let refresh = format!("refresh materialized view {concurrently}{view}");
    transaction.execute(&refresh, &[]).await.map_err(|error| failed(shape, error))?;
    Ok(0)
}

/// Notes how far the mart is: where nothing is stale any more, all that this snapshot sees is in it.
async fn stamp(
    transaction: &Transaction<'_>,
    shape: &Shape,
    turned: Turned,
    started: Option<Instant>,
) -> Result<()> {
    let took = started.map(|started| started.elapsed().as_secs_f64());
    transaction
        .execute(
            "update audit.marts m
                set state = case when $2 then 'stale' else 'fresh' end, reason = null, remedy = null,
                    as_of = case when $2 then m.as_of else now() end,
                    positions = case when $2 then m.positions else p.positions end,
                    refreshed_at = case when $3::float8 is null then m.refreshed_at else clock_timestamp() end,
                    took = coalesce($3, m.took),
                    rows_written = m.rows_written + $4::int8, changed_at = now()
               from (select coalesce(jsonb_object_agg(connector || '/' || partition, position), '{}') as positions
                       from audit.progress) p
              where m.mart = $1",
            &[
                &shape.mart.table.to_string(),
                &turned.left,
                &took,
                &turned.written,
            ],
        )
        .await
        .map_err(|error| failed(shape, error))?;
    Ok(())
}
