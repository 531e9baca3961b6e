//! How connectors and tables stand, as the control tables tell: for `status` and `why`, which work without
//! the service that they tell of.

use serde_json::{Map, Value, json};
use tokio_postgres::GenericClient;
use tokio_postgres::types::ToSql;

use crate::error::{Error, Result};
use crate::names::TableName;

/// Rows of `why`'s lists, the newest ones.
const LISTED_AT_MOST: i64 = 10;

/// The connectors that the control tables know, whatever files say.
pub async fn connectors(client: &impl GenericClient) -> Result<Vec<String>> {
    let failed = |error| Error::warehouse("reading which connectors there are", error);
    let query = "select connector from audit.tables union select connector from audit.progress
                 union select connector from audit.connectors union select connector from audit.standing
                 order by 1";
    let rows = client.query(query, &[]).await.map_err(failed)?;
    rows.iter().map(|row| row.try_get(0).map_err(failed)).collect()
}

/// How a connector stands: who owns it, how far it is, its tables by state, and those that need a person.
pub async fn connector(client: &impl GenericClient, name: &str) -> Result<Value> {
    let of = "
        with owners as (
            select o.owner, o.lease_until > clock_timestamp() as alive from audit.owner o
             where o.resource = 'connector:' || $1::text
                or starts_with(o.resource, 'connector:' || $1::text || ':'))
        select jsonb_build_object(
            'connector', $1::text,
            'owner', (select string_agg(distinct owner, '; ')
                        from owners where alive or not exists (select from owners where alive)),
            'alive', exists (select from owners where alive),
            'wanted', (select w.wanted || ' by ' || w.by || ' since ' || w.since from audit.connectors w
                        where w.connector = $1 and w.wanted <> 'running'),
            'standing', (select jsonb_build_object(
                                    'state', s.state, 'reason', s.reason, 'remedy', s.remedy,
                                    'since', s.since,
                                    'seconds', extract(epoch from clock_timestamp() - s.since)::int8,
                                    'told_seconds_ago',
                                    extract(epoch from clock_timestamp() - s.told_at)::int8)
                           from audit.standing s where s.connector = $1),
            'position', (select '0/0'::pg_lsn + p.position from audit.progress p
                          where p.connector = $1 and p.partition not like '%/%'),
            'wal', (select jsonb_build_object('step', s.wal_step, 'retained_bytes', s.retained,
                                              'since', s.stepped_at)
                      from audit.slots s where s.connector = $1 and s.wal_step is not null),
            'partitions', (select count(*) from audit.progress p
                            where p.connector = $1 and p.partition like '%/%'),
            'moved_seconds_ago', (select extract(epoch from clock_timestamp() - max(p.moved_at))::int8
                                    from audit.progress p where p.connector = $1),
            'tables', coalesce((select jsonb_object_agg(state, many) from (
                           select state, count(*) as many from audit.tables
                            where connector = $1 group by state) s), '{}'),
            'pending_bytes', (select coalesce(sum(bytes), 0)::int8 from audit.pending where connector = $1),
            'dead_letters', (select count(*) from audit.dead_letters
                              where connector = $1 and state = 'open'),
            'lookups', coalesce((select jsonb_agg(jsonb_build_object(
                                   'table', l.table_name, 'state', l.state, 'reason', l.reason,
                                   'remedy', l.remedy) order by l.table_name)
                                   from audit.lookups l join audit.tables t using (table_name)
                                  where t.connector = $1 and l.reason is not null), '[]'),
            'resting', coalesce((select jsonb_agg(jsonb_build_object(
                                   'topic', topic, 'tables', tables, 'reason', reason, 'remedy', remedy,
                                   'since', since, 'kept_until', kept_until) order by topic)
                                   from audit.resting where connector = $1), '[]'),
            'attention', coalesce((select jsonb_agg(jsonb_build_object(
                                     'table', table_name, 'state', state, 'reason', reason,
                                     'remedy', remedy) order by table_name)
                            from (
                               select table_name, state, reason, remedy from audit.tables
                                where connector = $1 and state in ('stopped', 'paused')
                                union all
                               select table_name, 'left_out', reason, remedy from audit.left_out o
                                where connector = $1
                                  and not exists (select from audit.tables t
                                                   where t.table_name = o.table_name)) a), '[]'))::text";
    one(client, of, &[&name]).await
}

/// Why a table is as it is, or is left out; none where no connector was asked for it.
pub async fn table(client: &impl GenericClient, table: &TableName) -> Result<Option<Value>> {
    let name = table.to_string();
    let failed = |error| Error::warehouse(format!("looking {table} up"), error);
    let known = client
        .query_opt("select connector from audit.tables where table_name = $1", &[&name])
        .await
        .map_err(failed)?;
    let Some(known) = known else { return left_out(client, &name).await };
    let connector_name: String = known.try_get(0).map_err(failed)?;
    let of = "
        select (select jsonb_build_object(
                    'table', t.table_name, 'source_table', t.source_table, 'state', t.state,
                    'since', t.changed_at, 'reason', t.reason, 'remedy', t.remedy)
                  from audit.tables t where t.table_name = $1)
            || jsonb_build_object(
                'topic_rests', (select jsonb_build_object('topic', topic, 'reason', reason, 'remedy', remedy,
                                                          'since', since, 'kept_until', kept_until)
                                  from audit.resting where $1 = any (tables) order by topic limit 1),
                'lookups', (select jsonb_build_object('state', state, 'columns', columns, 'since', changed_at,
                                                      'filled_at', filled_at, 'reason', reason, 'remedy', remedy)
                              from audit.lookups where table_name = $1),
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
        told.insert("fed_by".to_owned(), fed_by(feeding));
    }
    Ok(Some(told))
}

