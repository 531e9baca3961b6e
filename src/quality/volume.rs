//! What a day or an hour has of rows, compared with what others like it had. Pure.
//!
//! What is usual is the median of the days (hours) of the same season, and how far from it is usual their median
//! distance from that (MAD), scaled to a standard deviation. Both stay what they are while less than half of the
//! history is odd, so a day that was odd neither hides the next one nor makes good days look bad, as a mean and its
//! standard deviation would. Small numbers spread by chance alone: nothing below the square root of what is usual
//! (the spread of independent events) is taken for a spread, and a difference of fewer rows than `ignore_below`
//! is none.

use std::collections::BTreeMap;

use jiff::ToSpan;
use jiff::civil::{DateTime, time};

use super::run::Occasion;
use crate::spec::{Season, Volume};

/// How far back is looked: thirteen weeks of days, six weeks of hours.
const DAYS: i64 = 91;
const HOURS: i64 = 6 * 7 * 24;

/// How many days or hours of the same season tell what is usual; with fewer, this many of any season do.
const LEAST_ALIKE: usize = 4;
const LEAST: usize = 7;

/// What a MAD is multiplied with to be a standard deviation, were the rows normally distributed.
const SCALE: f64 = 1.4826;

/// What Postgres cuts times to.
pub(super) fn unit(volume: &Volume) -> &'static str {
    if volume.hours { "hour" } else { "day" }
}

/// A day or an hour, and its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// Which others are alike.
    season: i64,
    pub(super) rows: u64,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Found {
    /// Too little is known: so many days or hours.
    Learning(usize),
    /// What is usual, how far from it is too far, and whether it is.
    Known { usual: f64, most: f64, odd: bool },
}

/// The last day or hour that is over.
fn judged(volume: &Volume, occasion: &Occasion) -> DateTime {
    let now = occasion.until.to_zoned(occasion.zone.clone()).datetime();
    let begun = match volume.hours {
        true => now.date().at(now.hour(), 0, 0, 0),
        false => now.date().to_datetime(time(0, 0, 0, 0)),
    };
    back(volume, begun, 1)
}

fn back(volume: &Volume, from: DateTime, many: i64) -> DateTime {
    let span = if volume.hours { many.hours() } else { many.days() };
    from.checked_sub(span).unwrap_or(from)
}

fn length(volume: &Volume) -> i64 {
    if volume.hours { HOURS } else { DAYS }
}

/// From when to when rows are counted, in the occasion's zone.
pub(super) fn span(volume: &Volume, occasion: &Occasion) -> (String, String) {
    let judged = judged(volume, occasion);
    let shown = |at: DateTime| at.strftime("%Y-%m-%d %H:%M:%S").to_string();
    (shown(back(volume, judged, length(volume))), shown(back(volume, judged, -1)))
}

/// The day or hour that is judged, in words, and all up to it with their rows: none where nothing was counted.
pub(super) fn slots(
    volume: &Volume,
    occasion: &Occasion,
    counted: &BTreeMap<String, u64>,
) -> (String, Vec<Slot>) {
    let judged = judged(volume, occasion);
    let slots = (0..=length(volume)).rev().map(|many| {
        let at = back(volume, judged, many);
        let rows = counted.get(&at.strftime("%Y-%m-%d %H").to_string());
        Slot { season: season(volume.season, at), rows: rows.copied().unwrap_or(0) }
    });
    let shown = if volume.hours { "%Y-%m-%d %H:00" } else { "%Y-%m-%d" };
    (judged.strftime(shown).to_string(), slots.collect())
}

fn season(season: Season, at: DateTime) -> i64 {
    let day = i64::from(at.weekday().to_monday_zero_offset());
    let hour = i64::from(at.hour());
    match season {
        Season::None => 0,
        Season::DayOfWeek => day,
        Season::HourOfDay => hour,
        Season::HourOfWeek => day * 24 + hour,
    }
}

/// Compares the last one with those before it.
pub(super) fn compare(slots: &[Slot], sensitivity: f64, ignore_below: u64) -> Found {
    let Some((judged, before)) = slots.split_last() else { return Found::Learning(0) };
    // the first one that has rows began somewhere within
    let begun = before.iter().position(|slot| slot.rows > 0);
    let known = begun.and_then(|begun| before.get(begun + 1..)).unwrap_or_default();
    let alike = known.iter().filter(|slot| slot.season == judged.season);
    let mut rows: Vec<f64> = alike.map(|slot| number(slot.rows)).collect();
    if rows.len() < LEAST_ALIKE {
        if known.len() < LEAST {
            return Found::Learning(known.len());
        }
        rows = known.iter().map(|slot| number(slot.rows)).collect();
    }
    let usual = median(&mut rows);
    let mut distances: Vec<f64> = rows.iter().map(|rows| (rows - usual).abs()).collect();
    let spread = (SCALE * median(&mut distances)).max(usual.max(1.0).sqrt());
    let most = sensitivity * spread;
    let distance = (number(judged.rows) - usual).abs();
    Found::Known { usual, most, odd: distance > most && distance >= number(ignore_below) }
}

