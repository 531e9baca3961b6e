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

/// The right to write for resources, as long as the warehouse still shows these epochs.
#[derive(Clone, Debug, Default)]
pub struct Fence {
    resources: Vec<String>,
    epochs: Vec<i64>,
}

/// How often a takeover ends the old owner's sessions before it gives up for now.
const ATTEMPTS: u32 = 10;

/// How long an owner that is heard of no more keeps its place.
pub const LEASE: Duration = Duration::from_secs(6);

impl Fence {
    fn of(resource: &str, epoch: i64) -> Fence {
        Fence { resources: vec![resource.to_owned()], epochs: vec![epoch] }
    }

    /// The right to write for all of these together.
    pub fn joined(fences: impl IntoIterator<Item = Fence>) -> Fence {
        let mut all = Fence::default();
        for fence in fences {
            all.resources.extend(fence.resources);
            all.epochs.extend(fence.epochs);
        }
        all
    }

    /// Extends the lease, by the warehouse's clock; fails where another instance has taken over.
    pub async fn renew(&self, client: &Session) -> Result<()> {
        let failed = |error| Error::warehouse("renewing the lease", error);
        let seconds = LEASE.as_secs_f64();
        let renewed = client
            .execute(
                "update audit.owner o set lease_until = clock_timestamp() + $3 * interval '1 s'
                   from audit.epoch e
                   join unnest($1::text[], $2::int8[]) h(resource, epoch) using (resource, epoch)
                  where o.resource = e.resource",
                &[&self.resources, &self.epochs, &seconds],
            )
            .await
            .map_err(failed)?;
        self.expect(renewed)
    }

    /// Ends the lease at once. Where our sessions are at an end (`ended`), nobody need end them.
    pub async fn release(&self, client: &Session, ended: bool) -> Result<()> {
        client
            .execute(
                "update audit.owner o
                    set lease_until = null, backends = case when $3 then '[]' else backends end
                   from audit.epoch e
                   join unnest($1::text[], $2::int8[]) h(resource, epoch) using (resource, epoch)
                  where o.resource = e.resource",
                &[&self.resources, &self.epochs, &ended],
            )
            .await
            .map_err(|error| Error::warehouse("giving up the lease", error))?;
        Ok(())
    }

    /// The first statement of every writing transaction.
    pub async fn hold(&self, transaction: &Transaction<'_>) -> Result<()> {
        let held = transaction
            .query(
                "select 1 from audit.epoch e
                   join unnest($1::text[], $2::int8[]) h(resource, epoch) using (resource, epoch)
                    for share of e",
                &[&self.resources, &self.epochs],
            )
            .await
            .map_err(|error| Error::warehouse("checking who owns the connector", error))?;
        self.expect(u64::try_from(held.len()).unwrap_or(u64::MAX))
    }

    fn expect(&self, found: u64) -> Result<()> {
        match u64::try_from(self.resources.len()) == Ok(found) {
            true => Ok(()),
            false => Err(fenced(&self.resources.join(", "))),
        }
    }

    /// The epoch held; of several resources the first one's.
    pub fn epoch(&self) -> i64 {
        self.epochs.first().copied().unwrap_or(0)
    }
}

fn fenced(resource: &str) -> Error {
    let what = format!(
        "another instance has taken over {resource}, or the warehouse was put back to an older copy"
    );
    Error::new(Kind::Fenced, what).remedy(
        "start this instance again: it stands by, or goes on from what the warehouse has; nothing is lost",
    )
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
            Ok(Some(epoch)) => return Ok(Fence::of(resource, epoch)),
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
    // and of a connector that is owned by the partition each of them
    let raise = "update audit.epoch set epoch = epoch + 1 \
                 where resource = $1 or starts_with(resource, $1 || ':')";
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

/// Records a session of ours before its first write, so that a takeover can end it; those that are at an end
/// are forgotten.
pub async fn register(session: &Session, fence: &Fence) -> Result<()> {
    let failed = |error| Error::warehouse("registering a session", error);
    let registered = session
        .execute(
            "update audit.owner o
                set backends = coalesce((
                    select jsonb_agg(b.known) from jsonb_array_elements(o.backends) b(known)
                      join pg_stat_activity a on a.pid = (b.known->>'pid')::int4
                       and a.backend_start = (b.known->>'started')::timestamptz), '[]') || (
                    select jsonb_build_array(jsonb_build_object('pid', a.pid, 'started', a.backend_start))
                      from pg_stat_activity a where a.pid = pg_backend_pid())
               from audit.epoch e
               join unnest($1::text[], $2::int8[]) h(resource, epoch) using (resource, epoch)
              where o.resource = e.resource",
            &[&fence.resources, &fence.epochs],
        )
        .await
        .map_err(failed)?;
    fence.expect(registered)
}
