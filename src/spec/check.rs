//! What only shows when all files are seen together.

use std::collections::HashMap;

use super::Spec;
use crate::error::{Error, Kind, Result};

/// Refuses files that contradict each other.
pub(super) fn check(spec: &Spec) -> Result<()> {
    connectors(spec)?;
    tables(spec)
}

fn refuse(file: &str, why: String) -> Error {
    Error::new(Kind::Config, format!("{file}: {why}"))
}

fn connectors(spec: &Spec) -> Result<()> {
    let (mut names, mut sources, mut slots) = (HashMap::new(), HashMap::new(), HashMap::new());
    for connector in &spec.connectors {
        let file = connector.file.as_str();
        if let Some(other) = names.insert(&connector.name, file) {
            return Err(refuse(file, format!("name: {other} has the same name")));
        }
        if let Some(other) = sources.insert(&connector.source, file) {
            let why = format!("source: {other} feeds source {} already", connector.source);
            return Err(refuse(file, why).remedy("set enabled: false in one of them"));
        }
        if let Some(other) = slots.insert((connector.endpoint.shown(), &connector.slot), file) {
            return Err(refuse(
                file,
                format!("slot: {other} uses slot {} already", connector.slot),
            ));
        }
    }
    Ok(())
}

fn tables(spec: &Spec) -> Result<()> {
    let mut names: HashMap<_, &str> = HashMap::new();
    let calendars = spec.calendars.iter().map(|calendar| (&calendar.table, "a calendar"));
    let models = spec.models.iter().map(|model| (&model.table, model.declared_in.as_str()));
    for (table, file) in calendars.chain(models) {
        if let Some(other) = names.insert(table, file) {
            return Err(refuse(file, format!("table: {other} declares {table} already")));
        }
        if table.schema == "audit" || table.schema == "temp" || table.schema.starts_with("pg_") {
            let why = format!("table: schema {} is kept for the service", table.schema);
            return Err(refuse(file, why));
        }
    }
    for model in &spec.models {
        let file = model.declared_in.as_str();
        let connector = spec.connectors.iter().find(|c| c.source == model.from.source);
        let Some(connector) = connector else {
            let why = format!("from: no enabled connector has source {}", model.from.source);
            return Err(refuse(file, why).remedy("add connectors/NAME.yaml with that source"));
        };
        if !connector.takes(&model.from.table) {
            let why = format!(
                "from: {} does not take {}, by its tables and exclude",
                connector.file, model.from.table
            );
            return Err(refuse(file, why));
        }
        let hidden = model.columns.iter().find(|c| connector.excludes(&model.from.table, &c.from));
        if let Some(column) = hidden {
            let why = format!("columns.{}: {} excludes it", column.name, connector.file);
            return Err(refuse(file, why));
        }
    }
    Ok(())
}
