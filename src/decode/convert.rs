//! From a JSON value to a cell, by what the value means.
//!
//! Pure and total: any text gives a cell or the reason why it is none. Nothing is rounded, and a value that
//! Postgres cannot hold is refused. A string that stands for "not sent" becomes [`Cell::Unchanged`].
//!
//! [`Cell::Unchanged`]: crate::value::Cell::Unchanged

use std::borrow::Cow;
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::value::RawValue;

use super::composite::{array, bits, geometry, hstore, point, sparse_vector, vector};
use super::placeholder::Placeholder;
use super::semantic::{Encoding, Semantic, plain_type};
use super::times::{date, time_of_day, timestamp, to_micros, zoned_time};
use crate::types::{interval_of_iso, numeric_of_text, numeric_of_unscaled, uuid_of_text};

pub(super) const DAY: i64 = 86_400_000_000;

/// Why a value is none of its column's.
pub(super) type Mismatch = String;

/// Appends the cell of a JSON value; `binary` says whether its column travels in binary form.
pub(super) fn write_cell(
    semantic: &Semantic,
    binary: bool,
    raw: &str,
    placeholder: &Placeholder,
    out: &mut Vec<u8>,
) -> Result<(), Mismatch> {
    if raw == "null" {
        out.push(b'n');
        return Ok(());
    }
    if placeholder.is(semantic, raw) {
        out.push(b'u');
        return Ok(());
    }
    let start = out.len();
    out.extend_from_slice(&[if binary { b'b' } else { b't' }, 0, 0, 0, 0]);
    let written = match binary {
        true => write_binary(semantic, raw, out),
        false => write_text(semantic, raw, out),
    };
    let behind = start + 5;
    let length = u32::try_from(out.len() - behind).map_err(|_| "is longer than 4 GiB".to_owned());
    match written.and(length) {
        Ok(length) => {
            if let Some(place) = out.get_mut(start + 1..behind) {
                place.copy_from_slice(&length.to_be_bytes());
            }
            Ok(())
        }
        Err(why) => {
            out.truncate(start);
            Err(why)
        }
    }
}

/// The value in the binary form of the type that its semantic stands for.
pub(super) fn write_binary(
    semantic: &Semantic,
    raw: &str,
    out: &mut Vec<u8>,
) -> Result<(), Mismatch> {
    match semantic {
        Semantic::Bool => out.push(u8::from(boolean(raw)?)),
        Semantic::Int2 => out.extend(integer::<i16>(raw)?.to_be_bytes()),
        Semantic::Int4 => out.extend(integer::<i32>(raw)?.to_be_bytes()),
        Semantic::Int8 => out.extend(integer::<i64>(raw)?.to_be_bytes()),
        Semantic::Float4 => out.extend(float4(raw)?.to_be_bytes()),
        Semantic::Float8 => out.extend(float8(raw)?.to_be_bytes()),
        Semantic::Uuid => {
            let text = string(raw)?;
            out.extend(uuid_of_text(&text).ok_or_else(|| mismatch("a UUID"))?);
        }
        Semantic::Bytes(encoding) => out.extend(bytes(*encoding, raw)?),
        // by a converter with decimal.format=NUMERIC
        Semantic::Decimal(_) if !raw.starts_with('"') => {
            numeric_of_text(&number_text(raw)?, out).ok_or_else(|| mismatch("a decimal"))?;
        }
        Semantic::Decimal(scale) => {
            let unscaled = bytes(Encoding::Base64, raw)?;
            numeric_of_unscaled(&unscaled, *scale, out).ok_or_else(|| mismatch("a decimal"))?;
        }
        Semantic::ScaledDecimal => scaled(raw, out)?,
        Semantic::Number => {
            let text = number_text(raw)?;
            numeric_of_text(&text, out).ok_or_else(|| mismatch("a number"))?;
        }
        Semantic::Date => out.extend(date(raw)?.to_be_bytes()),
        Semantic::Time(unit) => out.extend(time_of_day(*unit, raw)?.to_be_bytes()),
        Semantic::Timestamp(unit) | Semantic::Moment(unit) => {
            out.extend(timestamp(*unit, raw)?.to_be_bytes());
        }
        Semantic::ZonedTime => {
            let (micros, west) = zoned_time(&string(raw)?)?;
            out.extend(micros.to_be_bytes());
            out.extend(west.to_be_bytes());
        }
        Semantic::Duration(unit) => {
            let micros = to_micros(*unit, integer::<i64>(raw)?)?;
            out.extend(micros.to_be_bytes());
            out.extend([0; 8]);
        }
        Semantic::IsoInterval => {
            let interval = interval_of_iso(&string(raw)?).ok_or_else(|| mismatch("an interval"))?;
            out.extend(interval.0.to_be_bytes());
            out.extend(interval.1.to_be_bytes());
            out.extend(interval.2.to_be_bytes());
        }
        Semantic::Bits(length) => bits(*length, raw, out)?,
        Semantic::Json if raw.starts_with('"') => out.extend(clean(string(raw)?)?.as_bytes()),
        // an array, a map or a struct stands for itself
        Semantic::Json => out.extend_from_slice(raw.as_bytes()),
        // a number or an object that a file's column takes as text
        _ if !raw.starts_with('"') => out.extend_from_slice(raw.as_bytes()),
        _ => out.extend(clean(string(raw)?)?.as_bytes()),
    }
    Ok(())
}

