//! Decimals as Postgres numerics, from text or from an unscaled integer.
//!
//! Nothing here rounds, and nothing goes through a float.
//!
//! Source: PostgreSQL source, numeric_recv.

/// A number this long takes more work than any is worth; Postgres holds 131,072 digits before the point.
const LONGEST_NUMBER: usize = 64 * 1024;

/// Appends the binary numeric of a decimal such as `-1.10`, `1e3`, `NaN` or `Infinity`.
pub fn numeric_of_text(text: &str, out: &mut Vec<u8>) -> Option<()> {
    match text {
        "NaN" => return special(0xC000, out),
        "Infinity" => return special(0xD000, out),
        "-Infinity" => return special(0xF000, out),
        _ => {}
    }
    let (negative, text) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = [whole, fraction].concat();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let scale = i32::try_from(fraction.len()).ok()?.checked_sub(exponent)?;
    decimal(negative, digits.as_bytes(), scale, out)
}

/// Appends the binary numeric of a two's complement big-endian integer, divided by ten to the power of
/// `scale`.
pub fn numeric_of_unscaled(unscaled: &[u8], scale: i32, out: &mut Vec<u8>) -> Option<()> {
    let negative = *unscaled.first()? >= 0x80;
    let fill = if negative { 0xff } else { 0 };
    if let Some(gap) = size_of::<i64>().checked_sub(unscaled.len()) {
        let mut wide = [fill; size_of::<i64>()];
        wide.get_mut(gap..)?.copy_from_slice(unscaled);
        let magnitude = i64::from_be_bytes(wide).unsigned_abs();
        return decimal(negative, magnitude.to_string().as_bytes(), scale, out);
    }
    decimal(negative, &magnitude(unscaled, negative)?, scale, out)
}

/// The decimal digits of a long integer's magnitude.
fn magnitude(unscaled: &[u8], negative: bool) -> Option<Vec<u8>> {
    const GROUP: u64 = 1_000_000_000;
    if unscaled.len() > LONGEST_NUMBER / 2 {
        return None;
    }
    let mut limbs: Vec<u32> = Vec::new();
    for limb in unscaled.rchunks(4) {
        let mut wide = [if negative { 0xff } else { 0 }; 4];
        wide.get_mut(4 - limb.len()..)?.copy_from_slice(limb);
        limbs.push(u32::from_be_bytes(wide));
    }
    if negative {
        let mut carry = true;
        for limb in &mut limbs {
            (*limb, carry) = (!*limb).overflowing_add(carry.into());
        }
    }
    let mut groups = Vec::new();
    while limbs.iter().any(|limb| *limb != 0) {
        let mut rest = 0;
        for limb in limbs.iter_mut().rev() {
            let value = rest << 32 | u64::from(*limb);
            *limb = u32::try_from(value / GROUP).ok()?;
            rest = value % GROUP;
        }
        groups.push(rest);
        while limbs.last() == Some(&0) {
            limbs.pop();
        }
    }
    let first = groups.pop().unwrap_or(0).to_string();
    let rest: String = groups.iter().rev().map(|group| format!("{group:09}")).collect();
    Some([first, rest].concat().into_bytes())
}

