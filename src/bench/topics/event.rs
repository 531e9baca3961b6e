//! A change as Debezium's connector for Postgres writes it with the JSON converter: byte for byte the form of
//! its records, the two schemas, the tombstone behind a delete, and the headers.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::change::{Change, Kind};

/// The headers that every record has.
pub(super) const HEADERS: [(&str, &str); 4] = [
    ("__debezium.context.connectorLogicalName", "bench"),
    ("__debezium.context.taskId", "0"),
    ("__debezium.context.connectorName", "postgresql"),
    ("__debezium.context.runId", "01a20748-4360-7d80-8525-9cbbd2b2cab4"),
];

/// Milliseconds of 2026-11-23 08:00 UTC, when the first transaction committed.
const BEGAN: u64 = 1_795_420_800_000;

/// Writes events of one topic.
pub(super) struct Writer {
    /// what stands before the payloads, if the topic has schemas
    heads: Option<[String; 2]>,
    pub(super) key: String,
    pub(super) value: String,
}

impl Writer {
    /// A topic with schemas, or without.
    pub(super) fn new(schemas: bool) -> Writer {
        let head = |schema: String| format!("{{\"schema\":{schema},\"payload\":");
        let heads = schemas.then(|| [head(key_schema()), head(value_schema())]);
        Writer { heads, key: String::new(), value: String::new() }
    }

    /// Writes key and value of a change.
    pub(super) fn write(&mut self, change: &Change) {
        let [key_head, value_head] =
            self.heads.as_ref().map_or(["", ""], |[key, value]| [key.as_str(), value.as_str()]);
        let tail = if self.heads.is_some() { "}" } else { "" };
        let (key, value) = (&mut self.key, &mut self.value);
        key.clear();
        put(key, format_args!("{key_head}{{\"id\":{}}}{tail}", change.id));
        value.clear();
        value.push_str(value_head);
        payload(change, value);
        value.push_str(tail);
    }
}

/// Writing to a text does not fail.
fn put(out: &mut String, what: std::fmt::Arguments<'_>) {
    out.write_fmt(what).ok();
}

fn payload(change: &Change, out: &mut String) {
    let Change { kind, id, transaction, place, .. } = *change;
    let op = match kind {
        Kind::Insert | Kind::Update => {
            out.push_str("{\"before\":null,\"after\":");
            row(change, out);
            if kind == Kind::Insert { "c" } else { "u" }
        }
        Kind::Delete => {
            // of a row's identity only the key is in the log
            put(
                out,
                format_args!(
                    "{{\"before\":{{\"id\":{id},\"quantity\":0,\"name\":\"\",\"note\":null,\"price\":\"AA==\",\
                     \"placed_at\":\"1970-01-01T00:00:00.000000Z\"}},\"after\":null"
                ),
            );
            "d"
        }
    };
    let micros = BEGAN * 1_000 + transaction * 500;
    let millis = micros / 1_000;
    // where the log of a server stands that has worked for a while
    let before = 28_000_000_000 + transaction * 2_048;
    let (lsn, tx) = (before + 128 * (place + 1), 4_000_000 + transaction);
    let order = place + 1;
    put(
        out,
        format_args!(
            ",\"source\":{{\"version\":\"3.6.3.Final\",\"connector\":\"postgresql\",\"name\":\"bench\",\
             \"ts_ms\":{millis},\"snapshot\":\"false\",\"db\":\"shop\",\"sequence\":\"[\\\"{before}\\\",\\\"{lsn}\\\"]\",\
             \"ts_us\":{micros},\"ts_ns\":{micros}000,\"schema\":\"public\",\"table\":\"items\",\"txId\":{tx},\
             \"lsn\":{lsn},\"xmin\":null,\"origin\":null,\"origin_lsn\":null}},\
             \"transaction\":{{\"id\":\"{tx}:{lsn}\",\"total_order\":{order},\"data_collection_order\":{order}}},\
             \"op\":\"{op}\",\"ts_ms\":{millis},\"ts_us\":{micros},\"ts_ns\":{micros}387}}"
        ),
    );
}

fn row(change: &Change, out: &mut String) {
    let Change { id, n, .. } = *change;
    let (quantity, note, day, second) = (n % 1_000, n * 7_919 + id, n % 1_000, n % 86_399);
    let price = decimal(n % 1_000_000);
    let (year, month, day) = date(day);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    put(
        out,
        format_args!(
            "{{\"id\":{id},\"quantity\":{quantity},\"name\":\"item {id}\",\"note\":\"{note:032}\",\"price\":\"{price}\",\
             \"placed_at\":\"{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.000000Z\"}}"
        ),
    );
}

/// The day so many days behind 2023-01-01.
fn date(days: u64) -> (i16, i8, i8) {
    let first = jiff::civil::date(2023, 1, 1);
    let days = i64::try_from(days).unwrap_or(0);
    let day = first.saturating_add(jiff::Span::new().days(days));
    (day.year(), day.month(), day.day())
}

