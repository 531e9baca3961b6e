//! Who may write. Every start raises the resource's epoch and ends the sessions of the owner before;
//! every writing transaction takes the epoch's row FOR SHARE first and compares. So a process that
//! was stopped, cut off or forgotten can never commit once another has taken over.

use std::time::Duration;

use tokio_postgres::Transaction;
use tokio_postgres::error::SqlState;

use crate::error::{Error, Kind, Result};
use crate::postgres::Session;

/// The right to write for a resource, as long as the warehouse still shows this epoch.
#[derive(Clone, Debug)]
pub struct Fence {
    resource: String,
    epoch: i64,
}

/// How often a takeover ends the old owner's sessions before it gives up for now.
const ATTEMPTS: u32 = 10;

impl Fence {
    /// The first statement of every writing transaction.
    pub async fn hold(&self, transaction: &Transaction<'_>) -> Result<()> {
        let held = transaction
            .query_opt(
                "select 1 from audit.epoch where resource = $1 and epoch = $2 for share",
                &[&self.resource, &self.epoch],
            )
            .await
            .map_err(|error| Error::warehouse("checking who owns the connector", error))?;
        if held.is_some() {
            return Ok(());
        }
        Err(fenced(&self.resource))
    }

    /// The epoch held.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }
}

fn fenced(resource: &str) -> Error {
    let what = format!("another instance has taken over {resource}");
    Error::new(Kind::Fenced, what).remedy("run one instance for each connector")
}

/// Becomes the owner of `resource`. The epoch's row is held by the old owner's open transaction;
/// after a moment its sessions are terminated. `held` is the epoch that this process held before: if
/// another one has taken over since, it must not take it back, or the two would do so in turns. `owner`
/// names this process and no other.
pub async fn take_over(
    warehouse: &mut Session,
    resource: &str,
    owner: &str,
    held: Option<i64>,
) -> Result<Fence> {
    for _ in 0..ATTEMPTS {
        match try_take_over(warehouse, resource, owner, held).await {
            Ok(Some(epoch)) => return Ok(Fence { resource: resource.to_owned(), epoch }),
            Ok(None) => return Err(fenced(resource)),
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                terminate(warehouse, resource).await?;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => {
                return Err(Error::warehouse(format!("taking over {resource}"), error));
            }
        }
    }
    let what = format!("the instance that owns {resource} does not let go of its transaction");
    Err(Error::new(Kind::Busy, what))
}

async fn try_take_over(
    warehouse: &mut Session,
    resource: &str,
    owner: &str,
    held: Option<i64>,
) -> Result<Option<i64>, tokio_postgres::Error> {
    let transaction = warehouse.transaction().await?;
    transaction.batch_execute("set local lock_timeout to '500ms'").await?;
    let row = transaction
        .query_opt(
            "insert into audit.epoch as e (resource, epoch) values ($1, 1)
             on conflict (resource) do update set epoch = e.epoch + 1
              where $2::int8 is null or e.epoch = $2
                 -- the reply to our own takeover was lost
                 or exists (select from audit.owner o where o.resource = $1 and o.owner = $3)
             returning epoch",
            &[&resource, &held, &owner],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    // nobody with the old epoch can write any more; its sessions only hold locks now
    transaction.execute(TERMINATE, &[&resource]).await?;
    transaction
        .execute(
            "insert into audit.owner (resource, owner) values ($1, $2)
             on conflict (resource) do update
             set owner = excluded.owner, backends = '[]', lease_until = null, since = now()",
            &[&resource, &owner],
        )
        .await?;
    transaction.commit().await?;
    Ok(Some(row.get(0)))
}

/// Ends the recorded sessions, each known by its start: a process id alone may be somebody else's.
const TERMINATE: &str = "
    select pg_terminate_backend(a.pid)
      from audit.owner o
     cross join jsonb_to_recordset(o.backends) as b(pid integer, started timestamptz)
      join pg_stat_activity a on a.pid = b.pid and a.backend_start = b.started
     where o.resource = $1 and a.pid <> pg_backend_pid()";

async fn terminate(warehouse: &Session, resource: &str) -> Result<()> {
    warehouse
        .execute(TERMINATE, &[&resource])
        .await
        .map_err(|error| Error::warehouse("ending the sessions of the owner before", error))?;
    Ok(())
}

/// Records a session of ours before its first write, so that a takeover can end it.
pub async fn register(session: &Session, fence: &Fence) -> Result<()> {
    let failed = |error| Error::warehouse("registering a session", error);
    let registered = session
        .execute(
            "update audit.owner o
                set backends = o.backends || (
                    select jsonb_build_array(jsonb_build_object('pid', a.pid, 'started', a.backend_start))
                      from pg_stat_activity a where a.pid = pg_backend_pid())
               from audit.epoch e
              where o.resource = $1 and e.resource = $1 and e.epoch = $2",
            &[&fence.resource, &fence.epoch],
        )
        .await
        .map_err(failed)?;
    if registered == 1 {
        return Ok(());
    }
    Err(fenced(&fence.resource))
}
