//! Names of tables, as users write them. Quoting for SQL is `warehouse::quote`'s alone.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A table by its schema and name, unquoted: `schema.table` in files, commands and messages.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    /// The schema, exactly as the catalogue has it.
    pub schema: String,
    /// The table, exactly as the catalogue has it; may itself contain dots.
    pub name: String,
}

impl TableName {
    /// The table `name` in `schema`.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> TableName {
        TableName { schema: schema.into(), name: name.into() }
    }

    /// Another table of the same schema, named after this one.
    #[must_use]
    pub fn with_suffix(&self, suffix: &str) -> TableName {
        TableName::new(self.schema.clone(), shortened(&self.name, suffix))
    }
}

/// `name` and `suffix` in at most 63 bytes, the longest name Postgres keeps. A name that must be
/// cut keeps a digest of the whole, so that two long names never become one.
pub fn shortened(name: &str, suffix: &str) -> String {
    const LONGEST: usize = 63;
    if name.len() + suffix.len() <= LONGEST {
        return format!("{name}{suffix}");
    }
    let digest = format!("_{:08x}", fingerprint(name.as_bytes()) >> 32);
    let mut end = LONGEST.saturating_sub(suffix.len() + digest.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let head = name.get(..end).unwrap_or_default();
    format!("{head}{digest}{suffix}")
}

/// A 64-bit FNV-1a digest: stable across versions, for names and shapes, never against malice.
pub fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// `{table:#}` is the table in a command that a person copies into a shell, `{table}` everywhere else.
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TableName { schema, name } = self;
        match f.alternate() {
            true => f.write_str(&in_command(&format!("{schema}.{name}"))),
            false => write!(f, "{schema}.{name}"),
        }
    }
}

/// A text as one word of a shell.
pub fn in_shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The same, plain where it is one as it stands: whoever may make tables at a source must not have commands run by
/// whoever copies a remedy.
pub fn in_command(name: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '/' | ':' | '@');
    if name.chars().all(is_plain) { name.to_owned() } else { in_shell(name) }
}

/// The text is not `schema.table`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a table: write schema.table")]
pub struct NotATable(String);

impl FromStr for TableName {
    type Err = NotATable;

    fn from_str(text: &str) -> Result<TableName, NotATable> {
        match text.split_once('.') {
            Some((schema, name)) if !schema.is_empty() && !name.is_empty() => {
                Ok(TableName::new(schema, name))
            }
            _ => Err(NotATable(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_command_is_one_word() {
        let shown = |name: &str| format!("{:#}", TableName::new("cleansed", name));
        assert_eq!(shown("dim_users"), "cleansed.dim_users");
        assert_eq!(shown("größe-2.x"), "cleansed.größe-2.x");
        assert_eq!(shown("$(touch PWNED)"), "'cleansed.$(touch PWNED)'");
        assert_eq!(shown("a'; rm b"), r"'cleansed.a'\''; rm b'");
        assert_eq!(format!("{}", TableName::new("cleansed", "a b")), "cleansed.a b");
    }

    #[test]
    fn a_long_name_stays_below_63_bytes_and_apart_from_its_twin() {
        let (a, b) = ("ü".repeat(40) + "a", "ü".repeat(40) + "b");
        let (short_a, short_b) = (shortened(&a, "_p20240101"), shortened(&b, "_p20240101"));
        assert!(short_a.len() <= 63 && short_a.ends_with("_p20240101"));
        assert_ne!(short_a, short_b);
        assert_eq!(shortened("orders", "_p2024"), "orders_p2024");
    }
}
