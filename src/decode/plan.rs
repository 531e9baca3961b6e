//! How the rows of one table are read: from the fields of a record to the cells of a relation, and to the
//! message in which a change is kept.
//!
//! A change of a topic becomes the message that pgoutput would have sent for it, so that everything behind
//! is the same for both routes. Pure; what the warehouse knows of a table comes as [`Hints`].

mod write;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::convert::text_of;
use super::declared::{by_declaration, by_schema};
use super::envelope::{Form, RowChange, Topic};
use super::hints::Hints;
use super::order::Place;
use super::pgoutput::LEFT;
use super::placeholder::Placeholder;
use super::semantic::{Field, Semantic, is_binary, of_field};
use crate::error::{Error, Kind, Result};
use crate::journey::{ChangeEvent, OldRow, Op};
use crate::names::{TableName, fingerprint};
use crate::position::Order;
use crate::relation::{Column, ColumnType, Fill, Identity, Relation};
use crate::spec::Types;
use crate::value::Row;

/// How the rows of one table are read, in one shape.
#[derive(Debug)]
pub struct Plan {
    /// The shape as everything behind knows it.
    pub relation: Arc<Relation>,
    pub(super) fields: Vec<FieldPlan>,
    pub(super) by_name: HashMap<String, usize>,
    placeholder: Placeholder,
    /// rows have no key: they are told apart by all they hold
    keyless: bool,
    form: Form,
}

#[derive(Debug)]
pub(super) struct FieldPlan {
    pub(super) name: String,
    pub(super) semantic: Semantic,
    pub(super) binary: bool,
}

/// Why a record is none that its table can take: it becomes a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Poison(pub String);

impl Plan {
    /// How records of these shapes are read. An error of kind TableStops where that cannot be known.
    /// `dress` masks what nobody may see.
    pub fn new(
        topic: &Topic,
        change: &RowChange<'_>,
        (hints, types): (&Hints, &Types),
        dress: impl FnOnce(&mut Relation),
    ) -> Result<Plan> {
        let table = &change.table;
        let stop = |what: String| Error::new(Kind::TableStops, what).on_table(table.to_string());
        let key = key_names(topic, change, hints);
        let mut fields = Vec::new();
        let mut columns = Vec::new();
        let mut add = |name: &str, (semantic, ty): (Semantic, ColumnType), fill: Fill| {
            let binary = is_binary(&semantic, &ty);
            let in_key = key.iter().any(|key| key == name);
            columns.push(Column { fill, ..column(name, ty, in_key, !binary) });
            fields.push(FieldPlan { name: name.to_owned(), semantic, binary });
        };
        match topic.row_schema(change.shapes) {
            Some(schema) => {
                for field in &schema.fields {
                    let Some(name) = &field.field else { continue };
                    if topic.form() == Form::Flat && name.starts_with("__") {
                        continue;
                    }
                    let declared = hints.columns.iter().find(|(column, _)| column == name);
                    let declared = declared.map(|(_, ty)| hints.declared(ty));
                    let read = by_schema(field, declared.as_ref(), types, &change.origin);
                    let fill = fill(field, &read.0);
                    add(name, read, fill);
                }
            }
            None if hints.columns.is_empty() => {
                let what = "its records carry no schema, and no file or table says what they hold";
                return Err(stop(what.to_owned()).remedy(format!(
                    "declare {table} in schemas/, or let the connector write schemas \
                     (value.converter.schemas.enable=true)"
                )));
            }
            None => {
                for (name, declared) in &hints.columns {
                    let scale = types.decimal_scale.get(&format!("{table}.{name}")).copied();
                    let declared = hints.declared(declared);
                    let read = by_declaration(&declared, types, scale, &change.origin);
                    let read = read.map_err(|why| stop(format!("{name}: {why}")))?;
                    add(name, read, Fill::Null);
                }
            }
        }
        let mut relation = Relation {
            oid: oid(table),
            table: (**table).clone(),
            identity: if key.is_empty() { Identity::Full } else { Identity::Key },
            columns,
            comment: None,
            attnums: 0,
            filenode: 0,
        };
        dress(&mut relation);
        let by_name = fields.iter().enumerate().map(|(at, field)| (field.name.clone(), at));
        Ok(Plan {
            by_name: by_name.collect(),
            relation: Arc::new(relation),
            fields,
            placeholder: Placeholder::new(&types.placeholder),
            keyless: key.is_empty(),
            form: topic.form(),
        })
    }

