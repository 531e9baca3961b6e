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
        let bits = value.to_bits();
        let (fraction, exponent) = (bits & 0xf_ffff_ffff_ffff, (bits >> 52) & 0x7ff);
        let float = Binary::new(fraction, exponent, 52, 1075);
        let exact = |decimals| format!("{value:.decimals$e}");
        let reads_back = |text: &str| text.parse() == Ok(value);
        write_shortest(&float.shortest(format!("{value:e}"), exact, reads_back), 15, out);
    }
}

pub(super) fn write_float4(value: f32, out: &mut Vec<u8>) {
    if !write_special(value.is_nan(), value.is_infinite(), value.is_sign_negative(), out) {
        let bits = u64::from(value.to_bits());
        let float = Binary::new(bits & 0x7f_ffff, (bits >> 23) & 0xff, 23, 150);
        let exact = |decimals| format!("{value:.decimals$e}");
        let reads_back = |text: &str| text.parse() == Ok(value);
        write_shortest(&float.shortest(format!("{value:e}"), exact, reads_back), 6, out);
    }
}

/// The absolute value of a finite float: `mantissa * 2^exponent`.
#[derive(Clone, Copy)]
struct Binary {
    mantissa: u64,
    exponent: i64,
    /// a power of two, which is nearer to the value below than to the one above
    first: bool,
}

impl Binary {
    fn new(fraction: u64, exponent: u64, fraction_bits: u32, bias: i64) -> Binary {
        let implicit = if exponent == 0 { 0 } else { 1 << fraction_bits };
        let exponent = i64::try_from(exponent.max(1)).unwrap_or(1);
        Binary {
            mantissa: fraction | implicit,
            exponent: exponent - bias,
            first: fraction == 0 && exponent > 1,
        }
    }

    /// The digits that Postgres chooses (src/common/ryu_common.h), which differ from Rust's `shortest`
    /// twice: of two that are as near it takes the even one, as rounding to that many decimals
    /// (`exact`) does; and it takes none that stands exactly between two floats, so that 1e23 prints as
    /// 9.999999999999999e+22.
    fn shortest(
        self,
        shortest: String,
        exact: impl Fn(usize) -> String,
        reads_back: impl Fn(&str) -> bool,
    ) -> String {
        // no float needs more
        const DECIMALS: usize = 16;
        let inside = |text: &String| reads_back(text) && !self.is_between(text);
        let digits = shortest.bytes().take_while(|b| *b != b'e').filter(u8::is_ascii_digit).count();
        let nearest = exact(digits.saturating_sub(1));
        if inside(&nearest) {
            return nearest;
        }
        if !self.is_between(&shortest) {
            return shortest;
        }
        (digits..=DECIMALS).map(exact).find(inside).unwrap_or(shortest)
    }

    /// Whether `d.ddde7` is the midpoint of this float and a neighbour.
    fn is_between(self, scientific: &str) -> bool {
        // beyond it the digits of a midpoint are more than 17
        const POWER_OF_FIVE: i64 = 27;
        let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
        let decimals = mantissa.split_once('.').map_or(0, |(_, decimals)| decimals.len());
        let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
        let (Ok(digits), Ok(ten)) = (digits.parse::<u128>(), exponent.parse::<i64>()) else {
            return false;
        };
        let ten = ten - i64::try_from(decimals).unwrap_or(0);
        if digits == 0 || ten.abs() > POWER_OF_FIVE {
            return false;
        }
        // both sides as an odd number and a power of two; the fives go where they multiply
        let fives = 5_u128.pow(u32::try_from(ten.unsigned_abs()).unwrap_or(0));
        let (left, right) = if ten >= 0 { (digits * fives, 1) } else { (digits, fives) };
        let twos = left.trailing_zeros();
        let (odd, power) = (left >> twos, i64::from(twos) + ten);
        let mantissa = u128::from(self.mantissa);
        let midpoints = [
            (2 * mantissa + 1, self.exponent - 1),
            (2 * mantissa - 1, self.exponent - 1),
            (4 * mantissa - 1, if self.first { self.exponent - 2 } else { i64::MAX }),
        ];
        midpoints.iter().any(|(middle, two)| middle * right == odd && *two == power)
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
            (1e23, "9.999999999999999e+22"),
            (-1e22, "-1e+22"),
            (5e-324, "5e-324"),
            (1_125_899_906_842_624.3, "1.1258999068426242e+15"),
            (1_125_899_906_842_624.8, "1.1258999068426248e+15"),
            (f64::INFINITY, "Infinity"),
        ];
        for (value, text) in cases {
            let mut out = Vec::new();
            write_float8(value, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }
}
