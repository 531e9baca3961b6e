//! Days and times of topics' records, in whatever units and letters Debezium writes them. Pure.

use super::convert::{DAY, Mismatch, integer, mismatch, string};
use super::semantic::Unit;
use crate::types::{
    date_of_epoch_days, epoch_days_of_iso, epoch_micros_of_iso, micros_of_iso_time,
    timestamp_of_epoch_micros,
};

pub(super) fn to_micros(unit: Unit, count: i64) -> Result<i64, Mismatch> {
    match unit {
        Unit::Millis => {
            count.checked_mul(1_000).ok_or_else(|| mismatch("in the range of Postgres"))
        }
        Unit::Micros => Ok(count),
        // the last three digits are noughts: no Postgres has nanoseconds
        Unit::Nanos if count % 1_000 == 0 => Ok(count / 1_000),
        Unit::Nanos => Err("is more precise than a microsecond".to_owned()),
    }
}

/// The days by which Debezium tells an infinite date: Postgres' own, overflown.
pub(super) const INFINITE_DAYS: (i64, i64) = (-2_147_472_692, -2_147_472_691);

/// The days by which it tells them of a row that a snapshot reads: the last and first of Java's, by the zone of its
/// machine one more or less, the first as if it were after Christ; as a date, and overflown as a count. No Postgres
/// has such dates. Debezium's PostgresConnectorIT, `shouldReceiveDeletesWithInfinityDate`, has them.
const LAST_DAYS: [i64; 4] = [106_751_991_166, 106_751_991_167, -622_191_234, -622_191_233];
const FIRST_DAYS: [i64; 4] = [106_748_361_128, 106_748_361_129, -625_821_272, -625_821_271];

pub(super) fn date(raw: &str) -> Result<i32, Mismatch> {
    let days = match raw.starts_with('"') {
        true => epoch_days_of_iso(&string(raw)?).ok_or_else(|| mismatch("a date"))?,
        false => integer::<i64>(raw)?,
    };
    if days == INFINITE_DAYS.0 || LAST_DAYS.contains(&days) {
        return Ok(i32::MAX);
    }
    if days == INFINITE_DAYS.1 || FIRST_DAYS.contains(&days) {
        return Ok(i32::MIN);
    }
    date_of_epoch_days(days).ok_or_else(|| mismatch("a date that Postgres can hold"))
}

pub(super) fn time_of_day(unit: Unit, raw: &str) -> Result<i64, Mismatch> {
    let micros = match raw.starts_with('"') {
        true => {
            let time = micros_of_iso_time(&string(raw)?);
            time.filter(|(_, east)| *east == 0).map(|(micros, _)| micros)
        }
        false => Some(to_micros(unit, integer::<i64>(raw)?)?),
    };
    micros.filter(|micros| (0..=DAY).contains(micros)).ok_or_else(|| mismatch("a time of day"))
}

/// The microseconds by which Debezium tells an infinite timestamp, as a count or as the date that they are.
pub(super) const INFINITE_MICROS: (i64, i64) =
    (9_223_372_036_825_200_000, -9_223_372_036_832_400_000);

pub(super) fn timestamp(unit: Unit, raw: &str) -> Result<i64, Mismatch> {
    if raw.starts_with('"') {
        let text = string(raw)?;
        return match &*text {
            "infinity" => Ok(i64::MAX),
            "-infinity" => Ok(i64::MIN),
            text => {
                let micros = epoch_micros_of_iso(text).ok_or_else(|| mismatch("a timestamp"))?;
                infinite(Unit::Micros, micros).map_or_else(|| in_range(micros), Ok)
            }
        };
    }
    let count = integer::<i64>(raw)?;
    infinite(unit, count).map_or_else(|| in_range(to_micros(unit, count)?), Ok)
}

/// Postgres' own form of an infinite timestamp, where a count tells one.
fn infinite(unit: Unit, count: i64) -> Option<i64> {
    let is = |micros: i64, bound: i64| match unit {
        Unit::Millis => count == micros / 1_000,
        Unit::Micros => count == micros,
        // the bounds themselves; before 3.6 what is left of too many microseconds as they overflow: half a
        // minute from 1970
        Unit::Nanos => count == bound || count == micros.wrapping_mul(1_000),
    };
    match () {
        () if is(INFINITE_MICROS.0, i64::MAX) => Some(i64::MAX),
        () if is(INFINITE_MICROS.1, i64::MIN) => Some(i64::MIN),
        () => None,
    }
}

pub(super) fn in_range(micros: i64) -> Result<i64, Mismatch> {
    timestamp_of_epoch_micros(micros).ok_or_else(|| mismatch("a timestamp that Postgres can hold"))
}

/// Microseconds of the day, and seconds west of Greenwich.
pub(super) fn zoned_time(text: &str) -> Result<(i64, i32), Mismatch> {
    let time = micros_of_iso_time(text);
    let west = time.and_then(|(micros, east)| Some((micros, i32::try_from(-east).ok()?)));
    west.ok_or_else(|| mismatch("a time with a zone"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn infinity_is_told_in_every_time_precision_mode() {
        // PostgresTemporalPrecisionHandlingIT of Debezium has these
        let told = [
            (Unit::Millis, "9223372036825200", "-9223372036832400"),
            (Unit::Micros, "9223372036825200000", "-9223372036832400000"),
            (Unit::Nanos, "9223372036854775807", "-9223372036854775808"),
            (Unit::Nanos, "-29575808000", "22375808000"),
            (Unit::Micros, "\"+294247-01-10T04:00:25.2Z\"", "\"-290308-12-21T19:59:27.6Z\""),
            (Unit::Micros, "\"infinity\"", "\"-infinity\""),
        ];
        for (unit, last, first) in told {
            assert_eq!(timestamp(unit, last), Ok(i64::MAX), "{last}");
            assert_eq!(timestamp(unit, first), Ok(i64::MIN), "{first}");
        }
        // a value of its own right next to them
        let near = timestamp(Unit::Micros, "\"+294247-01-10T04:00:25.3Z\"").unwrap();
        assert!(near < i64::MAX);
        assert!(timestamp(Unit::Nanos, "-29575807000").unwrap() < 0);
    }

    #[test]
    fn an_infinite_date_is_told_by_a_snapshot_as_the_last_of_java() {
        for last in ["\"+292278994-08-16Z\"", "\"+292278994-08-17Z\"", "-622191234", "-622191233"] {
            assert_eq!(date(last), Ok(i32::MAX), "{last}");
        }
        for first in ["\"+292269055-12-02Z\"", "\"+292269055-12-03Z\"", "-625821272", "-625821271"]
        {
            assert_eq!(date(first), Ok(i32::MIN), "{first}");
        }
        assert!(date("-622191235").is_err());
    }
}
