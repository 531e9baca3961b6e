//! What an answer means: a verdict, in words for people. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::run::Occasion;
use super::volume::{self, Found};
use crate::spec::{Bounds, Check, CheckKind, Freshness, Severity, Threshold};

/// What a check is found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It holds.
    Pass,
    /// It does not, and that is a warning.
    Warn,
    /// It does not.
    Fail,
}

impl Status {
    /// The word in `audit.data_quality`.
    pub fn word(self) -> &'static str {
        match self {
            Status::Pass => "PASS",
            Status::Warn => "WARN",
            Status::Fail => "FAIL",
        }
    }
}

/// What was found of a check.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Whether it holds.
    pub status: Status,
    /// What was expected.
    pub expected: String,
    /// What is.
    pub actual: String,
    /// What a person should know beside.
    pub description: Option<String>,
    /// How many rows fail, where rows do.
    pub failing: Option<u64>,
    /// How many were looked at, where that is known.
    pub checked: Option<u64>,
    /// How many percent of the rows have all that they must have.
    pub completeness: Option<f64>,
    /// Why it could not be judged.
    pub error: Option<String>,
    /// Some of the rows that fail.
    pub rows: Vec<Value>,
}

/// What a statement answers: rows that fail, rows that were looked at, and the rest.
pub(super) struct Answer {
    pub(super) failing: Option<u64>,
    pub(super) checked: Option<u64>,
    pub(super) rest: Option<Value>,
}

/// How old something is, as its statement tells it.
#[derive(Deserialize)]
struct Age {
    age: Option<f64>,
    state: String,
}

/// What an answer means.
pub(super) fn verdict(check: &Check, occasion: &Occasion, answer: Answer) -> Verdict {
    match &check.kind {
        CheckKind::RowCount(bounds) => row_count(check, bounds, answer.checked.unwrap_or(0)),
        CheckKind::Freshness(given) => freshness(check, given, answer.rest),
        CheckKind::Volume(kind) => {
            let counted: BTreeMap<String, u64> =
                answer.rest.and_then(|rest| serde_json::from_value(rest).ok()).unwrap_or_default();
            let (about, slots) = volume::slots(kind, occasion, &counted);
            let rows = slots.last().map_or(0, |slot| slot.rows);
            let found = volume::compare(&slots, kind.sensitivity, kind.ignore_below);
            of_volume(check, found, (&about, rows), kind.hours)
        }
        _ => rows(check, answer),
    }
}

/// What it is where it does not hold.
fn unless(check: &Check, holds: bool) -> Status {
    match (holds, check.severity) {
        (true, _) => Status::Pass,
        (false, Severity::Fail) => Status::Fail,
        (false, Severity::Warn) => Status::Warn,
    }
}

fn told(status: Status, expected: String, actual: String) -> Verdict {
    Verdict {
        status,
        expected,
        actual,
        description: None,
        failing: None,
        checked: None,
        completeness: None,
        error: None,
        rows: Vec::new(),
    }
}

/// A check that could not be judged does not hold.
pub(super) fn broken(check: &Check, why: String) -> Verdict {
    let status = unless(check, false);
    let description = Some(format!("it could not be judged: {why}"));
    let verdict = told(status, "an answer".to_owned(), "an error".to_owned());
    Verdict { description, error: Some(why), ..verdict }
}

/// From which numbers of failing rows on it warns, and fails: as in dbt, failing is asked first.
fn rows(check: &Check, answer: Answer) -> Verdict {
    let failing = answer.failing.unwrap_or(0);
    let (warn_if, fail_if) = match check.severity {
        Severity::Warn => (Some(check.limits.warn_if.unwrap_or(Threshold::ANY)), None),
        Severity::Fail => {
            (check.limits.warn_if, Some(check.limits.fail_if.unwrap_or(Threshold::ANY)))
        }
    };
    let holds = |threshold: &Option<Threshold>| threshold.is_some_and(|of| of.holds(failing));
    let status = match (holds(&fail_if), holds(&warn_if)) {
        (true, _) => Status::Fail,
        (false, true) => Status::Warn,
        (false, false) => Status::Pass,
    };
    let limit = fail_if.filter(|_| status != Status::Warn).or(warn_if).unwrap_or(Threshold::ANY);
    let expected = match limit == Threshold::ANY {
        true => "0 failing rows".to_owned(),
        false => format!("failing rows not {limit}"),
    };
    let actual = match (failing, answer.checked) {
        (failing, Some(checked)) => format!("{failing} of {checked} rows"),
        (failing, None) => format!("{failing} failing rows"),
    };
    let completeness = match (&check.kind, answer.checked) {
        (CheckKind::NotNull(_), Some(checked)) => Some(complete(failing, checked)),
        _ => None,
    };
    let description = match &check.kind {
        CheckKind::Unique(columns) if failing > 0 => {
            Some(format!("values of ({}) that stand more than once: {failing}", columns.join(", ")))
        }
        _ => None,
    };
    let actual = match &check.kind {
        CheckKind::Unique(_) => match answer.checked {
            Some(checked) => format!("{failing} doubled values in {checked} rows"),
            None => actual,
        },
        _ => actual,
    };
    let rows = match answer.rest {
        Some(Value::Array(rows)) => rows,
        _ => Vec::new(),
    };
    Verdict {
        description,
        failing: Some(failing),
        checked: answer.checked,
        completeness,
        rows,
        ..told(status, expected, actual)
    }
}

#[allow(clippy::cast_precision_loss, reason = "it is a percentage")]
fn complete(failing: u64, checked: u64) -> f64 {
    match checked {
        0 => 100.0,
        _ => 100.0 * (checked.saturating_sub(failing)) as f64 / checked as f64,
    }
}

