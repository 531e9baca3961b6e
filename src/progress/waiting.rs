//! Tables whose rows are to be read, from a standby that is away or behind, or from a source whose transactions
//! stay open: why they wait, in `audit.tables`.

use tokio_postgres::GenericClient;

use crate::error::{Error, Result};
use crate::names::TableName;

/// How a table stands that is to be read.
#[derive(Debug)]
pub struct Waiting {
    /// The table.
    pub table: TableName,
    /// Its state's word.
    pub state: String,
    /// Why it is being read, and what it waits for.
    pub reason: Option<String>,
    /// What to do.
    pub remedy: Option<String>,
}

/// Notes what tables that are to be read wait for, as `the standby: …`, beside the reason that they are read for;
/// or that they wait no more.
pub async fn wait_for(
    client: &impl GenericClient,
    tables: &[String],
    why: Option<(&str, Option<&str>)>,
) -> Result<Vec<Waiting>> {
    let failed = |error| Error::warehouse("noting what tables wait for", error);
    let (reason, remedy) = why.unzip();
    let rows = client
        .query(
            "update audit.tables
                set reason = nullif(concat_ws('; ',
                        nullif(regexp_replace(reason, '(; )?waits for the (standby|source): .*$', ''), ''),
                        'waits for ' || $2::text), ''),
                    remedy = $3
              where table_name = any ($1) and state in ('snapshotting', 'resyncing')
                and ($2::text is not null or reason ~ 'waits for the (standby|source): ')
          returning table_name, state, reason, remedy",
            &[&tables, &reason, &remedy.flatten()],
        )
        .await
        .map_err(failed)?;
    let waiting = |row: &tokio_postgres::Row| -> Result<Waiting> {
        let table: String = row.try_get(0).map_err(failed)?;
        Ok(Waiting {
            table: table.parse().map_err(|_| Error::bug("audit.tables has a strange name"))?,
            state: row.try_get(1).map_err(failed)?,
            reason: row.try_get(2).map_err(failed)?,
            remedy: row.try_get(3).map_err(failed)?,
        })
    };
    rows.iter().map(waiting).collect()
}
