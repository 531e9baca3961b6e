//! Values in Postgres binary form, from what other formats hold: decimals as text or as an unscaled
//! integer, days and times as counts or in ISO 8601.
//!
//! Nothing here rounds: what Postgres could not hold exactly is no value. Never goes through a float.
//!
//! Source: PostgreSQL source, numeric_recv, date_recv, timestamp_recv; ISO 8601 with the signed years of
//! java.time.

use super::time::{civil_from_days, days_from_civil};

const DAY: i64 = 86_400_000_000;

/// Days between 1970-01-01 and 2000-01-01, where Postgres counts from.
const POSTGRES_EPOCH_DAYS: i64 = 10_957;

/// The same in microseconds.
const POSTGRES_EPOCH: i64 = POSTGRES_EPOCH_DAYS * DAY;

/// The days that a Postgres date may have: 4713 BC to 5874897 AD, since 2000-01-01.
const DATES: std::ops::Range<i64> = -2_451_545..2_145_031_949;

/// The microseconds that a Postgres timestamp may have: 4713 BC to 294276 AD, since 2000-01-01.
const TIMESTAMPS: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;

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

/// The binary date of a count of days since 1970-01-01.
pub fn date_of_epoch_days(days: i64) -> Option<i32> {
    let days = days.checked_sub(POSTGRES_EPOCH_DAYS)?;
    if DATES.contains(&days) { i32::try_from(days).ok() } else { None }
}

/// The binary timestamp of a count of microseconds since 1970-01-01.
pub fn timestamp_of_epoch_micros(micros: i64) -> Option<i64> {
    micros.checked_sub(POSTGRES_EPOCH).filter(|micros| TIMESTAMPS.contains(micros))
}

/// The days since 1970-01-01 of an ISO date, with or without a zone behind it: `2024-02-29Z`,
/// `-0043-03-15`, `+12024-01-01`. The year is astronomical: 0 is 1 BC.
pub fn epoch_days_of_iso(text: &str) -> Option<i64> {
    let (days, rest) = date(text)?;
    (rest.is_empty() || zone(rest).is_some()).then_some(days)
}

/// The microseconds of an ISO time of day, with or without a zone behind it, and the zone's seconds east
/// of Greenwich.
pub fn micros_of_iso_time(text: &str) -> Option<(i64, i64)> {
    let (micros, rest) = time(text)?;
    let east = if rest.is_empty() { 0 } else { zone(rest)? };
    Some((micros, east))
}

/// The microseconds since 1970-01-01 of an ISO date and time. Without a zone it is UTC.
pub fn epoch_micros_of_iso(text: &str) -> Option<i64> {
    let (days, rest) = date(text)?;
    let rest = rest.strip_prefix(['T', ' '])?;
    let (micros, east) = micros_of_iso_time(rest)?;
    days.checked_mul(DAY)?.checked_add(micros)?.checked_sub(east * 1_000_000)
}

fn date(text: &str) -> Option<(i64, &str)> {
    let (negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let (year, rest) = unsigned.split_once('-')?;
    let (month, rest) = rest.split_once('-')?;
    let (day, rest) = rest.split_at_checked(2)?;
    let year: i64 = number(year)?;
    let (month, day) = (number(month)?, number(day)?);
    let year = if negative { -year } else { year };
    let (month, day) = (u32::try_from(month).ok()?, u32::try_from(day).ok()?);
    ((1..=12).contains(&month) && (1..=31).contains(&day)).then_some(())?;
    let days = days_from_civil(year, month, day);
    // the 30th of February is no day
    (civil_from_days(days) == (year, month, day)).then_some((days + POSTGRES_EPOCH_DAYS, rest))
}

fn time(text: &str) -> Option<(i64, &str)> {
    let (clock, rest) = text.split_at_checked(5)?;
    let (hours, minutes) = clock.split_once(':')?;
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let (seconds, rest) = match rest.strip_prefix(':') {
        Some(rest) => {
            let (seconds, rest) = rest.split_at_checked(2)?;
            (number(seconds)?, rest)
        }
        None => (0, rest),
    };
    let (micros, rest) = match rest.strip_prefix('.') {
        Some(rest) => {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (digits, rest) = rest.split_at_checked(digits)?;
            let (micros, beyond) = digits.split_at_checked(6).unwrap_or((digits, ""));
            // what Postgres cannot hold is not cut off silently
            beyond.bytes().all(|digit| digit == b'0').then_some(())?;
            (number(&format!("{micros:0<6}"))?, rest)
        }
        None => (0, rest),
    };
    let total = ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + micros;
    (minutes < 60 && seconds < 60 && total <= DAY).then_some((total, rest))
}

/// Seconds east of Greenwich: `Z`, `+02`, `-05:30`, `+01:00:30`.
fn zone(text: &str) -> Option<i64> {
    if text == "Z" {
        return Some(0);
    }
    let (sign, text) = match text.as_bytes().first()? {
        b'+' => (1, text.get(1..)?),
        b'-' => (-1, text.get(1..)?),
        _ => return None,
    };
    let mut parts = text.split(':').map(number);
    let hours = parts.next()??;
    let minutes = parts.next().unwrap_or(Some(0))?;
    let seconds = parts.next().unwrap_or(Some(0))?;
    (parts.next().is_none() && minutes < 60 && seconds < 60).then_some(())?;
    Some(sign * ((hours * 60 + minutes) * 60 + seconds))
}

/// The microseconds, days and months of an ISO duration such as `P1Y2M-3DT4H5M6.000007S`.
pub fn interval_of_iso(text: &str) -> Option<(i64, i32, i32)> {
    let (date, time) = match text.strip_prefix('P')?.split_once('T') {
        Some((date, time)) => (date, time),
        None => (text.strip_prefix('P')?, ""),
    };
    let (mut months, mut days, mut micros) = (0_i64, 0_i64, 0_i64);
    for (count, unit) in parts(date)? {
        let count: i64 = count.parse().ok()?;
        match unit {
            'Y' => months = months.checked_add(count.checked_mul(12)?)?,
            'M' => months = months.checked_add(count)?,
            'W' => days = days.checked_add(count.checked_mul(7)?)?,
            'D' => days = days.checked_add(count)?,
            _ => return None,
        }
    }
    for (count, unit) in parts(time)? {
        let seconds = match unit {
            'H' => 3_600,
            'M' => 60,
            'S' => 1,
            _ => return None,
        };
        micros = micros.checked_add(micros_of(count)?.checked_mul(seconds)?)?;
    }
    Some((micros, i32::try_from(days).ok()?, i32::try_from(months).ok()?))
}

/// The numbers of a duration, each with the letter behind it.
fn parts(text: &str) -> Option<Vec<(&str, char)>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(|character: char| character.is_ascii_alphabetic()) {
        let (count, behind) = rest.split_at_checked(at)?;
        found.push((count, behind.chars().next()?));
        rest = behind.get(1..)?;
    }
    rest.is_empty().then_some(found)
}

