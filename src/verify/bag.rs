//! Compares tables whose rows have no key: how many rows there are of each content.
//!
//! Equal counts do not say that rows stood still, for one may have gone and another come: which rows they are
//! does.

use std::collections::HashSet;

use super::reader::{Reader, Sums as Contents};
use super::report::{Difference, TableReport};
use super::sql::{self, Expressions};
use super::{PAUSE, Pair, Sides};
use crate::error::Result;

/// So many contents are named; the rest is counted.
const NAMED: usize = 100;

impl Sides {
    pub(super) async fn bag(&self, pair: &Pair, report: &mut TableReport) -> Result<()> {
        let (there, here) = (Expressions::of_source(pair), Expressions::of_warehouse(pair));
        let mut suspects: Option<HashSet<String>> = None;
        // a content that was changing in one of the rounds has not differed in all of them
        let mut restless = HashSet::new();
        let mut found = Vec::new();
        for round in 0..self.rounds() {
            if round > 0 {
                tokio::time::sleep(PAUSE * 2_u32.pow(round - 1)).await;
            }
            let before = contents(&self.source, &there, sql::PLACE).await?;
            self.pass_now().await?;
            let stored = contents(&self.warehouse, &here, "0").await?;
            let after = contents(&self.source, &there, sql::PLACE).await?;
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

/// The contents of a side; `place` tells rows of the same one apart.
async fn contents(side: &Reader, of: &Expressions, place: &str) -> Result<Contents> {
    let queries = (of.contents(place), of.each_content(place));
    side.sums("counting rows to compare", (&queries.0, &queries.1)).await
}
