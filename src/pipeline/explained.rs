//! What the warehouse says of the marts of the files, for `validate --connect`: whether their queries can be run, and
//! whether a few groups of one are found without going through the whole of a large table. Changes nothing.

use tokio_postgres::Transaction;
use tokio_postgres::error::ErrorPosition;

use super::inspect::Report;
use super::unheeded::refuse_shape;
use crate::capture::preflight::Finding;
use crate::error::{Error, Kind, Policy, Result};
use crate::names::TableName;
use crate::postgres::{Session, Side, connect, quote};
use crate::refresh;
use crate::spec::{Mart, MartRead, Spec};

/// A table with more rows is not to be read as a whole for a few groups.
const LARGE: f64 = 100_000.0;

/// How many groups a plan is asked for.
const GROUPS: i64 = 8;

/// From how many rows of the mart they are taken.
const LOOKED_AT: i64 = 20_000;

/// A plan is made within this, and waits for no lock longer.
const BEGIN: &str = "set transaction read only; set local statement_timeout to '30s'; set local lock_timeout to '2s'; \
     set local jit to off";

/// Looks at the marts of the files.
pub async fn inspect_marts(spec: &Spec) -> Result<Report> {
    let mut report = Report::default();
    let warehouse = &spec.settings.warehouse;
    let mut session = connect(Side::Warehouse, warehouse, "siltstone validate").await?;
    for mart in &spec.marts {
        let absent = absent(&session, mart).await?;
        if !absent.is_empty() {
            let (mart, absent) = (&mart.table, absent.join(", "));
            report.tables.push(format!("{mart} is not explained: {absent} is not there yet"));
            continue;
        }
        let mut found = explain(&mut session, mart).await?;
        if found.iter().all(|finding| !finding.fatal) {
            found.extend(described(&mut session, mart).await?);
        }
        if found.iter().all(|finding| !finding.fatal) {
            report.tables.push(format!("{}: its query can be run", mart.table));
        }
        report.findings.extend(found);
    }
    Ok(report)
}

/// The tables that a mart is said to read and that are not there.
async fn absent(session: &Session, mart: &Mart) -> Result<Vec<String>> {
    let tables: Vec<String> = mart.reads.iter().map(|read| quote::table(&read.table)).collect();
    let query = "select t from unnest($1::text[]) t where to_regclass(t) is null";
    let rows = session.query(query, &[&tables]).await;
    let read = rows.and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect());
    read.map_err(|error| Error::warehouse("looking for tables", error))
}

/// What the warehouse says of a mart as it would be made; where it cannot say it now, nothing.
async fn described(session: &mut Session, mart: &Mart) -> Result<Option<Finding>> {
    let transaction = begin(session, "set local lock_timeout to '2s'").await?;
    let shape = refresh::describe(&transaction, mart).await;
    let Err(error) = shape.and_then(|shape| refuse_shape(&shape)) else { return Ok(None) };
    match error.kind() {
        Kind::Busy | Kind::Rights => Ok(None),
        kind if matches!(kind.policy(), Policy::StopTable | Policy::Human | Policy::Sift) => {
            let remedy = error.remedy_text().unwrap_or_default().to_owned();
            Ok(Some(Finding { fatal: true, what: error.reason(), remedy }))
        }
        _ => Err(error),
    }
}

async fn begin<'s>(session: &'s mut Session, settings: &str) -> Result<Transaction<'s>> {
    let failed = |error| Error::warehouse("beginning a transaction", error);
    let transaction = session.transaction().await.map_err(failed)?;
    transaction.batch_execute(settings).await.map_err(failed)?;
    Ok(transaction)
}

/// Whether the query can be run, and how groups of it would be found.
async fn explain(session: &mut Session, mart: &Mart) -> Result<Vec<Finding>> {
    let transaction = begin(session, BEGIN).await?;
    if let Err(error) = transaction.prepare(&mart.query).await {
        return refused(mart, error).map(|finding| vec![finding]);
    }
    let (mut found, failed) = (Vec::new(), |error| doing(mart, error));
    let Some(by) = &mart.refresh_by else { return Ok(found) };
    if let Some(groups) = groups(&transaction, mart, by).await.map_err(failed)? {
        let by = quote::ident(by);
        let query = format!("select * from (\n{}\n) m where m.{by} = any ({groups})", mart.query);
        for (table, rows) in scanned(&transaction, &query, &mart.reads).await.map_err(failed)? {
            let what = format!(
                "{}:{}: query: to compute a few groups anew it would go through all {rows} rows of {table}",
                mart.declared_in, mart.query_line
            );
            let remedy = format!(
                "give {table} an index by which the rows of a group are found: write it below indexes in its file; refresh_by is to be a column that the condition reaches"
            );
            found.push(Finding { fatal: false, what, remedy });
        }
    }
    for read in &mart.reads {
        let Some(touches) = &read.touches else { continue };
        let query = format!(
            "with changed as materialized (select * from {} limit 2) select * from (\n{touches}\n) touches",
            quote::table(&read.table)
        );
        // what is wrong with it is told where all of it is described
        transaction.batch_execute("savepoint touches").await.map_err(failed)?;
        let Ok(scans) = scanned(&transaction, &query, &mart.reads).await else {
            transaction.batch_execute("rollback to savepoint touches").await.map_err(failed)?;
            continue;
        };
        for (table, rows) in scans {
            let what = format!(
                "{}: reads.{}.touches: to find the groups of a few rows it would go through all {rows} rows of {table}",
                mart.declared_in, read.table
            );
            let remedy = format!(
                "give {table} an index by the column that joins it to changed: write it below indexes in its file"
            );
            found.push(Finding { fatal: false, what, remedy });
        }
    }
    Ok(found)
}

