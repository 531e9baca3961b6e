//! Masks the values of changes and rows as they arrive: what comes behind never sees the clear ones.
//!
//! Pure. A hash is taken of the text form of a value, so that it is the same in whatever form the value
//! travels; NULL and what the source did not send stay as they are. A value that cannot be masked is an
//! error that does not tell it.

use super::pgoutput::{LEFT, MOVED, READ};
use crate::error::{Error, Result};
use crate::names::TableName;
use crate::relation::{Mask, Masked, Relation, TypeKind, Wire};
use crate::spec::MaskKey;
use crate::types::{
    civil_from_days, days_from_civil, infinite_date, infinite_timestamp, write_text,
};
use crate::value::{Cell, Row, RowWriter};

/// What hides the masked columns of one shape of a table.
#[derive(Debug)]
pub struct Veil {
    table: TableName,
    width: usize,
    covers: Vec<(usize, Cover)>,
    key: Option<MaskKey>,
    text: Vec<u8>,
    value: Vec<u8>,
}

/// What is done with a column's values.
#[derive(Clone, Copy, Debug)]
enum Cover {
    Null,
    /// Of a value's text; its binary form is that of this wire.
    Hash(Wire),
    Year(Moment),
}

/// What a year is of.
#[derive(Clone, Copy, Debug)]
enum Moment {
    Date,
    Timestamp,
    TimestampTz,
}

impl Moment {
    /// Of a column, if its type at the source has years.
    fn of(mask: &Masked) -> Option<Moment> {
        match &mask.ty.kind {
            TypeKind::Builtin { oid: 1082, .. } => Some(Moment::Date),
            TypeKind::Builtin { oid: 1114, .. } => Some(Moment::Timestamp),
            TypeKind::Builtin { oid: 1184, .. } => Some(Moment::TimestampTz),
            _ => None,
        }
    }
}

const DAY: i64 = 86_400_000_000;

/// 24 November 4714 BC, the first day that Postgres has.
const FIRST_DAY: i64 = -2_451_545;

impl Veil {
    /// The veil over a relation; none where nothing of it is masked.
    pub fn of(relation: &Relation, key: Option<&MaskKey>) -> Option<Veil> {
        let cover = |mask: &Masked, wire| match mask.by {
            Mask::Hash if key.is_some() => Cover::Hash(wire),
            Mask::Year => Moment::of(mask).map_or(Cover::Null, Cover::Year),
            Mask::Hash | Mask::Null => Cover::Null,
        };
        let covers =
            relation.masked().map(|(at, column, mask)| (at, cover(mask, column.source_wire(true))));
        let covers: Vec<(usize, Cover)> = covers.collect();
        (!covers.is_empty()).then(|| Veil {
            table: relation.table.clone(),
            width: relation.columns.len(),
            covers,
            key: key.cloned(),
            text: Vec::new(),
            value: Vec::new(),
        })
    }

    /// Appends what follows the tag of a message, with its rows masked.
    pub fn body(&mut self, tag: u8, body: &[u8], out: &mut Vec<u8>) -> Result<()> {
        if !matches!(tag, b'I' | b'U' | b'D' | READ | LEFT | MOVED) {
            out.extend_from_slice(body);
            return Ok(());
        }
        let (oid, mut rest) = body.split_first_chunk::<4>().ok_or_else(|| self.malformed())?;
        out.extend_from_slice(oid);
        while let Some((mark, row)) = rest.split_first() {
            let count = row.first_chunk::<2>().ok_or_else(|| self.malformed())?;
            let mut behind = row;
            let row = Row::read(&mut behind).map_err(|_| self.malformed())?;
            if !matches!(mark, b'K' | b'O' | b'N') {
                return Err(self.malformed());
            }
            out.push(*mark);
            out.extend_from_slice(count);
            self.row(row, out)?;
            rest = behind;
        }
        Ok(())
    }

    /// Appends the cells of a row, masked.
    pub fn row(&mut self, row: Row<'_>, out: &mut Vec<u8>) -> Result<()> {
        let mut writer = RowWriter::new(out);
        let (mut count, mut covered) = (0, 0);
        for (at, cell) in row.cells().enumerate() {
            count += 1;
            match self.covers.get(covered).copied().filter(|(column, _)| *column == at) {
                None => writer.push(cell),
                Some((_, cover)) => {
                    covered += 1;
                    match self.cell(cover, cell) {
                        Some(cell) => writer.push(cell),
                        None => return Err(unmasked(&self.table, at)),
                    }
                }
            }
        }
        // of a row of another shape nobody knows which cells they are
        if count == self.width { Ok(()) } else { Err(self.malformed()) }
    }

