//! One side of a comparison: its rows all at once, or at a pace that spares it.
//!
//! At a pace every row comes to us, and what is counted and summed up is so here: a server that does it by itself
//! reads as fast as it can. They come by a cursor, so all of a query's rows are of one moment, and a slow reading
//! keeps one snapshot open as long as it takes.

use std::collections::HashMap;

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::error::{Error, Result};
use crate::postgres::{Pace, Session, Side};

/// The first portion of a paced reading: so many rows.
const FIRST: usize = 100;

/// A portion has so many rows at most.
const AT_MOST: usize = 10_000;

/// A portion is as long as this part of a second brings.
const PARTS: u64 = 4;

/// Rows come as they are read: what sorts or hashes all of them first reads all of them at once.
const BEGIN: &str = "begin read only; set local enable_sort to off; set local enable_incremental_sort to off; \
     set local enable_hashjoin to off";

/// A session at a side, and the pace at which it is read.
pub(super) struct Reader {
    pub(super) session: Session,
    side: Side,
    pace: Pace,
}

/// By name, how many rows there are and what they sum up to.
pub(super) type Sums = HashMap<String, (i64, String)>;

type Parameters<'p> = [&'p (dyn ToSql + Sync)];

impl Reader {
    /// A side that is read at `rate` bytes a second at most, where there is a rate.
    pub(super) fn new((session, side): (Session, Side), rate: Option<u64>) -> Reader {
        Reader { session, side, pace: Pace::new(rate) }
    }

    /// Whether it is read at a pace.
    pub(super) fn is_paced(&self) -> bool {
        self.pace.rate().is_some()
    }

    /// What failed while something was done at this side.
    pub(super) fn failed(&self, doing: &'static str) -> impl Fn(tokio_postgres::Error) -> Error {
        let failed = match self.side {
            Side::Source => Error::source,
            Side::Warehouse => Error::warehouse,
        };
        move |error| failed(doing, error)
    }

    /// Rows that are few, or sums of many that the server makes.
    pub(super) async fn at_once(
        &self,
        doing: &'static str,
        (query, parameters): (&str, &Parameters<'_>),
    ) -> Result<Vec<Row>> {
        self.session.query(query, parameters).await.map_err(self.failed(doing))
    }

    /// Gives every row of a query to `each`, as fast as the pace allows. The last column says how many bytes were
    /// read for it.
    pub(super) async fn one_by_one(
        &self,
        doing: &'static str,
        (query, parameters): (&str, &Parameters<'_>),
        mut each: impl FnMut(&Row) -> Result<(), tokio_postgres::Error> + Send,
    ) -> Result<()> {
        let failed = self.failed(doing);
        self.session.batch_execute(BEGIN).await.map_err(&failed)?;
        let declare = format!("declare rows no scroll cursor for {query}");
        self.session.execute(&declare, parameters).await.map_err(&failed)?;
        let mut portion = FIRST;
        loop {
            let fetch = format!("fetch {portion} from rows");
            let rows = self.session.query(&fetch, &[]).await.map_err(&failed)?;
            let bytes = bytes_of(&rows).map_err(&failed)?;
            rows.iter().try_for_each(&mut each).map_err(&failed)?;
            self.pay(bytes).await;
            if rows.len() < portion {
                break;
            }
            portion = self.portion(rows.len(), bytes);
        }
        self.session.batch_execute("commit").await.map_err(&failed)
    }

    /// Sums up rows by a name: by `summed` the server does it, and `each` gives every row's name and number.
    pub(super) async fn sums(
        &self,
        doing: &'static str,
        (summed, each): (&str, &str),
    ) -> Result<Sums> {
        if self.is_paced() {
            let mut sums: HashMap<String, (i64, i128)> = HashMap::new();
            self.one_by_one(doing, (each, &[]), |row| {
                let (count, sum) = sums.entry(row.try_get(0)?).or_default();
                *count += 1;
                *sum += i128::from(row.try_get::<_, i64>(1)?);
                Ok(())
            })
            .await?;
            let told = |(name, (count, sum)): (_, (_, i128))| (name, (count, sum.to_string()));
            return Ok(sums.into_iter().map(told).collect());
        }
        let failed = self.failed(doing);
        let sum = |row: &Row| Ok((row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?)));
        let rows = self.at_once(doing, (summed, &[])).await?;
        rows.iter().map(sum).collect::<Result<_, tokio_postgres::Error>>().map_err(failed)
    }

    /// Waits until so many bytes more were due: of what must not wait while it is read.
    pub(super) async fn pay(&self, bytes: usize) {
        self.pace.keep(bytes).await;
    }

    /// How many rows come next, where `rows` were so many bytes.
    fn portion(&self, rows: usize, bytes: usize) -> usize {
        let wanted = usize::try_from(self.pace.rate().unwrap_or(u64::MAX) / PARTS);
        let each = (bytes / rows.max(1)).max(1);
        (wanted.unwrap_or(usize::MAX) / each).clamp(1, AT_MOST)
    }
}

/// How many bytes were read for rows, by their last column.
pub(super) fn bytes_of(rows: &[Row]) -> Result<usize, tokio_postgres::Error> {
    let mut bytes = 0;
    for row in rows {
        let of_row: i32 = row.try_get(row.len().saturating_sub(1))?;
        bytes += usize::try_from(of_row).unwrap_or(0);
    }
    Ok(bytes)
}
