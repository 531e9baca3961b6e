//! A user's file: reading YAML strictly, values with their place, refusals that name file, line and
//! field.
//!
//! Two steps, as everywhere in `spec`: a file is read into a raw form whose values are still text
//! with a line ([`Given`]), then converted once into types that the rest of the program trusts.
//! Substitution happens in the second step, so that a disabled file's variables are never asked for.

use std::fmt::Display;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_saphyr::Spanned;

use super::env::Env;
use super::scalar::Scalar;
use super::tree::{Node, Shape};
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

/// Fields with the line that they begin on.
pub(super) type Placed<T> = Spanned<T>;

/// A field this version knows by name but does not run yet: refused where it stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct NotYet(serde::de::IgnoredAny);

/// A file being converted: its name for messages, and the environment for substitution.
pub(super) struct File<'e> {
    /// The path below the root folder, as messages show it.
    pub(super) path: String,
    /// Its text.
    pub(super) text: String,
    /// Where everything in it stands.
    tree: Node,
    /// Where `${NAME}` is looked up.
    pub(super) env: &'e Env,
}

impl<'e> File<'e> {
    /// A file of this name and content: UTF-8, YAML, with fields.
    pub(super) fn new(path: String, bytes: Vec<u8>, env: &'e Env) -> Result<File<'e>> {
        let text = String::from_utf8(bytes).map_err(|error| {
            let before = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
            let line = before.filter(|byte| **byte == b'\n').count() + 1;
            refusal(&path, line, "the text is not UTF-8", "save the file as UTF-8")
        })?;
        let tree: Node = yaml(&text).map_err(|error| syntax(&path, &text, &error))?;
        let fields = "write its fields, one a line as `name: value`";
        match tree.shape() {
            Shape::Fields => Ok(File { path, text, tree, env }),
            Shape::Nothing => {
                Err(refusal(&path, 1, "the file is empty", &format!("{fields}, or remove it")))
            }
            Shape::Other => Err(refusal(&path, 1, "the file holds no fields", fields)),
        }
    }

    /// Reads the raw form. Unknown fields, fields without a value and wrong shapes are refused.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T> {
        if let Some((field, line)) = self.tree.blank() {
            // what stands behind the comma of `{ type: numeric(12,2) }`
            let cut = field.ends_with(')') && !field.contains('(');
            let remedy = match cut {
                true => "a type with a comma needs quotes in braces: type: \"numeric(12,2)\"",
                false => "give it a value, or remove the field",
            };
            return Err(self.refuse_at(line, &field, "the value is missing", remedy));
        }
        self.read_head()
    }

    /// Reads what all files of a kind share, whatever else they hold.
    pub(super) fn read_head<T: DeserializeOwned>(&self) -> Result<T> {
        yaml(&self.text).map_err(|error| self.malformed(&error))
    }

    /// A value after substitution.
    pub(super) fn text(&self, field: &str, given: &Given) -> Result<String> {
        let expanded = self.env.expand(given.raw());
        expanded.map_err(|error| self.refuse_given(field, given, &error.why, &error.remedy))
    }

    /// A value after substitution, parsed.
    pub(super) fn parse<T: Scalar>(&self, field: &str, given: &Given) -> Result<T> {
        let text = self.text(field, given)?;
        T::read(&text).map_err(|why| self.refuse_given(field, given, &why, T::REMEDY))
    }

    /// An optional value, or its default.
    pub(super) fn parse_or<T: Scalar>(
        &self,
        field: &str,
        given: Option<&Given>,
        default: T,
    ) -> Result<T> {
        given.map_or(Ok(default), |given| self.parse(field, given))
    }

    /// One of a field's values; the first is the default.
    pub(super) fn choice(
        &self,
        field: &str,
        given: Option<&Given>,
        choices: &[&'static str],
    ) -> Result<&'static str> {
        let Some(given) = given else { return Ok(choices.first().copied().unwrap_or_default()) };
        let text = self.text(field, given)?;
        choices.iter().copied().find(|choice| *choice == text).ok_or_else(|| {
            let why = format!("{text:?} is not one of its values");
            self.refuse_given(field, given, &why, &format!("write {}", listed(choices)))
        })
    }

    /// Whether a field that YAML reads as null says so in letters; else its value is missing.
    pub(super) fn is_written_null(&self, field: &str) -> bool {
        let name = field.rsplit('.').next().unwrap_or(field);
        let line = usize::try_from(self.tree.line_of(field)).unwrap_or(0);
        let line = self.text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
        let null = |behind: &str| {
            let value = behind.trim_start_matches(['"', '\'', ' ']).strip_prefix(':');
            let value = value.map(str::trim_start).unwrap_or_default();
            ["null", "Null", "NULL", "~"].iter().any(|null| value.starts_with(null))
        };
        line.split(name).skip(1).any(null)
    }

    /// A refusal of a field, or of its absence.
    pub(super) fn refuse(&self, field: &str, why: &str, remedy: &str) -> Error {
        self.refuse_at(self.tree.line_of(field), field, why, remedy)
    }

    /// A refusal of a value that stands in the file.
    pub(super) fn refuse_given(
        &self,
        field: &str,
        given: &Given,
        why: &str,
        remedy: &str,
    ) -> Error {
        self.refuse_at(given.line(), field, why, remedy)
    }

