//! When a job is due, and what of time each run is about. Pure.
//!
//! Both are sequences of moments: a schedule's are those at which it is due, an interval's those at which one
//! ends and the next begins. A civil time that a zone skips comes at the first moment behind the gap, one
//! that it has twice comes the first time only; so a sequence never goes back and never stands twice.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Span, Timestamp};

use crate::spec::{Cron, Interval, Job, Schedule};

/// A half-open stretch of time that a run is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Its first moment, the run's logical date.
    pub start: Timestamp,
    /// The first moment behind it.
    pub end: Timestamp,
}

/// A moment at which a job is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// When.
    pub at: Timestamp,
    /// What the run is about.
    pub about: Stretch,
}

/// Moments that come again and again.
#[derive(Clone, Debug)]
pub enum Ticks {
    /// Times of day in a zone.
    Civil(Cron, TimeZone),
    /// Every so many seconds since 1970.
    Every(SignedDuration),
}

/// Longer than any time that a zone has twice.
const LONGEST_FOLD: i64 = 3;

/// The moment of a civil time.
pub fn moment(zone: &TimeZone, civil: DateTime) -> Option<Timestamp> {
    let (gap_from, after) = match zone.to_ambiguous_timestamp(civil).offset() {
        AmbiguousOffset::Unambiguous { offset } => return offset.to_timestamp(civil).ok(),
        AmbiguousOffset::Fold { before, .. } => return before.to_timestamp(civil).ok(),
        // by the later offset it lies before the change
        AmbiguousOffset::Gap { after, .. } => (after.to_timestamp(civil).ok()?, after),
    };
    zone.following(gap_from)
        .find(|change| change.offset() == after)
        .map(|change| change.timestamp())
}

/// The first moment of a day.
pub fn midnight(zone: &TimeZone, day: Date) -> Option<Timestamp> {
    moment(zone, day.to_datetime(Time::midnight()))
}

impl Ticks {
    /// The first one behind a moment.
    pub fn after(&self, at: Timestamp) -> Option<Timestamp> {
        match self {
            Ticks::Every(every) => step(at, *every, 1),
            Ticks::Civil(cron, zone) => {
                let mut civil = cron.at_or_after(zone.to_datetime(at))?;
                loop {
                    match moment(zone, civil) {
                        Some(tick) if tick > at => return Some(tick),
                        // twice, or skipped and so before it
                        _ => civil = cron.at_or_after(civil.checked_add(minutes(1)).ok()?)?,
                    }
                }
            }
        }
    }

    /// The last one at or before a moment.
    pub fn at_or_before(&self, at: Timestamp) -> Option<Timestamp> {
        match self {
            Ticks::Every(every) => step(at, *every, 0),
            Ticks::Civil(cron, zone) => {
                // in a time that comes twice, civil times behind this one may lie before it
                let ahead = Span::new().hours(LONGEST_FOLD);
                let mut civil = cron.before(zone.to_datetime(at).checked_add(ahead).ok()?)?;
                loop {
                    match moment(zone, civil) {
                        Some(tick) if tick <= at => return Some(tick),
                        _ => civil = cron.before(civil)?,
                    }
                }
            }
        }
    }

    /// The last one before a moment.
    pub fn before(&self, at: Timestamp) -> Option<Timestamp> {
        self.at_or_before(at.checked_sub(SignedDuration::from_nanos(1)).ok()?)
    }

    /// The stretch that a moment lies in.
    fn around(&self, at: Timestamp) -> Option<Stretch> {
        Some(Stretch { start: self.at_or_before(at)?, end: self.after(at)? })
    }

    /// The last stretch that is over at a moment.
    fn over(&self, at: Timestamp) -> Option<Stretch> {
        let end = self.at_or_before(at)?;
        Some(Stretch { start: self.before(end)?, end })
    }
}

fn minutes(minutes: i64) -> Span {
    Span::new().minutes(minutes)
}

