//! What a source's role needs and nothing more, as SQL for whoever may give it. Pure.
//!
//! Source: PostgreSQL documentation, "Logical Replication: Security".

use super::publication::{Wanted, make_statement};
use crate::names::TableName;
use crate::postgres::quote;

/// What is granted on a table: select, on these columns where not on all.
#[derive(Clone, Debug)]
pub struct Readable {
    /// The table.
    pub table: TableName,
    /// Its columns, where some are excluded.
    pub columns: Option<Vec<String>>,
}

/// The statement that lets `role` take snapshots at a standby of a source of this version: grants follow
/// to the standby.
pub fn standby_statement(role: &str, version: i32) -> String {
    let functions = if version >= 160_000 {
        "pg_log_standby_snapshot()"
    } else {
        "pg_wal_replay_pause(), pg_wal_replay_resume()"
    };
    format!("grant execute on function {functions} to {}", quote::ident(role))
}

/// What tells rows and their versions apart: a table is cut by it, and verified.
const OF_ROWS: [&str; 3] = ["ctid", "xmin", "tableoid"];

/// The statements that make `role` and let it replicate `tables` of `database`, to be run as a superuser.
pub fn statements(
    role: &str,
    database: &str,
    tables: &[Readable],
    publications: &[Wanted],
) -> Vec<String> {
    let name = quote::ident(role);
    let mut lines = vec![
        format!("create role {name} login replication"),
        format!("grant connect on database {} to {name}", quote::ident(database)),
    ];
    let mut schemas: Vec<&str> = tables.iter().map(|table| table.table.schema.as_str()).collect();
    schemas.sort_unstable();
    schemas.dedup();
    for schema in schemas {
        lines.push(format!("grant usage on schema {} to {name}", quote::ident(schema)));
    }
    for readable in tables {
        let columns = readable.columns.as_ref();
        let columns = columns.map(|list| {
            let list = list.iter().map(String::as_str).chain(OF_ROWS);
            format!(" ({})", quote::idents(list))
        });
        let columns = columns.unwrap_or_default();
        let table = quote::table(&readable.table);
        lines.push(format!("grant select{columns} on {table} to {name}"));
    }
    for wanted in publications {
        lines.push(make_statement(wanted));
        let publication = quote::ident(&wanted.name);
        lines.push(format!("alter publication {publication} owner to {name}"));
    }
    lines
}
