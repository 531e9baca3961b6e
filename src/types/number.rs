//! Numbers as Postgres prints them. Never goes through a float to print a decimal.

use std::io::Write;

pub(super) fn write_int(value: i64, out: &mut Vec<u8>) {
    // writing to a Vec cannot fail
    let _infallible = write!(out, "{value}");
}

/// Postgres prints the shortest digits that read back as the same value, in fixed notation while
/// the decimal exponent lies in -4..15 (float8) or -4..6 (float4).
pub(super) fn write_float8(value: f64, out: &mut Vec<u8>) {
    if !write_special(value.is_nan(), value.is_infinite(), value.is_sign_negative(), out) {
        write_shortest(&format!("{value:e}"), 15, out);
    }
}

pub(super) fn write_float4(value: f32, out: &mut Vec<u8>) {
    if !write_special(value.is_nan(), value.is_infinite(), value.is_sign_negative(), out) {
        write_shortest(&format!("{value:e}"), 6, out);
    }
}

fn write_special(nan: bool, infinite: bool, negative: bool, out: &mut Vec<u8>) -> bool {
    if nan {
        out.extend_from_slice(b"NaN");
    } else if infinite {
        out.extend_from_slice(if negative { b"-Infinity" } else { b"Infinity" });
    }
    nan || infinite
}

/// Rewrites Rust's `d.ddde-7`, which holds the shortest digits, in Postgres' notation.
fn write_shortest(scientific: &str, fixed_below: i32, out: &mut Vec<u8>) {
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (negative, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa),
    };
    let digits: Vec<u8> = mantissa.bytes().filter(u8::is_ascii_digit).collect();
    if negative {
        out.push(b'-');
    }
    if !(-4..fixed_below).contains(&exponent) {
        return write_scientific(&digits, exponent, out);
    }
    let whole = usize::try_from(exponent + 1).unwrap_or(0);
    if whole == 0 {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', usize::try_from(-exponent - 1).unwrap_or(0)));
        return out.extend_from_slice(&digits);
    }
    let (before, after) = digits.split_at(whole.min(digits.len()));
    out.extend_from_slice(before);
    out.extend(std::iter::repeat_n(b'0', whole - before.len()));
    if !after.is_empty() {
        out.push(b'.');
        out.extend_from_slice(after);
    }
}

fn write_scientific(digits: &[u8], exponent: i32, out: &mut Vec<u8>) {
    let (first, rest) = digits.split_at(1.min(digits.len()));
    out.extend_from_slice(first);
    if !rest.is_empty() {
        out.push(b'.');
        out.extend_from_slice(rest);
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    let _infallible = write!(out, "e{sign}{:02}", exponent.unsigned_abs());
}

/// The binary numeric: digit count, weight of the first digit, sign, display scale, then digits in
/// base 10,000 (PostgreSQL source, numeric_send).
pub(super) fn write_numeric(value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut shorts = value.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let count = usize::from(shorts.next()?);
    let weight = i32::from(shorts.next()?.cast_signed());
    let sign = shorts.next()?;
    let scale = usize::from(shorts.next()?);
    let digits: Vec<u16> = shorts.collect();
    if digits.len() != count || value.len() != 8 + 2 * count {
        return None;
    }
    match sign {
        0 => {}
        0x4000 => out.push(b'-'),
        0xC000 => {
            out.extend_from_slice(b"NaN");
            return Some(());
        }
        0xD000 => {
            out.extend_from_slice(b"Infinity");
            return Some(());
        }
        0xF000 => {
            out.extend_from_slice(b"-Infinity");
            return Some(());
        }
        _ => return None,
    }
    // digit n of the decimal stands for 10_000^n; what the value leaves out is zero
    let digit = |power: i32| -> u16 {
        usize::try_from(weight - power).ok().and_then(|at| digits.get(at)).copied().unwrap_or(0)
    };
    if weight < 0 {
        out.push(b'0');
    }
    for power in (0..=weight).rev() {
        let _infallible = if power == weight {
            write!(out, "{}", digit(power))
        } else {
            write!(out, "{:04}", digit(power))
        };
    }
    if scale > 0 {
        out.push(b'.');
        let end = out.len() + scale;
        let mut power = -1;
        while out.len() < end {
            let _infallible = write!(out, "{:04}", digit(power));
            power -= 1;
        }
        out.truncate(end);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_postgres_prints_them() {
        let cases = [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (123456789012345.0, "123456789012345"),
            (1234567890123456.0, "1.234567890123456e+15"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-1.5e300, "-1.5e+300"),
            (f64::INFINITY, "Infinity"),
        ];
        for (value, text) in cases {
            let mut out = Vec::new();
            write_float8(value, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }
}
