//! Values of topics' records that are made of others: bits, points, arrays, hstore. Pure.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::convert::{
    Mismatch, bytes, clean, hex, in_text, mismatch, number_text, string, text_of,
};
use super::semantic::{Encoding, Semantic};

/// Little-endian bytes, whose lowest bit is the last one of the value, as the number of bits and the bits
/// from the first one on.
pub(super) fn bits(length: Option<usize>, raw: &str, out: &mut Vec<u8>) -> Result<(), Mismatch> {
    let bytes = match raw {
        "true" => vec![1],
        "false" => vec![0],
        _ => bytes(Encoding::Base64, raw)?,
    };
    let bit = |at: usize| bytes.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1);
    let significant = (0..bytes.len() * 8).rev().find(|at| bit(*at)).map_or(0, |last| last + 1);
    // a single bit comes as true or false
    let length = length.unwrap_or(if raw.starts_with('"') { significant } else { 1 });
    if significant > length {
        return Err(format!("has more than {length} bits"));
    }
    let count = i32::try_from(length).map_err(|_| mismatch("so many bits"))?;
    out.extend(count.to_be_bytes());
    for byte in 0..length.div_ceil(8) {
        let of = |n: usize| u8::from(byte * 8 + n < length && bit(length - 1 - byte * 8 - n));
        out.push((0..8).fold(0, |sum, n| sum << 1 | of(n)));
    }
    Ok(())
}

pub(super) fn point(raw: &str) -> Result<String, Mismatch> {
    #[derive(serde::Deserialize)]
    struct Point<'a> {
        #[serde(borrow)]
        x: &'a RawValue,
        #[serde(borrow)]
        y: &'a RawValue,
    }
    if raw.starts_with('"') {
        return string(raw).map(Cow::into_owned);
    }
    let point: Point<'_> = serde_json::from_str(raw).map_err(|_| mismatch("a point"))?;
    let (x, y) = (number_text(point.x.get())?, number_text(point.y.get())?);
    Ok(format!("({x},{y})"))
}

/// Well-known binary, with the reference system in it as PostGIS reads it.
pub(super) fn geometry(raw: &str) -> Result<String, Mismatch> {
    #[derive(serde::Deserialize)]
    struct Geometry<'a> {
        #[serde(borrow)]
        wkb: &'a RawValue,
        srid: Option<u32>,
    }
    const HAS_SRID: u32 = 0x2000_0000;
    if raw.starts_with('"') {
        return string(raw).map(Cow::into_owned);
    }
    let geometry: Geometry<'_> = serde_json::from_str(raw).map_err(|_| mismatch("a geometry"))?;
    let wkb = bytes(Encoding::Base64, geometry.wkb.get())?;
    let head =
        wkb.split_first().and_then(|(order, rest)| Some((*order, rest.split_first_chunk::<4>()?)));
    let (order, (kind, rest)) = head.ok_or_else(|| mismatch("a geometry"))?;
    let kind = if order == 0 { u32::from_be_bytes(*kind) } else { u32::from_le_bytes(*kind) };
    let srid = geometry.srid.filter(|srid| *srid != 0 && kind & HAS_SRID == 0);
    let Some(srid) = srid else { return Ok(hex(&wkb).split_off(2)) };
    let word = |word: u32| if order == 0 { word.to_be_bytes() } else { word.to_le_bytes() };
    let with_srid = [&[order][..], &word(kind | HAS_SRID), &word(srid), rest].concat();
    Ok(hex(&with_srid).split_off(2))
}

/// Numbers in brackets, as pgvector prints them.
pub(super) fn vector(raw: &str) -> Result<String, Mismatch> {
    if raw.starts_with('"') {
        return string(raw).map(Cow::into_owned);
    }
    let numbers: Vec<f32> = serde_json::from_str(raw).map_err(|_| mismatch("a vector"))?;
    let numbers: Result<Vec<String>, Mismatch> = numbers.into_iter().map(float4_text).collect();
    Ok(format!("[{}]", numbers?.join(",")))
}

/// `{1:1.5,3:2}/5`. Debezium writes an object, or as Kafka Connect does where its keys are numbers: an array of pairs.
pub(super) fn sparse_vector(raw: &str) -> Result<String, Mismatch> {
    #[derive(serde::Deserialize)]
    struct Sparse<'a> {
        dimensions: u32,
        #[serde(borrow)]
        vector: &'a RawValue,
    }
    if raw.starts_with('"') {
        return string(raw).map(Cow::into_owned);
    }
    let none = |_| mismatch("a sparse vector");
    let sparse: Sparse<'_> = serde_json::from_str(raw).map_err(none)?;
    let pairs: Vec<(u32, f32)> = match sparse.vector.get() {
        pairs if pairs.starts_with('[') => serde_json::from_str(pairs).map_err(none)?,
        object => {
            let object: std::collections::BTreeMap<u32, f32> =
                serde_json::from_str(object).map_err(none)?;
            object.into_iter().collect()
        }
    };
    let pair = |(at, number)| Ok(format!("{at}:{}", float4_text(number)?));
    let pairs: Result<Vec<String>, Mismatch> = pairs.into_iter().map(pair).collect();
    Ok(format!("{{{}}}/{}", pairs?.join(","), sparse.dimensions))
}

fn float4_text(number: f32) -> Result<String, Mismatch> {
    const FLOAT4: u32 = 700;
    in_text(FLOAT4, &number.to_be_bytes())
}

/// A Postgres array; NULL is a word, every other element stands in quotes.
pub(super) fn array(element: &Semantic, raw: &str) -> Result<String, Mismatch> {
    if raw.starts_with('"') {
        return clean(string(raw)?).map(Cow::into_owned);
    }
    let elements: Vec<&RawValue> = serde_json::from_str(raw).map_err(|_| mismatch("an array"))?;
    let mut text = "{".to_owned();
    for (at, value) in elements.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        match value.get() {
            "null" => text.push_str("NULL"),
            value => quoted(&text_of(element, value)?, &mut text),
        }
    }
    text.push('}');
    Ok(text)
}

pub(super) fn quoted(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        if matches!(character, '"' | '\\') {
            out.push('\\');
        }
        out.push(character);
    }
    out.push('"');
}

/// Keys and values in the text form of hstore: an object, or one in a string.
pub(super) fn hstore(raw: &str) -> Result<String, Mismatch> {
    let text = if raw.starts_with('"') { string(raw)? } else { Cow::Borrowed(raw) };
    let pairs: indexmap::IndexMap<String, Option<String>> =
        serde_json::from_str(&text).map_err(|_| mismatch("an object of texts"))?;
    let mut text = String::new();
    for (at, (key, value)) in pairs.iter().enumerate() {
        text.push_str(if at > 0 { ", " } else { "" });
        quoted(key, &mut text);
        text.push_str("=>");
        match value {
            Some(value) => quoted(value, &mut text),
            None => text.push_str("NULL"),
        }
    }
    clean(Cow::Owned(text)).map(Cow::into_owned)
}
