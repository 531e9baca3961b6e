//! Dead letters as people see them, and which of them a request means.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use tokio_postgres::{GenericClient, Row};

use super::requests::Span;
use crate::error::{Error, Result};
use crate::journey::read_headers;
use crate::names::TableName;

/// A dead letter as it is listed.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// Its number.
    pub id: i64,
    /// The connector it came by.
    pub connector: String,
    /// The table that refuses it.
    pub table: String,
    /// Its key, as a JSON object.
    pub key: Option<Value>,
    /// Where its transaction's commit stands in the source's log; of a record its topic, partition and offset.
    pub position: String,
    /// Its place in that transaction; none of a record.
    pub ordinal: Option<i64>,
    /// Why it is refused.
    pub reason: String,
    /// How often it was tried.
    pub attempts: i32,
    /// When it was noticed first, in UTC.
    pub noticed_at: String,
    /// When its record was written, in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub written_at: Option<String>,
    /// Whether an operator has put another key or value in the place of its own.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub edited: bool,
}

/// Open dead letters are listed up to this many at once.
pub const LISTED_AT_MOST: i64 = 1_000;

/// Lists the open dead letters, of one table or all of them, or the one of a number.
pub async fn list(
    client: &impl GenericClient,
    table: Option<&TableName>,
    id: Option<i64>,
) -> Result<Vec<Listed>> {
    let failed = |error| Error::warehouse("listing dead letters", error);
    let rows = client
        .query(
            "select id, connector, table_name, key::text, seq, ord, reason, attempts,
                    to_char(noticed_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS'),
                    topic || '/' || record_partition || ':' || record_offset,
                    to_char(record_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS.MS'),
                    edited_at is not null
               from audit.dead_letters
              where state = 'open' and ($1::text is null or table_name = $1)
                and ($2::int8 is null or id = $2)
              order by id limit $3",
            &[&table.map(ToString::to_string), &id, &LISTED_AT_MOST],
        )
        .await
        .map_err(failed)?;
    let listed = |row: &Row| -> Result<Listed, tokio_postgres::Error> {
        let key: Option<String> = row.try_get(3)?;
        let record: Option<String> = row.try_get(9)?;
        let ordinal: i64 = row.try_get(5)?;
        let lsn = crate::position::Lsn::from_i64(row.try_get(4)?);
        Ok(Listed {
            id: row.try_get(0)?,
            connector: row.try_get(1)?,
            table: row.try_get(2)?,
            key: key.and_then(|key| serde_json::from_str(&key).ok()),
            ordinal: record.is_none().then_some(ordinal),
            position: record.unwrap_or_else(|| lsn.to_string()),
            reason: row.try_get(6)?,
            attempts: row.try_get(7)?,
            noticed_at: row.try_get(8)?,
            written_at: row.try_get(10)?,
            edited: row.try_get(11)?,
        })
    };
    rows.iter().map(listed).collect::<Result<_, _>>().map_err(failed)
}

/// The record of a dead letter that came by a topic, as JSON: texts where they are UTF-8, else base64.
pub async fn record(client: &impl GenericClient, id: i64) -> Result<Option<Value>> {
    let failed = |error| Error::warehouse("reading a dead letter", error);
    let row = client
        .query_opt(
            "select topic, record_partition, record_offset, record_key, record_value,
                    record_headers::text, edited_at, edited_key, edited_value
               from audit.dead_letters where id = $1 and topic is not null",
            &[&id],
        )
        .await
        .map_err(failed)?;
    let Some(row) = row else { return Ok(None) };
    shown(&row).map(Some).map_err(failed)
}

fn shown(row: &Row) -> Result<Value, tokio_postgres::Error> {
    let bytes =
        |at: usize| row.try_get::<_, Option<Vec<u8>>>(at).map(|bytes| readable(bytes.as_deref()));
    let (topic, partition, offset): (String, Option<i32>, Option<i64>) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let headers: Option<String> = row.try_get(5)?;
    let headers = headers.as_deref().map(read_headers).unwrap_or_default();
    let header =
        |(name, value): &(String, Option<Vec<u8>>)| json!([name, readable(value.as_deref())]);
    let headers: Vec<Value> = headers.iter().map(header).collect();
    let mut shown = json!({
        "topic": topic, "partition": partition, "offset": offset, "key": bytes(3)?, "value": bytes(4)?,
        "headers": headers,
    });
    let edited: Option<Timestamp> = row.try_get(6)?;
    if let (Some(_), Some(fields)) = (edited, shown.as_object_mut()) {
        fields.insert("edited_key".to_owned(), bytes(7)?);
        fields.insert("edited_value".to_owned(), bytes(8)?);
    }
    Ok(shown)
}

/// Bytes as people read them.
fn readable(bytes: Option<&[u8]>) -> Value {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => Value::Null,
        Some((_, Ok(text))) => json!(text),
        Some((bytes, Err(_))) => json!({ "base64": STANDARD.encode(bytes) }),
    }
}

/// The tables that open dead letters are of, each with its connector and how many they are.
pub async fn places(
    client: &impl GenericClient,
    (table, id): (Option<&TableName>, Option<i64>),
    span: &Span,
) -> Result<Vec<(String, TableName, u64)>> {
    let failed = |error| Error::warehouse("looking for dead letters", error);
    let rows = client
        .query(
            "select connector, table_name, count(*) from audit.dead_letters
              where state = 'open' and ($1::text is null or table_name = $1)
                and ($2::int8 is null or id = $2)
                and ($3::timestamptz is null or noticed_at >= $3)
                and ($4::timestamptz is null or noticed_at < $4)
              group by 1, 2 order by 1, 2",
            &[&table.map(ToString::to_string), &id, &span.since, &span.until],
        )
        .await
        .map_err(failed)?;
    let mut places = Vec::new();
    for row in rows {
        let (connector, name): (String, String) =
            (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        let count: i64 = row.try_get(2).map_err(failed)?;
        let table =
            name.parse().map_err(|_| Error::bug("audit.dead_letters has a strange name"))?;
        places.push((connector, table, u64::try_from(count).unwrap_or(0)));
    }
    Ok(places)
}