/// The last multiple at or before a moment, and so many further.
fn step(at: Timestamp, every: SignedDuration, further: i128) -> Option<Timestamp> {
    let every = every.as_nanos().max(1);
    let tick = (at.as_nanosecond().div_euclid(every) + further) * every;
    Timestamp::from_nanosecond(tick).ok()
}

/// The calendar of a job.
pub struct Calendar<'j> {
    job: &'j Job,
    due: Option<Ticks>,
    intervals: Ticks,
}

impl<'j> Calendar<'j> {
    /// The calendar of a job. One without times is about days where a day is asked for.
    pub fn of(job: &'j Job) -> Calendar<'j> {
        let civil = |cron: &Cron| Ticks::Civil(cron.clone(), job.timezone.clone());
        let (due, intervals) = match &job.schedule {
            Schedule::Cron(times) => {
                let due = civil(&times.cron);
                let intervals = times.interval.map(|interval| civil(&edges(interval)));
                (Some(due.clone()), intervals.unwrap_or(due))
            }
            Schedule::Every { every, .. } => {
                let every = Ticks::Every(SignedDuration::try_from(*every).unwrap_or_default());
                (Some(every.clone()), every)
            }
            _ => (None, civil(&edges(Interval::Day))),
        };
        Calendar { job, due, intervals }
    }

    /// When it is due next, strictly behind a moment.
    pub fn next(&self, after: Timestamp) -> Option<Due> {
        let at = self.due.as_ref()?.after(after)?;
        Some(Due { at, about: self.intervals.over(at)? })
    }

    /// What is due behind one moment and up to another: all of it where the job catches up, else the last.
    /// At most `most`, the oldest first. An interval stands once, by when it is due first.
    pub fn due(&self, after: Timestamp, until: Timestamp, most: usize) -> Vec<Due> {
        let mut all: Vec<Due> = Vec::new();
        let Some(ticks) = &self.due else { return all };
        let (start, catchup) = match &self.job.schedule {
            Schedule::Cron(times) => (times.start, times.catchup),
            Schedule::Every { start, catchup, .. } => (*start, *catchup),
            _ => (None, false),
        };
        let meant = |due: &Due| start.is_none_or(|start| self.day(due.about.start) >= start);
        if !catchup {
            let at = ticks.at_or_before(until).filter(|at| *at > after);
            let due = at.and_then(|at| Some(Due { at, about: self.intervals.over(at)? }));
            return due.filter(meant).into_iter().collect();
        }
        let mut at = after;
        while let Some(due) = self.next(at).filter(|due| due.at <= until && all.len() < most) {
            at = due.at;
            if meant(&due) && all.last().is_none_or(|last| last.about != due.about) {
                all.push(due);
            }
        }
        all
    }

    /// From when on a job that is seen for the first time is due.
    pub fn first(&self, now: Timestamp) -> Timestamp {
        let from = match &self.job.schedule {
            Schedule::Cron(times) if times.catchup => times.start,
            Schedule::Every { start, catchup: true, .. } => *start,
            _ => None,
        };
        from.and_then(|day| midnight(&self.job.timezone, day)).map_or(now, |from| from.min(now))
    }

    /// What a run is about that somebody asks for now.
    pub fn now(&self, now: Timestamp) -> Stretch {
        let over = self.due.as_ref().and_then(|_| self.intervals.over(now));
        over.unwrap_or(Stretch { start: now, end: now })
    }

    /// What a run is about that somebody asks for a day: the first interval that begins on it, or the one
    /// that it lies in.
    pub fn of_day(&self, day: Date) -> Option<Stretch> {
        self.of_days(day, day)
            .next()
            .or_else(|| self.intervals.around(midnight(&self.job.timezone, day)?))
    }

    /// The intervals that begin on these days, both included.
    pub fn of_days(&self, first: Date, last: Date) -> impl Iterator<Item = Stretch> {
        let from = midnight(&self.job.timezone, first);
        let from = from.and_then(|from| from.checked_sub(SignedDuration::from_nanos(1)).ok());
        let mut start = from.and_then(|from| self.intervals.after(from));
        let stretches = std::iter::from_fn(move || {
            let this = start?;
            start = self.intervals.after(this);
            Some(Stretch { start: this, end: start? })
        });
        stretches.take_while(move |stretch| self.day(stretch.start) <= last)
    }

    /// The day of a moment.
    pub fn day(&self, at: Timestamp) -> Date {
        self.job.timezone.to_datetime(at).date()
    }

    /// The day of the logical date before a run's.
    pub fn day_before(&self, about: &Stretch) -> Date {
        let before = self.intervals.before(about.start).filter(|_| about.start < about.end);
        let yesterday = self.day(about.start).yesterday();
        before.map_or(yesterday.unwrap_or(Date::MIN), |before| self.day(before))
    }
}

/// Where intervals of the calendar begin.
fn edges(interval: Interval) -> Cron {
    let edges = match interval {
        Interval::Hour => "0 * * * *",
        Interval::Day => "0 0 * * *",
        Interval::Week => "0 0 * * 1",
        Interval::Month => "0 0 1 * *",
        Interval::Year => "0 0 1 1 *",
    };
    match edges.parse() {
        Ok(cron) => cron,
        Err(why) => unreachable!("{why}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spec::{Calendared, Overlap};

    /// The moments by walking every minute: what a clock on the wall shows is looked at, what it jumps over
    /// comes at once, and what it shows again is no news.
    fn walked(cron: &Cron, zone: &TimeZone, from: Timestamp, minutes_long: i64) -> Vec<Timestamp> {
        let minute = SignedDuration::from_mins(1);
        let mut found = Vec::new();
        let mut at = from;
        let mut newest = zone.to_datetime(at - minute);
        for _ in 0..minutes_long {
            let shown = zone.to_datetime(at);
            let mut due = false;
            while newest < shown {
                newest = newest.checked_add(minutes(1)).unwrap();
                due |= cron.matches(newest);
            }
            if due {
                found.push(at);
            }
            at += minute;
        }
        found
    }

    const NIGHTS: [(&str, &str); 7] = [
        ("Europe/Berlin", "2024-03-30T18:00:00Z"),
        ("Europe/Berlin", "2024-10-26T18:00:00Z"),
        ("America/New_York", "2024-03-09T22:00:00Z"),
        ("America/New_York", "2024-11-02T22:00:00Z"),
        ("Australia/Lord_Howe", "2024-10-05T08:00:00Z"),
        ("Australia/Lord_Howe", "2024-04-06T08:00:00Z"),
        // midnight itself is skipped
        ("Africa/Cairo", "2024-04-25T16:00:00Z"),
    ];

    fn field(least: u32, most: u32) -> impl Strategy<Value = String> {
        prop_oneof![
            Just("*".to_owned()),
            (least..=most).prop_map(|n| n.to_string()),
            (1..=most / 2).prop_map(|n| format!("*/{n}")),
            (least..=most, least..=most).prop_map(|(a, b)| format!("{},{}", a.min(b), a.max(b))),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn the_moments_are_those_that_a_walk_finds(
            minute in field(0, 59), hour in field(0, 23), night in 0..NIGHTS.len(),
        ) {
            let cron: Cron = format!("{minute} {hour} * * *").parse().unwrap();
            let (zone, from) = NIGHTS[night];
            let (zone, from) = (TimeZone::get(zone).unwrap(), from.parse::<Timestamp>().unwrap());
            let long = 36 * 60;
            let walked = walked(&cron, &zone, from, long);
            let ticks = Ticks::Civil(cron, zone);
            let before = from - SignedDuration::from_nanos(1);
            let mut found = Vec::new();
            let mut at = before;
            while let Some(tick) = ticks.after(at).filter(|t| *t < from + SignedDuration::from_mins(long)) {
                found.push(tick);
                at = tick;
            }
            prop_assert_eq!(&found, &walked);
            // and backwards, from every minute
            for minute in (0..long).step_by(47) {
                let at = from + SignedDuration::from_mins(minute);
                let last = walked.iter().rfind(|tick| **tick <= at);
                if let Some(last) = last {
                    prop_assert_eq!(ticks.at_or_before(at), Some(*last));
                }
            }
        }
    }

    fn job(cron: &str, zone: &str, interval: Option<Interval>, start: Option<&str>) -> Job {
        Job {
            alerts: None,
            name: "j".to_owned(),
            schedule: Schedule::Cron(Calendared {
                cron: cron.parse().unwrap(),
                interval,
                start: start.map(|day| day.parse().unwrap()),
                catchup: start.is_some(),
            }),
            timezone: TimeZone::get(zone).unwrap(),
            overlap: Overlap::Skip,
            parallel: 1,
            requires: None,
            tasks: Vec::new(),
            file: String::new(),
        }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_skipped_time_comes_at_the_first_moment_behind_it_and_a_repeated_one_once() {
        let job = job("30 2 * * *", "Europe/Berlin", Some(Interval::Day), None);
        let calendar = Calendar::of(&job);
        let due = calendar.next(at("2024-03-30T12:00:00Z")).unwrap();
        assert_eq!(due.at, at("2024-03-31T01:00:00Z"));
        assert_eq!(calendar.day(due.about.start).to_string(), "2024-03-30");
        let due = calendar.next(due.at).unwrap();
        // the day with 23 hours
        assert_eq!(due.about.end.duration_since(due.about.start), SignedDuration::from_hours(23));
        let due = calendar.next(at("2024-10-26T12:00:00Z")).unwrap();
        assert_eq!(due.at, at("2024-10-27T00:30:00Z"));
        assert_eq!(calendar.next(due.at).unwrap().at, at("2024-10-28T01:30:00Z"));
    }

    #[test]
    fn an_interval_is_apart_from_when_it_runs() {
        let job = job("0 2 * * *", "Europe/Berlin", Some(Interval::Day), Some("2024-03-08"));
        let calendar = Calendar::of(&job);
        let now = at("2024-03-11T12:00:00Z");
        let days = calendar.due(calendar.first(now), now, 100);
        let shown: Vec<String> =
            days.iter().map(|due| calendar.day(due.about.start).to_string()).collect();
        assert_eq!(shown, ["2024-03-08", "2024-03-09", "2024-03-10"]);
        let last = days.last().unwrap();
        assert_eq!(last.at, at("2024-03-11T01:00:00Z"));
        assert_eq!(last.about.end, at("2024-03-10T23:00:00Z"));
        assert_eq!(calendar.day_before(&last.about).to_string(), "2024-03-09");
        let asked = calendar.of_day("2024-03-10".parse().unwrap()).unwrap();
        assert_eq!(asked, last.about);
        assert_eq!(calendar.now(now), last.about);
        let range = calendar.of_days("2024-02-28".parse().unwrap(), "2024-03-02".parse().unwrap());
        assert_eq!(range.count(), 4);
    }

    #[test]
    fn without_an_interval_a_run_is_about_the_time_since_the_run_before() {
        let job = job("0 6,18 * * *", "UTC", None, None);
        let calendar = Calendar::of(&job);
        let due = calendar.next(at("2024-03-11T07:00:00Z")).unwrap();
        assert_eq!(due.about.start, at("2024-03-11T06:00:00Z"));
        assert_eq!(due.about.end, due.at);
        let asked = calendar.of_day("2024-03-11".parse().unwrap()).unwrap();
        assert_eq!(asked.start, at("2024-03-11T06:00:00Z"));
        // missed times come to the last one
        let missed = calendar.due(at("2024-03-01T00:00:00Z"), at("2024-03-11T07:00:00Z"), 100);
        assert_eq!(missed.iter().map(|due| due.at).collect::<Vec<_>>(), [asked.start]);
    }
}
