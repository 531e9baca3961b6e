//! Who stands in the way of a change of a table's definition.

use tokio_postgres::GenericClient;

use crate::error::{Error, Result};
use crate::names::TableName;
use crate::postgres::quote;

/// Whoever has had a lock on a table longer than a change waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process; none of a prepared transaction.
    pub pid: Option<i32>,
    /// Whose it is, for people.
    pub who: String,
}

/// Those who have a lock on a table or a leaf of it, and will not be through in a moment; the oldest first.
pub async fn holders(client: &impl GenericClient, table: &TableName) -> Result<Vec<Holder>> {
    const QUERY: &str = "
        select l.pid, coalesce('process ' || l.pid || ' of ' || coalesce(a.usename, 'somebody')
                               || coalesce(' (' || nullif(a.application_name, '') || ')', ''),
                               'a prepared transaction')
          from pg_locks l
          left join pg_stat_activity a on a.pid = l.pid
         where l.locktype = 'relation' and l.granted and l.pid is distinct from pg_backend_pid()
           and l.database = (select oid from pg_database where datname = current_database())
           and l.relation in (select to_regclass($1)::oid
                              union all select relid from pg_partition_tree(to_regclass($1)))
           -- what others do is not for every role to see
           and coalesce(a.xact_start < clock_timestamp() - interval '1 second', true)
         group by l.pid, a.usename, a.application_name, a.xact_start
         order by a.xact_start nulls first, l.pid";
    let failed = |error| Error::warehouse(format!("looking who has a lock on {table}"), error);
    let rows = client.query(QUERY, &[&quote::table(table)]).await.map_err(failed)?;
    let holder =
        |row: &tokio_postgres::Row| Ok(Holder { pid: row.try_get(0)?, who: row.try_get(1)? });
    rows.iter().map(holder).collect::<Result<_, tokio_postgres::Error>>().map_err(failed)
}
