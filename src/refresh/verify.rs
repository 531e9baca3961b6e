//! Compares a mart with what its query says of all rows, under one snapshot, while the stream flows.
//!
//! Groups that changes of the same snapshot touch are yet to be computed: what differs in them is no error. Where
//! a change touches all groups, the comparison waits for a better moment.

use std::time::Duration;

use tokio_postgres::{GenericClient, IsolationLevel, Transaction};

use super::shape::{Shape, describe};
use super::stale::touched;
use super::write::failed;
use crate::error::{Error, Kind, Result};
use crate::postgres::{Session, quote};
use crate::spec::Mart;

/// A row that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether the mart has it and should not; else it lacks it.
    pub surplus: bool,
    /// The row.
    pub row: String,
}

/// What a comparison said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The mart has what a full rebuild would have: so many rows.
    Equal {
        /// How many rows the mart has.
        rows: i64,
        /// In how many groups differences were not judged, for they are yet to be computed.
        pending: i64,
    },
    /// It has not.
    Differs(Vec<Finding>),
    /// Every look came while all of it was to be computed anew.
    Changing,
}

/// How often a better moment is waited for.
const LOOKS: u32 = 40;
const PAUSE: Duration = Duration::from_millis(250);

/// How many rows that differ are told.
const TOLD: i64 = 20;

/// Compares a mart with a full rebuild.
pub async fn verify(session: &mut Session, mart: &Mart) -> Result<Verdict> {
    let shape = {
        let transaction = begin(session).await?;
        describe(&transaction, mart).await?
    };
    for _ in 0..LOOKS {
        let transaction = begin(session).await?;
        if let Some(verdict) = look(&transaction, &shape).await? {
            return Ok(verdict);
        }
        drop(transaction);
        tokio::time::sleep(PAUSE).await;
    }
    Ok(Verdict::Changing)
}

async fn begin(session: &mut Session) -> Result<Transaction<'_>> {
    let builder = session.build_transaction().isolation_level(IsolationLevel::RepeatableRead);
    builder.start().await.map_err(|error| Error::warehouse("beginning a comparison", error))
}

/// One look; none where all of it is yet to be computed.
async fn look(transaction: &impl GenericClient, shape: &Shape) -> Result<Option<Verdict>> {
    let mart = &shape.mart;
    let failed = |error| failed(shape, error);
    let name = mart.table.to_string();
    let made = "select m.as_of is not null, to_regclass($2) is not null from audit.marts m where m.mart = $1";
    let made =
        transaction.query_opt(made, &[&name, &quote::table(&mart.table)]).await.map_err(failed)?;
    let read = |row: tokio_postgres::Row| Ok::<(bool, bool), _>((row.try_get(0)?, row.try_get(1)?));
    let made = made.map(read).transpose().map_err(failed)?;
    let Some((filled, true)) = made else {
        let what = format!("{name} was not made yet");
        return Err(Error::new(Kind::Busy, what).remedy("siltstone mart list says why"));
    };
    let marks = transaction
        .query("select input, count(*), bool_or(row is null) from audit.touched where mart = $1 group by input", &[&name])
        .await
        .map_err(failed)?;
    let mut pending = vec![format!(
        "select value from audit.stale_groups where mart = {}",
        quote::literal(&name)
    )];
    for row in &marks {
        let read = || Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
        let (input, count, all): (String, i64, bool) = read().map_err(failed)?;
        let known = shape.inputs.iter().find(|known| known.read.table.to_string() == input);
        let Some(query) = known.filter(|_| !all).and_then(|known| touched(shape, known, count))
        else {
            return Ok(None);
        };
        pending.push(
            query.replace("$1", &quote::literal(&name)).replace("$2", &quote::literal(&input)),
        );
    }
    if !filled {
        return Ok(None);
    }
    let statement = comparison(shape, &pending);
    let rows = transaction.query(&statement, &[]).await.map_err(failed)?;
    let mut findings = Vec::new();
    let (mut count, mut groups) = (0, 0);
    for row in &rows {
        let read = || Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?));
        let (surplus, text, held, pending): (Option<bool>, Option<String>, i64, i64) =
            read().map_err(failed)?;
        (count, groups) = (held, pending);
        findings.extend(surplus.zip(text).map(|(surplus, row)| Finding { surplus, row }));
    }
    Ok(Some(match findings.is_empty() {
        true => Verdict::Equal { rows: count, pending: groups },
        false => Verdict::Differs(findings),
    }))
}

/// The query of what differs outside the groups that are pending.
fn comparison(shape: &Shape, pending: &[String]) -> String {
    let mart = &shape.mart;
    // one value has many texts, such as 1.0 and 1.00
    let ty = shape.group_type();
    let pending: Vec<String> =
        pending.iter().map(|query| format!("select value::{ty} from ({query}) p")).collect();
    let by = mart
        .refresh_by
        .as_ref()
        .map_or("null::text".to_owned(), |by| format!("m.{}", quote::ident(by)));
    let row = format!("row({})::text as row_, {by} as value_", shape.list("m."));
    let (table, query) = (quote::table(&mart.table), &mart.query);
    format!(
        "with pending as materialized ({pending}),
              fresh as materialized (select {row} from (\n{query}\n) m),
              held as materialized (select {row} from {table} m),
              differing as (
                  (select false as surplus, d.* from (select * from fresh except all select * from held) d)
                  union all
                  (select true, d.* from (select * from held except all select * from fresh) d))
         select d.surplus, d.row_, (select count(*) from held), (select count(*) from pending)
           from (select 1) one
           left join (select * from differing d
                       where d.value_ is null and not exists (select from pending where value is null)
                          -- as `in`, which hashes: both may be many
                          or d.value_ is not null and d.value_ not in (select value from pending where value is not null)
                       order by d.row_, d.surplus limit {TOLD}) d on true",
        pending = pending.join(" union ")
    )
}