/// Unscaled, in as few bytes as hold it with its sign.
fn decimal(unscaled: u64) -> String {
    let bytes = unscaled.to_be_bytes();
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count().min(bytes.len() - 1);
    let kept = bytes.get(zeros..).unwrap_or_default();
    let mut signed = Vec::with_capacity(kept.len() + 1);
    if kept.first().is_some_and(|first| *first >= 0x80) {
        signed.push(0);
    }
    signed.extend_from_slice(kept);
    STANDARD.encode(signed)
}

fn key_schema() -> String {
    "{\"type\":\"struct\",\"fields\":[{\"type\":\"int64\",\"optional\":false,\"field\":\"id\"}],\"optional\":false,\
     \"name\":\"bench.public.items.Key\"}"
        .to_owned()
}

fn value_schema() -> String {
    let row = |field: &str| {
        format!(
            "{{\"type\":\"struct\",\"fields\":[{ROW}],\"optional\":true,\"name\":\"bench.public.items.Value\",\
             \"field\":\"{field}\"}}"
        )
    };
    let (before, after) = (row("before"), row("after"));
    format!(
        "{{\"type\":\"struct\",\"fields\":[{before},{after},{SOURCE},{REST}],\"optional\":false,\
         \"name\":\"bench.public.items.Envelope\",\"version\":2}}"
    )
}

/// Of `id bigint primary key, quantity integer not null default 1, name text not null, note text, price
/// numeric(12,2) not null default 0, placed_at timestamptz not null default now()`: a default that is not a constant
/// is told as zero.
const ROW: &str = r#"{"type":"int64","optional":false,"field":"id"},{"type":"int32","optional":false,"default":1,"field":"quantity"},{"type":"string","optional":false,"field":"name"},{"type":"string","optional":true,"field":"note"},{"type":"bytes","optional":false,"name":"org.apache.kafka.connect.data.Decimal","version":1,"parameters":{"scale":"2","connect.decimal.precision":"12"},"default":"AA==","field":"price"},{"type":"string","optional":false,"name":"io.debezium.time.ZonedTimestamp","version":1,"default":"1970-01-01T00:00:00.000000Z","field":"placed_at"}"#;

const SOURCE: &str = r#"{"type":"struct","fields":[{"type":"string","optional":false,"field":"version"},{"type":"string","optional":false,"field":"connector"},{"type":"string","optional":false,"field":"name"},{"type":"int64","optional":false,"field":"ts_ms"},{"type":"string","optional":true,"name":"io.debezium.data.Enum","version":1,"parameters":{"allowed":"true,first,first_in_data_collection,last_in_data_collection,last,false,incremental"},"default":"false","field":"snapshot"},{"type":"string","optional":false,"field":"db"},{"type":"string","optional":true,"field":"sequence"},{"type":"int64","optional":true,"field":"ts_us"},{"type":"int64","optional":true,"field":"ts_ns"},{"type":"string","optional":false,"field":"schema"},{"type":"string","optional":false,"field":"table"},{"type":"int64","optional":true,"field":"txId"},{"type":"int64","optional":true,"field":"lsn"},{"type":"int64","optional":true,"field":"xmin"},{"type":"string","optional":true,"field":"origin"},{"type":"int64","optional":true,"field":"origin_lsn"}],"optional":false,"name":"io.debezium.connector.postgresql.Source","version":1,"field":"source"}"#;

const REST: &str = r#"{"type":"struct","fields":[{"type":"string","optional":false,"field":"id"},{"type":"int64","optional":false,"field":"total_order"},{"type":"int64","optional":false,"field":"data_collection_order"}],"optional":true,"name":"event.block","version":1,"field":"transaction"},{"type":"string","optional":false,"field":"op"},{"type":"int64","optional":true,"field":"ts_ms"},{"type":"int64","optional":true,"field":"ts_us"},{"type":"int64","optional":true,"field":"ts_ns"}"#;

#[cfg(test)]
mod tests {
    use super::super::change::Changes;
    use super::*;

    #[test]
    fn events_are_json_and_as_long_as_those_of_a_table_of_this_width() {
        let changes = Changes { rows: 1_000_000, deletes: true };
        for at in [0, 4, 9, 123_454] {
            let change = changes.at(at);
            let (mut with, mut without) = (Writer::new(true), Writer::new(false));
            with.write(&change);
            without.write(&change);
            let whole: serde_json::Value = serde_json::from_str(&with.value).unwrap();
            let plain: serde_json::Value = serde_json::from_str(&without.value).unwrap();
            assert_eq!(whole["payload"], plain);
            let key: serde_json::Value = serde_json::from_str(&with.key).unwrap();
            assert_eq!(key["payload"]["id"], change.id);
            assert!((3_500..4_100).contains(&with.value.len()), "{}", with.value.len());
            assert!((550..850).contains(&without.value.len()), "{}", without.value.len());
        }
    }

    #[test]
    fn decimals_are_twos_complement() {
        let cases = [(0, "AA=="), (127, "fw=="), (128, "AIA="), (999_999, "D0I/")];
        for (unscaled, encoded) in cases {
            assert_eq!(decimal(unscaled), encoded);
        }
    }
}
