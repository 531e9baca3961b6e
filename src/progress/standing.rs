//! What a connector tells of itself for people who ask when it does not run: why it waits or has ended, and
//! which tables it could not take. No data rests on it.

use tokio_postgres::{GenericClient, Transaction};

use crate::error::{Error, Result};
use crate::names::TableName;

/// What keeps a connector from its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It tries again by itself.
    Waiting,
    /// It has ended, and needs a person.
    Stopped,
}

impl Standing {
    fn word(self) -> &'static str {
        match self {
            Standing::Waiting => "waiting",
            Standing::Stopped => "stopped",
        }
    }
}

/// A table that the files ask for and that cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// What it would be in the warehouse.
    pub table: TableName,
    /// The source table; none where there is no such table.
    pub source: Option<TableName>,
    /// Why it is left out.
    pub why: String,
    /// What would change that.
    pub remedy: Option<String>,
}

/// Notes why a connector does not work, unless another instance than `owner` has it, or a partition of it.
pub async fn tell(
    client: &impl GenericClient,
    (connector, owner): (&str, &str),
    standing: Standing,
    (reason, remedy): (&str, Option<&str>),
) -> Result<()> {
    client
        .execute(
            "insert into audit.standing (connector, state, reason, remedy)
             select $1, $3, $4, $5
              where not exists (select from audit.owner
                                 where (resource = 'connector:' || $1
                                        or starts_with(resource, 'connector:' || $1 || ':'))
                                   and owner <> $2 and lease_until > clock_timestamp())
             on conflict (connector) do update
             set state = excluded.state, reason = excluded.reason, remedy = excluded.remedy,
                 since = case standing.state when excluded.state then standing.since
                                             else excluded.since end,
                 told_at = excluded.told_at",
            &[&connector, &owner, &standing.word(), &reason, &remedy],
        )
        .await
        .map_err(|error| Error::warehouse("noting why it does not work", error))?;
    Ok(())
}

/// Notes that a connector works, and which tables it leaves out.
pub async fn works(
    transaction: &Transaction<'_>,
    connector: &str,
    left_out: &[LeftOut],
) -> Result<()> {
    let failed = |error| Error::warehouse("noting that it works", error);
    let forget = "delete from audit.standing where connector = $1";
    transaction.execute(forget, &[&connector]).await.map_err(failed)?;
    let names: Vec<String> = left_out.iter().map(|out| out.table.to_string()).collect();
    let gone = "delete from audit.left_out where connector = $1 and table_name <> all ($2)";
    transaction.execute(gone, &[&connector, &names]).await.map_err(failed)?;
    leave_out(transaction, connector, left_out).await
}

/// Notes tables that a connector leaves out, beside those that are noted.
pub async fn leave_out(
    transaction: &Transaction<'_>,
    connector: &str,
    left_out: &[LeftOut],
) -> Result<()> {
    let names: Vec<String> = left_out.iter().map(|out| out.table.to_string()).collect();
    let sources: Vec<Option<String>> =
        left_out.iter().map(|out| out.source.as_ref().map(ToString::to_string)).collect();
    let reasons: Vec<&str> = left_out.iter().map(|out| out.why.as_str()).collect();
    let remedies: Vec<Option<&str>> = left_out.iter().map(|out| out.remedy.as_deref()).collect();
    transaction
        .execute(
            "insert into audit.left_out as o (connector, table_name, source_table, reason, remedy)
             select distinct on (t.name) $1, t.name, t.source, t.reason, t.remedy
               from unnest($2::text[], $3::text[], $4::text[], $5::text[]) t(name, source, reason, remedy)
             on conflict (connector, table_name) do update
             set source_table = excluded.source_table, reason = excluded.reason,
                 remedy = excluded.remedy,
                 noticed_at = case o.reason when excluded.reason then o.noticed_at else now() end",
            &[&connector, &names, &sources, &reasons, &remedies],
        )
        .await
        .map_err(|error| Error::warehouse("noting what is left out", error))?;
    Ok(())
}

/// The tables that a connector left out when it began last, and that are none of its tables.
pub async fn left_out(client: &impl GenericClient, connector: &str) -> Result<Vec<LeftOut>> {
    let failed = |error| Error::warehouse("reading what is left out", error);
    // a warehouse that an older version keeps has none
    let there = client.query_one("select to_regclass('audit.left_out') is not null", &[]).await;
    if !there.and_then(|row| row.try_get::<_, bool>(0)).map_err(failed)? {
        return Ok(Vec::new());
    }
    let rows = client
        .query(
            "select o.table_name, o.source_table, o.reason, o.remedy
               from audit.left_out o
              where o.connector = $1
                and not exists (select from audit.tables t where t.table_name = o.table_name)
              order by o.table_name",
            &[&connector],
        )
        .await
        .map_err(failed)?;
    let mut found = Vec::new();
    for row in rows {
        let (name, source): (String, Option<String>) =
            (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        let strange = |_| Error::bug(format!("audit.left_out has a strange row for {name:?}"));
        found.push(LeftOut {
            table: name.parse().map_err(strange)?,
            source: source.and_then(|source| source.parse().ok()),
            why: row.try_get(2).map_err(failed)?,
            remedy: row.try_get(3).map_err(failed)?,
        });
    }
    Ok(found)
}
