//! What the board shows, as JSON: `/status`, and the shapes that Kafka Connect's tools know.

use serde_json::{Value, json};

use super::view::{PartitionReport, Phase, TableReport, View};
use crate::clock::from_postgres_micros;
use crate::names::TableName;
use crate::position::Lsn;

/// `/status`.
pub(super) fn status(views: &[View], now: i64) -> Value {
    json!({ "connectors": views.iter().map(|view| connector(view, now)).collect::<Vec<_>>() })
}

fn connector(view: &View, now: i64) -> Value {
    let tables = view.tables.iter().map(|(name, report)| table(view, name, report));
    json!({
        "name": view.name,
        "state": view.phase.word(),
        "reason": view.reason,
        "remedy": view.remedy,
        "role": if view.phase == Phase::Standby { "standby" } else { "owner" },
        "position": view.stored.to_string(),
        "lag_bytes": view.lag_bytes(),
        "lag_records": view.lag_records(),
        "lag_seconds": seconds(view.lag_micros(now)),
        "retained_bytes": view.retained,
        "wal": wal(view),
        "spool_bytes": view.spooled,
        "partitions": view.partitions.iter().map(partition).collect::<Vec<_>>(),
        "tables": tables.collect::<Vec<_>>(),
    })
}

fn partition((name, report): (&String, &PartitionReport)) -> Value {
    let PartitionReport { stored, end, rests } = *report;
    json!({ "name": name, "offset": stored, "end": end, "lag": report.lag(), "rests": rests })
}

/// A connector's position in Kafka Connect's words.
pub(super) fn offsets(view: &View) -> Value {
    if !view.partitions.is_empty() {
        let offset = |(name, report): (&String, &PartitionReport)| {
            let (topic, number) = name.rsplit_once('/').unwrap_or((name, "0"));
            json!({
                "partition": { "kafka_topic": topic, "kafka_partition": number.parse::<i32>().ok() },
                "offset": { "kafka_offset": report.stored },
            })
        };
        return json!({ "offsets": view.partitions.iter().map(offset).collect::<Vec<_>>() });
    }
    let known = view.stored != Lsn(0);
    let offset = json!({
        "partition": { "connector": view.name },
        "offset": { "lsn": view.stored.to_string() },
    });
    json!({ "offsets": if known { vec![offset] } else { Vec::new() } })
}

/// What is done about the log that the slot keeps at the source.
pub(super) fn wal(view: &View) -> Value {
    let step = if view.wal_step.is_empty() { "calm" } else { view.wal_step };
    json!({ "retained_bytes": view.retained, "step": step })
}

/// One table. It is fresh to a moment if what the source committed before is in it, but for what waits
/// behind dead letters.
pub(super) fn table(view: &View, name: &TableName, report: &TableReport) -> Value {
    let fresh = report.state == "streaming" && view.fresh_to != 0;
    json!({
        "name": name.to_string(),
        "state": report.state,
        "fresh_to": fresh.then(|| from_postgres_micros(view.fresh_to).to_string()),
        "reason": report.reason,
        "remedy": report.remedy,
        "pending_bytes": report.pending_bytes,
        "dead_letters": report.dead_letters,
        "waiting": report.waiting,
    })
}

fn seconds(micros: i64) -> f64 {
    std::time::Duration::from_micros(micros.unsigned_abs()).as_secs_f64()
}

/// A connector's state in Kafka Connect's words; `kind` is source or sink.
pub(super) fn connect_status(view: &View, kind: &str) -> Value {
    let state = match view.phase {
        Phase::Stopped => "FAILED",
        Phase::Paused => "PAUSED",
        Phase::Halted => "STOPPED",
        Phase::Starting | Phase::Standby => "UNASSIGNED",
        Phase::Snapshotting | Phase::Streaming | Phase::Waiting => "RUNNING",
    };
    json!({
        "name": view.name,
        "connector": { "state": state, "worker_id": "siltstone", "trace": view.reason },
        "tasks": [{ "id": 0, "state": state, "worker_id": "siltstone", "trace": view.reason }],
        "type": kind,
    })
}
