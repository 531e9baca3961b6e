//! The environment, read once, and the substitution of `${…}` in values.
//!
//! `${NAME}`, `${NAME:-default}` (also where NAME is empty), `${file:/path}` (without its last line
//! end), `$${` for a literal `${`. Nothing is substituted in keys, and what was substituted is not
//! looked at again.

use std::collections::HashMap;
use std::ffi::OsString;

use crate::clock::Clock;

/// What files may refer to: the variables of the environment, and the day.
#[derive(Clone, Default)]
pub struct Env {
    variables: HashMap<String, String>,
    today: i64,
}

impl Env {
    /// The process's environment, on the clock's day.
    pub fn of_process(clock: &Clock) -> Env {
        let text = |(name, value): (OsString, OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let variables = std::env::vars_os().filter_map(text).collect();
        Env { variables, today: clock.now_postgres().div_euclid(86_400_000_000) }
    }

    /// The same environment with one more variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Env {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The same environment on another day, as days since 2000-01-01.
    #[must_use]
    pub fn on_day(mut self, day: i64) -> Env {
        self.today = day;
        self
    }

    /// The day, as days since 2000-01-01 UTC.
    pub fn today(&self) -> i64 {
        self.today
    }

    /// A variable's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// Replaces every `${…}` in a value.
    pub(super) fn expand(&self, text: &str) -> Result<String, Unresolved> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            if let Some(escaped) = before.strip_suffix('$') {
                out.push_str(escaped);
                out.push_str("${");
                rest = after;
                continue;
            }
            out.push_str(before);
            let (inner, after) = after.split_once('}').ok_or_else(|| Unresolved {
                why: "`${` is not closed by `}`".to_owned(),
                remedy: "close it, or write $${ for a literal ${".to_owned(),
            })?;
            out.push_str(&self.lookup(inner)?);
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }

    fn lookup(&self, inner: &str) -> Result<String, Unresolved> {
        if let Some(path) = inner.strip_prefix("file:") {
            return std::fs::read_to_string(path)
                .map(|text| text.strip_suffix('\n').unwrap_or(&text).to_owned())
                .map_err(|error| Unresolved {
                    why: format!("{path} cannot be read: {error}"),
                    remedy: format!("let the service's user read {path}, or name another file"),
                });
        }
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(Unresolved {
                // not quoted: it may be part of a password
                why: "what stands in ${…} is not an environment variable's name".to_owned(),
                remedy:
                    "write ${NAME}, ${NAME:-default} or ${file:/path}, and $${ for a literal ${"
                        .to_owned(),
            });
        }
        match (self.get(name).filter(|value| default.is_none() || !value.is_empty()), default) {
            (Some(value), _) => Ok(value.to_owned()),
            (None, Some(default)) => Ok(default.to_owned()),
            (None, None) => Err(Unresolved {
                why: format!("the environment variable {name} is not set"),
                remedy: format!("set {name}, or write ${{{name}:-default}}"),
            }),
        }
    }
}

/// A `${…}` that stands for nothing.
#[derive(Debug)]
pub(super) struct Unresolved {
    pub(super) why: String,
    pub(super) remedy: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_substituted_once_and_literals_stay() {
        let env = Env::default().with("HOST", "db").with("EMPTY", "").with("TRICK", "${HOST}");
        let cases = [
            ("postgres://${HOST}/x", "postgres://db/x"),
            ("${EMPTY:-fallback}", "fallback"),
            ("${NONE:-}", ""),
            ("$${HOST}", "${HOST}"),
            ("${TRICK}", "${HOST}"),
            ("no variable", "no variable"),
        ];
        for (text, expanded) in cases {
            assert_eq!(env.expand(text).unwrap(), expanded);
        }
        assert!(env.expand("${NONE}").is_err());
        assert!(env.expand("${HOST").is_err());
    }
}
