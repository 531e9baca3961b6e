//! What came of dead letters that were tried again.

use tokio_postgres::GenericClient;

use crate::error::{Error, Result};

/// What came of the dead letters that a request had tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// Nobody knows yet: their tables catch up.
    pub unknown: u64,
    /// They are in.
    pub applied: u64,
    /// They were refused once more.
    pub refused: u64,
    /// They wait behind another one of their key, or for their table to be resumed.
    pub waiting: u64,
}

impl Tried {
    /// With what came of others.
    pub fn add(&mut self, other: &Tried) {
        self.unknown += other.unknown;
        self.applied += other.applied;
        self.refused += other.refused;
        self.waiting += other.waiting;
    }
}

/// The dead letters that a request meant and that were tried since.
const OF_A_REQUEST: &str = "audit.requests r
       join audit.dead_letters d
         on d.connector = r.connector and d.table_name = r.table_name
      where r.id = $1 and (r.argument is null or d.id::text = r.argument)
        and d.changed_at > r.requested_at and d.noticed_at <= r.requested_at
        and (r.noticed_since is null or d.noticed_at >= r.noticed_since)
        and (r.noticed_until is null or d.noticed_at < r.noticed_until)
        and (d.state <> 'open' or d.format <> 'k')";

/// Those of a request that are dead letters again, and why: the first few.
pub async fn refused(client: &impl GenericClient, request: i64) -> Result<Vec<(i64, String)>> {
    let failed = |error| Error::warehouse("asking why dead letters were refused", error);
    let query = format!(
        "select d.id, coalesce(d.reason, '') from {OF_A_REQUEST} and d.state = 'open' order by d.id limit 5"
    );
    let rows = client.query(&query, &[&request]).await.map_err(failed)?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect::<Result<_, tokio_postgres::Error>>()
        .map_err(failed)
}

/// What came of those of a request so far. One that nobody could read is not among them: the answer of
/// the request tells of it.
pub async fn tried(client: &impl GenericClient, request: i64) -> Result<Tried> {
    let failed = |error| Error::warehouse("asking what came of dead letters", error);
    let query = format!(
        "select count(*) filter (where kept and catches_up),
                count(*) filter (where not open and not kept),
                count(*) filter (where open),
                count(*) filter (where kept and not catches_up)
           from (select d.state = 'open' as open,
                        d.state <> 'open'
                        and exists (select from audit.pending p
                                     where p.table_name = d.table_name
                                       and p.seq = d.seq and p.ord = d.ord) as kept,
                        exists (select from audit.tables t
                                 where t.table_name = d.table_name
                                   and t.state = 'catching_up') as catches_up
                   from {OF_A_REQUEST}) l"
    );
    let row = client.query_one(&query, &[&request]).await.map_err(failed)?;
    let count = |at: usize| -> Result<u64> {
        let count: i64 = row.try_get(at).map_err(failed)?;
        Ok(u64::try_from(count).unwrap_or(0))
    };
    Ok(Tried { unknown: count(0)?, applied: count(1)?, refused: count(2)?, waiting: count(3)? })
}
