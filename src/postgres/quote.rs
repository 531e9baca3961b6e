//! Quoting for SQL: the only place that turns a name or a literal into statement text.

use crate::names::TableName;

/// A quoted identifier.
pub fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A quoted, schema-qualified table.
pub fn table(name: &TableName) -> String {
    format!("{}.{}", ident(&name.schema), ident(&name.name))
}

/// A quoted literal, for the statements that take no parameters (DDL, replication commands).
/// Relies on standard_conforming_strings, which [`super::connect`] sets.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Quoted identifiers, separated by commas.
pub fn idents<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    names.into_iter().map(ident).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_stays_a_name() {
        let name = TableName::new("public", "x\"; drop table y");
        assert_eq!(table(&name), "\"public\".\"x\"\"; drop table y\"");
        assert_eq!(literal("it's"), "'it''s'");
    }
}
