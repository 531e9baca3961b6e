//! How connectors and tables stand, as the control tables tell: for `status` and `why`, which work without
//! the service that they tell of.

use serde_json::{Map, Value, json};
use tokio_postgres::GenericClient;
use tokio_postgres::types::ToSql;

use crate::error::{Error, Result};
use crate::names::TableName;

/// Rows of `why`'s lists, the newest ones.
const LISTED_AT_MOST: i64 = 10;

/// How a connector stands: who owns it, how far it is, its tables by state, and those that need a person.
pub async fn connector(client: &impl GenericClient, name: &str) -> Result<Value> {
    let of = "
        select jsonb_build_object(
            'connector', $1::text,
            'owner', (select o.owner from audit.owner o where o.resource = 'connector:' || $1),
            'alive', coalesce((select o.lease_until > clock_timestamp() from audit.owner o
                                where o.resource = 'connector:' || $1), false),
            'wanted', (select w.wanted || ' by ' || w.by || ' since ' || w.since from audit.connectors w
                        where w.connector = $1 and w.wanted <> 'running'),
            'position', (select '0/0'::pg_lsn + p.position from audit.progress p where p.connector = $1),
            'moved_seconds_ago', (select extract(epoch from clock_timestamp() - p.moved_at)::int8
                                    from audit.progress p where p.connector = $1),
            'tables', coalesce((select jsonb_object_agg(state, many) from (
                           select state, count(*) as many from audit.tables
                            where connector = $1 group by state) s), '{}'),
            'pending_bytes', (select coalesce(sum(bytes), 0)::int8 from audit.pending where connector = $1),
            'dead_letters', (select count(*) from audit.dead_letters
                              where connector = $1 and state = 'open'),
            'attention', coalesce((select jsonb_agg(jsonb_build_object(
                                     'table', table_name, 'state', state, 'reason', reason,
                                     'remedy', remedy) order by table_name)
                            from audit.tables
                           where connector = $1 and state in ('stopped', 'paused')), '[]'))::text";
    one(client, of, &[&name]).await
}

/// Why a table is as it is; none where no connector feeds it.
pub async fn table(client: &impl GenericClient, table: &TableName) -> Result<Option<Value>> {
    let name = table.to_string();
    let failed = |error| Error::warehouse(format!("looking {table} up"), error);
    let known = client
        .query_opt("select connector from audit.tables where table_name = $1", &[&name])
        .await
        .map_err(failed)?;
    let Some(known) = known else { return Ok(None) };
    let connector_name: String = known.try_get(0).map_err(failed)?;
    let of = "
        select (select jsonb_build_object(
                    'table', t.table_name, 'source_table', t.source_table, 'state', t.state,
                    'since', t.changed_at, 'reason', t.reason, 'remedy', t.remedy)
                  from audit.tables t where t.table_name = $1)
            || jsonb_build_object(
                'is_read', (select jsonb_build_object(
                                    'since', min(c.changed_at), 'rows', sum(c.rows), 'parts', count(*),
                                    'parts_loaded', count(*) filter (where c.state = 'loaded'))
                              from audit.snapshot_chunks c
                             where c.table_name = $1 and c.state <> 'done' having count(*) > 0),
                'kept', (select jsonb_build_object(
                            'changes', count(*), 'bytes', coalesce(sum(bytes), 0),
                            'waiting_behind_dead_letters', count(*) filter (where waits),
                            'oldest', min(committed_at))
                           from audit.pending where table_name = $1),
                'dead_letters', (select coalesce(jsonb_agg(d), '[]') from (
                            select id, key, reason, attempts, noticed_at from audit.dead_letters
                             where table_name = $1 and state = 'open' order by id desc limit $2) d),
                'gaps', (select coalesce(jsonb_agg(g), '[]') from (
                            select '0/0'::pg_lsn + after_seq as after, '0/0'::pg_lsn + until_seq as until,
                                   reason, noticed_at from audit.gaps
                             where table_name = $1 order by id desc limit $2) g),
                'requests', (select coalesce(jsonb_agg(r), '[]') from (
                            select verb, requested_by, requested_at, state, answer from audit.requests
                             where table_name = $1 order by id desc limit $2) r))
            ";
    let query = format!("select ({of})::text");
    let mut told = one(client, &query, &[&name, &LISTED_AT_MOST]).await?;
    let feeding = connector(client, &connector_name).await?;
    if let (Value::Object(told), Value::Object(feeding)) = (&mut told, feeding) {
        let wanted = ["connector", "owner", "alive", "position", "moved_seconds_ago"];
        let kept = feeding.into_iter().filter(|(name, _)| wanted.contains(&name.as_str()));
        told.insert("fed_by".to_owned(), json!(kept.collect::<Map<String, Value>>()));
    }
    Ok(Some(told))
}

async fn one(
    client: &impl GenericClient,
    query: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Value> {
    let failed = |error| Error::warehouse("reading the control tables", error);
    let row = client.query_one(query, parameters).await.map_err(failed)?;
    let text: String = row.try_get(0).map_err(failed)?;
    serde_json::from_str(&text)
        .map_err(|error| Error::bug("the control tables tell no JSON").because(error))
}
