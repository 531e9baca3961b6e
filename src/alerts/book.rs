//! Whether somebody is told, now that something is so or is so no more. Pure.
//!
//! Of one thing people hear when it begins, once in every window while it goes on, and when it ends; of what flaps
//! not more than once in a window. What has names of its own for every time, such as a failed run, is told once by
//! each name.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::rules::Condition;

/// Where something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not so for long enough.
    Pending,
    /// So.
    Firing,
    /// So no more.
    Ended,
}

const STATES: [(State, &str); 3] =
    [(State::Pending, "pending"), (State::Firing, "firing"), (State::Ended, "ended")];

impl State {
    /// The word in `audit.alerts`.
    pub fn word(self) -> &'static str {
        STATES.iter().find(|(state, _)| *state == self).map_or("", |(_, word)| word)
    }

    /// The state of a word.
    pub fn of(word: &str) -> Option<State> {
        STATES.iter().find(|(_, known)| *known == word).map(|(state, _)| *state)
    }
}

/// A row of `audit.alerts`.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The rule's word.
    pub rule: String,
    /// What it is about.
    pub subject: String,
    /// Where it stands.
    pub state: State,
    /// Since when.
    pub since: Timestamp,
    /// What is so.
    pub text: String,
    /// What to do.
    pub remedy: Option<String>,
    /// Whether people know of this time.
    pub told: bool,
    /// When a message last left.
    pub told_at: Option<Timestamp>,
    /// What that was about.
    pub told_mark: Option<String>,
    /// Who was told.
    pub told_to: Vec<String>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// What comes of a look at one thing.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing.
    Stay,
    /// Its row changes, or is gone.
    Write(Option<Entry>),
    /// Its row changes, and these channels are told that it is so.
    Tell(Entry, Vec<String>),
    /// Its row changes, and those who know are told that it has ended.
    Resolve(Entry),
}

/// Rows of what has ended are kept so long, for people who look.
const KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Clocks of two instances may differ by so much.
const APART: SignedDuration = SignedDuration::from_mins(1);

/// What comes of it that something is so, or is not.
pub fn decide(
    known: Option<&Entry>,
    so: Option<&Condition>,
    (lasting, dedupe): (Duration, Duration),
    now: Timestamp,
) -> Step {
    match (known, so) {
        (None, None) => Step::Stay,
        (Some(entry), None) => end(entry, dedupe, now),
        (known, Some(condition)) => go_on(known, condition, (lasting, dedupe), now),
    }
}

fn end(entry: &Entry, dedupe: Duration, now: Timestamp) -> Step {
    let ended = Entry { state: State::Ended, told: false, ended_at: Some(now), ..entry.clone() };
    match entry.state {
        State::Ended => {
            let kept = KEPT.max(signed(dedupe));
            let old = entry.ended_at.is_none_or(|at| now.duration_since(at) > kept);
            if old { Step::Write(None) } else { Step::Stay }
        }
        _ if entry.told => Step::Resolve(ended),
        // what was never said needs no end
        State::Pending if entry.told_at.is_none() => Step::Write(None),
        _ => Step::Write(Some(ended)),
    }
}

fn go_on(
    known: Option<&Entry>,
    condition: &Condition,
    (lasting, dedupe): (Duration, Duration),
    now: Timestamp,
) -> Step {
    let going = known.filter(|entry| entry.state != State::Ended);
    let since = going.map_or(condition.since.unwrap_or(now), |entry| entry.since);
    // what knows its own beginning was judged by it
    let lasts = condition.since.is_some() || now.duration_since(since) >= signed(lasting);
    let fires = lasts || going.is_some_and(|entry| entry.state == State::Firing);
    let mut entry = Entry {
        rule: condition.when.word().to_owned(),
        subject: condition.subject.clone(),
        state: if fires { State::Firing } else { State::Pending },
        since,
        text: condition.text.clone(),
        remedy: condition.remedy.clone(),
        told: going.is_some_and(|entry| entry.told),
        told_at: known.and_then(|entry| entry.told_at),
        told_mark: known.and_then(|entry| entry.told_mark.clone()),
        told_to: known.map(|entry| entry.told_to.clone()).unwrap_or_default(),
        ended_at: None,
    };
    let free = entry.told_at.is_none_or(|at| now.duration_since(at) >= signed(dedupe));
    // of what ended before a message left that message told, or there was a later one to tell of
    let before = match (&condition.mark, condition.since, entry.told_at) {
        (Some(_), Some(since), Some(told_at)) => told_at.duration_since(since) > APART,
        _ => false,
    };
    let another = condition.mark.is_none() || (condition.mark != entry.told_mark && !before);
    if fires && free && another {
        (entry.told, entry.told_at) = (true, Some(now));
        entry.told_mark.clone_from(&condition.mark);
        entry.told_to.clone_from(&condition.recovered);
        return Step::Tell(entry, condition.send.clone());
    }
    // words alone, such as how long ago, are no reason to write
    let same = known.is_some_and(|known| known.state == entry.state);
    if same { Step::Stay } else { Step::Write(Some(entry)) }
}

