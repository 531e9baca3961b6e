//! Times of day as cron writes them: five fields, read as vixie-cron reads them. Pure, and without a time
//! zone: which moment a civil time is, and what becomes of one that a zone skips or has twice, is the
//! calendar's matter.

use std::str::FromStr;

use jiff::civil::{Date, DateTime};

/// A cron expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// of days of the month and of the week a day must meet both where one of them is `*`, else any
    either: bool,
}

/// The longest stretch without the rarest day, the 29th of February, and some.
const DAYS_AT_MOST: u32 = 9 * 366;

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Names for whole expressions.
const NAMED: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

/// What a field counts.
struct Field {
    name: &'static str,
    least: u32,
    most: u32,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", least: 0, most: 59, names: &[] },
    Field { name: "hour", least: 0, most: 23, names: &[] },
    Field { name: "day of the month", least: 1, most: 31, names: &[] },
    Field { name: "month", least: 1, most: 12, names: &MONTHS },
    // both 0 and 7 are Sunday
    Field { name: "day of the week", least: 0, most: 7, names: &WEEKDAYS },
];

impl Field {
    fn number(&self, text: &str) -> Result<u32, String> {
        let lower = text.to_ascii_lowercase();
        let named = self.names.iter().zip(self.least..).find(|(name, _)| **name == lower);
        let number = named.map(|(_, number)| number).or_else(|| text.parse().ok());
        number.filter(|number| (self.least..=self.most).contains(number)).ok_or_else(|| {
            format!("{text:?} is no {}, which is {} to {}", self.name, self.least, self.most)
        })
    }

    /// The bits of `*`, `5`, `1-5`, `*/10`, `10-40/5`, and lists of them.
    fn bits(&self, text: &str) -> Result<u64, String> {
        let mut bits = 0;
        for part in text.split(',') {
            let (range, step) = match part.split_once('/') {
                None => (part, 1),
                Some((range, step)) => {
                    let step = step.parse().ok().filter(|step| *step > 0);
                    (range, step.ok_or_else(|| format!("{part:?} has no step that counts"))?)
                }
            };
            let (first, last) = match range.split_once('-') {
                _ if range == "*" => (self.least, self.most),
                Some((first, last)) => (self.number(first)?, self.number(last)?),
                // `5/10` counts from 5 on
                None if part.contains('/') => (self.number(range)?, self.most),
                None => (self.number(range)?, self.number(range)?),
            };
            if first > last {
                return Err(format!("{range:?} ends before it begins"));
            }
            bits |= (first..=last).step_by(step).fold(0, |bits, number| bits | 1_u64 << number);
        }
        Ok(bits)
    }
}

impl FromStr for Cron {
    type Err = String;

    fn from_str(text: &str) -> Result<Cron, String> {
        let text = text.trim();
        let written = NAMED.iter().find(|(name, _)| *name == text).map_or(text, |(_, cron)| cron);
        let parts: Vec<&str> = written.split_ascii_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts.as_slice() else {
            return Err(format!("{text:?} has {} fields, and cron has 5", parts.len()));
        };
        let [of_minute, of_hour, of_day, of_month, of_weekday] = &FIELDS;
        let weekdays = of_weekday.bits(weekday)?;
        let cron = Cron {
            minutes: of_minute.bits(minute)?,
            hours: of_hour.bits(hour)?,
            days: of_day.bits(day)?,
            months: of_month.bits(month)?,
            weekdays: (weekdays | weekdays >> 7) & 0b111_1111,
            either: !day.starts_with('*') && !weekday.starts_with('*'),
        };
        // the 30th of February
        let from = DateTime::constant(2000, 1, 1, 0, 0, 0, 0);
        match cron.at_or_after(from) {
            Some(_) => Ok(cron),
            None => Err(format!("{text:?} never comes")),
        }
    }
}

impl Cron {
    /// Whether a civil minute is one of its times.
    pub fn matches(&self, at: DateTime) -> bool {
        self.has_day(at.date()) && has(self.hours, at.hour()) && has(self.minutes, at.minute())
    }

    fn has_day(&self, date: Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        has(self.months, date.month()) && if self.either { day || weekday } else { day && weekday }
    }

