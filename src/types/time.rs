//! Dates, times and intervals as Postgres prints them with DateStyle ISO and TimeZone UTC.

use std::io::Write;

const DAY: i64 = 86_400_000_000;

/// Days between 0000-03-01 and 2000-01-01, where Postgres counts from.
const POSTGRES_DAY: i64 = 730_425;

/// Whether a binary date is `infinity` or `-infinity`.
pub fn infinite_date(days: i32) -> bool {
    days == i32::MAX || days == i32::MIN
}

/// Whether a binary timestamp is `infinity` or `-infinity`.
pub fn infinite_timestamp(micros: i64) -> bool {
    micros == i64::MAX || micros == i64::MIN
}

/// Year (astronomical: 0 is 1 BC), month and day of a count of days since 2000-01-01, in the
/// proleptic Gregorian calendar. Works over Postgres' whole range, which date libraries leave.
pub fn civil_from_days(days: i64) -> (i64, u32, u32) {
    // years start in March, so that the leap day comes last; an era is 400 years
    let days = days + POSTGRES_DAY;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    (year, u32::try_from(month).unwrap_or(1), u32::try_from(day).unwrap_or(1))
}

/// The inverse of [`civil_from_days`].
pub fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let month = i64::from(month);
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * shifted_month + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - POSTGRES_DAY
}

pub(super) fn write_date(days: i32, out: &mut Vec<u8>) {
    match days {
        i32::MAX => out.extend_from_slice(b"infinity"),
        i32::MIN => out.extend_from_slice(b"-infinity"),
        _ => {
            let before_christ = write_civil(i64::from(days), out);
            out.extend_from_slice(before_christ);
        }
    }
}

/// Writes the date; returns the suffix that goes behind the time.
fn write_civil(days: i64, out: &mut Vec<u8>) -> &'static [u8] {
    let (year, month, day) = civil_from_days(days);
    let shown = if year > 0 { year } else { 1 - year };
    let _infallible = write!(out, "{shown:04}-{month:02}-{day:02}");
    if year > 0 { b"" } else { b" BC" }
}

pub(super) fn write_time(micros: i64, out: &mut Vec<u8>) {
    write_clock(micros, out);
}

fn write_clock(micros: i64, out: &mut Vec<u8>) {
    let seconds = micros / 1_000_000;
    let _infallible =
        write!(out, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    write_fraction(micros % 1_000_000, out);
}

fn write_fraction(micros: i64, out: &mut Vec<u8>) {
    if micros != 0 {
        let _infallible = write!(out, ".{micros:06}");
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
}

pub(super) fn write_timestamp(micros: i64, zone: &str, out: &mut Vec<u8>) {
    match micros {
        i64::MAX => out.extend_from_slice(b"infinity"),
        i64::MIN => out.extend_from_slice(b"-infinity"),
        _ => {
            let before_christ = write_civil(micros.div_euclid(DAY), out);
            out.push(b' ');
            write_clock(micros.rem_euclid(DAY), out);
            out.extend_from_slice(zone.as_bytes());
            out.extend_from_slice(before_christ);
        }
    }
}

/// Microseconds, then seconds west of Greenwich.
pub(super) fn write_timetz(value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (micros, west) = value.split_first_chunk::<8>()?;
    write_clock(i64::from_be_bytes(*micros), out);
    let west = i32::from_be_bytes(west.try_into().ok()?);
    let offset = west.unsigned_abs();
    let sign = if west <= 0 { '+' } else { '-' };
    let _infallible = write!(out, "{sign}{:02}", offset / 3600);
    let (minutes, seconds) = (offset / 60 % 60, offset % 60);
    if minutes != 0 || seconds != 0 {
        let _infallible = write!(out, ":{minutes:02}");
    }
    if seconds != 0 {
        let _infallible = write!(out, ":{seconds:02}");
    }
    Some(())
}

/// Microseconds, days, months. Since Postgres 17 an interval may be infinite: all at the extreme.
pub(super) fn write_interval(value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (micros, rest) = value.split_first_chunk::<8>()?;
    let (days, months) = rest.split_first_chunk::<4>()?;
    let micros = i64::from_be_bytes(*micros);
    let days = i32::from_be_bytes(*days);
    let months = i32::from_be_bytes(months.try_into().ok()?);
    match (micros, days, months) {
        (i64::MAX, i32::MAX, i32::MAX) => {
            out.extend_from_slice(b"infinity");
            return Some(());
        }
        (i64::MIN, i32::MIN, i32::MIN) => {
            out.extend_from_slice(b"-infinity");
            return Some(());
        }
        _ => {}
    }
    let mut parts = Interval { out, empty: true, after_negative: false };
    parts.unit(months / 12, "year");
    parts.unit(months % 12, "mon");
    parts.unit(days, "day");
    parts.clock(micros);
    Some(())
}

struct Interval<'o> {
    out: &'o mut Vec<u8>,
    empty: bool,
    /// a positive part behind a negative one shows its plus
    after_negative: bool,
}

impl Interval<'_> {
    fn unit(&mut self, value: i32, name: &str) {
        if value == 0 {
            return;
        }
        let space = if self.empty { "" } else { " " };
        let plus = if self.after_negative && value > 0 { "+" } else { "" };
        let plural = if value == 1 { "" } else { "s" };
        let _infallible = write!(self.out, "{space}{plus}{value} {name}{plural}");
        self.after_negative = value < 0;
        self.empty = false;
    }

    fn clock(&mut self, micros: i64) {
        if micros == 0 && !self.empty {
            return;
        }
        let space = if self.empty { "" } else { " " };
        let sign = match micros {
            ..0 => "-",
            _ if self.after_negative => "+",
            _ => "",
        };
        let total = micros.unsigned_abs();
        let seconds = total / 1_000_000;
        let _infallible = write!(
            self.out,
            "{space}{sign}{:02}:{:02}:{:02}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60
        );
        write_fraction(i64::try_from(total % 1_000_000).unwrap_or(0), self.out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn civil_dates_and_day_counts_are_inverse_over_postgres_range() {
        assert_eq!(civil_from_days(0), (2000, 1, 1));
        assert_eq!(days_from_civil(2024, 2, 29), 8825);
        for days in (-2_451_545..106_751_991).step_by(10_007) {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
    }
}
