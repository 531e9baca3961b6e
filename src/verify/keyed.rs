//! Compares tables whose rows have a key.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::reader::{Reader, bytes_of};
use super::report::{Difference, TableReport};
use super::sql::{self, Expressions};
use super::{PAUSE, Pair, Sides};
use crate::error::Result;

/// A key's columns as text.
type Key = Vec<String>;

/// A row's digest, and when it was written.
type Rows = HashMap<Key, (String, String)>;

/// Keys are looked up so many at once.
const KEYS_AT_ONCE: usize = 1_000;

/// Rows of differing buckets are held so many at once.
const ROWS_AT_ONCE: i64 = 200_000;

/// So many differences of a table are named; the rest is counted.
const NAMED: usize = 100;

/// What a failure says.
const ROWS: &str = "reading rows to compare";

/// A bucket's count and checksum.
type Buckets = BTreeMap<String, (i64, String)>;

impl Sides {
    pub(super) async fn keyed(&self, pair: &Pair, report: &mut TableReport) -> Result<()> {
        let (there, here) = (Expressions::of_source(pair), Expressions::of_warehouse(pair));
        let waiting = self.waiting(pair).await?;
        let (source, warehouse) =
            tokio::try_join!(buckets(&self.source, &there), buckets(&self.warehouse, &here))?;
        report.rows = warehouse.values().map(|(count, _)| count.unsigned_abs()).sum();
        let names =
            source.keys().chain(warehouse.keys().filter(|name| !source.contains_key(*name)));
        let mut part: Vec<String> = Vec::new();
        let mut rows = 0;
        for name in names.filter(|name| source.get(*name) != warehouse.get(*name)) {
            let count = |side: &Buckets| side.get(name).map_or(0, |(count, _)| *count);
            rows += count(&source).max(count(&warehouse));
            part.push(name.clone());
            if rows >= ROWS_AT_ONCE {
                let part = std::mem::take(&mut part);
                self.part((&there, &here), &part, &waiting, report).await?;
                rows = 0;
            }
        }
        self.part((&there, &here), &part, &waiting, report).await
    }

    /// The keys that wait behind dead letters.
    async fn waiting(&self, pair: &Pair) -> Result<HashMap<Key, i64>> {
        const DOING: &str = "reading which keys wait";
        let failed = self.warehouse.failed(DOING);
        let (query, table) = (sql::waiting(&pair.model), pair.model.table.to_string());
        let mut waiting = HashMap::new();
        for row in self.warehouse.at_once(DOING, (&query, &[&table])).await? {
            let key: Vec<Option<String>> = row.try_get(0).map_err(&failed)?;
            let key = key.into_iter().map(Option::unwrap_or_default).collect();
            waiting.insert(key, row.try_get(1).map_err(&failed)?);
        }
        Ok(waiting)
    }

    /// Looks at the rows of some buckets that differ.
    async fn part(
        &self,
        (there, here): (&Expressions, &Expressions),
        buckets: &[String],
        waiting: &HashMap<Key, i64>,
        report: &mut TableReport,
    ) -> Result<()> {
        if buckets.is_empty() {
            return Ok(());
        }
        let (source, mut warehouse) = tokio::try_join!(
            rows_of_buckets(&self.source, there, buckets),
            rows_of_buckets(&self.warehouse, here, buckets)
        )?;
        let mut suspects = Vec::new();
        for (key, (digest, _)) in source {
            if warehouse.remove(&key).is_none_or(|(other, _)| other != digest) {
                suspects.push(key);
            }
        }
        suspects.extend(warehouse.into_keys());
        suspects.sort();
        for keys in suspects.chunks(KEYS_AT_ONCE) {
            self.settle((there, here), keys, waiting, report).await?;
        }
        Ok(())
    }