fn signed(span: Duration) -> SignedDuration {
    SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::When;

    /// When something is so, how long it must be, and what is said.
    type Case<'c> = (&'c [(i64, i64, Option<&'c str>)], Duration, &'c [&'c str]);

    const HOUR: Duration = Duration::from_hours(1);

    fn condition(mark: Option<&str>) -> Condition {
        Condition {
            when: When::TableStopped,
            subject: "t".to_owned(),
            mark: mark.map(str::to_owned),
            since: None,
            text: "it stopped".to_owned(),
            remedy: None,
            send: vec!["ops".to_owned()],
            recovered: vec!["ops".to_owned()],
        }
    }

    /// What was said, as `minute:word`, where something is so in these minutes, by the names of the times.
    fn said(so: &[(i64, i64, Option<&str>)], lasting: Duration, until: i64) -> Vec<String> {
        let (mut entry, mut said) = (None::<Entry>, Vec::new());
        for minute in 0..until {
            let now = Timestamp::from_second(1_700_000_000 + minute * 60).unwrap();
            let is = so.iter().find(|(from, to, _)| (*from..*to).contains(&minute));
            let is = is.map(|(_, _, mark)| condition(*mark));
            match decide(entry.as_ref(), is.as_ref(), (lasting, HOUR), now) {
                Step::Stay => {}
                Step::Write(written) => entry = written,
                Step::Tell(written, to) => {
                    assert_eq!(to, ["ops"]);
                    said.push(format!("{minute}:on"));
                    entry = Some(written);
                }
                Step::Resolve(written) => {
                    said.push(format!("{minute}:off"));
                    entry = Some(written);
                }
            }
        }
        said
    }

    #[test]
    fn it_is_said_once_a_window_and_when_it_ends() {
        let cases: [Case<'_>; 7] = [
            (&[(5, 20, None)], Duration::ZERO, &["5:on", "20:off"]),
            // reminders
            (&[(5, 130, None)], Duration::ZERO, &["5:on", "65:on", "125:on", "130:off"]),
            // it flaps: the second time is not said, nor its end
            (&[(5, 10, None), (12, 15, None)], Duration::ZERO, &["5:on", "10:off"]),
            // but where it goes on until the window is over
            (
                &[(5, 10, None), (12, 80, None)],
                Duration::ZERO,
                &["5:on", "10:off", "65:on", "80:off"],
            ),
            // not for long enough, then for long enough
            (&[(5, 8, None), (20, 40, None)], HOUR / 12, &["25:on", "40:off"]),
            // a failed run is one message, however long ago
            (&[(5, 200, Some("a"))], Duration::ZERO, &["5:on", "200:off"]),
            (
                &[(5, 30, Some("a")), (30, 90, Some("b"))],
                Duration::ZERO,
                &["5:on", "65:on", "90:off"],
            ),
        ];
        for (so, lasting, expected) in cases {
            assert_eq!(said(so, lasting, 240), expected, "{so:?}");
        }
    }

    #[test]
    fn rows_of_what_is_over_do_not_stay() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let limits = (Duration::ZERO, HOUR);
        let Step::Tell(told, _) = decide(None, Some(&condition(None)), limits, now) else {
            panic!("it is told");
        };
        let Step::Resolve(ended) = decide(Some(&told), None, limits, now) else {
            panic!("its end is told");
        };
        assert_eq!(decide(Some(&ended), None, limits, now), Step::Stay);
        let later = now + SignedDuration::from_hours(200);
        assert_eq!(decide(Some(&ended), None, limits, later), Step::Write(None));
        let pending = decide(None, Some(&condition(None)), (HOUR, HOUR), now);
        let Step::Write(Some(pending)) = pending else { panic!("{pending:?}") };
        assert_eq!(decide(Some(&pending), None, (HOUR, HOUR), now), Step::Write(None));
    }
}