/// The tables and marts of a name, in whatever schema.
pub async fn named(client: &impl GenericClient, name: &str) -> Result<Vec<String>> {
    let failed = |error| Error::warehouse("looking for tables of a name", error);
    let query = "select distinct t from (select table_name from audit.tables union all
                                          select table_name from audit.left_out union all
                                          select table_name from audit.extracted union all
                                          select mart from audit.marts) as known (t)
                  where substr(t, strpos(t, '.') + 1) = $1 order by 1";
    let rows = client.query(query, &[&name]).await.map_err(failed)?;
    rows.iter().map(|row| row.try_get(0).map_err(failed)).collect()
}

/// Why a table is left out, in the words of one that is fed; none where no connector was asked for it.
async fn left_out(client: &impl GenericClient, name: &str) -> Result<Option<Value>> {
    let of = "
        select (select jsonb_build_object(
                    'table', o.table_name, 'source_table', coalesce(o.source_table, ''),
                    'state', 'left_out', 'since', o.noticed_at, 'reason', o.reason,
                    'remedy', o.remedy, 'is_read', null,
                    'kept', jsonb_build_object('changes', 0, 'bytes', 0,
                                               'waiting_behind_dead_letters', 0, 'oldest', null),
                    'dead_letters', '[]'::jsonb, 'gaps', '[]'::jsonb, 'requests', '[]'::jsonb,
                    'connector', o.connector)
                  from (select connector, table_name, source_table, reason, remedy, noticed_at from audit.left_out
                        union all
                        select connector, t, null, reason, remedy, since from audit.resting, unnest(tables) t) o
                 where o.table_name = $1 or o.source_table = $1
                 order by o.table_name = $1 desc limit 1)::text";
    let failed = |error| Error::warehouse("looking up what is left out", error);
    let row = client.query_one(of, &[&name]).await.map_err(failed)?;
    let Some(text): Option<String> = row.try_get(0).map_err(failed)? else {
        return match extracted(client, name).await? {
            None => mart(client, name).await,
            told => Ok(told),
        };
    };
    let mut told: Value = serde_json::from_str(&text)
        .map_err(|error| Error::bug("the control tables tell no JSON").because(error))?;
    let of = told.as_object_mut().and_then(|told| told.remove("connector"));
    let of = of.as_ref().and_then(Value::as_str).unwrap_or_default();
    let feeding = connector(client, of).await?;
    if let (Value::Object(told), Value::Object(feeding)) = (&mut told, feeding) {
        told.insert("fed_by".to_owned(), fed_by(feeding));
    }
    Ok(Some(told))
}

/// How a table stands whose rows tasks of jobs bring, in the words of one that is fed; none where it is none.
async fn extracted(client: &impl GenericClient, name: &str) -> Result<Option<Value>> {
    let of = "
        select jsonb_build_object(
                   'table', x.table_name, 'source_table', x.source, 'state', 'loaded',
                   'since', coalesce(l.at, x.noted_at),
                   'reason', case when l.load_id is null then 'no task of a job has brought its rows yet'
                                  else 'tasks of jobs bring its rows; the last ones, of ' || l.load_id || ', up to '
                                       || l.interval_end end,
                   'remedy', null, 'is_read', null,
                   'kept', jsonb_build_object('changes', 0, 'bytes', 0,
                                              'waiting_behind_dead_letters', 0, 'oldest', null),
                   'dead_letters', '[]'::jsonb, 'gaps', '[]'::jsonb, 'requests', '[]'::jsonb,
                   'fed_by', '{}'::jsonb)
          from audit.extracted x
          left join lateral (
               select load_id, interval_end, extracted_at as at from audit.extracts e where e.table_name = x.table_name
               union all
               select load_id, interval_end, loaded_at from audit.loads l where l.table_name = x.table_name
                order by interval_end desc limit 1) l on true
         where x.table_name = $1";
    let failed = |error| Error::warehouse("looking up what was extracted", error);
    let row = client.query_opt(of, &[&name]).await.map_err(failed)?;
    row.map(|row| row.try_get(0)).transpose().map_err(failed)
}

/// Why a mart is as it is, in the words of a table that nothing feeds; none where there is none of this name.
async fn mart(client: &impl GenericClient, name: &str) -> Result<Option<Value>> {
    let of = "
        select jsonb_build_object(
                   'table', m.mart, 'source_table', '', 'state', m.state, 'since', m.changed_at,
                   'reason', m.reason, 'remedy', m.remedy, 'is_read', null,
                   'kept', jsonb_build_object('changes', 0, 'bytes', 0,
                                              'waiting_behind_dead_letters', 0, 'oldest', null),
                   'dead_letters', '[]'::jsonb, 'gaps', '[]'::jsonb, 'requests', '[]'::jsonb,
                   'fed_by', '{}'::jsonb)
          from audit.marts m where m.mart = $1";
    let row = client.query_opt(of, &[&name]).await;
    let row = row.map_err(|error| Error::warehouse("looking a mart up", error))?;
    row.map(|row| row.try_get(0))
        .transpose()
        .map_err(|error| Error::warehouse("looking a mart up", error))
}

/// What of a connector is told with a table.
fn fed_by(feeding: Map<String, Value>) -> Value {
    let wanted = [
        "connector",
        "owner",
        "alive",
        "wanted",
        "standing",
        "position",
        "wal",
        "partitions",
        "moved_seconds_ago",
    ];
    let kept = feeding.into_iter().filter(|(name, _)| wanted.contains(&name.as_str()));
    json!(kept.collect::<Map<String, Value>>())
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
