//! What the records of a topic lose of their source, by the way in which Debezium was told to write them:
//! seen in the schemas and values of some of them, where no schema travels by what files declare. Pure.
//!
//! Source: Debezium documentation, "Connector properties"; "Event flattening".

mod loss;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::value::RawValue;

use super::convert::DAY;
use super::declared::of_type;
use super::envelope::{Form, RowChange, Told, Topic};
use super::placeholder::Placeholder;
use super::semantic::{Encoding, Field, Semantic, Unit, of_field};
use super::times::{timestamp, to_micros};
use crate::journey::{Op, TopicRecord};
use crate::names::TableName;
use crate::spec::{BinaryMode, DecimalMode, IntervalMode, TimeMode, Types};

pub use loss::Loss;

/// Looks at records of one topic.
pub struct Survey {
    topic: Topic,
    form: Form,
    placeholder: Placeholder,
    types: Types,
    /// the columns of each table that lose something; none for what the table loses as a whole
    losses: BTreeMap<(TableName, Loss), BTreeSet<String>>,
    /// whether any record of a table had a key, or a file says what it is
    tables: BTreeMap<TableName, bool>,
    /// the databases that changes are told to be of
    databases: BTreeSet<String>,
    tells_deletes: bool,
    reads_any: bool,
    unreadable: Option<Misread>,
}

/// The first record that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misread {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Why.
    pub why: String,
}

/// The warehouse types of a source table's columns, as files declare them.
pub type Declared<'d> = dyn Fn(&TableName) -> Vec<(String, String)> + 'd;

impl Survey {
    /// Of a topic of this name.
    pub fn new(name: &str, form: Form, types: &Types) -> Survey {
        Survey {
            topic: Topic::new(name, form),
            form,
            placeholder: Placeholder::new(&types.placeholder),
            types: types.clone(),
            losses: BTreeMap::new(),
            tables: BTreeMap::new(),
            databases: BTreeSet::new(),
            tells_deletes: false,
            reads_any: false,
            unreadable: None,
        }
    }

    /// Looks at a record.
    pub fn look(&mut self, record: &TopicRecord<'_>, declared: &Declared<'_>) {
        // a tombstone names no table
        if record.value.is_none_or(|value| value == b"null") {
            self.tells_deletes = true;
            return;
        }
        let told = self.topic.read(record);
        self.reads_any |= told.is_ok();
        match told {
            Ok(Told::Change(change)) => self.change(&change, declared),
            Ok(Told::Transaction(_) | Told::Nothing) => {}
            Err(error) => {
                let is_avro = record.value.is_some_and(|value| value.first() == Some(&0));
                let why = if is_avro { "they look like Avro".to_owned() } else { error.0 };
                let (partition, offset) = (record.partition, record.offset);
                self.unreadable.get_or_insert(Misread { partition, offset, why });
            }
        }
    }

    fn change(&mut self, change: &RowChange<'_>, declared: &Declared<'_>) {
        let table = &*change.table;
        self.databases.extend(change.origin.database().map(str::to_owned));
        let declared = declared(table);
        let has_key = change.key.is_some() || !declared.is_empty() || change.op == Op::Truncate;
        *self.tables.entry(table.clone()).or_default() |= has_key;
        if change.op == Op::Truncate {
            return;
        }
        let schema = self.topic.row_schema(change.shapes);
        match &schema {
            Some(schema) => {
                for field in &schema.fields {
                    let name = field.field.as_deref().unwrap_or_default();
                    let of_warehouse = declared.iter().find(|(column, _)| column == name);
                    let of_warehouse = of_warehouse.map(|(_, ty)| ty.as_str());
                    if let Some(loss) = by_schema(field, of_warehouse, &self.types) {
                        self.note(table, loss, Some(name));
                    }
                }
            }
            None => {
                for (name, ty) in &declared {
                    if let Some(loss) = by_declaration(ty, &self.types) {
                        self.note(table, loss, Some(name));
                    }
                }
            }
        }
        if let Some(row) = change.after {
            if schema.is_none() {
                self.units(table, row, &declared);
            }
            self.row(table, change, (row, schema.as_ref()));
        }
    }

