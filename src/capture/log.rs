//! Where the source's log ends, and when.

use tokio_postgres::GenericClient;

use crate::error::{Error, Result};
use crate::position::Lsn;

/// The end of the source's log at a moment. What was committed before is below it, but for commits that
/// did not wait for the disk (`synchronous_commit = off`): those are flushed a second later at most.
#[derive(Clone, Copy, Debug)]
pub struct LogEnd {
    /// The end.
    pub position: Lsn,
    /// The moment by the source's clock, microseconds since 2000-01-01 UTC.
    pub at: i64,
}

impl LogEnd {
    /// Asks for it.
    pub async fn of(source: &impl GenericClient) -> Result<LogEnd> {
        let failed = |error| Error::source("asking for the end of its log", error);
        // the moment first: what is committed between the two counts as later
        let query = "
            select (extract(epoch from clock_timestamp()) * 1000000)::int8 - 946684800000000::int8,
                   (pg_current_wal_flush_lsn() - '0/0')::int8";
        let row = source.query_one(query, &[]).await.map_err(failed)?;
        let position = Lsn::from_i64(row.try_get(1).map_err(failed)?);
        Ok(LogEnd { position, at: row.try_get(0).map_err(failed)? })
    }

    /// The end as it is written, flushed or not: all that was committed before is below it, also by sessions that do
    /// not wait for the disk.
    pub async fn written(source: &impl GenericClient) -> Result<Lsn> {
        let failed = |error| Error::source("asking for the end of its log", error);
        let query = "select (pg_current_wal_insert_lsn() - '0/0')::int8";
        let row = source.query_one(query, &[]).await.map_err(failed)?;
        row.try_get(0).map(Lsn::from_i64).map_err(failed)
    }
}
