//! All members of a group begin anew, as tables are to be read again. Whoever wants that waits for nobody's
//! transaction, for until it has its way nobody could take anything over. Where one follows the other, and each is
//! long, it would hardly ever find a moment without; so it makes its wish known, for a while. Members end their
//! sessions in good order then, and begin no other one before it has had its way, or its time is over. But for one
//! that reads tables: that may take long, and all begin anew when it has.

use std::time::Duration;

use tokio::sync::watch;
use tokio_postgres::Transaction;

use super::TopicSetup;
use super::asking::ask;
use crate::error::{Error, Result};
use crate::postgres::Session;
use crate::progress::requests::{self, Verb};
use crate::warehouse::{Fence, interrupt};

/// How long the others give way, in seconds; and how long they do not behind that.
const WISHED_FOR: f64 = 20.0;
const NOT_AGAIN_FOR: f64 = 100.0;

/// How often it is tried meanwhile.
const TRY_EVERY: Duration = Duration::from_millis(200);

/// Lets every member of a connector's group begin anew, and fails as busy where one is at a long transaction: until it
/// has ended nobody could take over anything in the warehouse.
pub(super) async fn begin_anew(
    transaction: &Transaction<'_>,
    connector: &str,
    fence: Option<&Fence>,
) -> Result<()> {
    let failed = |error| Error::warehouse("letting all members begin anew", error);
    // whoever takes over waits for half a second. A partition that somebody takes for the first time just now has no
    // line yet
    const ALONE: &str =
        "set local lock_timeout to '200ms'; lock table audit.epoch in share row exclusive mode";
    transaction.batch_execute(ALONE).await.map_err(failed)?;
    if let Some(fence) = fence {
        fence.hold(transaction).await?;
    }
    interrupt(transaction, &format!("connector:{connector}")).await.map_err(failed)?;
    let had = "update audit.owner set lease_until = null where resource = $1";
    transaction.execute(had, &[&resource(connector)]).await.map_err(failed)?;
    transaction.batch_execute("set local lock_timeout to default").await.map_err(failed)
}

/// What the wish is known by, among what has an owner.
fn resource(connector: &str) -> String {
    format!("anew:{connector}")
}

/// Makes it known that all members are to begin anew, unless that has just been of no avail.
pub(super) async fn wish(warehouse: &Session, setup: &TopicSetup) -> Result<()> {
    let statement = "
        insert into audit.owner as o (resource, owner, lease_until)
        values ($1, $2, clock_timestamp() + $3 * interval '1 s')
        on conflict (resource) do update
        set owner = excluded.owner, lease_until = excluded.lease_until, since = now()
        where coalesce(o.lease_until + $4 * interval '1 s' < clock_timestamp(), true)";
    let resource = resource(&setup.connector.name);
    warehouse
        .execute(statement, &[&resource, &&*setup.owner, &WISHED_FOR, &NOT_AGAIN_FOR])
        .await
        .map_err(|error| Error::warehouse("asking all members to begin anew", error))?;
    Ok(())
}

/// Whether somebody wishes it.
pub(super) async fn is_wished(warehouse: &Session, connector: &str) -> Result<bool> {
    let query = "select exists (select from audit.owner
                                 where resource = $1 and lease_until > clock_timestamp())";
    let wished = warehouse.query_one(query, &[&resource(connector)]).await;
    wished
        .and_then(|row| row.try_get(0))
        .map_err(|error| Error::warehouse("looking whether all members are to begin anew", error))
}

/// Whether it is to be tried once more, a moment later, as the others give way.
pub(super) async fn insists(warehouse: &Session, setup: &TopicSetup) -> Result<bool> {
    wish(warehouse, setup).await?;
    tokio::time::sleep(TRY_EVERY).await;
    is_wished(warehouse, &setup.connector.name).await
}

/// Waits, before a session begins, while somebody wishes it; and tries what was asked for.
pub(super) async fn give_way(
    setup: &TopicSetup,
    warehouse: &mut Session,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let name = &setup.connector.name;
    while is_wished(warehouse, name).await? {
        for request in requests::open(&**warehouse, name).await? {
            if request.verb == Verb::Resync {
                ask(setup, warehouse, &request).await?;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(TRY_EVERY) => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        }
    }
    Ok(())
}
