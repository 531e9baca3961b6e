//! Days, times and durations as Postgres counts them, from counts since 1970 or from ISO 8601.
//!
//! Nothing here rounds: a digit that Postgres cannot hold is never cut off.
//!
//! Source: PostgreSQL source, date_recv, timestamp_recv; ISO 8601 with the signed years of java.time.

use super::number;
use crate::types::time::{civil_from_days, days_from_civil};

const DAY: i64 = 86_400_000_000;

/// Days between 1970-01-01 and 2000-01-01, where Postgres counts from.
const POSTGRES_EPOCH_DAYS: i64 = 10_957;

/// The same in microseconds.
const POSTGRES_EPOCH: i64 = POSTGRES_EPOCH_DAYS * DAY;

/// The days that a Postgres date may have: 4713 BC to 5874897 AD, since 2000-01-01.
const DATES: std::ops::Range<i64> = -2_451_545..2_145_031_949;

/// The microseconds that a Postgres timestamp may have: 4713 BC to 294276 AD, since 2000-01-01.
const TIMESTAMPS: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;

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
    // the day of the first microsecond begins before what 64 bits hold
    let day = i128::from(days) * i128::from(DAY);
    i64::try_from(day + i128::from(micros) - i128::from(east) * 1_000_000).ok()
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