    /// The columns whose values are of another unit than their type has it.
    fn units(&mut self, table: &TableName, row: &RawValue, declared: &[(String, String)]) {
        let values = serde_json::from_str::<BTreeMap<String, &RawValue>>(row.get());
        for (name, value) in values.unwrap_or_default() {
            let ty = declared.iter().find(|(column, _)| *column == name).map(|(_, ty)| ty);
            if ty.is_some_and(|ty| fits_another_unit(ty, value.get(), &self.types)) {
                self.note(table, Loss::Unit, Some(&name));
            }
        }
    }

    /// What the values themselves tell.
    fn row(
        &mut self,
        table: &TableName,
        change: &RowChange<'_>,
        (row, schema): (&RawValue, Option<&Arc<Field>>),
    ) {
        let Ok(values) = serde_json::from_str::<BTreeMap<String, &RawValue>>(row.get()) else {
            return;
        };
        for (name, value) in &values {
            let field = schema.and_then(|schema| schema.child(name));
            let semantic = match (field, value.get().as_bytes().first()) {
                (Some(field), _) => of_field(field).0,
                (None, Some(b'[')) => Semantic::Array(Box::new(Semantic::Text)),
                (None, Some(b'{')) => Semantic::Map,
                (None, _) => Semantic::Unknown(Encoding::Base64),
            };
            if self.placeholder.is(&semantic, value.get()) {
                self.note(table, Loss::Unsent, Some(name));
            }
        }
        if self.form == Form::Flat {
            let has = |name: &str| {
                values.contains_key(name) || schema.is_some_and(|row| row.child(name).is_some())
            };
            self.tells_deletes |= has("__deleted") || change.op == Op::Delete;
            let tells = |it: &str| has(&format!("__{it}")) || has(&format!("__source_{it}"));
            match ["sequence", "file"].into_iter().any(tells) {
                true => {}
                false if tells("lsn") => self.note(table, Loss::Commits, None),
                false => self.note(table, Loss::Order, None),
            }
        }
    }

    fn note(&mut self, table: &TableName, loss: Loss, column: Option<&str>) {
        let columns = self.losses.entry((table.clone(), loss)).or_default();
        columns.extend(column.map(str::to_owned));
    }

    /// The tables that its records are of.
    pub fn tables(&self) -> impl Iterator<Item = &TableName> {
        self.tables.keys()
    }

    /// The databases that its records are told to be of.
    pub fn databases(&self) -> impl Iterator<Item = &str> {
        self.databases.iter().map(String::as_str)
    }

    /// Whether any record could be read; a tombstone says nothing.
    pub fn reads_any(&self) -> bool {
        self.reads_any
    }

    /// The first record that could not be read, where one could not.
    pub fn unreadable(&self) -> Option<&Misread> {
        self.unreadable.as_ref()
    }

    /// What is lost: the table, its columns (none where it is the table as a whole), and how.
    pub fn losses(&self) -> Vec<(TableName, Vec<String>, Loss)> {
        let seen = self.losses.iter();
        let mut losses: Vec<_> = seen
            .map(|((table, loss), columns)| {
                (table.clone(), columns.iter().cloned().collect(), *loss)
            })
            .collect();
        let keyless = self.tables.iter().filter(|(_, has_key)| !**has_key);
        losses.extend(keyless.map(|(table, _)| (table.clone(), Vec::new(), Loss::Key)));
        if self.form == Form::Flat && !self.tells_deletes {
            let tables = self.tables.keys();
            losses.extend(tables.map(|table| (table.clone(), Vec::new(), Loss::Deletes)));
        }
        losses
    }
}

