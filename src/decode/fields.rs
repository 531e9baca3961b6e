//! The walk through the fields of a JSON row, which writes each one that is taken.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::plan::{Plan, Poison};

/// A text of a record, which mostly needs no copy. An optional `Cow` would always get one: serde borrows a `Cow`
/// only where it is the field itself.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// Writes the cells of an object whose members come in the order of the plan; false where they do not.
pub(super) struct RowWriter<'p, 'o> {
    pub(super) plan: &'p Plan,
    pub(super) only_key: bool,
    pub(super) next: usize,
    pub(super) poison: Option<Poison>,
    pub(super) out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for &mut RowWriter<'_, '_> {
    type Value = bool;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut RowWriter<'_, '_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<bool, M::Error> {
        let mut in_order = true;
        while let Some(name) = map.next_key::<Text<'de>>()? {
            let expected = self.plan.fields.get(self.next).filter(|_| in_order);
            let Some(field) = expected.filter(|field| field.name == *name) else {
                map.next_value::<IgnoredAny>()?;
                // fields of others may stand behind, or between
                in_order &= !self.plan.by_name.contains_key(&*name);
                continue;
            };
            let raw = map.next_value::<&'de RawValue>()?;
            let column = self.plan.relation.columns.get(self.next);
            self.next += 1;
            if self.poison.is_some() {
                continue;
            }
            if self.only_key && !column.is_some_and(|column| column.in_key) {
                self.out.push(b'n');
            } else if let Err(poison) = self.plan.write_field(field, raw.get(), self.out) {
                self.poison = Some(poison);
            }
        }
        Ok(in_order)
    }
}