#[allow(clippy::cast_precision_loss, reason = "numbers of rows are told apart up to 2^53")]
fn number(rows: u64) -> f64 {
    rows as f64
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let at = |index: usize| values.get(index).copied().unwrap_or(0.0);
    match values.len() % 2 {
        0 if middle > 0 => f64::midpoint(at(middle - 1), at(middle)),
        _ => at(middle),
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use proptest::prelude::*;

    use super::*;

    fn volume(hours: bool, season: Season) -> Volume {
        Volume { by: "day".to_owned(), hours, season, sensitivity: 3.0, ignore_below: 10 }
    }

    fn occasion(until: &str) -> Occasion {
        Occasion {
            until: until.parse().unwrap(),
            zone: TimeZone::get("Europe/Berlin").unwrap(),
            date: "2024-03-10".parse().unwrap(),
            since: None,
            run: None,
        }
    }

    fn all(season: impl Fn(usize) -> i64, rows: &[u64]) -> Vec<Slot> {
        let slot = |(at, rows): (usize, &u64)| Slot { season: season(at), rows: *rows };
        rows.iter().enumerate().map(slot).collect()
    }

    fn is_odd(slots: &[Slot], sensitivity: f64, ignore_below: u64) -> bool {
        matches!(compare(slots, sensitivity, ignore_below), Found::Known { odd: true, .. })
    }

    #[test]
    fn the_last_day_that_is_over_is_judged_by_the_zone() {
        let day = volume(false, Season::DayOfWeek);
        // half past midnight in Berlin
        let (from, to) = span(&day, &occasion("2024-03-10T23:30:00Z"));
        assert_eq!((from.as_str(), to.as_str()), ("2023-12-10 00:00:00", "2024-03-11 00:00:00"));
        let counted =
            BTreeMap::from([("2024-03-10 00".to_owned(), 7), ("2024-03-03 00".to_owned(), 5)]);
        let (judged, slots) = slots(&day, &occasion("2024-03-10T23:30:00Z"), &counted);
        assert_eq!((judged.as_str(), slots.len()), ("2024-03-10", 92));
        assert_eq!(slots.last(), Some(&Slot { season: 6, rows: 7 }));
        assert_eq!(slots.iter().rev().nth(7), Some(&Slot { season: 6, rows: 5 }));
        let hour = volume(true, Season::HourOfWeek);
        let (judged, _) = super::slots(&hour, &occasion("2024-03-11T09:20:00Z"), &counted);
        assert_eq!(judged, "2024-03-11 09:00");
    }

    #[test]
    fn a_quiet_sunday_is_usual_and_a_quiet_monday_is_not() {
        let rows = |at: usize| if at % 7 == 6 { 20 } else { 1000 };
        let week = |at: usize| i64::try_from(at % 7).unwrap();
        let history: Vec<u64> = (0..91).map(rows).collect();
        let with = |last: u64, at: usize| {
            let mut all = all(week, &history);
            all.push(Slot { season: week(at), rows: last });
            all
        };
        assert!(!is_odd(&with(20, 6), 3.0, 10), "sunday");
        assert!(is_odd(&with(20, 0), 3.0, 10), "monday");
        assert!(is_odd(&with(0, 0), 3.0, 10), "nothing at all");
        assert!(is_odd(&with(1000, 6), 3.0, 10), "a busy sunday");
        // a table that has begun a few days ago
        let young = all(week, &[0, 0, 0, 0, 5, 9, 0]);
        assert_eq!(compare(&young, 3.0, 10), Found::Learning(1));
        assert_eq!(compare(&[], 3.0, 10), Found::Learning(0));
    }

    proptest! {
        #[test]
        fn what_is_always_so_is_usual(rows in 1_u64..1_000_000, many in 9_usize..90) {
            prop_assert!(!is_odd(&all(|_| 0, &vec![rows; many]), 1.0, 0));
        }

        #[test]
        fn what_is_far_away_is_found_whatever_a_third_of_the_history_was(
            rows in 100_u64..100_000,
            noise in prop::collection::vec(0_u64..10, 40),
            odd in prop::collection::vec(0_u64..10_000_000, 12),
            places in prop::collection::vec(1_usize..39, 12),
        ) {
            let mut history: Vec<u64> = noise.iter().map(|noise| rows + noise).collect();
            for (place, odd) in places.iter().zip(odd) {
                history[*place] = odd;
            }
            history.push(rows + 5);
            prop_assert!(!is_odd(&all(|_| 0, &history), 3.0, 10));
            *history.last_mut().unwrap() = rows * 10;
            prop_assert!(is_odd(&all(|_| 0, &history), 3.0, 10));
            *history.last_mut().unwrap() = 0;
            prop_assert!(is_odd(&all(|_| 0, &history), 3.0, 10));
        }

        #[test]
        fn a_difference_of_few_rows_is_none(
            history in prop::collection::vec(0_u64..20, 10..60),
            last in 0_u64..20,
        ) {
            let mut history = history;
            history.push(last);
            prop_assert!(!is_odd(&all(|_| 0, &history), 1.0, 20));
        }

        #[test]
        fn the_order_of_the_history_does_not_count(
            history in prop::collection::vec(1_u64..1000, 10..60),
            last in 0_u64..2000,
        ) {
            let judged = |mut history: Vec<u64>| {
                // the first one is left out
                history.insert(0, 1);
                history.push(last);
                compare(&all(|_| 0, &history), 3.0, 0)
            };
            let mut turned = history.clone();
            turned.reverse();
            prop_assert_eq!(judged(history), judged(turned));
        }
    }
}
