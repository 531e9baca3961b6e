//! Schemas that travel with each record: parsed once, and known by their bytes from then on.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::envelope::{Unreadable, place, unreadable};
use super::semantic::Field;
use crate::names::fingerprint;

/// Schemas that are kept of a topic: it has few at a time, old ones while a deployment goes on.
const SCHEMAS_KEPT: usize = 16;

/// Schemas whose number is remembered, so that one that comes back has the one it had.
const NUMBERS_KEPT: usize = 4_096;

/// The schemas seen last, each by the bytes in front of the payload.
#[derive(Default)]
pub(super) struct Schemas {
    known: Vec<(u32, Vec<u8>, Arc<Field>)>,
    /// the numbers of schemas, by what they are
    numbers: HashMap<u64, u32>,
    count: u32,
}

/// A record in its two parts.
pub(super) struct Parts<'a> {
    pub(super) schema: u32,
    pub(super) payload: &'a [u8],
}

impl Schemas {
    /// Finds the payload of a value or key that may have its schema in front.
    pub(super) fn split<'a>(&mut self, bytes: &'a [u8]) -> Result<Parts<'a>, Unreadable> {
        const HEAD: &[u8] = b"{\"schema\":";
        /// How an envelope begins that has no schema: it is read once, as what it is.
        const BARE: &[u8] = b"{\"before\":";
        if bytes.starts_with(BARE) {
            return Ok(Parts { schema: 0, payload: bytes });
        }
        if !bytes.starts_with(HEAD) {
            return self.split_otherwise(bytes);
        }
        let found = self.known.iter().position(|(_, prefix, _)| bytes.starts_with(prefix));
        if let Some(at) = found {
            if at > 0 {
                self.known.swap(0, at);
            }
            let first = self.known.first().map(|(id, prefix, _)| (*id, prefix.len()));
            let (id, length) = first.unwrap_or_default();
            let payload = bytes.get(length..).and_then(|rest| rest.strip_suffix(b"}"));
            let payload = payload.ok_or_else(|| unreadable("it is cut off"))?;
            return Ok(Parts { schema: id, payload });
        }
        self.split_otherwise(bytes)
    }

    /// The same where the schema was not seen yet, or where there is none.
    pub(super) fn split_otherwise<'a>(&mut self, bytes: &'a [u8]) -> Result<Parts<'a>, Unreadable> {
        #[derive(Deserialize)]
        struct Both<'a> {
            // null is not nothing here
            #[serde(borrow, default, deserialize_with = "there")]
            schema: Option<&'a RawValue>,
            #[serde(borrow, default, deserialize_with = "there")]
            payload: Option<&'a RawValue>,
        }
        let text = std::str::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8"))?;
        let both: Both<'_> = match serde_json::from_str(text) {
            Ok(both) => both,
            // a key or a payload of another kind
            Err(error) if error.is_data() => return Ok(Parts { schema: 0, payload: bytes }),
            Err(error) => return Err(unreadable(&format!("it is no JSON ({})", place(&error)))),
        };
        let whole = Ok(Parts { schema: 0, payload: bytes });
        let (schema, payload) = match (both.schema, both.payload) {
            // a row may have columns of these names
            (Some(schema), Some(payload)) if schema.get().starts_with('{') => (schema, payload),
            // a tombstone of a converter with schemas
            (Some(schema), Some(payload)) if (schema.get(), payload.get()) == ("null", "null") => {
                return Ok(Parts { schema: 0, payload: b"null" });
            }
            _ => return whole,
        };
        let field: Field = serde_json::from_str(schema.get()).map_err(|error| {
            unreadable(&format!("its schema cannot be read ({})", place(&error)))
        })?;
        let prefix = payload_begins(text, payload.get());
        let id = self.number(schema.get());
        self.known.insert(0, (id, prefix, Arc::new(field)));
        self.known.truncate(SCHEMAS_KEPT);
        Ok(Parts { schema: id, payload: payload.get().as_bytes() })
    }

    fn number(&mut self, schema: &str) -> u32 {
        if self.numbers.len() >= NUMBERS_KEPT {
            self.numbers.clear();
        }
        let next = self.count + 1;
        let id = *self.numbers.entry(fingerprint(schema.as_bytes())).or_insert(next);
        self.count = self.count.max(id);
        id
    }

    pub(super) fn of(&self, id: u32) -> Option<&Arc<Field>> {
        self.known.iter().find(|(known, _, _)| *known == id).map(|(_, _, field)| field)
    }
}

/// What stands in front of the payload, where that is the last of the record's members; else what no record
/// begins with.
fn payload_begins(text: &str, payload: &str) -> Vec<u8> {
    let head = text.strip_suffix('}').and_then(|text| text.strip_suffix(payload));
    head.map_or_else(|| vec![0], |head| head.as_bytes().to_vec())
}

/// A value that is there, null or not.
fn there<'de, D: serde::Deserializer<'de>>(given: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(given).map(Some)
}
