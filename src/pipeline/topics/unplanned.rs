//! What to do about a table of topics where one of a Postgres would be left to `siltstone apply`, which plans
//! no tables of topics: they are made, and get columns, as their records come.

use crate::names::TableName;
use crate::postgres::quote;

/// A remedy that works for a table that topics feed; the one that is given, where it does.
pub(super) fn remedy_of(table: &TableName, remedy: &str) -> String {
    if !remedy.starts_with("siltstone apply") {
        return remedy.to_owned();
    }
    let resume = format!("siltstone table resume {table:#}");
    match remedy.contains("--allow") {
        true => format!(
            "give its file what the table has; or drop table {}, {resume}, and let Debezium read its rows \
             again, by an incremental snapshot (its signal execute-snapshot)",
            quote::table(table)
        ),
        false => format!(
            "siltstone run once without --no-ddl, by a role that may make and alter tables; then {resume}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_topics_is_not_left_to_apply() {
        let table = TableName::new("cleansed", "t");
        let of = |remedy: &str| remedy_of(&table, remedy);
        assert!(of("siltstone apply").starts_with("siltstone run once without --no-ddl"));
        assert!(
            of("siltstone apply --allow destructive").contains("drop table \"cleansed\".\"t\", ")
        );
        assert_eq!(of("siltstone table resume cleansed.t"), "siltstone table resume cleansed.t");
    }
}
