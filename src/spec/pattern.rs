//! Which tables and columns a connector means: `public.*`, `public.audit_log`, `public.users.email`.

use std::str::FromStr;

use crate::names::TableName;

/// A table pattern: `schema.table`, where `*` stands for any run of characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablePattern {
    schema: String,
    table: String,
}

impl TablePattern {
    /// Whether the pattern means this table.
    pub fn matches(&self, table: &TableName) -> bool {
        glob(&self.schema, &table.schema) && glob(&self.table, &table.name)
    }
}

impl FromStr for TablePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<TablePattern, String> {
        match text.split_once('.') {
            Some((schema, table)) if !schema.is_empty() && !table.is_empty() => {
                Ok(TablePattern { schema: schema.to_owned(), table: table.to_owned() })
            }
            _ => Err(format!("{text:?} is not a table pattern such as public.*")),
        }
    }
}

/// An entry of `exclude`: a table pattern, or one column of the tables that a pattern means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exclusion {
    text: String,
}

impl Exclusion {
    /// Whether the whole table is excluded.
    pub fn table(&self, table: &TableName) -> bool {
        self.text.parse::<TablePattern>().is_ok_and(|pattern| pattern.matches(table))
    }

    /// Whether this column of the table is excluded.
    pub fn column(&self, table: &TableName, column: &str) -> bool {
        let Some((tables, name)) = self.text.rsplit_once('.') else { return false };
        let pattern = tables.parse::<TablePattern>();
        pattern.is_ok_and(|pattern| pattern.matches(table)) && glob(name, column)
    }

    /// The entry as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Exclusion {
    type Err = String;

    fn from_str(text: &str) -> Result<Exclusion, String> {
        text.parse::<TablePattern>().map(|_| Exclusion { text: text.to_owned() })
    }
}

/// Whether `text` fits `pattern`, in which `*` stands for any run of characters.
pub(super) fn glob(pattern: &str, text: &str) -> bool {
    let Some((prefix, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(prefix) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match text.split_once(part) {
            Some((_, after)) => text = after,
            None => return false,
        }
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_say() {
        let cases = [
            ("*", "anything", true),
            ("orders", "orders", true),
            ("orders", "orders2", false),
            ("ord*", "orders", true),
            ("*_log", "audit_log", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
        ];
        for (pattern, text, fits) in cases {
            assert_eq!(glob(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn an_exclusion_means_a_table_or_a_column() {
        let users = TableName::new("public", "users");
        let column: Exclusion = "public.users.password_hash".parse().unwrap();
        assert!(column.column(&users, "password_hash") && !column.column(&users, "email"));
        assert!(!column.table(&users));
        let table: Exclusion = "public.us*".parse().unwrap();
        assert!(table.table(&users));
    }
}