    /// Its first time at or after a civil time.
    pub fn at_or_after(&self, from: DateTime) -> Option<DateTime> {
        let mut date = from.date();
        let whole = from.second() == 0 && from.subsec_nanosecond() == 0;
        let mut least = minute_of_day(from) + u32::from(!whole);
        for _ in 0..DAYS_AT_MOST {
            if self.has_day(date)
                && let Some(minute) = self.minutes_of_day().find(|minute| *minute >= least)
            {
                return at(date, minute);
            }
            date = date.tomorrow().ok()?;
            least = 0;
        }
        None
    }

    /// Its last time before a civil time.
    pub fn before(&self, until: DateTime) -> Option<DateTime> {
        let mut date = until.date();
        let whole = until.second() == 0 && until.subsec_nanosecond() == 0;
        let mut limit = minute_of_day(until) + u32::from(!whole);
        for _ in 0..DAYS_AT_MOST {
            if self.has_day(date)
                && let Some(minute) = self.minutes_of_day().filter(|minute| *minute < limit).last()
            {
                return at(date, minute);
            }
            date = date.yesterday().ok()?;
            limit = 24 * 60;
        }
        None
    }

    fn minutes_of_day(&self) -> impl Iterator<Item = u32> {
        let hours = (0..24_u32).filter(|hour| self.hours >> hour & 1 == 1);
        hours.flat_map(|hour| {
            (0..60_u32).filter(|minute| self.minutes >> minute & 1 == 1).map(move |m| hour * 60 + m)
        })
    }
}

fn has(bits: u64, number: i8) -> bool {
    bits >> number.unsigned_abs() & 1 == 1
}

fn minute_of_day(at: DateTime) -> u32 {
    u32::from(at.hour().unsigned_abs()) * 60 + u32::from(at.minute().unsigned_abs())
}

fn at(date: Date, minute: u32) -> Option<DateTime> {
    let (hour, minute) = (i8::try_from(minute / 60).ok()?, i8::try_from(minute % 60).ok()?);
    Some(date.at(hour, minute, 0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(cron: &str, from: &str) -> String {
        let cron: Cron = cron.parse().unwrap();
        cron.at_or_after(from.parse().unwrap()).unwrap().to_string()
    }

    #[test]
    fn fields_read_as_cron_reads_them() {
        assert_eq!(next("0 2 * * *", "2024-03-10T02:00:00"), "2024-03-10T02:00:00");
        assert_eq!(next("0 2 * * *", "2024-03-10T02:00:01"), "2024-03-11T02:00:00");
        assert_eq!(next("*/20 9-10 * * mon-fri", "2024-03-09T00:00"), "2024-03-11T09:00:00");
        assert_eq!(next("5/25 * * * *", "2024-03-09T00:06"), "2024-03-09T00:30:00");
        assert_eq!(next("@monthly", "2024-12-09T00:00"), "2025-01-01T00:00:00");
        assert_eq!(next("0 0 29 2 *", "2096-03-01T00:00"), "2104-02-29T00:00:00");
        // Sunday is 0 and 7
        assert_eq!(next("0 0 * * 7", "2024-03-09T00:00"), "2024-03-10T00:00:00");
        // the 13th, and every Friday
        assert_eq!(next("0 0 13 * fri", "2024-03-09T00:00"), "2024-03-13T00:00:00");
        assert_eq!(next("0 0 13 * fri", "2024-03-14T00:00"), "2024-03-15T00:00:00");
    }

    #[test]
    fn what_is_no_time_is_refused_with_the_reason() {
        for (cron, why) in [
            ("* * * *", "4 fields"),
            ("60 * * * *", "is no minute"),
            ("0 0 30 2 *", "never comes"),
            ("0 0 5-1 * *", "ends before it begins"),
            ("*/0 * * * *", "no step"),
            ("0 0 * * someday", "is no day of the week"),
        ] {
            let said = cron.parse::<Cron>().unwrap_err();
            assert!(said.contains(why), "{cron}: {said}");
        }
    }

    #[test]
    fn forwards_and_backwards_meet() {
        for cron in ["*/7 3,5 * * *", "0 0 31 * *", "15 12 1 */3 2"] {
            let cron: Cron = cron.parse().unwrap();
            let mut at = DateTime::constant(2023, 12, 31, 23, 59, 0, 0);
            for _ in 0..50 {
                let next = cron.at_or_after(at).unwrap();
                assert!(cron.matches(next));
                let behind = next.checked_add(jiff::Span::new().seconds(1)).unwrap();
                assert_eq!(cron.before(behind), Some(next));
                at = behind;
            }
        }
    }
}