    /// The event of a message that [`Plan::write_bare_key`] wrote.
    pub fn bare_key<'a>(&self, message: &'a [u8]) -> Option<ChangeEvent<'a>> {
        let place = Place::default();
        self.event(Op::Delete, message, (&place, Order::default()))
    }

    /// The fields of a row that the plan does not know.
    pub fn unknown(&self, row: &RawValue) -> Vec<String> {
        let given: BTreeMap<Cow<'_, str>, IgnoredAny> =
            serde_json::from_str(row.get()).unwrap_or_default();
        let unknown = given.into_keys().filter(|name| !self.by_name.contains_key(&**name));
        unknown.filter(|name| !name.starts_with("__")).map(Cow::into_owned).collect()
    }

    /// The event of a message that [`Plan::write`] wrote; `at` is the record's place in its log.
    pub fn event<'a>(
        &self,
        op: Op,
        message: &'a [u8],
        (place, at): (&Place, Order),
    ) -> Option<ChangeEvent<'a>> {
        const HEAD: usize = 5;
        let mut event = ChangeEvent {
            relation: self.relation.clone(),
            op,
            old: None,
            new: None,
            order: place.order,
            mark: place.mark,
            leaves: message.first() == Some(&LEFT),
            place: at,
        };
        if op == Op::Truncate {
            return Some(event);
        }
        let mut rest = message.get(HEAD..)?;
        while let Some((tag, behind)) = rest.split_first() {
            rest = behind;
            let row = Row::read(&mut rest).ok()?;
            match tag {
                b'N' => event.new = Some(row),
                tag => event.old = Some(OldRow { row, whole: *tag == b'O' }),
            }
        }
        Some(event)
    }
}

/// The columns of the key: those of the record's key, else what files and warehouse say. A record without
/// key says nothing of its table: a table that was renamed as soon as it was filled has one and yet sends
/// none.
fn key_names(topic: &Topic, change: &RowChange<'_>, hints: &Hints) -> Vec<String> {
    if let Some(schema) = topic.key_schema(change.shapes) {
        let names = schema.fields.iter().filter_map(|field: &Field| field.field.clone());
        let names: Vec<String> = names.collect();
        if !names.is_empty() {
            return names;
        }
    }
    if !hints.key.is_empty() {
        return hints.key.clone();
    }
    let key = change.key.and_then(|key| {
        serde_json::from_str::<indexmap::IndexMap<String, IgnoredAny>>(key.get()).ok()
    });
    key.map(|key| key.into_keys().collect()).unwrap_or_default()
}

/// A number that stands for the table wherever Postgres has an OID; never 0.
pub(super) fn oid(table: &TableName) -> u32 {
    let digest = fingerprint(format!("{}\0{}", table.schema, table.name).as_bytes());
    let folded = (digest >> 32) ^ (digest & 0xffff_ffff);
    u32::try_from(folded).unwrap_or(1).max(1)
}

/// What rows have in the column that were there before it: its default. Where that is an expression, Debezium
/// writes zero for times, which is no row's.
fn fill(field: &Field, semantic: &Semantic) -> Fill {
    let times = matches!(
        of_field(field).0,
        Semantic::Date | Semantic::Time(_) | Semantic::Timestamp(_) | Semantic::Moment(_)
    );
    let given = field.default.as_deref();
    let told = given.filter(|raw| !(times && matches!(*raw, "0" | "\"1970-01-01T00:00:00Z\"")));
    told.and_then(|raw| text_of(semantic, raw).ok()).map_or(Fill::Null, Fill::Constant)
}

pub(super) fn column(name: &str, ty: ColumnType, in_key: bool, as_text: bool) -> Column {
    Column {
        name: name.to_owned(),
        attnum: 0,
        ty,
        mask: None,
        in_key,
        fill: Fill::Null,
        hidden: false,
        comment: None,
        as_text,
    }
}
