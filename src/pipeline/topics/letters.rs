//! Records that nobody can read: each becomes a dead letter with its bytes, and the later ones of its key wait
//! behind it, as far as the key can be read.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::super::core::Core;
use super::plans::Fed;
use crate::error::Result;
use crate::fold::{digests, key_document};
use crate::journey::{Arrival, Digests, Letter, Mark, Target, TopicRecord, written_headers};
use crate::names::{TableName, fingerprint};
use crate::position::Order;
use crate::relation::{Identity, Relation};
use crate::spec::{Common, Deletes, History, Model, NewColumns, SourceName};

/// What is said of a record of a table with masks: it cannot be told which of its bytes nobody may see.
pub(super) const NOT_KEPT: &str =
    "; its key and value are not kept, as its table has masks: they are in the topic";

/// Why such a record cannot be read again.
pub(super) const GIVE_VALUE: &str = "its key and value are not kept, as its table has masks: take the record \
                                     from its topic and replay it with --key and --value";

/// The order of a record that tells none.
pub(super) const NO_ORDER: Order = Order { seq: 0, ord: 0 };

/// Why a record cannot be read again whose place among the source's changes is not known: a tombstone, or a row
/// that was read beside the stream.
pub(super) const NO_PLACE: &str = "it tells no place of its own, and those before it were not noted with it: bring the \
                                   row at the warehouse to what the source has, and drop this";

/// Why a record is too long to be taken, if it is.
pub(super) fn too_long(record: &TopicRecord<'_>, longest: u64) -> Option<String> {
    let length = record.value.map_or(0, <[u8]>::len);
    (u64::try_from(length).unwrap_or(u64::MAX) > longest)
        .then(|| format!("a record of {length} bytes is longer than max_row_bytes"))
}

/// A record as a dead letter keeps it; of one with values that nobody may see, where it is.
pub(super) fn letter(record: &TopicRecord<'_>, masked: bool) -> Letter {
    let open = |bytes: Option<&[u8]>| bytes.filter(|_| !masked).map(<[u8]>::to_vec);
    Letter {
        topic: record.topic.to_owned(),
        partition: record.partition,
        offset: record.offset,
        at: record.timestamp,
        key: open(record.key),
        value: open(record.value),
        headers: written_headers(record.headers),
    }
}

/// A record's key without its schema.
pub(super) fn bare(key: &[u8]) -> &[u8] {
    #[derive(Deserialize)]
    struct WithSchema<'k> {
        #[serde(rename = "schema")]
        _schema: IgnoredAny,
        #[serde(borrow)]
        payload: &'k RawValue,
    }
    match serde_json::from_slice::<WithSchema<'_>>(key) {
        Ok(with) => with.payload.get().as_bytes(),
        Err(_) => key,
    }
}

/// The keys of a record that cannot be read, by what tells its table's rows apart; of one whose key cannot be
/// read either a digest of its own.
pub(super) fn keys(
    shared: &Core,
    fed: Option<&Fed>,
    target: &Target,
    record: &TopicRecord<'_>,
) -> Result<(Digests, Option<String>)> {
    let mut message = Vec::new();
    let keyed = fed.zip(record.key).filter(|_| !target.key.is_empty());
    if let Some((fed, key)) = keyed
        && fed.plan.write_bare_key(bare(key), &mut message).is_ok()
    {
        fed.mask(shared, &mut message)?;
        if let Some(event) = fed.plan.bare_key(&message) {
            return Ok((digests(target, &event), key_document(target, &event)));
        }
    }
    let place = format!("{}/{}:{}", record.topic, record.partition, record.offset);
    let digest = fingerprint(place.as_bytes()).cast_signed();
    Ok((Digests { new: digest, old: digest }, None))
}

/// A target for records of a table that nobody knows yet.
pub(super) fn nameless(
    connector: &Common,
    table: &TableName,
    declared: Option<&TableName>,
) -> Arc<Target> {
    let mirrored = || {
        let schema = connector.target_schema.clone().unwrap_or_else(|| table.schema.clone());
        TableName::new(schema, table.name.clone())
    };
    let model = Model {
        table: declared.cloned().unwrap_or_else(mirrored),
        from: SourceName { source: connector.source.clone(), table: table.clone() },
        history: History::Overwrite,
        key: Vec::new(),
        track: Vec::new(),
        since: None,
        columns: Vec::new(),
        lookups: Vec::new(),
        partition: None,
        indexes: Vec::new(),
        deletes: Deletes::Hard,
        new_columns: NewColumns::Ignore,
        horizon: None,
        keep: None,
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
    Arc::new(unbound(0, &Arc::new(model), &Arc::new(relation), 0))
}

/// A target by which changes are kept, and nothing else.
pub(super) fn unbound(
    index: usize,
    model: &Arc<Model>,
    relation: &Arc<Relation>,
    schema_id: i32,
) -> Target {
    Target {
        index,
        model: model.clone(),
        relation: relation.clone(),
        schema_id,
        key: Vec::new(),
        wires: Vec::new(),
        feeds: Vec::new(),
        limits: Vec::new(),
        arrival: Arrival::MayBeLate,
        seen: None,
    }
}

/// The place and the transaction of a record that tells neither.
pub(super) fn unplaced(record: &TopicRecord<'_>, number: i64) -> (Order, Mark) {
    /// Milliseconds between 1970 and 2000, where Postgres counts from.
    const POSTGRES_EPOCH: i64 = 946_684_800_000;
    let place = Order { seq: number, ord: record.offset };
    let committed_at = record.timestamp.saturating_sub(POSTGRES_EPOCH).saturating_mul(1_000);
    (place, Mark { seq: 0, committed_at, xid: 0 })
}
