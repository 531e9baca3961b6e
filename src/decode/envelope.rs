//! Reads a record of a topic that Debezium writes: the envelope, or the flattened row, with its schema or
//! without; and knows by their shape the records that are about no row.
//!
//! The schema part of a record is the same from record to record, and six times as long as the rest: it is
//! compared with the last ones, and only the payload is parsed. Interprets no value of a row.
//!
//! Source: Debezium documentation, "Data change events"; "Event flattening"; "Transaction metadata".

use std::borrow::Cow;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::beside::{NoRow, no_row};
use super::fields::Text;
use super::order::{Beside, Origin};
use super::schemas::{Parts, Schemas};
use super::semantic::Field;
use crate::journey::{Op, TopicRecord};
use crate::names::TableName;

/// What a record says.
#[derive(Debug)]
pub enum Told<'a> {
    /// A row changed, or a table was emptied.
    Change(Box<RowChange<'a>>),
    /// A transaction begins or ends.
    Transaction(Boundary<'a>),
    /// Nothing for us: a heartbeat, a tombstone behind a delete, a schema change, a logical message.
    Nothing,
}

/// A change of a row as Debezium tells it; its values are JSON yet.
#[derive(Debug)]
pub struct RowChange<'a> {
    /// The table.
    pub table: Arc<TableName>,
    /// What happened.
    pub op: Op,
    /// The shapes of value and key.
    pub shapes: Shapes,
    /// The row before, as far as the source knows it.
    pub before: Option<&'a RawValue>,
    /// The row behind; in a flattened record the row, whatever happened to it.
    pub after: Option<&'a RawValue>,
    /// The record's key.
    pub key: Option<&'a RawValue>,
    /// Where it stands at its source.
    pub origin: Origin<'a>,
    /// Its number in its transaction, where transaction metadata is on.
    pub number: Option<u64>,
    /// Whether the row goes on under another key: this is the delete of the one it had.
    pub leaves: bool,
    /// The key that the row had before: this is its create under the new one.
    pub comes_from: Option<&'a [u8]>,
}

impl RowChange<'_> {
    /// Whether it is a tombstone by which flattened records tell a delete: all that it has is the key.
    pub fn is_tombstone(&self) -> bool {
        self.op == Op::Delete
            && self.before.is_none()
            && self.after.is_none()
            && self.shapes.value == 0
    }
}

/// Which of a topic's schemas a record has, so that two can be compared at no cost. 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shapes {
    /// Of its value.
    pub value: u32,
    /// Of its key.
    pub key: u32,
}

/// The begin or the end of a source transaction.
#[derive(Debug, PartialEq, Eq)]
pub struct Boundary<'a> {
    /// The transaction.
    pub id: Cow<'a, str>,
    /// How many events it has, at its end.
    pub events: Option<u64>,
    /// Of each table, as the source names it.
    pub tables: Vec<(String, u64)>,
}

/// The record is none that we know, or is damaged.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub String);

/// How the records of a topic are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Debezium's envelope.
    Envelope,
    /// The row alone (ExtractNewRecordState).
    Flat,
}

/// Reads the records of one topic.
pub struct Topic {
    form: Form,
    /// the table that its name says
    named: Arc<TableName>,
    /// the table of the last record
    table: Arc<TableName>,
    values: Schemas,
    keys: Schemas,
}

pub(super) fn unreadable(what: &str) -> Unreadable {
    Unreadable(what.to_owned())
}

/// Where a text is no JSON, without a word of the text itself.
pub(super) fn place(error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        serde_json::error::Category::Eof => "it ends too early",
        serde_json::error::Category::Syntax => "a syntax error",
        _ => "another kind of value",
    };
    format!("{kind} at line {} column {}", error.line(), error.column())
}

/// An envelope, or a record that is about no row.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    before: Option<&'a RawValue>,
    #[serde(borrow, default)]
    after: Option<&'a RawValue>,
    #[serde(borrow, default)]
    source: Option<Origin<'a>>,
    #[serde(borrow, default)]
    op: Option<Text<'a>>,
    #[serde(default)]
    transaction: Option<Transaction>,
    // a transaction's begin or end
    #[serde(borrow, default)]
    status: Option<Text<'a>>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(default)]
    event_count: Option<u64>,
    #[serde(default)]
    data_collections: Option<Vec<Collection>>,
    // a heartbeat, a schema change, a signal
    #[serde(default)]
    ts_ms: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    ddl: Option<serde::de::IgnoredAny>,
    #[serde(rename = "tableChanges", default)]
    table_changes: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Transaction {
    total_order: u64,
}

