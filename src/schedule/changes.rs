//! Whether rows of tables changed, by the server's own counts. They are told within a second of a commit, and
//! begin anew behind a crash: then it looks like a change, and a run too many does no harm.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::names::TableName;
use crate::postgres::Session;

/// How often it is counted.
const EVERY: Duration = Duration::from_secs(1);

const QUERY: &str = "
    select coalesce(sum(pg_stat_get_tuples_inserted(t.relid) + pg_stat_get_tuples_updated(t.relid)
                        + pg_stat_get_tuples_deleted(t.relid)), 0)::int8
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
     cross join lateral (select c.oid as relid
                          union select relid from pg_partition_tree(c.oid)) t
     where n.nspname = $1 and c.relname = $2";

/// When each job's tables were counted last.
#[derive(Default)]
pub(super) struct Counting(HashMap<String, Instant>);

impl Counting {
    /// How many changes the tables of a job have had; none where that was asked a moment ago.
    pub(super) async fn look(
        &mut self,
        session: &Session,
        job: &str,
        tables: &[TableName],
    ) -> Result<Option<Value>> {
        if self.0.get(job).is_some_and(|at| at.elapsed() < EVERY) {
            return Ok(None);
        }
        self.0.insert(job.to_owned(), Instant::now());
        let mut counted = Map::new();
        for table in tables {
            let row = session.query_one(QUERY, &[&table.schema, &table.name]).await;
            let count: i64 = row
                .and_then(|row| row.try_get(0))
                .map_err(|error| Error::warehouse(format!("counting changes of {table}"), error))?;
            counted.insert(table.to_string(), json!(count));
        }
        Ok(Some(Value::Object(counted)))
    }
}
