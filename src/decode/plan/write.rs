//! How a change of a topic becomes the message that pgoutput would have sent for it. What no row can hold is said by
//! its field, and nothing of the record is written then.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::de::DeserializeSeed;
use serde_json::value::RawValue;

use super::{FieldPlan, Plan, Poison};
use crate::decode::convert::write_cell;
use crate::decode::envelope::{Form, RowChange};
use crate::decode::fields::RowWriter;
use crate::decode::pgoutput::{LEFT, MOVED, READ};
use crate::journey::Op;
use crate::value::Row;

impl Plan {
    /// Writes the change as the message that pgoutput would have sent. `scratch` is emptied first.
    pub fn write(&self, change: &RowChange<'_>, scratch: &mut Vec<u8>) -> Result<(), Poison> {
        scratch.clear();
        scratch.push(tag(change));
        scratch.extend_from_slice(&self.relation.oid.to_be_bytes());
        match change.op {
            Op::Truncate => {
                // as pgoutput does: how many tables, options, then the tables
                scratch.truncate(1);
                scratch.extend_from_slice(&1_u32.to_be_bytes());
                scratch.push(0);
                scratch.extend_from_slice(&self.relation.oid.to_be_bytes());
                Ok(())
            }
            Op::Delete => self.write_old(change, scratch),
            Op::Create | Op::Read | Op::Update => {
                if let Some(old) = change.comes_from.filter(|_| tag(change) == MOVED) {
                    scratch.push(b'K');
                    if let Err(unread) = parse(old).and_then(|old| self.write_key(old, scratch)) {
                        return self.write_arrived(change, unread, scratch);
                    }
                } else if change.op == Op::Update {
                    self.write_before(change, scratch)?;
                }
                let row = change.after.ok_or_else(|| poison("it has no row"))?;
                scratch.push(b'N');
                self.write_row(row, change.op == Op::Update, false, scratch)
            }
        }
    }

    /// A row that comes from a key which nobody can read, as a header converter wrote it: its own row is all that
    /// is needed, where that leaves nothing out.
    fn write_arrived(
        &self,
        change: &RowChange<'_>,
        unread: Poison,
        scratch: &mut Vec<u8>,
    ) -> Result<(), Poison> {
        scratch.clear();
        scratch.push(b'I');
        scratch.extend_from_slice(&self.relation.oid.to_be_bytes());
        scratch.push(b'N');
        let start = scratch.len();
        let row = change.after.ok_or_else(|| poison("it has no row"))?;
        self.write_row(row, false, false, scratch)?;
        let mut cells = scratch.get(start..).unwrap_or_default();
        let row = Row::read(&mut cells).map_err(|_| poison("its row cannot be read"))?;
        if row.has_unchanged() { Err(unread) } else { Ok(()) }
    }

    /// The old row of an update, where it may have another key or is all that tells the row.
    fn write_before(&self, change: &RowChange<'_>, out: &mut Vec<u8>) -> Result<(), Poison> {
        let Some(before) = change.before else {
            return if self.keyless { Err(poison(NO_BEFORE)) } else { Ok(()) };
        };
        self.write_row_before(change, before, out)
    }

    /// A whole old row, where the source logs such ones, else its key. So it is of one with a value that Postgres
    /// cannot hold: it is refused as it comes in, not as it is mended or goes.
    fn write_row_before(
        &self,
        change: &RowChange<'_>,
        before: &RawValue,
        out: &mut Vec<u8>,
    ) -> Result<(), Poison> {
        let start = out.len();
        let whole = self.keyless || change.origin.logs_whole_rows();
        out.push(if whole { b'O' } else { b'K' });
        match self.write_row(before, false, !whole, out) {
            Err(_) if whole && !self.keyless => {
                out.truncate(start);
                out.push(b'K');
                self.write_row(before, false, true, out)
            }
            written => written,
        }
    }

    /// The row that is gone.
    fn write_old(&self, change: &RowChange<'_>, out: &mut Vec<u8>) -> Result<(), Poison> {
        let flat = change.after.filter(|_| self.form == Form::Flat);
        match (change.before.or(flat), change.key) {
            (Some(before), _) => self.write_row_before(change, before, out),
            (None, Some(key)) if !self.keyless => {
                out.push(b'K');
                self.write_key(key, out)
            }
            _ => Err(poison(NO_BEFORE)),
        }
    }