/// What a field loses, by its schema; of some only the warehouse's type tells.
fn by_schema(field: &Field, declared: Option<&str>, types: &Types) -> Option<Loss> {
    let source = field.parameter("__debezium.source.column.type").map(str::to_uppercase);
    let source = source.as_deref().unwrap_or_default();
    let is = |names: &[&str], family: fn(&str) -> bool| {
        names.contains(&source) || (source.is_empty() && declared.is_some_and(family))
    };
    match (field.name.as_deref(), field.kind.as_str()) {
        (
            Some("org.apache.kafka.connect.data.Time" | "org.apache.kafka.connect.data.Timestamp"),
            _,
        ) => Some(Loss::Microseconds),
        (Some("io.debezium.time.MicroDuration" | "io.debezium.time.NanoDuration"), _) => {
            Some(Loss::Months)
        }
        (None, "double" | "float64") if is(&["NUMERIC", "DECIMAL"], is_decimal) => {
            Some(Loss::Digits)
        }
        // and BIGINT UNSIGNED ZEROFILL
        (None, "int64") if source.starts_with("BIGINT UNSIGNED") => Some(Loss::Unsigned),
        (None, "string") if is(&["BYTEA", "BLOB", "VARBINARY", "BINARY"], is_bytes) => {
            Some(match types.binary {
                BinaryMode::Bytes => Loss::Encoding,
                BinaryMode::Base64 | BinaryMode::Base64UrlSafe => Loss::Bytes,
                BinaryMode::Hex => return None,
            })
        }
        _ => None,
    }
}

/// What a column of this warehouse type loses, by the modes that the connector's file tells.
fn by_declaration(declared: &str, types: &Types) -> Option<Loss> {
    let base = declared.split('(').next().unwrap_or(declared).trim();
    match base {
        base if is_decimal(base) => (types.decimal == DecimalMode::Double).then_some(Loss::Digits),
        "time" | "timestamp" | "time without time zone" | "timestamp without time zone" => {
            (types.time == TimeMode::Connect).then_some(Loss::Microseconds)
        }
        "interval" => (types.interval == IntervalMode::Numeric).then_some(Loss::Months),
        "bytea" => {
            let is_base64 = matches!(types.binary, BinaryMode::Base64 | BinaryMode::Base64UrlSafe);
            is_base64.then_some(Loss::Bytes)
        }
        _ => None,
    }
}

/// Whether a count of time in a column of this type makes sense, but in another unit than the type says.
fn fits_another_unit(declared: &str, raw: &str, types: &Types) -> bool {
    const DAYS: std::ops::Range<i64> = 365..2_932_897; // from 1971 to 9999
    let adaptive = [TimeMode::Adaptive, TimeMode::AdaptiveTimeMicroseconds];
    let (true, Ok(count)) = (adaptive.contains(&types.time), raw.parse::<i64>()) else {
        return false;
    };
    let (told, other) = match of_type(declared, types, None) {
        Ok((Semantic::Timestamp(Unit::Millis), _)) => (Unit::Millis, Unit::Micros),
        Ok((Semantic::Timestamp(Unit::Micros), _)) => (Unit::Micros, Unit::Millis),
        _ => return false,
    };
    let days = |unit| to_micros(unit, count).map(|micros| micros.div_euclid(DAY));
    // what is before 1970 is so by either
    let misfits = days(told).map_or(count > 0, |days| days >= 0 && !DAYS.contains(&days));
    let is_infinite = matches!(timestamp(told, raw), Ok(i64::MIN | i64::MAX));
    misfits && !is_infinite && days(other).is_ok_and(|days| DAYS.contains(&days))
}

fn is_decimal(declared: &str) -> bool {
    declared.starts_with("numeric") || declared.starts_with("decimal")
}

fn is_bytes(declared: &str) -> bool {
    declared == "bytea"
}

#[cfg(test)]
mod tests;