    fn cell<'c>(&'c mut self, cover: Cover, cell: Cell<'c>) -> Option<Cell<'c>> {
        self.value.clear();
        match (cover, cell) {
            (_, Cell::Null | Cell::Unchanged) => return Some(cell),
            (Cover::Null, _) => return Some(Cell::Null),
            (Cover::Hash(_), Cell::Text(text)) => {
                self.key.as_ref()?.write_hash(text, &mut self.value);
            }
            (Cover::Hash(Wire::Binary(builtin)), Cell::Binary(value)) => {
                self.text.clear();
                write_text(builtin, value, &mut self.text).ok()?;
                self.key.as_ref()?.write_hash(&self.text, &mut self.value);
            }
            (Cover::Hash(Wire::Text), Cell::Binary(_)) => return None,
            (Cover::Year(Moment::Date), Cell::Binary(value)) => {
                let days = i32::from_be_bytes(value.try_into().ok()?);
                if infinite_date(days) {
                    return Some(cell);
                }
                let first = i32::try_from(first_of_year(days.into())).ok()?;
                self.value.extend(first.to_be_bytes());
            }
            (Cover::Year(_), Cell::Binary(value)) => {
                let micros = i64::from_be_bytes(value.try_into().ok()?);
                if infinite_timestamp(micros) {
                    return Some(cell);
                }
                let first = first_of_year(micros.div_euclid(DAY)).checked_mul(DAY)?;
                self.value.extend(first.to_be_bytes());
            }
            (Cover::Year(_), Cell::Text(b"infinity" | b"-infinity")) => return Some(cell),
            (Cover::Year(moment), Cell::Text(text)) => year_of_text(moment, text, &mut self.value)?,
        }
        Some(match cell {
            Cell::Text(_) => Cell::Text(&self.value),
            _ => Cell::Binary(&self.value),
        })
    }

    fn malformed(&self) -> Error {
        Error::bug(format!("a row of {} has not the columns that it was told to have", self.table))
    }
}

fn unmasked(table: &TableName, at: usize) -> Error {
    Error::bug(format!("a value in column {} of {table} is not of its type", at + 1))
}

fn first_of_year(day: i64) -> i64 {
    let (year, _, _) = civil_from_days(day);
    days_from_civil(year, 1, 1).max(FIRST_DAY)
}