    /// Refuses a field that this version does not run, where it is given.
    pub(super) fn not_yet(&self, field: &str, given: Option<&NotYet>) -> Result<()> {
        let Some(NotYet(_)) = given else { return Ok(()) };
        Err(self.refuse(field, "this version does not run it yet", "remove the field"))
    }

    /// A refusal of what stands on a line.
    pub(super) fn refuse_at(&self, line: u64, field: &str, why: &str, remedy: &str) -> Error {
        refusal(&self.path, line, &format!("{field}: {why}"), remedy)
    }

    /// A file that is YAML, but of another shape.
    fn malformed(&self, error: &serde_saphyr::Error) -> Error {
        let error = error.without_snippet();
        let place = error.location().map_or((1, 1), |at| (at.line(), at.column()));
        let beside = |field: &str| {
            let mut path = self.tree.field_at(place).unwrap_or_default();
            path.pop();
            path.push(field);
            path.join(".")
        };
        match error {
            serde_saphyr::Error::SerdeUnknownField { field, expected, .. } => {
                let remedy = match nearest(field, expected) {
                    Some(near) => format!("write {near}, or remove the field"),
                    None => format!("remove it; the fields here are {}", expected.join(", ")),
                };
                self.refuse_at(place.0, &beside(field), "unknown field", &remedy)
            }
            serde_saphyr::Error::SerdeMissingField { field, .. } => {
                self.refuse(&beside(field), "the field is missing", &example(field))
            }
            other => {
                let field = self.tree.value_at(place).join(".");
                let (why, remedy) = wrong_shape(other);
                self.refuse_at(place.0, &field, &why, &remedy)
            }
        }
    }
}

fn yaml<T: DeserializeOwned>(text: &str) -> Result<T, serde_saphyr::Error> {
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    serde_saphyr::from_str_with_options(text, options)
}

fn refusal(path: &str, line: impl Display, what: &str, remedy: &str) -> Error {
    Error::new(Kind::Config, format!("{path}:{line}: {what}")).remedy(remedy)
}

/// How the parser says that a field has no name.
const NO_NAME: &str = "cannot deserialize null";

/// A file that is not YAML.
fn syntax(path: &str, text: &str, error: &serde_saphyr::Error) -> Error {
    let error = error.without_snippet();
    let line = error.location().map_or(1, |location| location.line());
    let at = usize::try_from(line).unwrap_or(1);
    let mut lines = text.lines().zip(1_u64..).take(at);
    if let Some((_, line)) = lines.find(|(text, _)| text.trim_start_matches(' ').starts_with('\t'))
    {
        return refusal(path, line, "the line is indented by a tab", "indent it by spaces");
    }
    match error {
        serde_saphyr::Error::DuplicateMappingKey { key, .. } => {
            let field = key.as_deref().unwrap_or("a field");
            refusal(path, line, &format!("{field}: the field stands here twice"), "keep one")
        }
        serde_saphyr::Error::MultipleDocuments { .. } => {
            let what = "the file holds more than one document";
            refusal(path, line, what, "put each into a file of its own, without ---")
        }
        other if described(other).contains(NO_NAME) => {
            let remedy =
                "write it as `name: value`, and put a value that begins with a colon into quotes";
            refusal(path, line, "a name is missing in front of a colon", remedy)
        }
        other => {
            let remedy = "mend the YAML here or just above: quotes, brackets, indentation, and a \
                          space behind each colon";
            refusal(path, line, &format!("not YAML: {}", described(other)), remedy)
        }
    }
}

/// What is wrong with a value's shape, and what to write.
fn wrong_shape(error: &serde_saphyr::Error) -> (String, String) {
    if let serde_saphyr::Error::InvalidBooleanStrict { .. } = error {
        return ("neither true nor false".to_owned(), "write true or false".to_owned());
    }
    // the parser's own words name its events, which no user has heard of
    let text = described(error);
    let (what, remedy) = if text.contains("sequence") {
        ("not a list", "write a list, such as [one, two]")
    } else if text.contains("mapping") {
        ("not fields", "write fields below it, or on its line in braces: { name: value }")
    } else if text.contains("tuple of size 2") {
        ("not a pair", "write two values: [one, two]")
    } else {
        (text.as_str(), "write it as in the contract of the files")
    };
    (what.to_owned(), remedy.to_owned())
}

/// An error of the parser in its own words, without the place.
fn described(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let text = text.lines().next().unwrap_or_default();
    let (place, rest) = text.split_once(": ").unwrap_or(("", text));
    if place.contains("line") { rest.to_owned() } else { text.to_owned() }
}

/// What to write for a field that is missing.
fn example(field: &str) -> String {
    let example = match field {
        "warehouse" => "warehouse: { url: \"${WAREHOUSE_URL}\" }",
        "name" => "name: shop",
        "kind" => "kind: postgres",
        "url" => "url: \"${SHOP_URL}\"",
        "table" => "table: schema.name",
        "type" => "type: bigint",
        "by" => "by: order_date",
        "every" => "every: day",
        "max_rows" => "max_rows: 50000",
        "max_bytes" => "max_bytes: 10GiB",
        _ => return "add it".to_owned(),
    };
    format!("add it, such as {example}")
}

/// `a`, `a or b`, `a, b or c`.
pub(super) fn listed(choices: &[&str]) -> String {
    match choices.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => choices.concat(),
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