    /// Looks at keys again, until they are equal or differ for good.
    async fn settle(
        &self,
        (there, here): (&Expressions, &Expressions),
        keys: &[Key],
        waiting: &HashMap<Key, i64>,
        report: &mut TableReport,
    ) -> Result<()> {
        let mut suspects = keys.to_vec();
        // a key that was changing in one of the rounds has not differed in all of them
        let mut restless = HashSet::new();
        let mut found = Vec::new();
        for round in 0..self.rounds() {
            if round > 0 {
                tokio::time::sleep(PAUSE * 2_u32.pow(round - 1)).await;
            }
            let (before, read) = at(&self.source, there, &suspects, "t.xmin::text").await?;
            self.pass_now().await?;
            let (stored, read_here) = at(&self.warehouse, here, &suspects, "''").await?;
            let (after, read_again) = at(&self.source, there, &suspects, "t.xmin::text").await?;
            // not in between: what is long apart differs
            tokio::join!(self.source.pay(read + read_again), self.warehouse.pay(read_here));
            found = Vec::new();
            let mut left = Vec::new();
            for key in suspects {
                let stood_still = before.get(&key) == after.get(&key);
                let source = before.get(&key).map(|(digest, _)| digest);
                let warehouse = stored.get(&key).map(|(digest, _)| digest);
                match (stood_still, source, warehouse) {
                    (true, source, warehouse) if source == warehouse => continue,
                    (false, ..) => _ = restless.insert(key.clone()),
                    (true, Some(_), None) => found.push((key.clone(), "missing in the warehouse")),
                    // kept on purpose
                    (true, None, _) if here.keeps_deleted() => continue,
                    (true, None, _) => found.push((key.clone(), "not at the source any more")),
                    (true, Some(_), Some(_)) => found.push((key.clone(), "different")),
                }
                left.push(key);
            }
            suspects = left;
            if suspects.is_empty() {
                return Ok(());
            }
        }
        found.retain(|(key, _)| !restless.contains(key));
        let changing = suspects.iter().filter(|key| restless.contains(*key)).count();
        report.changing += u64::try_from(changing).unwrap_or(u64::MAX);
        report.differing += u64::try_from(found.len()).unwrap_or(u64::MAX);
        for (key, what) in found {
            let letter = waiting.get(&key);
            report.waiting += u64::from(letter.is_some());
            if report.differences.len() < NAMED {
                let what = match letter {
                    Some(letter) => format!("{what}: it waits behind dead letter {letter}"),
                    None => what.to_owned(),
                };
                report.differences.push(Difference { key: key.join(", "), what });
            }
        }
        Ok(())
    }
}

/// What a side has of some keys, and how many bytes were read for it.
async fn at(side: &Reader, of: &Expressions, keys: &[Key], version: &str) -> Result<(Rows, usize)> {
    let width = keys.first().map_or(0, Vec::len);
    let arrays: Vec<Vec<&str>> = (0..width)
        .map(|at| keys.iter().filter_map(|key| key.get(at)).map(String::as_str).collect())
        .collect();
    let parameters: Vec<&(dyn ToSql + Sync)> =
        arrays.iter().map(|array| array as &(dyn ToSql + Sync)).collect();
    let answer = side.at_once(ROWS, (&of.rows_of_keys(version), &parameters)).await?;
    let failed = side.failed(ROWS);
    let bytes = bytes_of(&answer).map_err(&failed)?;
    let rows = answer.iter().map(digest).collect::<Result<_, _>>().map_err(&failed)?;
    Ok((rows, bytes))
}

async fn rows_of_buckets(side: &Reader, of: &Expressions, buckets: &[String]) -> Result<Rows> {
    let query = of.rows_of_buckets();
    let parameters: [&(dyn ToSql + Sync); 1] = [&buckets];
    if side.is_paced() {
        let mut rows = Rows::new();
        side.one_by_one(ROWS, (&query, &parameters), |row| {
            rows.extend([digest(row)?]);
            Ok(())
        })
        .await?;
        return Ok(rows);
    }
    let answer = side.at_once(ROWS, (&query, &parameters)).await?;
    answer.iter().map(digest).collect::<Result<_, _>>().map_err(side.failed(ROWS))
}

fn digest(row: &Row) -> Result<(Key, (String, String)), tokio_postgres::Error> {
    Ok((row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?)))
}

async fn buckets(side: &Reader, of: &Expressions) -> Result<Buckets> {
    let sums = side.sums("computing checksums", (&of.buckets(), &of.in_buckets())).await?;
    Ok(sums.into_iter().collect())
}