/// The first of January of a date or timestamp as Postgres prints it, with DateStyle ISO in UTC.
fn year_of_text(moment: Moment, text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let text = std::str::from_utf8(text).ok()?;
    let (year, _) = text.split_once('-')?;
    if year.is_empty() || !year.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let era = if text.ends_with(" BC") { " BC" } else { "" };
    let day = if (year, era) == ("4714", " BC") { "11-24" } else { "01-01" };
    let clock = match moment {
        Moment::Date => "",
        Moment::Timestamp => " 00:00:00",
        Moment::TimestampTz => " 00:00:00+00",
    };
    out.extend_from_slice(format!("{year}-{day}{clock}{era}").as_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relation::{Column, ColumnType, Fill, Identity};
    use crate::spec::Secret;
    use crate::types::Builtin;

    fn column(name: &str, oid: u32, by: Option<Mask>) -> Column {
        let ty = ColumnType {
            oid,
            typmod: -1,
            name: name.to_owned(),
            kind: TypeKind::Builtin { oid, name: name.to_owned() },
        };
        let mask = by.map(|by| Masked { by, key: None, ty: ty.clone() });
        let ty = if by == Some(Mask::Hash) { ColumnType::text() } else { ty };
        Column {
            name: name.to_owned(),
            attnum: 0,
            ty,
            mask,
            in_key: false,
            fill: Fill::Null,
            hidden: false,
            as_text: false,
            comment: None,
        }
    }

    fn veil(columns: Vec<Column>) -> Veil {
        let relation = Relation {
            oid: 7,
            table: TableName::new("public", "t"),
            identity: Identity::Key,
            columns,
            comment: None,
            attnums: 0,
            filenode: 0,
        };
        let key = MaskKey::new(&Secret::new("sixteen letters!".to_owned()));
        Veil::of(&relation, key.as_ref()).unwrap()
    }

    fn masked(veil: &mut Veil, cells: &[Cell<'_>]) -> Vec<u8> {
        let (mut row, mut out) = (Vec::new(), Vec::new());
        cells.iter().for_each(|cell| RowWriter::new(&mut row).push(*cell));
        veil.row(Row::from_bytes(&row), &mut out).unwrap();
        out
    }

    fn bytes(row: &[u8], at: usize) -> Option<Vec<u8>> {
        Row::from_bytes(row).cell(at).bytes().map(<[u8]>::to_vec)
    }

    #[test]
    fn a_value_has_one_hash_in_both_forms_and_null_stays() {
        let mut veil = veil(vec![column("int8", 20, Some(Mask::Hash)), column("t", 25, None)]);
        let binary = masked(&mut veil, &[Cell::Binary(&7_i64.to_be_bytes()), Cell::Text(b"x")]);
        let text = masked(&mut veil, &[Cell::Text(b"7"), Cell::Unchanged]);
        assert_eq!(bytes(&binary, 0), bytes(&text, 0));
        assert_eq!(bytes(&binary, 0).unwrap().len(), 64);
        assert!(matches!(Row::from_bytes(&binary).cell(0), Cell::Binary(_)));
        assert_eq!(bytes(&binary, 1).unwrap(), b"x");
        for cell in [Cell::Null, Cell::Unchanged] {
            let row = masked(&mut veil, &[cell, Cell::Null]);
            assert_eq!(Row::from_bytes(&row).cell(0), cell);
        }
    }

    #[test]
    fn a_year_is_alike_in_both_forms_from_the_first_day_to_infinity() {
        let types = [("date", 1082), ("timestamp", 1114), ("timestamptz", 1184)];
        for (name, oid) in types {
            let mut veil = veil(vec![column(name, oid, Some(Mask::Year))]);
            let builtin = Builtin::of(oid).unwrap();
            for day in [FIRST_DAY, FIRST_DAY + 30, FIRST_DAY + 400, -730_600, -1, 0, 8_901, 99_999]
            {
                let value = match oid {
                    1082 => i32::try_from(day).unwrap().to_be_bytes().to_vec(),
                    _ => (day * DAY + 12_345_678).to_be_bytes().to_vec(),
                };
                let mut text = Vec::new();
                write_text(builtin, &value, &mut text).unwrap();
                let binary = masked(&mut veil, &[Cell::Binary(&value)]);
                let mut year = Vec::new();
                write_text(builtin, &bytes(&binary, 0).unwrap(), &mut year).unwrap();
                let from_text = bytes(&masked(&mut veil, &[Cell::Text(&text)]), 0).unwrap();
                assert_eq!(String::from_utf8(from_text), String::from_utf8(year), "{name} {day}");
            }
            let infinity = masked(&mut veil, &[Cell::Text(b"-infinity")]);
            assert_eq!(bytes(&infinity, 0).unwrap(), b"-infinity");
        }
    }

    #[test]
    fn all_images_of_a_message_are_masked_and_other_shapes_refused() {
        let columns = vec![column("id", 25, None), column("email", 25, Some(Mask::Hash))];
        let mut veil = veil(columns);
        let row = |email: &str| {
            let mut row = vec![0, 2];
            RowWriter::new(&mut row).push(Cell::Text(b"7"));
            RowWriter::new(&mut row).push(Cell::Text(email.as_bytes()));
            row
        };
        let body = [b"\0\0\0\x07O".to_vec(), row("ann@old"), b"N".to_vec(), row("ann@new")];
        let mut out = Vec::new();
        veil.body(b'U', &body.concat(), &mut out).unwrap();
        assert!(!out.windows(3).any(|part| part == b"ann"));
        assert_eq!(out.len(), body.concat().len() + 2 * (64 - "ann@old".len()));
        let mut narrow = b"\0\0\0\x07N\0\x01".to_vec();
        RowWriter::new(&mut narrow).push(Cell::Text(b"ann@x"));
        let error = veil.body(b'I', &narrow, &mut Vec::new()).unwrap_err();
        assert!(!error.to_string().contains("ann"), "{error}");
    }

    #[test]
    fn what_is_not_of_its_type_is_refused_untold_and_what_has_no_year_is_null() {
        let mut veil = veil(vec![column("date", 1082, Some(Mask::Year))]);
        let mut row = Vec::new();
        RowWriter::new(&mut row).push(Cell::Text(b"May 17, born"));
        let error = veil.row(Row::from_bytes(&row), &mut Vec::new()).unwrap_err();
        assert!(!error.to_string().contains("born"), "{error}");
        let mut veil = self::veil(vec![column("text", 25, Some(Mask::Year))]);
        let row = masked(&mut veil, &[Cell::Text(b"1990-05-17")]);
        assert_eq!(Row::from_bytes(&row).cell(0), Cell::Null);
    }
}