/// Appends a binary numeric: these digits, the last `scale` of them behind the point.
fn decimal(negative: bool, digits: &[u8], scale: i32, out: &mut Vec<u8>) -> Option<()> {
    const LAST_SCALE: i32 = 16_383;
    let zeros = usize::try_from(scale.checked_neg()?.max(0)).ok()?;
    let scale = scale.max(0);
    if digits.len() + zeros > LONGEST_NUMBER || scale > LAST_SCALE {
        return None;
    }
    let scale = usize::try_from(scale).ok()?;
    // groups of four around the point, each a digit of base 10,000
    let whole = (digits.len() + zeros).saturating_sub(scale);
    let lead = (4 - whole % 4) % 4;
    let behind = digits.len() + zeros - whole;
    // a number smaller than one may need zeros between the point and its digits
    let gap = scale - behind;
    let digit = |at: usize| -> u16 {
        let at = match at.checked_sub(lead) {
            Some(at) if at < whole => at,
            Some(at) => match (at - whole).checked_sub(gap) {
                Some(behind) => whole + behind,
                None => return 0,
            },
            None => return 0,
        };
        digits.get(at).map_or(0, |digit| u16::from(digit - b'0'))
    };
    let (before, after) = ((whole + lead) / 4, scale.div_ceil(4));
    let group = |n: usize| (0..4).fold(0, |sum, at| sum * 10 + digit(n * 4 + at));
    let mut groups: Vec<u16> = (0..before + after).map(group).collect();
    while groups.last() == Some(&0) {
        groups.pop();
    }
    let leading = groups.iter().take_while(|group| **group == 0).count();
    let weight = i16::try_from(before).ok()?.checked_sub(1)?;
    let weight = weight.checked_sub(i16::try_from(leading).ok()?)?;
    let groups = groups.get(leading..)?;
    let sign: u16 = if negative && !groups.is_empty() { 0x4000 } else { 0 };
    let weight = if groups.is_empty() { 0 } else { weight };
    out.extend_from_slice(&u16::try_from(groups.len()).ok()?.to_be_bytes());
    out.extend_from_slice(&weight.to_be_bytes());
    out.extend_from_slice(&sign.to_be_bytes());
    out.extend_from_slice(&u16::try_from(scale).ok()?.to_be_bytes());
    groups.iter().for_each(|group| out.extend_from_slice(&group.to_be_bytes()));
    Some(())
}

/// NaN or an infinity.
fn special(sign: u16, out: &mut Vec<u8>) -> Option<()> {
    for word in [0, 0, sign, 0] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::number::write_numeric;

    fn text(binary: &[u8]) -> String {
        let mut out = Vec::new();
        write_numeric(binary, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn decimals_keep_every_digit_and_their_scale() {
        let cases = [
            ("0", "0"),
            ("-0.00", "0.00"),
            ("1.10", "1.10"),
            ("-99999999.99", "-99999999.99"),
            ("0.00012", "0.00012"),
            ("00012345678901234567890.123456789", "12345678901234567890.123456789"),
            ("1e3", "1000"),
            ("1.5e-3", "0.0015"),
            ("1E+2", "100"),
            ("10000", "10000"),
            ("0.0001", "0.0001"),
            ("NaN", "NaN"),
            ("-Infinity", "-Infinity"),
        ];
        for (given, expected) in cases {
            let mut out = Vec::new();
            numeric_of_text(given, &mut out).unwrap();
            assert_eq!(text(&out), expected, "{given}");
        }
        for no_number in ["", "-", ".", "1.2.3", "0x10", "1e", "--1", "1_000", "infinite"] {
            assert!(numeric_of_text(no_number, &mut Vec::new()).is_none(), "{no_number}");
        }
    }

    #[test]
    fn unscaled_integers_of_any_length_are_read() {
        let cases: [(&[u8], i32, &str); 7] = [
            (&[0x6e], 2, "1.10"),
            (&[0xff], 2, "-0.01"),
            (&[0], 0, "0"),
            (&[0x02, 0x54, 0x0b, 0xe3, 0xff], 2, "99999999.99"),
            (&[0x01], -3, "1000"),
            (&[0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], 0, "18446744073709551615"),
            (&[0x80, 0, 0, 0, 0, 0, 0, 0, 0], 0, "-2361183241434822606848"),
        ];
        for (unscaled, scale, expected) in cases {
            let mut out = Vec::new();
            numeric_of_unscaled(unscaled, scale, &mut out).unwrap();
            assert_eq!(text(&out), expected);
        }
        assert!(numeric_of_unscaled(&[], 0, &mut Vec::new()).is_none());
    }

    proptest::proptest! {
        #[test]
        fn an_unscaled_integer_reads_as_its_digits(value: i128, scale in 0..40_i32) {
            let mut out = Vec::new();
            numeric_of_unscaled(&value.to_be_bytes(), scale, &mut out).unwrap();
            let digits = format!("{:0>width$}", value.unsigned_abs(), width = usize::try_from(scale).unwrap() + 1);
            let (whole, fraction) = digits.split_at(digits.len() - usize::try_from(scale).unwrap());
            let sign = if value < 0 { "-" } else { "" };
            let point = if scale > 0 { "." } else { "" };
            proptest::prop_assert_eq!(text(&out), format!("{sign}{whole}{point}{fraction}"));
        }
    }
}