fn row_count(check: &Check, bounds: &Bounds<u64>, rows: u64) -> Verdict {
    let holds =
        bounds.min.is_none_or(|min| rows >= min) && bounds.max.is_none_or(|max| rows <= max);
    let expected = match (bounds.min, bounds.max) {
        (Some(min), Some(max)) => format!("{min} to {max} rows"),
        (Some(min), None) => format!("at least {min} rows"),
        (None, Some(max)) => format!("at most {max} rows"),
        (None, None) => "any number of rows".to_owned(),
    };
    Verdict { checked: Some(rows), ..told(unless(check, holds), expected, format!("{rows} rows")) }
}

fn freshness(check: &Check, given: &Freshness, rest: Option<Value>) -> Verdict {
    let most = given.most.as_secs_f64();
    let expected = match &given.calendar {
        None => format!("at most {most} s old"),
        Some(calendar) => format!("at most {most} s old, days off in {calendar} not counted"),
    };
    let told_age = rest.and_then(|rest| serde_json::from_value::<Age>(rest).ok());
    let unknown = |why: String| {
        let verdict = told(unless(check, false), expected.clone(), "nobody knows".to_owned());
        Verdict { description: Some(why), ..verdict }
    };
    match told_age {
        None => unknown(format!("no service has made {} yet", check.table)),
        Some(Age { age: None, state }) => {
            unknown(format!("{} is {state}, and its source has told no time yet", check.table))
        }
        Some(Age { age: Some(age), state }) => {
            let age = age.max(0.0);
            let streams = matches!(state.as_str(), "streaming" | "loaded" | "fresh" | "stale");
            let description = (!streams).then(|| format!("{} is {state}", check.table));
            let actual = format!("{age:.0} s old");
            Verdict { description, ..told(unless(check, age <= most), expected, actual) }
        }
    }
}

fn of_volume(check: &Check, found: Found, (about, rows): (&str, u64), hours: bool) -> Verdict {
    let what = if hours { "hours" } else { "days" };
    let actual = format!("{rows} rows on {about}");
    match found {
        Found::Learning(known) => {
            let verdict = told(Status::Pass, "nothing yet".to_owned(), actual);
            let why = format!("it is still learning what is usual: {known} {what} are known");
            Verdict { description: Some(why), checked: Some(rows), ..verdict }
        }
        Found::Known { usual, most, odd } => {
            let expected = format!("{usual:.0} rows, give or take {most:.0}");
            Verdict { checked: Some(rows), ..told(unless(check, !odd), expected, actual) }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use serde_json::json;

    use super::*;
    use crate::spec::Limits;

    fn check(kind: CheckKind, severity: Severity, limits: (Option<&str>, Option<&str>)) -> Check {
        Check {
            table: "s.t".parse().unwrap(),
            name: "c".to_owned(),
            kind,
            filter: None,
            severity,
            of_run: false,
            arrived: None,
            keep_rows: 100,
            tag: None,
            grace: None,
            limits: Limits {
                warn_if: limits.0.map(|text| text.parse().unwrap()),
                fail_if: limits.1.map(|text| text.parse().unwrap()),
            },
            declared_in: String::new(),
        }
    }

    fn occasion() -> Occasion {
        Occasion {
            until: "2024-03-11T00:00:00Z".parse().unwrap(),
            zone: TimeZone::UTC,
            date: "2024-03-10".parse().unwrap(),
            since: None,
            run: None,
        }
    }

    fn status(check: &Check, failing: u64, checked: Option<u64>, rest: Option<Value>) -> Status {
        let answer = Answer { failing: Some(failing), checked, rest };
        verdict(check, &occasion(), answer).status
    }

    #[test]
    fn limits_decide_as_in_dbt() {
        let kind = || CheckKind::NotNull(vec!["a".to_owned()]);
        let both = check(kind(), Severity::Fail, (Some("> 0"), Some("> 100")));
        assert_eq!(
            [0, 1, 100, 101].map(|rows| status(&both, rows, None, None).word()),
            ["PASS", "WARN", "WARN", "FAIL"]
        );
        let fails = check(kind(), Severity::Fail, (None, None));
        assert_eq!(
            [0, 1].map(|rows| status(&fails, rows, None, None)),
            [Status::Pass, Status::Fail]
        );
        let warns = check(kind(), Severity::Warn, (Some("> 5"), None));
        assert_eq!(
            [5, 6].map(|rows| status(&warns, rows, None, None)),
            [Status::Pass, Status::Warn]
        );
        let half = Answer { failing: Some(1), checked: Some(2), rest: Some(json!([{"a": null}])) };
        let half = verdict(&fails, &occasion(), half);
        assert_eq!((half.completeness, half.rows.len()), (Some(50.0), 1));
        assert_eq!(
            (half.expected.as_str(), half.actual.as_str()),
            ("0 failing rows", "1 of 2 rows")
        );
    }

    #[test]
    fn what_nobody_knows_is_not_fresh() {
        let most = std::time::Duration::from_mins(1);
        let kind = CheckKind::Freshness(Freshness { most, calendar: None });
        let check = check(kind, Severity::Fail, (None, None));
        for (age, expected) in [
            (None, Status::Fail),
            (Some(json!({"age": null, "state": "snapshotting"})), Status::Fail),
            (Some(json!({"age": 60.0, "state": "streaming"})), Status::Pass),
            (Some(json!({"age": -0.1, "state": "streaming"})), Status::Pass),
            (Some(json!({"age": 61.0, "state": "streaming"})), Status::Fail),
        ] {
            assert_eq!(status(&check, 0, None, age.clone()), expected, "{age:?}");
        }
    }
}