#[derive(Deserialize)]
struct Collection {
    data_collection: String,
    event_count: u64,
}

impl Topic {
    /// A topic of this name, which names its table by its last two parts.
    pub fn new(name: &str, form: Form) -> Topic {
        let mut parts = name.rsplitn(3, '.');
        let table = parts.next().unwrap_or(name);
        let schema = parts.next().unwrap_or("");
        let named = Arc::new(TableName::new(schema, table));
        Topic {
            form,
            table: named.clone(),
            named,
            values: Schemas::default(),
            keys: Schemas::default(),
        }
    }

    /// How its records are written.
    pub(super) fn form(&self) -> Form {
        self.form
    }

    /// The table of the last record, or the one that the topic's name says.
    pub fn table(&self) -> &Arc<TableName> {
        &self.table
    }

    /// The schema of a row's value: of the envelope's row, or of the flattened record.
    pub(super) fn row_schema(&self, shapes: Shapes) -> Option<Arc<Field>> {
        let value = self.values.of(shapes.value)?;
        match self.form {
            Form::Flat => Some(value.clone()),
            Form::Envelope => {
                let row = value.child("after").or_else(|| value.child("before"))?;
                Some(Arc::new(row.clone()))
            }
        }
    }

    /// The schema of a record's key.
    pub(super) fn key_schema(&self, shapes: Shapes) -> Option<Arc<Field>> {
        self.keys.of(shapes.key).cloned()
    }

