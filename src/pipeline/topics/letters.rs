//! Records that nobody can read: each becomes a dead letter with its bytes, and the later ones of its key wait
//! behind it, as far as the key can be read.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::decode::Plan;
use crate::fold::{digests, key_document};
use crate::journey::{Arrival, Digests, Letter, Mark, Refused, Target, TopicRecord};
use crate::names::{TableName, fingerprint};
use crate::position::Order;
use crate::relation::{Identity, Relation};
use crate::spec::{Common, Deletes, History, Model, NewColumns, SourceName};

/// A record as a dead letter keeps it.
pub(super) fn letter(record: &TopicRecord<'_>) -> Letter {
    let header = |(name, value): &(&str, Option<&[u8]>)| {
        serde_json::json!([name, value.map(|value| STANDARD.encode(value))])
    };
    Letter {
        topic: record.topic.to_owned(),
        partition: record.partition,
        offset: record.offset,
        at: record.timestamp,
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.map(<[u8]>::to_vec),
        headers: serde_json::Value::Array(record.headers.iter().map(header).collect()).to_string(),
    }
}

/// The keys of a record that cannot be read, by what tells its table's rows apart; of one whose key cannot be
/// read either a digest of its own.
pub(super) fn keys(
    plan: Option<&Plan>,
    target: &Target,
    record: &TopicRecord<'_>,
) -> (Digests, Option<String>) {
    let mut message = Vec::new();
    let keyed = plan.zip(record.key).filter(|_| !target.key.is_empty());
    let event = keyed.and_then(|(plan, key)| {
        plan.write_bare_key(key, &mut message).ok()?;
        plan.bare_key(&message)
    });
    match event {
        Some(event) => (digests(target, &event), key_document(target, &event)),
        None => {
            let place = format!("{}/{}:{}", record.topic, record.partition, record.offset);
            let digest = fingerprint(place.as_bytes()).cast_signed();
            (Digests { new: digest, old: digest }, None)
        }
    }
}

/// A refusal of a record.
pub(super) fn refused(reason: &str, key: Option<String>) -> Refused {
    Refused { reason: reason.to_owned(), key }
}

/// A target for records of a table that nobody knows yet.
pub(super) fn nameless(connector: &Common, table: &TableName) -> Arc<Target> {
    let schema = connector.target_schema.clone().unwrap_or_else(|| table.schema.clone());
    let model = Model {
        table: TableName::new(schema, table.name.clone()),
        from: SourceName { source: connector.source.clone(), table: table.clone() },
        history: History::Overwrite,
        key: Vec::new(),
        track: Vec::new(),
        since: None,
        columns: Vec::new(),
        partition: None,
        indexes: Vec::new(),
        deletes: Deletes::Hard,
        new_columns: NewColumns::Ignore,
        horizon: None,
        mirrored: true,
        comment: None,
        declared_in: connector.file.clone(),
    };
    let relation = Relation {
        oid: 0,
        table: table.clone(),
        identity: Identity::Nothing,
        columns: Vec::new(),
        comment: None,
        attnums: 0,
        filenode: 0,
    };
    Arc::new(Target {
        index: 0,
        model: Arc::new(model),
        relation: Arc::new(relation),
        schema_id: 0,
        key: Vec::new(),
        wires: Vec::new(),
        feeds: Vec::new(),
        limits: Vec::new(),
        arrival: Arrival::MayBeLate,
    })
}

/// The place and the transaction of a record that tells neither.
pub(super) fn unplaced(record: &TopicRecord<'_>, number: i64) -> (Order, Mark) {
    /// Milliseconds between 1970 and 2000, where Postgres counts from.
    const POSTGRES_EPOCH: i64 = 946_684_800_000;
    let place = Order { seq: number, ord: record.offset };
    let committed_at = record.timestamp.saturating_sub(POSTGRES_EPOCH).saturating_mul(1_000);
    (place, Mark { seq: 0, committed_at, xid: 0 })
}
