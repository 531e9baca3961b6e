//! Who may write. Every start raises the resource's epoch and ends the sessions of the owner before;
//! every writing transaction takes the epoch's row FOR SHARE first and compares. So a process that
//! was stopped, cut off or forgotten can never commit once another has taken over.
//!
//! The lease only says when another may take over. It never protects the data: the epoch does.

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

/// How long an owner that is heard of no more keeps its place.
pub const LEASE: Duration = Duration::from_secs(6);

impl Fence {
    /// Extends the lease, by the warehouse's clock; fails where another instance has taken over.
    pub async fn renew(&self, client: &Session) -> Result<()> {
        let failed = |error| Error::warehouse("renewing the lease", error);
        let seconds = LEASE.as_secs_f64();
        let renewed = client
            .execute(
                "update audit.owner o set lease_until = clock_timestamp() + $3 * interval '1 s'
                   from audit.epoch e
                  where o.resource = $1 and e.resource = $1 and e.epoch = $2",
                &[&self.resource, &self.epoch, &seconds],
            )
            .await
            .map_err(failed)?;
        if renewed == 1 { Ok(()) } else { Err(fenced(&self.resource)) }
    }

    /// Ends the lease at once.
    pub async fn release(&self, client: &Session) -> Result<()> {
        client
            .execute(
                "update audit.owner o set lease_until = null from audit.epoch e
                  where o.resource = $1 and e.resource = $1 and e.epoch = $2",
                &[&self.resource, &self.epoch],
            )
            .await
            .map_err(|error| Error::warehouse("giving up the lease", error))?;
        Ok(())
    }

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
    Error::new(Kind::Fenced, what)
        .remedy("nothing is lost; start this instance again, and it stands by")
}

/// The other instance that has the lease of `resource`: it was heard of lately, and a session of it is
/// there. A process that is killed loses its sessions at once; one that is frozen keeps them.
pub async fn leased_to(warehouse: &Session, resource: &str, owner: &str) -> Result<Option<String>> {
    let row = warehouse
        .query_opt(LEASED_TO, &[&resource, &owner])
        .await
        .map_err(|error| Error::warehouse(format!("asking who owns {resource}"), error))?;
    Ok(row.map(|row| row.get(0)))
}

const LEASED_TO: &str = "
    select o.owner
      from audit.owner o
     where o.resource = $1 and o.owner <> $2 and o.lease_until > clock_timestamp()
       and exists (select from jsonb_to_recordset(o.backends) as b(pid integer, started timestamptz)
                     join pg_stat_activity a on a.pid = b.pid and a.backend_start = b.started)";

/// On what ground an instance becomes the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nobody else has the lease.
    Vacant,
    /// It held this epoch before: if another one has taken over since, it must not take it back, or the
    /// two would do so in turns.
    Again(i64),
    /// For a moment only, whoever has it.
    Anyway,
}

/// Becomes the owner of `resource`; fails with [`Kind::Fenced`] where its claim is not good. The
/// epoch's row is held by the old owner's open transaction; after a moment its sessions are
/// terminated. `owner` names this process and no other.
pub async fn take_over(
    warehouse: &mut Session,
    resource: &str,
    owner: &str,
    claim: Claim,
) -> Result<Fence> {
    for _ in 0..ATTEMPTS {
        match try_take_over(warehouse, resource, owner, claim).await {
            Ok(Some(epoch)) => return Ok(Fence { resource: resource.to_owned(), epoch }),
            Ok(None) => return Err(fenced(resource)),
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                if claim == Claim::Vacant && leased_to(warehouse, resource, owner).await?.is_some()
                {
                    return Err(fenced(resource));
                }
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
    claim: Claim,
) -> Result<Option<i64>, tokio_postgres::Error> {
    let transaction = warehouse.transaction().await?;
    transaction.batch_execute("set local lock_timeout to '500ms'").await?;
    let first = "insert into audit.epoch (resource, epoch) values ($1, 1) on conflict do nothing";
    transaction.execute(first, &[&resource]).await?;
    let lock = "select epoch from audit.epoch where resource = $1 for update";
    let epoch: i64 = transaction.query_one(lock, &[&resource]).await?.try_get(0)?;
    // the row is ours: what follows sees whatever the one before us has committed
    let good = match claim {
        Claim::Anyway => true,
        Claim::Again(held) if held == epoch => true,
        // or the reply to our own takeover was lost
        Claim::Again(_) => {
            let ours = "select exists (select from audit.owner where resource = $1 and owner = $2)";
            transaction.query_one(ours, &[&resource, &owner]).await?.try_get(0)?
        }
        Claim::Vacant => transaction.query_opt(LEASED_TO, &[&resource, &owner]).await?.is_none(),
    };
    if !good {
        return Ok(None);
    }
    let raise = "update audit.epoch set epoch = epoch + 1 where resource = $1 returning epoch";
    let epoch = transaction.query_one(raise, &[&resource]).await?.try_get(0)?;
    // nobody with the old epoch can write any more; its sessions only hold locks now
    transaction.execute(TERMINATE, &[&resource]).await?;
    transaction
        .execute(
            // this session is the first that it is known by
            "insert into audit.owner (resource, owner, lease_until, backends)
             select $1, $2, clock_timestamp() + $3 * interval '1 s',
                    jsonb_build_array(jsonb_build_object('pid', a.pid, 'started', a.backend_start))
               from pg_stat_activity a where a.pid = pg_backend_pid()
             on conflict (resource) do update
             set owner = excluded.owner, backends = excluded.backends,
                 lease_until = excluded.lease_until, since = now()",
            &[&resource, &owner, &LEASE.as_secs_f64()],
        )
        .await?;
    transaction.commit().await?;
    Ok(Some(epoch))
}

/// Makes whoever owns `resource` begin anew, and lets it: its open transactions are waited for, and what its
/// sessions begin from now on is refused, until it has taken up the new epoch. Its place stays its own.
pub async fn interrupt(
    transaction: &Transaction<'_>,
    resource: &str,
) -> Result<(), tokio_postgres::Error> {
    let first = "insert into audit.epoch (resource, epoch) values ($1, 1) on conflict do nothing";
    transaction.execute(first, &[&resource]).await?;
    let raise = "update audit.epoch set epoch = epoch + 1 where resource = $1";
    transaction.execute(raise, &[&resource]).await?;
    Ok(())
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