    /// Reads a record.
    pub fn read<'a>(&mut self, record: &TopicRecord<'a>) -> Result<Told<'a>, Unreadable> {
        let key = record.key.map(|key| self.keys.split(key)).transpose();
        let Some(value) = record.value else {
            return match self.form {
                Form::Envelope => Ok(Told::Nothing),
                Form::Flat => self.deleted(record, key?),
            };
        };
        let value = self.values.split(value)?;
        if value.payload == b"null" {
            return match self.form {
                Form::Envelope => Ok(Told::Nothing),
                Form::Flat => self.deleted(record, key?),
            };
        }
        let shapes = Shapes { value: value.schema, key: 0 };
        let told = match self.form {
            Form::Envelope => self.envelope(record, value.payload, shapes)?,
            Form::Flat => self.flat(record, value.payload, shapes)?,
        };
        let Told::Change(mut change) = told else { return Ok(told) };
        if let Some(file) = change.origin.odd_file() {
            return Err(unreadable(&format!("its source.file {file:?} has no number")));
        }
        if let Some(key) = key? {
            change.shapes.key = key.schema;
            change.key = Some(raw(key.payload)?);
        }
        Ok(Told::Change(change))
    }

    fn envelope<'a>(
        &mut self,
        record: &TopicRecord<'a>,
        payload: &'a [u8],
        shapes: Shapes,
    ) -> Result<Told<'a>, Unreadable> {
        let envelope: Envelope<'a> = parse(payload)?;
        let Some(op) = envelope.op else { return about_no_row(envelope) };
        let op = match &*op {
            "c" => Op::Create,
            "u" => Op::Update,
            "d" => Op::Delete,
            "r" => Op::Read,
            "t" => Op::Truncate,
            // a logical message
            "m" => return Ok(Told::Nothing),
            _ => return Err(unreadable("its op is none of c, u, d, r, t and m")),
        };
        let origin = envelope.source.ok_or_else(|| unreadable("it has no source"))?;
        self.note_table(origin.table(None));
        let whole = match op {
            Op::Create | Op::Read | Op::Update => envelope.after.is_some(),
            Op::Delete | Op::Truncate => true,
        };
        if !whole {
            return Err(unreadable("it has no row behind the change"));
        }
        Ok(Told::Change(Box::new(RowChange {
            table: self.table.clone(),
            op,
            shapes,
            before: envelope.before,
            after: envelope.after,
            key: None,
            origin,
            number: envelope.transaction.map(|transaction| transaction.total_order),
            leaves: record.header(NEW_KEY).is_some(),
            comes_from: record.header(OLD_KEY),
        })))
    }

    fn flat<'a>(
        &mut self,
        record: &TopicRecord<'a>,
        payload: &'a [u8],
        shapes: Shapes,
    ) -> Result<Told<'a>, Unreadable> {
        match no_row(payload) {
            Some(NoRow::Transaction) => return about_no_row(parse(payload)?),
            Some(NoRow::Nothing) => return Ok(Told::Nothing),
            None => {}
        }
        let mut beside: Beside<'a> = parse(payload)?;
        let op = match beside.op.as_deref().or_else(|| text(record.header("__op"))) {
            Some("c") => Op::Create,
            Some("u") => Op::Update,
            Some("d") => Op::Delete,
            Some("r") => Op::Read,
            Some("t") => Op::Truncate,
            Some(_) => return Err(unreadable("its __op is none of c, u, d, r and t")),
            None => Op::Create,
        };
        let deleted = beside.deleted.as_deref().or_else(|| text(record.header("__deleted")));
        let op = if deleted == Some("true") { Op::Delete } else { op };
        let named = self.named.clone();
        let origin = beside.origin(record);
        self.note_table(origin.table(Some(&named.schema)).or(Some((&named.schema, &named.name))));
        Ok(Told::Change(Box::new(RowChange {
            table: self.table.clone(),
            op,
            shapes,
            before: None,
            after: Some(raw(payload)?),
            key: None,
            origin,
            number: None,
            leaves: record.header(NEW_KEY).is_some(),
            comes_from: record.header(OLD_KEY),
        })))
    }

    /// A tombstone in a topic of flattened records: where deletes are left out, it is the delete.
    fn deleted<'a>(
        &mut self,
        record: &TopicRecord<'a>,
        key: Option<Parts<'a>>,
    ) -> Result<Told<'a>, Unreadable> {
        let Some(key) = key else { return Ok(Told::Nothing) };
        Ok(Told::Change(Box::new(RowChange {
            table: self.table.clone(),
            op: Op::Delete,
            shapes: Shapes { value: 0, key: key.schema },
            before: None,
            after: None,
            key: Some(raw(key.payload)?),
            origin: Origin::of_tombstone(record),
            number: None,
            leaves: record.header(NEW_KEY).is_some(),
            comes_from: None,
        })))
    }

    fn note_table(&mut self, table: Option<(&str, &str)>) {
        if let Some((schema, name)) = table
            && (self.table.schema != schema || self.table.name != name)
        {
            self.table = Arc::new(TableName::new(schema, name));
        }
    }
}

/// The headers by which Debezium marks the two events that a changed key comes to.
const NEW_KEY: &str = "__debezium.newkey";
const OLD_KEY: &str = "__debezium.oldkey";

fn text(bytes: Option<&[u8]>) -> Option<&str> {
    std::str::from_utf8(bytes?).ok()
}

fn parse<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, Unreadable> {
    serde_json::from_slice(payload)
        .map_err(|error| unreadable(&format!("it cannot be read: {}", place(&error))))
}

fn raw(payload: &[u8]) -> Result<&RawValue, Unreadable> {
    parse(payload)
}

/// Knows a record without `op` by what it has.
fn about_no_row(envelope: Envelope<'_>) -> Result<Told<'_>, Unreadable> {
    if let (Some(status), Some(id)) = (&envelope.status, envelope.id) {
        let id = serde_json::from_str(id.get()).map_err(|_| unreadable("its id is no text"))?;
        let tables = envelope.data_collections.unwrap_or_default();
        let tables = tables.into_iter().map(|table| (table.data_collection, table.event_count));
        let events = envelope.event_count.filter(|_| **status == *"END");
        return Ok(Told::Transaction(Boundary { id, events, tables: tables.collect() }));
    }
    let of_schema = envelope.ddl.is_some() || envelope.table_changes.is_some();
    let is_heartbeat = envelope.ts_ms.is_some()
        && envelope.source.is_none()
        && envelope.before.is_none()
        && envelope.after.is_none();
    if of_schema || is_heartbeat {
        return Ok(Told::Nothing);
    }
    Err(unreadable(
        "it is no event of Debezium: it has no op. For records that were flattened set format: flat-json",
    ))
}