    /// A row of which only the key is known.
    fn write_key(&self, key: &RawValue, out: &mut Vec<u8>) -> Result<(), Poison> {
        self.write_row(key, false, true, out)
    }

    /// The cells of a row; of `only_key` the others are null.
    fn write_row(
        &self,
        row: &RawValue,
        update: bool,
        only_key: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), Poison> {
        let count =
            u16::try_from(self.fields.len()).map_err(|_| poison("it has too many fields"))?;
        out.extend_from_slice(&count.to_be_bytes());
        let start = out.len();
        let mut writer = RowWriter { plan: self, only_key, next: 0, poison: None, out };
        let mut json = serde_json::Deserializer::from_str(row.get());
        let in_order = DeserializeSeed::deserialize(&mut writer, &mut json);
        let (next, poison) = (writer.next, writer.poison.take());
        if let Some(poison) = poison {
            return Err(poison);
        }
        match in_order {
            Ok(true) if next == self.fields.len() => Ok(()),
            Ok(_) => {
                out.truncate(start);
                self.write_in_any_order(row, update, only_key, out)
            }
            Err(_) => Err(Poison("its row is no JSON object".to_owned())),
        }
    }

    /// The same where the fields do not come in the order of the schema, or some are missing.
    fn write_in_any_order(
        &self,
        row: &RawValue,
        update: bool,
        only_key: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), Poison> {
        let given: BTreeMap<Cow<'_, str>, &RawValue> =
            serde_json::from_str(row.get()).map_err(|_| poison("its row is no JSON object"))?;
        for (at, field) in self.fields.iter().enumerate() {
            let is_key = self.relation.columns.get(at).is_some_and(|column| column.in_key);
            match given.get(field.name.as_str()) {
                Some(raw) if is_key || !only_key => self.write_field(field, raw.get(), out)?,
                None if is_key => return Err(Poison(format!("it lacks the key's {}", field.name))),
                // a column that the source computes is not in its log
                None if update => out.push(b'u'),
                _ => out.push(b'n'),
            }
        }
        Ok(())
    }

    pub(in crate::decode) fn write_field(
        &self,
        field: &FieldPlan,
        raw: &str,
        out: &mut Vec<u8>,
    ) -> Result<(), Poison> {
        write_cell(&field.semantic, field.binary, raw, &self.placeholder, out)
            .map_err(|why| Poison(format!("its {} {why}", field.name)))
    }

    /// Writes a record's key alone, as the message of a row's delete.
    pub fn write_bare_key(&self, key: &[u8], scratch: &mut Vec<u8>) -> Result<(), Poison> {
        scratch.clear();
        scratch.push(b'D');
        scratch.extend_from_slice(&self.relation.oid.to_be_bytes());
        scratch.push(b'K');
        self.write_key(parse(key)?, scratch)
    }
}

/// The kind of message that a change becomes: those of pgoutput, and beside them a row that a snapshot
/// read, one that leaves for another key, and one that arrives from there with values left out.
fn tag(change: &RowChange<'_>) -> u8 {
    match change.op {
        Op::Read => READ,
        Op::Delete if change.leaves => LEFT,
        Op::Delete => b'D',
        Op::Truncate => b'T',
        Op::Update => b'U',
        Op::Create if change.comes_from.is_some() => MOVED,
        Op::Create => b'I',
    }
}

const NO_BEFORE: &str = "it does not tell the row before, without which rows that have no key cannot be \
    told apart: declare the table with history: append";

fn poison(what: &str) -> Poison {
    Poison(what.to_owned())
}

fn parse(bytes: &[u8]) -> Result<&RawValue, Poison> {
    #[derive(serde::Deserialize)]
    struct WithSchema<'a> {
        #[serde(borrow)]
        payload: &'a RawValue,
    }
    if let Ok(with_schema) = serde_json::from_slice::<WithSchema<'_>>(bytes) {
        return Ok(with_schema.payload);
    }
    serde_json::from_slice(bytes).map_err(|_| poison("the key that it had before is no JSON"))
}
