//! Compares tables whose rows have no key: how many rows there are of each content.

use std::collections::HashMap;

use super::report::{Difference, TableReport};
use super::sql::Expressions;
use super::{PAUSE, Pair, Sides};
use crate::error::{Error, Result};
use crate::postgres::Session;

/// So many contents are named; the rest is counted.
const NAMED: usize = 100;

type Contents = HashMap<String, i64>;

impl Sides {
    pub(super) async fn bag(&self, pair: &Pair, report: &mut TableReport) -> Result<()> {
        let there = Expressions::of_source(pair).contents();
        let here = Expressions::of_warehouse(pair).contents();
        for round in 0..self.rounds() {
            if round > 0 {
                tokio::time::sleep(PAUSE * 2_u32.pow(round - 1)).await;
            }
            let before = contents(&self.source, &there, Error::source).await?;
            self.pass_now().await?;
            let stored = contents(&self.warehouse, &here, Error::warehouse).await?;
            let after = contents(&self.source, &there, Error::source).await?;
            report.rows = stored.values().map(|count| count.unsigned_abs()).sum();
            report.differences.clear();
            (report.differing, report.changing) = (0, 0);
            let others = stored.keys().filter(|content| !before.contains_key(*content));
            for content in before.keys().chain(others) {
                let count = |side: &Contents| side.get(content).copied().unwrap_or(0);
                if count(&before) != count(&after) {
                    report.changing += u64::from(count(&stored) != count(&after));
                } else if count(&stored) != count(&before) {
                    report.differing += 1;
                    if report.differences.len() < NAMED {
                        let what = format!(
                            "{} at the source, {} in the warehouse",
                            count(&before),
                            count(&stored)
                        );
                        let key = format!("rows with digest {content}");
                        report.differences.push(Difference { key, what });
                    }
                }
            }
            if report.differing == 0 && report.changing == 0 {
                return Ok(());
            }
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
        contents.insert(row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
    }
    Ok(contents)
}
