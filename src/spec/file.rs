//! A user's file: reading YAML strictly, values with their place, refusals that name file, line and
//! field.
//!
//! Two steps, as everywhere in `spec`: a file is read into a raw form whose values are still text
//! with a line ([`Given`]), then converted once into types that the rest of the program trusts.
//! Substitution happens in the second step, so that a disabled file's variables are never asked for.

use std::str::FromStr;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_saphyr::Spanned;

use super::env::Env;
use crate::error::{Error, Kind, Result};

/// A value as it stands in a file, before substitution.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Given(Spanned<String>);

impl Given {
    /// The text as written.
    pub(super) fn raw(&self) -> &str {
        &self.0.value
    }

    /// The line it stands on, from 1.
    pub(super) fn line(&self) -> u64 {
        self.0.referenced.line()
    }
}

/// A field this version knows by name but does not run yet: refused where it stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct NotYet(Spanned<serde::de::IgnoredAny>);

/// A file being converted: its name for messages, and the environment for substitution.
pub(super) struct File<'e> {
    /// The path below the root folder, as messages show it.
    pub(super) path: String,
    /// Its text.
    pub(super) text: String,
    /// Where `${NAME}` is looked up.
    pub(super) env: &'e Env,
}

impl File<'_> {
    /// Reads the raw form. Unknown fields, duplicate keys and wrong shapes are refused.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T> {
        let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
        serde_saphyr::from_str_with_options(&self.text, options).map_err(|e| self.malformed(&e))
    }

    /// A value after substitution.
    pub(super) fn text(&self, field: &str, given: &Given) -> Result<String> {
        self.env.expand(given.raw()).map_err(|why| self.refuse(given.line(), field, &why))
    }

    /// A value after substitution, parsed.
    pub(super) fn parse<T>(&self, field: &str, given: &Given) -> Result<T>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        let text = self.text(field, given)?;
        text.parse().map_err(|why: T::Err| self.refuse(given.line(), field, &why.to_string()))
    }

    /// An optional value, or its default.
    pub(super) fn parse_or<T>(&self, field: &str, given: Option<&Given>, default: T) -> Result<T>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        given.map_or(Ok(default), |given| self.parse(field, given))
    }

    /// A refusal of the value on `line`.
    pub(super) fn refuse(&self, line: u64, field: &str, why: &str) -> Error {
        Error::new(Kind::Config, format!("{}:{line}: {field}: {why}", self.path))
    }

    /// A refusal of a value that stands in the file.
    pub(super) fn refuse_given(&self, field: &str, given: &Given, why: &str) -> Error {
        self.refuse(given.line(), field, why)
    }

    /// Refuses a field that this version does not run, where it is given.
    pub(super) fn not_yet(&self, field: &str, given: Option<&NotYet>) -> Result<()> {
        let Some(NotYet(place)) = given else { return Ok(()) };
        let line = place.referenced.line();
        Err(self.refuse(line, field, "this version does not run it yet").remedy("remove the field"))
    }

    fn malformed(&self, error: &serde_saphyr::Error) -> Error {
        let error = error.without_snippet();
        let line = error.location().map_or(1, |location| location.line());
        let refuse = |field: &str, why: &str| self.refuse(line, field, why);
        match error {
            serde_saphyr::Error::SerdeUnknownField { field, expected, .. } => {
                let why = match nearest(field, expected) {
                    Some(near) => format!("unknown field, did you mean `{near}`?"),
                    None => format!("unknown field, expected one of {}", expected.join(", ")),
                };
                refuse(field, &why)
            }
            serde_saphyr::Error::SerdeMissingField { field, .. } => {
                refuse(field, "the field is missing")
            }
            other => {
                let text = other.to_string();
                let text = text.lines().next().unwrap_or_default();
                let why = text
                    .split_once(": ")
                    .map_or(text, |(place, rest)| if place.contains("line") { rest } else { text });
                Error::new(Kind::Config, format!("{}:{line}: {why}", self.path))
            }
        }
    }
}

/// The candidate that differs from `name` in the fewest letters, if it is near enough to be meant.
pub(super) fn nearest<'c>(name: &str, candidates: &[&'c str]) -> Option<&'c str> {
    let limit = name.len().max(3) / 2;
    // of two equally near, the one of the same length: letters change places more often than go
    let rank = |candidate: &&str| (distance(name, candidate), candidate.len().abs_diff(name.len()));
    let near = candidates.iter().copied().filter(|candidate| distance(name, candidate) <= limit);
    near.min_by_key(rank)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (above, other) in row.iter_mut().skip(1).zip(&b) {
            let best = (diagonal + usize::from(letter != *other)).min(left + 1).min(*above + 1);
            diagonal = std::mem::replace(above, best);
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_name_is_offered_and_a_far_one_is_not() {
        assert_eq!(nearest("tabels", &["tables", "exclude", "table"]), Some("tables"));
        assert_eq!(nearest("colour", &["tables", "exclude"]), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
