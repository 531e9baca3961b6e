//! Brings rows of a source without a stream into raw, and from there into a declared table: for the stretch of time
//! that the run is about, and again as often as it is run, with the same outcome.

use std::future::Future;
use std::pin::Pin;

use jiff::Timestamp;
use jiff::civil::Date;

use super::{Hands, Outcome, Work};
use crate::error::{Error, Kind, Policy, Result};
use crate::names::TableName;
use crate::postgres::Session;
use crate::schedule::attempt::Attempt;
use crate::spec::{Condition, Variable};

/// What of time a task is about.
#[derive(Clone, Debug)]
pub struct About {
    /// What raw tables call it: the day, where it is one; else where it begins and ends.
    pub load_id: String,
    /// Its first moment.
    pub start: Timestamp,
    /// The first moment behind it.
    pub end: Timestamp,
    variables: [String; 4],
}

impl About {
    fn of(attempt: &Attempt) -> About {
        let told = |variable| attempt.variable(variable).to_owned();
        let (ds, start, end) =
            (told(Variable::Ds), told(Variable::IntervalStart), told(Variable::IntervalEnd));
        let (from, until) = (attempt.about.start, attempt.about.end);
        let load_id = match is_day(&ds, &start, &end) {
            true => ds.clone(),
            false => format!("{}/{}", compact(from), compact(until)),
        };
        // a moment is told as ISO 8601 has it
        let moment = |told: &str| told.replacen(' ', "T", 1);
        let variables = [ds, told(Variable::PrevDs), moment(&start), moment(&end)];
        About { load_id, start: from, end: until, variables }
    }

    /// What a variable stands for.
    pub fn variable(&self, variable: Variable) -> String {
        let [ds, prev_ds, start, end] = &self.variables;
        let told = match variable {
            Variable::Ds => ds,
            Variable::PrevDs => prev_ds,
            Variable::IntervalStart => start,
            Variable::IntervalEnd => end,
        };
        told.clone()
    }
}

/// Whether a stretch is the whole of its day.
fn is_day(ds: &str, start: &str, end: &str) -> bool {
    let behind = ds.parse::<Date>().ok().and_then(|day| day.tomorrow().ok());
    let begins = |told: &str, day: &str| {
        told.strip_prefix(day).is_some_and(|rest| rest.starts_with(" 00:00:00"))
    };
    let no_less = |told: &str| !told.contains("00:00:00.");
    let behind = behind.map(|day| day.to_string());
    begins(start, ds)
        && behind.is_some_and(|day| begins(end, &day))
        && no_less(start)
        && no_less(end)
}

/// A moment in so few letters that two of them fit into a `load_id`.
fn compact(at: Timestamp) -> String {
    at.strftime("%Y%m%dT%H%M%S%.fZ").to_string()
}

/// How many rows will have been brought.
pub type Bringing<'a> = Pin<Box<dyn Future<Output = Result<u64>> + Send + 'a>>;

/// Knows sources without a stream, which the schedule does not.
pub trait Brings: Send + Sync {
    /// Whether no stream feeds a table.
    fn brings(&self, table: &TableName) -> bool;

    /// Brings what its source tells of a stretch of time into a raw table, or those rows that a condition names.
    fn extract<'a>(
        &'a self,
        session: &'a mut Session,
        hands: &'a Hands,
        wanted: (&'a TableName, Option<&'a Condition>),
        about: &'a About,
    ) -> Bringing<'a>;

    /// Merges what raw has of it into a declared table.
    fn load<'a>(
        &'a self,
        session: &'a mut Session,
        hands: &'a Hands,
        table: &'a TableName,
        about: &'a About,
    ) -> Bringing<'a>;
}

pub(super) async fn extract(
    work: &Work<'_>,
    wanted: (&TableName, Option<&Condition>),
) -> Result<Outcome> {
    let (mut session, about) = (work.session().await?, About::of(work.attempt));
    work.brought(work.hands.brings.extract(&mut session, work.hands, wanted, &about)).await
}

pub(super) async fn load(work: &Work<'_>, table: &TableName) -> Result<Outcome> {
    let (mut session, about) = (work.session().await?, About::of(work.attempt));
    work.brought(work.hands.brings.load(&mut session, work.hands, table, &about)).await
}

impl Work<'_> {
    async fn brought(&self, bringing: Bringing<'_>) -> Result<Outcome> {
        let brought = tokio::select! {
            brought = bringing => brought,
            () = self.given_up.notified() => {
                return Err(Error::new(Kind::Cancelled, "the attempt was given up"));
            }
        };
        match brought {
            Ok(rows) => Ok(Outcome::Done(Some(rows))),
            // what only a person can mend is as it is the next time
            Err(error) if is_lasting(&error) => Ok(Outcome::FailedForGood(told(&error))),
            Err(error) => Ok(Outcome::Failed(told(&error))),
        }
    }
}

fn is_lasting(error: &Error) -> bool {
    matches!(error.kind().policy(), Policy::Human | Policy::StopTable | Policy::Sift)
        // a password, a right, or a table may be on its way
        && !matches!(error.kind(), Kind::Rights | Kind::SourceLacks)
}

fn told(error: &Error) -> String {
    match error.table() {
        Some(table) => format!("{table}: {}", error.advice()),
        None => error.advice(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_day_is_known_by_its_date() {
        let day = |start: &str, end: &str| is_day("2024-03-10", start, end);
        assert!(day("2024-03-10 00:00:00+01:00", "2024-03-11 00:00:00+01:00"));
        assert!(day("2024-03-10 00:00:00+01:00", "2024-03-11 00:00:00+02:00"));
        assert!(!day("2024-03-10 00:00:00+01:00", "2024-03-10 01:00:00+01:00"));
        assert!(!day("2024-03-10 00:00:00.5+01:00", "2024-03-11 00:00:00+01:00"));
        assert!(!day("2024-03-09 00:00:00+01:00", "2024-03-11 00:00:00+01:00"));
        assert!(!day("2024-03-10 00:00:00+01:00", "2024-03-12 00:00:00+01:00"));
        let at: Timestamp = "2024-03-09T23:00:00.123456Z".parse().unwrap();
        assert_eq!(compact(at), "20240309T230000.123456Z");
        assert!(format!("{0}/{0}", compact(at)).len() <= 50);
        assert_eq!(compact("2024-03-09T23:00:00Z".parse().unwrap()), "20240309T230000Z");
    }
}