/// The value in text form.
fn write_text(semantic: &Semantic, raw: &str, out: &mut Vec<u8>) -> Result<(), Mismatch> {
    let text = text_of(semantic, raw)?;
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// The text of a value as Postgres prints it.
pub(super) fn text_of(semantic: &Semantic, raw: &str) -> Result<String, Mismatch> {
    Ok(match semantic {
        Semantic::Point => point(raw)?,
        Semantic::Geometry => geometry(raw)?,
        Semantic::Vector => vector(raw)?,
        Semantic::SparseVector => sparse_vector(raw)?,
        Semantic::Array(element) => array(element, raw)?,
        Semantic::Map => hstore(raw)?,
        Semantic::Unknown(encoding) => match bytes(*encoding, raw) {
            Ok(bytes) => {
                let text = String::from_utf8(bytes).map_err(|_| mismatch("text"))?;
                clean(Cow::Owned(text))?.into_owned()
            }
            Err(_) => clean(string(raw)?)?.into_owned(),
        },
        Semantic::Json if !raw.starts_with('"') => raw.to_owned(),
        Semantic::Text | Semantic::Plain | Semantic::Json => match raw.starts_with('"') {
            true => clean(string(raw)?)?.into_owned(),
            // a type that Debezium knows as a number, such as money
            false => raw.to_owned(),
        },
        semantic => {
            let mut binary = Vec::new();
            write_binary(semantic, raw, &mut binary)?;
            in_text(plain_type(semantic).oid, &binary)?
        }
    })
}

pub(super) fn mismatch(what: &str) -> Mismatch {
    format!("is not {what}")
}

/// The text of a binary value of a type.
pub(super) fn in_text(oid: u32, binary: &[u8]) -> Result<String, Mismatch> {
    let builtin = crate::types::Builtin::of(oid).ok_or_else(|| mismatch("of a known type"))?;
    let mut text = Vec::new();
    crate::types::write_text(builtin, binary, &mut text).map_err(|error| error.to_string())?;
    String::from_utf8(text).map_err(|_| mismatch("text"))
}

/// A JSON string's text.
pub(super) fn string(raw: &str) -> Result<Cow<'_, str>, Mismatch> {
    let inner = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"'));
    let inner = inner.ok_or_else(|| mismatch("a string"))?;
    if !inner.contains('\\') {
        return Ok(Cow::Borrowed(inner));
    }
    // half of a character is none
    serde_json::from_str(raw).map(Cow::Owned).map_err(|_| mismatch("text in Unicode"))
}

/// Refuses what no text of Postgres can hold.
pub(super) fn clean(text: Cow<'_, str>) -> Result<Cow<'_, str>, Mismatch> {
    match text.contains('\0') {
        true => Err("holds a NUL character, which Postgres text cannot".to_owned()),
        false => Ok(text),
    }
}

pub(super) fn boolean(raw: &str) -> Result<bool, Mismatch> {
    match raw {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(mismatch("true or false")),
    }
}

pub(super) fn integer<T: std::str::FromStr>(raw: &str) -> Result<T, Mismatch> {
    let text = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')).unwrap_or(raw);
    text.parse().map_err(|_| mismatch("a whole number of its size"))
}

fn float4(raw: &str) -> Result<f32, Mismatch> {
    number_text(raw)?.parse().map_err(|_| mismatch("a number"))
}

pub(super) fn float8(raw: &str) -> Result<f64, Mismatch> {
    number_text(raw)?.parse().map_err(|_| mismatch("a number"))
}

/// A number's text, by the words that Postgres has for what is none.
pub(super) fn number_text(raw: &str) -> Result<Cow<'_, str>, Mismatch> {
    if !raw.starts_with('"') {
        return match raw.as_bytes().first() {
            Some(b'-' | b'0'..=b'9') => Ok(Cow::Borrowed(raw)),
            _ => Err(mismatch("a number")),
        };
    }
    let text = string(raw)?;
    Ok(match &*text {
        "NaN" | "NAN" => Cow::Borrowed("NaN"),
        "Infinity" | "POSITIVE_INFINITY" => Cow::Borrowed("Infinity"),
        "-Infinity" | "NEGATIVE_INFINITY" => Cow::Borrowed("-Infinity"),
        _ => text,
    })
}

pub(super) fn bytes(encoding: Encoding, raw: &str) -> Result<Vec<u8>, Mismatch> {
    let text = string(raw)?;
    let decoded = match encoding {
        Encoding::Base64 => STANDARD.decode(&*text).ok(),
        Encoding::Base64Url => URL_SAFE.decode(&*text).ok(),
        Encoding::Hex => of_hex(&text),
    };
    let what = if encoding == Encoding::Hex { "hex digits" } else { "base64" };
    decoded.ok_or_else(|| mismatch(what))
}

fn of_hex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| {
            u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|p| p.len() == 2)?, 16).ok()
        })
        .collect()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("\\x".to_owned(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// `{"scale": 2, "value": "AN0="}`.
pub(super) fn scaled(raw: &str, out: &mut Vec<u8>) -> Result<(), Mismatch> {
    #[derive(serde::Deserialize)]
    struct Scaled<'a> {
        scale: i32,
        #[serde(borrow)]
        value: &'a RawValue,
    }
    if raw.starts_with('"') || !raw.starts_with('{') {
        let text = number_text(raw)?;
        return numeric_of_text(&text, out).ok_or_else(|| mismatch("a number"));
    }
    let scaled: Scaled<'_> =
        serde_json::from_str(raw).map_err(|_| mismatch("a decimal with its scale"))?;
    let unscaled = bytes(Encoding::Base64, scaled.value.get())?;
    numeric_of_unscaled(&unscaled, scaled.scale, out).ok_or_else(|| mismatch("a decimal"))
}
