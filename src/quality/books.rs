//! What was found: a row of `audit.data_quality` for each time that a check was judged, and the rows that failed
//! the last time. Whoever writes holds an epoch.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_postgres::{GenericClient, Transaction};

use super::judge::Verdict;
use super::run::Occasion;
use crate::error::{Error, Result};
use crate::names::TableName;
use crate::spec::Check;

fn failed(error: tokio_postgres::Error) -> Error {
    Error::warehouse("reading or noting what checks have found", error)
}

/// Notes a verdict: its rows take the place of those before.
pub async fn note(
    transaction: &Transaction<'_>,
    check: &Check,
    occasion: &Occasion,
    (verdict, took): (&Verdict, Duration),
) -> Result<()> {
    let table = check.table.to_string();
    // the number of a result is its place among those of its check
    let alone =
        "select pg_advisory_xact_lock(hashtextextended('siltstone check ' || $1 || ' ' || $2, 0))";
    transaction.execute(alone, &[&table, &check.name]).await.map_err(failed)?;
    let count = |count: Option<u64>| count.map(|count| i64::try_from(count).unwrap_or(i64::MAX));
    let row = transaction
        .query_one(
            "insert into audit.data_quality
                    (check_date, check_name, expected_value, actual_value, status, description, created_at,
                     table_name, kind, severity, tag, run, failing, checked, completeness, error, took)
             values ($1, $2, $3, $4, $5, $6, clock_timestamp(),
                     $7, $8, $9, $10, (select run from audit.job_runs where run = $11), $12, $13, $14, $15, $16)
             returning check_id",
            &[
                &occasion.date,
                &check.name,
                &verdict.expected,
                &verdict.actual,
                &verdict.status.word(),
                &verdict.description,
                &table,
                &check.kind.word(),
                &check.severity.word(),
                &check.tag,
                &occasion.run,
                &count(verdict.failing),
                &count(verdict.checked),
                &verdict.completeness,
                &verdict.error,
                &took.as_secs_f64(),
            ],
        )
        .await
        .map_err(failed)?;
    let id: i64 = row.try_get(0).map_err(failed)?;
    let forget = "delete from audit.data_quality_rows where table_name = $1 and check_name = $2";
    transaction.execute(forget, &[&table, &check.name]).await.map_err(failed)?;
    if !verdict.rows.is_empty() {
        let keep = "insert into audit.data_quality_rows (table_name, check_name, nr, check_id, row)
                    select $1, $2, r.nr, $3, r.row
                      from jsonb_array_elements($4) with ordinality r (row, nr)";
        let rows = Value::Array(verdict.rows.clone());
        transaction.execute(keep, &[&table, &check.name, &id, &rows]).await.map_err(failed)?;
    }
    Ok(())
}

/// A check that fails, as it was found last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// The table or mart.
    pub table: String,
    /// The check.
    pub name: String,
    /// What was found.
    pub told: String,
    /// When.
    pub at: String,
}

/// The last result of each of these checks.
const LATEST: &str = "
    select c.table_name, c.check_name, q.status, q.expected_value, q.actual_value, q.description, q.failing,
           q.checked, q.error, q.created_at::text, q.check_date::text, q.run, q.took,
           (select count(*) from audit.data_quality_rows r
             where r.table_name = c.table_name and r.check_name = c.check_name and r.check_id = q.check_id)
      from unnest($1::text[], $2::text[]) with ordinality c (table_name, check_name, nr)
      left join lateral (select * from audit.data_quality q
                          where q.table_name = c.table_name and q.check_name = c.check_name
                          order by q.check_id desc limit 1) q on true
     order by c.nr";

/// Which of these checks fail, as they were found last. One that was never judged does not.
pub async fn failing(
    client: &impl GenericClient,
    checks: &[(TableName, String)],
) -> Result<Vec<Failing>> {
    let (tables, names): (Vec<String>, Vec<&str>) =
        checks.iter().map(|(table, name)| (table.to_string(), name.as_str())).unzip();
    let rows = client.query(LATEST, &[&tables, &names]).await.map_err(failed)?;
    let mut found = Vec::new();
    for row in &rows {
        let status: Option<String> = row.try_get(2).map_err(failed)?;
        if status.as_deref() != Some("FAIL") {
            continue;
        }
        let text = |at: usize| row.try_get::<_, Option<String>>(at).map_err(failed);
        let (expected, actual) = (text(3)?.unwrap_or_default(), text(4)?.unwrap_or_default());
        let told = text(5)?.unwrap_or_else(|| format!("{actual}, not {expected}"));
        let at = text(9)?.unwrap_or_default();
        let (table, name) = (text(0)?.unwrap_or_default(), text(1)?.unwrap_or_default());
        found.push(Failing { table, name, told, at });
    }
    Ok(found)
}

/// The checks of the files, each with its last result, as `check list --json` and `/checks` show them.
pub async fn as_json(client: &impl GenericClient, checks: &[Check]) -> Result<Vec<Value>> {
    let (tables, names): (Vec<String>, Vec<&str>) =
        checks.iter().map(|check| (check.table.to_string(), check.name.as_str())).unzip();
    let rows = client.query(LATEST, &[&tables, &names]).await.map_err(failed)?;
    let shown = |(check, row): (&Check, &tokio_postgres::Row)| {
        let text = |at: usize| row.try_get::<_, Option<String>>(at);
        let number = |at: usize| row.try_get::<_, Option<i64>>(at);
        Ok(json!({
            "table": check.table.to_string(),
            "name": check.name,
            "kind": check.kind.word(),
            "severity": check.severity.word(),
            "tag": check.tag,
            "file": check.declared_in,
            "status": text(2)?,
            "expected": text(3)?,
            "actual": text(4)?,
            "description": text(5)?,
            "failing": number(6)?,
            "checked": number(7)?,
            "error": text(8)?,
            "judged_at": text(9)?,
            "date": text(10)?,
            "run": number(11)?,
            "took": row.try_get::<_, Option<f64>>(12)?,
            "kept_rows": number(13)?,
        }))
    };
    let all: Result<_, tokio_postgres::Error> = checks.iter().zip(&rows).map(shown).collect();
    all.map_err(failed)
}
