//! The built-in Postgres types that travel in binary form, and their text form.
//!
//! A connector asks pgoutput for binary only while every published column is of a type listed here,
//! an enum (which arrives as its label) or a domain over one. Everything else travels as text. The
//! text form written here is byte for byte what Postgres prints with TimeZone UTC, DateStyle ISO,
//! IntervalStyle postgres and extra_float_digits 1; `tests/types.rs` compares the two.
//!
//! This file never decides what a target column is.

mod array;
mod day;
mod limit;
mod network;
mod number;
mod send;
mod time;

pub use day::day_of_cell;
pub use limit::Limit;
pub use send::{
    date_of_epoch_days, epoch_days_of_iso, epoch_micros_of_iso, interval_of_iso,
    micros_of_iso_time, numeric_of_text, numeric_of_unscaled, timestamp_of_epoch_micros,
    uuid_of_text,
};
pub use time::{civil_from_days, days_from_civil, infinite_date, infinite_timestamp};

/// A built-in type we read in binary form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Builtin {
    /// The type's OID, the same in every Postgres.
    pub oid: u32,
    /// Its name in pg_catalog, for casts: unlike `character` or `bit`, it carries no length.
    pub name: &'static str,
    form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Bool,
    Bytea,
    Char,
    Text,
    Jsonb,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Numeric,
    Date,
    Time,
    TimeTz,
    Timestamp,
    TimestampTz,
    Interval,
    Uuid,
    Bits,
    Inet,
    Macaddr,
    Array(u32),
}

const fn builtin(oid: u32, name: &'static str, form: Form) -> Builtin {
    Builtin { oid, name, form }
}

/// Sorted by OID.
const BUILTINS: &[Builtin] = &[
    builtin(16, "bool", Form::Bool),
    builtin(17, "bytea", Form::Bytea),
    builtin(18, "char", Form::Char),
    builtin(19, "name", Form::Text),
    builtin(20, "int8", Form::Int8),
    builtin(21, "int2", Form::Int2),
    builtin(23, "int4", Form::Int4),
    builtin(25, "text", Form::Text),
    builtin(26, "oid", Form::Oid),
    builtin(114, "json", Form::Text),
    builtin(142, "xml", Form::Text),
    builtin(199, "_json", Form::Array(114)),
    builtin(650, "cidr", Form::Inet),
    builtin(700, "float4", Form::Float4),
    builtin(701, "float8", Form::Float8),
    builtin(829, "macaddr", Form::Macaddr),
    builtin(869, "inet", Form::Inet),
    builtin(1000, "_bool", Form::Array(16)),
    builtin(1001, "_bytea", Form::Array(17)),
    builtin(1005, "_int2", Form::Array(21)),
    builtin(1007, "_int4", Form::Array(23)),
    builtin(1009, "_text", Form::Array(25)),
    builtin(1014, "_bpchar", Form::Array(1042)),
    builtin(1015, "_varchar", Form::Array(1043)),
    builtin(1016, "_int8", Form::Array(20)),
    builtin(1021, "_float4", Form::Array(700)),
    builtin(1022, "_float8", Form::Array(701)),
    builtin(1041, "_inet", Form::Array(869)),
    builtin(1042, "bpchar", Form::Text),
    builtin(1043, "varchar", Form::Text),
    builtin(1082, "date", Form::Date),
    builtin(1083, "time", Form::Time),
    builtin(1114, "timestamp", Form::Timestamp),
    builtin(1115, "_timestamp", Form::Array(1114)),
    builtin(1182, "_date", Form::Array(1082)),
    builtin(1183, "_time", Form::Array(1083)),
    builtin(1184, "timestamptz", Form::TimestampTz),
    builtin(1185, "_timestamptz", Form::Array(1184)),
    builtin(1186, "interval", Form::Interval),
    builtin(1187, "_interval", Form::Array(1186)),
    builtin(1231, "_numeric", Form::Array(1700)),
    builtin(1266, "timetz", Form::TimeTz),
    builtin(1560, "bit", Form::Bits),
    builtin(1562, "varbit", Form::Bits),
    builtin(1700, "numeric", Form::Numeric),
    builtin(2950, "uuid", Form::Uuid),
    builtin(2951, "_uuid", Form::Array(2950)),
    builtin(3802, "jsonb", Form::Jsonb),
    builtin(3807, "_jsonb", Form::Array(3802)),
];

/// The OID of `text`, in whose shape everything travels that is not listed.
pub const TEXT: u32 = 25;

impl Builtin {
    /// The listed type with this OID.
    pub fn of(oid: u32) -> Option<Builtin> {
        BUILTINS
            .binary_search_by_key(&oid, |known| known.oid)
            .ok()
            .and_then(|at| BUILTINS.get(at))
            .copied()
    }

