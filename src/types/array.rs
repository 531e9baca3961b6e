//! Arrays as Postgres prints them: nested braces, quotes where an element needs them, explicit
//! bounds where one does not start at 1.

use std::io::Write;

use super::{Builtin, write_text};

/// Dimensions, a null flag, the element's OID, each dimension's length and lower bound, elements.
pub(super) fn write_array(element: Builtin, value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut input = value;
    let dimensions = take_i32(&mut input)?;
    let _has_nulls = take_i32(&mut input)?;
    let _element_oid = take_i32(&mut input)?;
    if dimensions == 0 {
        out.extend_from_slice(b"{}");
        return Some(());
    }
    let mut lengths = Vec::new();
    let mut bounds = Vec::new();
    for _ in 0..dimensions {
        lengths.push(usize::try_from(take_i32(&mut input)?).ok()?);
        bounds.push(take_i32(&mut input)?);
    }
    if bounds.iter().any(|bound| *bound != 1) {
        for (length, bound) in lengths.iter().zip(&bounds) {
            let last = i64::from(*bound) + i64::try_from(*length).ok()? - 1;
            let _infallible = write!(out, "[{bound}:{last}]");
        }
        out.push(b'=');
    }
    write_dimension(element, &lengths, &mut input, out)
}

fn write_dimension(
    element: Builtin,
    lengths: &[usize],
    input: &mut &[u8],
    out: &mut Vec<u8>,
) -> Option<()> {
    let (length, inner) = lengths.split_first()?;
    out.push(b'{');
    for n in 0..*length {
        if n > 0 {
            out.push(b',');
        }
        if inner.is_empty() {
            write_element(element, input, out)?;
        } else {
            write_dimension(element, inner, input, out)?;
        }
    }
    out.push(b'}');
    Some(())
}

fn write_element(element: Builtin, input: &mut &[u8], out: &mut Vec<u8>) -> Option<()> {
    let length = take_i32(input)?;
    if length < 0 {
        out.extend_from_slice(b"NULL");
        return Some(());
    }
    let (value, rest) = input.split_at_checked(usize::try_from(length).ok()?)?;
    *input = rest;
    let mut text = Vec::with_capacity(value.len());
    write_text(element, value, &mut text).ok()?;
    if !needs_quotes(&text) {
        out.extend_from_slice(&text);
        return Some(());
    }
    out.push(b'"');
    for byte in text {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
    Some(())
}

fn needs_quotes(text: &[u8]) -> bool {
    text.is_empty()
        || text.eq_ignore_ascii_case(b"null")
        || text.iter().any(|byte| {
            matches!(
                byte,
                b'"' | b'\\' | b'{' | b'}' | b',' | b' ' | b'\t' | b'\n' | b'\r' | 11 | 12
            )
        })
}

fn take_i32(input: &mut &[u8]) -> Option<i32> {
    let (value, rest) = input.split_first_chunk::<4>()?;
    *input = rest;
    Some(i32::from_be_bytes(*value))
}
