//! The modes of a Debezium connector: how its values are written, and which modes lose something or leave it
//! untold.
//!
//! A mode that is not known is never taken for another: it is told.

use super::config::{Config, find};
use crate::capture::preflight::Finding;
use crate::decode::Loss;

/// Whether it is the connector of a MySQL or MariaDB, whose defaults are others.
fn is_mysql(config: &Config) -> bool {
    let class = config.get("connector.class").unwrap_or_default();
    class.contains("mysql") || class.contains("mariadb")
}

/// The modes of values as a connector's file says them, where they are not the defaults.
pub(super) fn types(config: &Config, findings: &mut Vec<Finding>) -> Vec<(&'static str, String)> {
    const MODES: [(&str, &str, &[&str]); 6] = [
        ("decimal.handling.mode", "decimal", &["precise", "double", "string"]),
        (
            "time.precision.mode",
            "time",
            &[
                "adaptive",
                "adaptive_time_microseconds",
                "microseconds",
                "nanoseconds",
                "connect",
                "isostring",
            ],
        ),
        ("binary.handling.mode", "binary", &["bytes", "base64", "base64-url-safe", "hex"]),
        ("interval.handling.mode", "interval", &["numeric", "string"]),
        ("hstore.handling.mode", "hstore", &["json", "map"]),
        ("unavailable.value.placeholder", "placeholder", &[]),
    ];
    const PLACEHOLDER: &str = "__debezium_unavailable_value";
    let mut types = Vec::new();
    for (field, ours, words) in MODES {
        let Some(value) = config.get(field) else { continue };
        let word = if words.is_empty() { value.to_owned() } else { value.to_lowercase() };
        let default = words.first().copied().unwrap_or(PLACEHOLDER);
        if !words.is_empty() && !words.contains(&word.as_str()) {
            let what = format!("{field}: this version does not know the mode {value:?}");
            find(findings, what, "set one of Debezium's documented modes");
        } else if word != default {
            types.push((ours, word));
        }
    }
    if is_mysql(config) && config.get("time.precision.mode").is_none() {
        types.push(("time", "adaptive_time_microseconds".to_owned()));
    }
    types
}

/// Modes that lose something, or leave something untold.
pub(super) fn modes(config: &Config, findings: &mut Vec<Finding>) {
    let is = |field: &str, value: &str| {
        config.get(field).is_some_and(|is| is.eq_ignore_ascii_case(value))
    };
    let lossy = [
        ("decimal.handling.mode", "double", "a decimal", Loss::Digits),
        ("time.precision.mode", "connect", "a time or timestamp", Loss::Microseconds),
        ("interval.handling.mode", "numeric", "an interval", Loss::Months),
        ("binary.handling.mode", "base64", "bytea", Loss::Bytes),
        ("binary.handling.mode", "base64-url-safe", "bytea", Loss::Bytes),
    ];
    for (field, value, subject, loss) in lossy {
        if is(field, value) {
            find(findings, format!("{subject} {}", loss.what()), loss.remedy());
        }
    }
    if is_mysql(config) && !is("bigint.unsigned.handling.mode", "precise") {
        let loss = Loss::Unsigned;
        find(findings, format!("a bigint unsigned {}", loss.what()), loss.remedy());
    }
    if ["never", "no_data", "schema_only"].iter().any(|mode| is("snapshot.mode", mode)) {
        let what = "snapshot.mode: rows that were there before Debezium are in no topic".to_owned();
        find(
            findings,
            what,
            "let Debezium read the tables by an incremental snapshot (execute-snapshot)",
        );
    }
    let skipped = config.list("skipped.operations");
    let untold: Vec<&str> =
        [("c", "inserts"), ("u", "updates"), ("d", "deletes"), ("t", "TRUNCATE")]
            .into_iter()
            // TRUNCATE is skipped unless something else is said
            .filter(|(op, _)| skipped.contains(op) || (*op == "t" && skipped.is_empty()))
            .map(|(_, what)| what)
            .collect();
    if !untold.is_empty() {
        let what = format!("skipped.operations: Debezium does not tell {}", untold.join(", "));
        find(findings, what, "set skipped.operations=none in Debezium's connector");
    }
    if config.get("value.converter").is_none() {
        let what = "value.converter is Kafka Connect's own setting: JSON is assumed".to_owned();
        find(findings, what, "siltstone validate --connect looks at records, once there are some");
    }
    if is("value.converter.schemas.enable", "false") {
        let what =
            "its records carry no schema: a table without a file in schemas/ stops".to_owned();
        find(
            findings,
            what,
            "declare its tables in schemas/, or set value.converter.schemas.enable=true in Debezium's \
             connector",
        );
    }
}