/// `-6.789` as millionths.
fn micros_of(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let (fraction, beyond) = fraction.split_at_checked(6).unwrap_or((fraction, ""));
    beyond.bytes().all(|digit| digit == b'0').then_some(())?;
    let magnitude = whole.trim_start_matches(['-', '+']);
    let micros = number(magnitude)?.checked_mul(1_000_000)?;
    let micros = micros.checked_add(number(&format!("{fraction:0<6}"))?)?;
    Some(if whole.starts_with('-') { -micros } else { micros })
}

/// The sixteen bytes of a UUID such as `a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11`.
pub fn uuid_of_text(text: &str) -> Option<[u8; 16]> {
    const DASHES: [usize; 4] = [8, 13, 18, 23];
    let mut uuid = [0; 16];
    let mut digits = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte == b'-' && DASHES.contains(&at) {
            continue;
        }
        let digit = u8::try_from(char::from(byte).to_digit(16)?).ok()?;
        let place = uuid.get_mut(digits / 2)?;
        *place = *place << 4 | digit;
        digits += 1;
    }
    (digits == 32 && text.len() == 36).then_some(uuid)
}

/// Digits only: `parse` would take a sign.
fn number(text: &str) -> Option<i64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
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

    #[test]
    fn iso_days_and_times_are_read_as_java_writes_them() {
        assert_eq!(epoch_days_of_iso("2024-02-29Z"), Some(19_782));
        assert_eq!(epoch_days_of_iso("0001-01-01Z"), Some(-719_162));
        assert_eq!(epoch_days_of_iso("+12024-01-01"), Some(3_672_148));
        assert_eq!(epoch_days_of_iso("-0043-03-15"), Some(-735_160));
        assert_eq!(epoch_days_of_iso("2023-02-29Z"), None);
        assert_eq!(micros_of_iso_time("23:59:59.999999Z"), Some((86_399_999_999, 0)));
        assert_eq!(micros_of_iso_time("10:00-05:30"), Some((36_000_000_000, -19_800)));
        assert_eq!(micros_of_iso_time("10:00:00.1234567"), None, "no digit is cut off");
        assert_eq!(micros_of_iso_time("24:00:00"), Some((DAY, 0)));
        assert_eq!(epoch_micros_of_iso("1970-01-01T02:00:00+02:00"), Some(0));
        assert_eq!(epoch_micros_of_iso("1999-12-31T18:29:59.500000Z"), Some(946_664_999_500_000));
        assert_eq!(epoch_micros_of_iso("2024-02-29"), None);
    }

    #[test]
    fn durations_and_uuids_are_read() {
        assert_eq!(interval_of_iso("P1Y2M-3DT4H5M6.000007S"), Some((14_706_000_007, -3, 14)));
        assert_eq!(interval_of_iso("P0Y0M-1DT0H0M0S"), Some((0, -1, 0)));
        assert_eq!(interval_of_iso("PT-0.5S"), Some((-500_000, 0, 0)));
        assert_eq!(interval_of_iso("1Y"), None);
        assert_eq!(interval_of_iso("P1"), None);
        let uuid = uuid_of_text("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11").unwrap();
        assert_eq!((uuid[0], uuid[15]), (0xa0, 0x11));
        assert_eq!(uuid_of_text("a0eebc999c0b4ef8bb6d6bb9bd380a11"), None);
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

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            numeric_of_text(&text, &mut Vec::new());
            epoch_days_of_iso(&text);
            micros_of_iso_time(&text);
            epoch_micros_of_iso(&text);
            interval_of_iso(&text);
            uuid_of_text(&text);
        }
    }
}