fn doing(mart: &Mart, error: tokio_postgres::Error) -> Error {
    Error::warehouse(format!("explaining {}", mart.declared_in), error)
}

/// What is wrong with a query, and on which line of its file.
fn refused(mart: &Mart, error: tokio_postgres::Error) -> Result<Finding> {
    let told = error.as_db_error().filter(|_| {
        error
            .code()
            .is_some_and(|code| code.code().starts_with(['2', '4']) && code.code() != "42501")
    });
    let Some(told) = told else { return Err(doing(mart, error)) };
    let before = match told.position() {
        Some(ErrorPosition::Original(at)) => usize::try_from(*at).unwrap_or_default(),
        _ => 0,
    };
    let before = mart.query.chars().take(before.saturating_sub(1));
    let line = mart.query_line + before.filter(|c| *c == '\n').count();
    let what = format!("{}:{line}: query: {}", mart.declared_in, told.message());
    let remedy = told.hint().map_or("mend the SELECT: it is to run in psql", |hint| hint);
    Ok(Finding { fatal: true, what, remedy: remedy.to_owned() })
}

/// Values of some groups as an array; none while the mart has no rows. The planner is to see what it sees in a turn.
async fn groups(
    transaction: &Transaction<'_>,
    mart: &Mart,
    by: &str,
) -> Result<Option<String>, tokio_postgres::Error> {
    let there = transaction
        .query_opt(
            "select format_type(a.atttypid, a.atttypmod) from pg_attribute a
              where a.attrelid = to_regclass($1) and a.attname = $2 and a.attnum > 0",
            &[&quote::table(&mart.table), &by],
        )
        .await?;
    let Some(there) = there else { return Ok(None) };
    let (ty, by, table): (String, _, _) =
        (there.try_get(0)?, quote::ident(by), quote::table(&mart.table));
    let some = format!(
        "select array_agg(v)::text
           from (select distinct v from (select m.{by} as v from {table} m limit {LOOKED_AT}) s
                  where v is not null limit {GROUPS}) d"
    );
    let some: Option<String> = transaction.query_one(&some, &[]).await?.try_get(0)?;
    Ok(some.map(|values| format!("{}::{ty}[]", quote::literal(&values))))
}

/// The large tables that a plan goes through as a whole, with their rows as far as they were counted.
async fn scanned(
    transaction: &Transaction<'_>,
    query: &str,
    reads: &[MartRead],
) -> Result<Vec<(TableName, f64)>, tokio_postgres::Error> {
    let row =
        transaction.query_one(&format!("explain (format json, verbose) {query}"), &[]).await?;
    let plan: serde_json::Value = row.try_get(0)?;
    let mut leaves = Vec::new();
    scans(&plan, &mut leaves);
    let (schemas, names): (Vec<&str>, Vec<&str>) = leaves.into_iter().unzip();
    // a partitioned table counts where most of it is read
    let rows = transaction
        .query(
            "with scanned as (
                 select coalesce(pg_partition_root(c.oid), c.oid)::oid as root, sum(greatest(c.reltuples, 0))::float8 as rows
                   from (select distinct * from unnest($1::text[], $2::text[])) u (schema, name)
                   join pg_namespace n on n.nspname = u.schema
                   join pg_class c on c.relnamespace = n.oid and c.relname = u.name
                  group by 1)
             select n.nspname::text, r.relname::text, s.rows
               from scanned s join pg_class r on r.oid = s.root join pg_namespace n on n.oid = r.relnamespace
              where s.rows > $3
                and s.rows > (select sum(greatest(c.reltuples, 0)) / 2
                                from (select s.root as relid union select relid from pg_partition_tree(s.root)
                                       where isleaf) t join pg_class c on c.oid = t.relid and c.relkind <> 'p')
              order by 1, 2",
            &[&schemas, &names, &LARGE],
        )
        .await?;
    let mut found = Vec::new();
    for row in rows {
        let table = TableName { schema: row.try_get(0)?, name: row.try_get(1)? };
        if reads.iter().any(|read| read.table == table) {
            found.push((table, row.try_get(2)?));
        }
    }
    Ok(found)
}

/// The tables that are read from begin to end, but for those that only stand for changed rows.
fn scans<'p>(plan: &'p serde_json::Value, found: &mut Vec<(&'p str, &'p str)>) {
    match plan {
        serde_json::Value::Array(plans) => plans.iter().for_each(|plan| scans(plan, found)),
        serde_json::Value::Object(node) => {
            let text = |key: &str| node.get(key).and_then(serde_json::Value::as_str);
            if text("Subplan Name").is_some_and(|name| name == "CTE changed") {
                return;
            }
            if let (Some("Seq Scan"), Some(schema), Some(name)) =
                (text("Node Type"), text("Schema"), text("Relation Name"))
            {
                found.push((schema, name));
            }
            ["Plan", "Plans"]
                .iter()
                .filter_map(|key| node.get(*key))
                .for_each(|below| scans(below, found));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_tells_what_is_read_from_begin_to_end() {
        let plan = serde_json::json!([{ "Plan": { "Node Type": "Hash Join", "Plans": [
            { "Node Type": "Limit", "Subplan Name": "CTE changed", "Plans": [
                { "Node Type": "Seq Scan", "Schema": "s", "Relation Name": "p" }] },
            { "Node Type": "Append", "Plans": [
                { "Node Type": "Seq Scan", "Schema": "s", "Relation Name": "a" },
                { "Node Type": "Index Scan", "Schema": "s", "Relation Name": "b" }] }] } }]);
        let mut found = Vec::new();
        scans(&plan, &mut found);
        assert_eq!(found, [("s", "a")]);
    }
}
