//! What the warehouse's role needs and nothing more, as SQL for whoever may give it. Pure.

use crate::postgres::quote;

/// The statements that make `role` and let it keep `database`. It owns what it makes; of `schemas` that are
/// there it needs the right to make tables.
pub fn statements(role: &str, database: &str, schemas: &[String]) -> Vec<String> {
    let (name, database) = (quote::ident(role), quote::ident(database));
    let mut lines = vec![
        format!("create role {name} login"),
        format!("grant connect, create, temporary on database {database} to {name}"),
    ];
    let schemas = schemas.iter().map(|schema| quote::ident(schema));
    lines.extend(schemas.map(|schema| format!("grant usage, create on schema {schema} to {name}")));
    lines
}
