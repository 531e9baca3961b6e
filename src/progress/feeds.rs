//! What feeds tables, as it is noted: which source columns, and of a table of topics which source.

use std::collections::HashMap;

use tokio_postgres::{GenericClient, Transaction};

use crate::error::{Error, Kind, Result};
use crate::names::TableName;

/// What feeds a table of topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feeder {
    /// The source table, as `schema.table`.
    pub table: String,
    /// The topic by which its records came first; empty where that is not noted.
    pub topic: String,
    /// What the source that writes them calls itself.
    pub source: String,
}

impl Feeder {
    /// Whether records of `other` are of the same source table. One may come by several topics, and a source that
    /// goes on in the same topic has another name only.
    pub fn is(&self, other: &Feeder) -> bool {
        let noted = !self.topic.is_empty();
        let same = !noted || self.topic == other.topic || self.source == other.source;
        self.table == other.table && same
    }
}

/// Notes which source columns feed a table.
pub async fn set(client: &impl GenericClient, table: &TableName, feeds: &str) -> Result<()> {
    let statement = "update audit.tables set feeds = $2 where table_name = $1";
    client
        .execute(statement, &[&table.to_string(), &feeds])
        .await
        .map_err(|error| Error::warehouse(format!("noting what feeds {table}"), error))?;
    Ok(())
}

/// Notes which source table feeds a table, also where it is to be read.
pub async fn set_source(
    client: &impl GenericClient,
    table: &TableName,
    source: &TableName,
) -> Result<()> {
    let statement = "
        with chunks as (update audit.snapshot_chunks set source_table = $2 where table_name = $1)
        update audit.tables set source_table = $2 where table_name = $1";
    client
        .execute(statement, &[&table.to_string(), &source.to_string()])
        .await
        .map_err(|error| Error::warehouse(format!("noting what feeds {table}"), error))?;
    Ok(())
}

/// What feeds a connector's tables, or one of them.
pub async fn feeders(
    client: &impl GenericClient,
    connector: &str,
    only: Option<&TableName>,
) -> Result<HashMap<TableName, Feeder>> {
    let failed = |error| Error::warehouse("reading what feeds its tables", error);
    let query = "select table_name, source_table, source_topic, source_name from audit.tables
                  where connector = $1 and ($2::text is null or table_name = $2)";
    let only = only.map(TableName::to_string);
    let mut found = HashMap::new();
    for row in client.query(query, &[&connector, &only]).await.map_err(failed)? {
        let name: String = row.try_get(0).map_err(failed)?;
        let strange = |_| Error::bug(format!("audit.tables has a strange row for {name:?}"));
        let feeder = Feeder {
            table: row.try_get(1).map_err(failed)?,
            topic: row.try_get(2).map_err(failed)?,
            source: row.try_get(3).map_err(failed)?,
        };
        found.insert(name.parse().map_err(strange)?, feeder);
    }
    Ok(found)
}

/// Notes what feeds a table from now on, `known` until now; of a new table nothing was. What its rows have of the
/// changes of one topic says nothing of another's. The database holds who was
/// first: it fails where another one feeds it by now, as another member of the group may have made it just now.
pub async fn claim(
    transaction: &Transaction<'_>,
    table: &TableName,
    (by, known): (&Feeder, Option<&Feeder>),
) -> Result<()> {
    let failed = |error| Error::warehouse(format!("noting what feeds {table}"), error);
    let new = Feeder { table: by.table.clone(), topic: String::new(), source: String::new() };
    let known = known.unwrap_or(&new);
    let statement = "update audit.tables set source_table = $2, source_topic = $3, source_name = $4,
                            schema_id = case source_table when $2 then schema_id end,
                            seen = case when source_table = $2 and source_topic in ('', $3) then seen end
                      where table_name = $1
                        and (source_table, source_topic, source_name) in (($2, $3, $4), ($5, $6, $7))";
    let name = table.to_string();
    let updated = transaction
        .execute(
            statement,
            &[&name, &by.table, &by.topic, &by.source, &known.table, &known.topic, &known.source],
        )
        .await
        .map_err(failed)?;
    if updated == 0 {
        let what =
            format!("another process has begun to feed {table} from another source just now");
        return Err(Error::new(Kind::Busy, what));
    }
    Ok(())
}

/// What fed a table of another connector is nothing to the one that takes it.
pub async fn release(
    transaction: &Transaction<'_>,
    connector: &str,
    table: &TableName,
) -> Result<()> {
    let statement = "update audit.tables set source_topic = '', source_name = '', seen = null
                      where table_name = $1 and connector <> $2";
    let done = transaction.execute(statement, &[&table.to_string(), &connector]).await;
    done.map(|_| ()).map_err(|error| Error::warehouse(format!("taking over {table}"), error))
}

/// Whether a name is that of a table that any connector feeds.
pub async fn is_fed(client: &impl GenericClient, table: &TableName) -> Result<bool> {
    let query = "select exists (select from audit.tables where table_name = $1)";
    let row = client.query_one(query, &[&table.to_string()]).await;
    row.and_then(|row| row.try_get(0))
        .map_err(|error| Error::warehouse(format!("looking whether {table} is fed"), error))
}
