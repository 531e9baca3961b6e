//! Compares tables whose rows have no key: how many rows there are of each content.
//!
//! Equal counts do not say that rows stood still, for one may have gone and another come: which rows they are
//! does.

use std::collections::{HashMap, HashSet};

use super::report::{Difference, TableReport};
use super::sql::Expressions;
use super::{PAUSE, Pair, Sides};
use crate::error::{Error, Result};
use crate::postgres::Session;

/// So many contents are named; the rest is counted.
const NAMED: usize = 100;

/// Which rows of a content there are: a sum over their places and versions.
const ROWS: &str = "sum(hashtextextended(t.tableoid::text || ' ' || t.ctid::text || ' ' || t.xmin::text, 0))::text";

/// By content, how many rows there are and which.
type Contents = HashMap<String, (i64, String)>;

impl Sides {
    pub(super) async fn bag(&self, pair: &Pair, report: &mut TableReport) -> Result<()> {
        let there = Expressions::of_source(pair).contents(ROWS);
        let here = Expressions::of_warehouse(pair).contents("''");
        let mut suspects: Option<HashSet<String>> = None;
        // a content that was changing in one of the rounds has not differed in all of them
        let mut restless = HashSet::new();
        let mut found = Vec::new();
        for round in 0..self.rounds() {
            if round > 0 {
                tokio::time::sleep(PAUSE * 2_u32.pow(round - 1)).await;
            }
            let before = contents(&self.source, &there, Error::source).await?;
            self.pass_now().await?;
            let stored = contents(&self.warehouse, &here, Error::warehouse).await?;
            let after = contents(&self.source, &there, Error::source).await?;
            report.rows = stored.values().map(|(count, _)| count.unsigned_abs()).sum();
            found.clear();
            let mut left = HashSet::new();
            let others = stored.keys().filter(|content| !before.contains_key(*content));
            for content in before.keys().chain(others) {
                if suspects.as_ref().is_some_and(|suspects| !suspects.contains(content)) {
                    continue;
                }
                let count = |side: &Contents| side.get(content).map_or(0, |(count, _)| *count);
                if before.get(content) != after.get(content) {
                    restless.insert(content.clone());
                } else if count(&stored) == count(&before) {
                    continue;
                } else {
                    found.push((content.clone(), count(&before), count(&stored)));
                }
                left.insert(content.clone());
            }
            if left.is_empty() {
                return Ok(());
            }
            suspects = Some(left);
        }
        found.retain(|(content, ..)| !restless.contains(content));
        let left = suspects.unwrap_or_default();
        let changing = left.iter().filter(|content| restless.contains(*content)).count();
        report.changing += u64::try_from(changing).unwrap_or(u64::MAX);
        report.differing += u64::try_from(found.len()).unwrap_or(u64::MAX);
        for (content, there, here) in found.into_iter().take(NAMED) {
            let what = format!("{there} at the source, {here} in the warehouse");
            let key = format!("rows with digest {content}");
            report.differences.push(Difference { key, what });
        }
        Ok(())
    }
}

async fn contents<F>(session: &Session, query: &str, failed: F) -> Result<Contents>
where
    F: Fn(&'static str, tokio_postgres::Error) -> Error,
{
    let failed = |error| failed("counting rows to compare", error);
    let answer = session.query(query, &[]).await.map_err(failed)?;
    let mut contents = Contents::with_capacity(answer.len());
    for row in answer {
        let rows = (row.try_get(1).map_err(failed)?, row.try_get(2).map_err(failed)?);
        contents.insert(row.try_get(0).map_err(failed)?, rows);
    }
    Ok(contents)
}
