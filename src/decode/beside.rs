//! Records of a flattened topic that are no rows: they never were envelopes, so that flattening leaves them as
//! they are. Each is known by the names of all its fields, for a table may have any of them.
//!
//! Source: Debezium documentation, "Event flattening", "Transaction metadata", "Heartbeat", "Schema change topic".

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// What a record without a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRow {
    /// The begin or the end of a transaction.
    Transaction,
    /// A heartbeat, a schema change, a logical message.
    Nothing,
}

/// What a payload is about if it is no row.
pub(super) fn no_row(payload: &[u8]) -> Option<NoRow> {
    const FIRST: [&str; 9] = [
        "ts_ms",
        "status",
        "source",
        "databaseName",
        "op",
        "ddl",
        "message",
        "event_count",
        "data_collections",
    ];
    // rows are not looked through for it
    let start = payload.iter().position(|byte| *byte == b'"')? + 1;
    let begins = payload.get(start..)?;
    let named = |name: &&str| {
        begins.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'"'))
    };
    if !FIRST.iter().any(named) {
        return None;
    }
    let fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(payload).ok()?;
    let all = |names: &[&str]| names.iter().all(|name| fields.contains_key(*name));
    let only = |names: &[&str]| fields.keys().all(|name| names.contains(&&**name));
    if only(&["ts_ms"]) {
        return Some(NoRow::Nothing);
    }
    let value = |name: &str| fields.get(name).map_or("", |value| value.get());
    let object = |name: &str| value(name).starts_with('{');
    let transaction = ["status", "id", "event_count", "data_collections"];
    if all(&transaction)
        && matches!(value("status"), "\"BEGIN\"" | "\"END\"")
        && value("id").starts_with('"')
        && fields.keys().all(|name| transaction.contains(&&**name) || name.starts_with("ts_"))
    {
        return Some(NoRow::Transaction);
    }
    let of_schema = object("source") && all(&["ddl", "tableChanges"]);
    let message = value("op") == "\"m\"" && object("source") && object("message");
    (of_schema || message).then_some(NoRow::Nothing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_row_is_known_by_all_its_fields() {
        let cases = [
            (r#"{"ts_ms":1}"#, Some(NoRow::Nothing)),
            (
                r#"{"status":"BEGIN","id":"7:20","event_count":null,"data_collections":null,"ts_ms":1}"#,
                Some(NoRow::Transaction),
            ),
            (
                r#"{"source":{"db":"a"},"ts_ms":1,"databaseName":"a","schemaName":null,"ddl":"create","tableChanges":[]}"#,
                Some(NoRow::Nothing),
            ),
            (
                r#"{"op":"m","ts_ms":1,"source":{},"message":{"prefix":"p","content":"eA=="}}"#,
                Some(NoRow::Nothing),
            ),
            // rows with such columns
            (r#"{"ts_ms":1,"value":2}"#, None),
            (r#"{"status":"new","id":"3"}"#, None),
            (
                r#"{"status":"END","id":"3","event_count":"1","data_collections":"","owner":"x"}"#,
                None,
            ),
            (r#"{"op":"m","source":"web","message":"hello","id":1}"#, None),
            (r#"{"source":"web","ddl":"x","tableChanges":1}"#, None),
            (r#"{"status":"new","id":3,"total":1}"#, None),
            (r#"{"id":1,"status":"END"}"#, None),
            (r#"{"source":"web","id":1}"#, None),
            ("{}", None),
        ];
        for (payload, expected) in cases {
            assert_eq!(no_row(payload.as_bytes()), expected, "{payload}");
        }
    }
}