    /// Every listed type.
    pub fn all() -> impl Iterator<Item = Builtin> {
        BUILTINS.iter().copied()
    }

    /// Whether `=` of this type tells values apart as their text does not contradict. json and xml
    /// have no `=` at all: those are compared as text.
    pub fn has_equality(self) -> bool {
        !matches!(self.oid, 114 | 142 | 199)
    }
}

/// The bytes are not a value of the type they are said to be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are not a binary {0}")]
pub struct BadBinary(pub &'static str);

/// Appends the text form of a binary value. Bytes of a text type come out as they are.
pub fn write_text(builtin: Builtin, value: &[u8], out: &mut Vec<u8>) -> Result<(), BadBinary> {
    write_form(builtin.form, value, out).ok_or(BadBinary(builtin.name))
}

fn write_form(form: Form, value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    match form {
        Form::Text => out.extend_from_slice(value),
        Form::Jsonb => out.extend_from_slice(value.strip_prefix(&[1])?),
        Form::Bool => out.push(if *value.first()? == 0 { b'f' } else { b't' }),
        Form::Char => write_char(*value.first()?, out),
        Form::Bytea => write_hex(b"\\x", value, out),
        Form::Int2 => number::write_int(i64::from(i16::from_be_bytes(fixed(value)?)), out),
        Form::Int4 => number::write_int(i64::from(i32::from_be_bytes(fixed(value)?)), out),
        Form::Int8 => number::write_int(i64::from_be_bytes(fixed(value)?), out),
        Form::Oid => number::write_int(i64::from(u32::from_be_bytes(fixed(value)?)), out),
        Form::Float4 => number::write_float4(f32::from_be_bytes(fixed(value)?), out),
        Form::Float8 => number::write_float8(f64::from_be_bytes(fixed(value)?), out),
        Form::Numeric => return number::write_numeric(value, out),
        Form::Date => time::write_date(i32::from_be_bytes(fixed(value)?), out),
        Form::Time => time::write_time(i64::from_be_bytes(fixed(value)?), out),
        Form::TimeTz => return time::write_timetz(value, out),
        Form::Timestamp => time::write_timestamp(i64::from_be_bytes(fixed(value)?), "", out),
        Form::TimestampTz => time::write_timestamp(i64::from_be_bytes(fixed(value)?), "+00", out),
        Form::Interval => return time::write_interval(value, out),
        Form::Uuid => return write_uuid(value, out),
        Form::Bits => return write_bits(value, out),
        Form::Inet => return network::write_inet(value, out),
        Form::Macaddr => return network::write_macaddr(value, out),
        Form::Array(element) => return array::write_array(Builtin::of(element)?, value, out),
    }
    Some(())
}

fn fixed<const N: usize>(value: &[u8]) -> Option<[u8; N]> {
    value.try_into().ok()
}

/// `"char"` prints bytes above 127 as a backslash and three octal digits since Postgres 16; earlier
/// ones print the raw byte, which is not UTF-8. The octal form is read back alike by 16 and later.
fn write_char(value: u8, out: &mut Vec<u8>) {
    match value {
        0 => {}
        1..=127 => out.push(value),
        _ => out.extend_from_slice(format!("\\{value:03o}").as_bytes()),
    }
}

fn write_hex(prefix: &[u8], value: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(prefix);
    out.reserve(value.len() * 2);
    for byte in value {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

fn write_uuid(value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let value: [u8; 16] = fixed(value)?;
    for (n, group) in [&value[..4], &value[4..6], &value[6..8], &value[8..10], &value[10..]]
        .into_iter()
        .enumerate()
    {
        write_hex(if n == 0 { b"" } else { b"-" }, group, out);
    }
    Some(())
}

fn write_bits(value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (length, bytes) = value.split_first_chunk::<4>()?;
    let length = usize::try_from(i32::from_be_bytes(*length)).ok()?;
    if bytes.len() != length.div_ceil(8) {
        return None;
    }
    for bit in 0..length {
        let set = bytes.get(bit / 8)? & (0x80 >> (bit % 8)) != 0;
        out.push(if set { b'1' } else { b'0' });
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_every_array_has_its_element() {
        for pair in BUILTINS.windows(2) {
            assert!(pair[0].oid < pair[1].oid, "{} is out of order", pair[1].name);
        }
        for known in BUILTINS {
            assert_eq!(Builtin::of(known.oid), Some(*known));
            if let Form::Array(element) = known.form {
                assert!(Builtin::of(element).is_some(), "{}", known.name);
            }
        }
    }
}
