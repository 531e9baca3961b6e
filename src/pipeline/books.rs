//! What the admin server and the command line read and write in the warehouse's control tables.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio_postgres::GenericClient;

use super::pairs::{verify_connector, verify_topics};
use super::resync::check_condition;
use crate::decode::{Decoded, Decoder};
use crate::error::{Error, Kind, Result};
use crate::names::TableName;
use crate::postgres::{Side, connect};
use crate::progress::requests::{self, Argument};
use crate::progress::{account, dead_letters, schemas};
use crate::relation::{Relation, Wire};
use crate::serve::{Asked, Books, Later};
use crate::spec::{Settings, Spec};
use crate::types::write_text;
use crate::value::{Cell, Row};

/// The books of a warehouse; each look opens a connection of its own, for they are rare.
pub(super) struct WarehouseBooks {
    settings: Arc<Settings>,
    /// as they were read last
    files: watch::Receiver<Arc<Spec>>,
}

impl WarehouseBooks {
    /// The books of the warehouse that the service began with.
    pub(super) fn new(settings: Settings, files: watch::Receiver<Arc<Spec>>) -> WarehouseBooks {
        WarehouseBooks { settings: Arc::new(settings), files }
    }
}

impl Books for WarehouseBooks {
    fn ask(
        &self,
        verb: String,
        connector: String,
        table: Option<TableName>,
        argument: Asked,
    ) -> Later<i64> {
        let settings = self.settings.clone();
        let spec = self.files.borrow().clone();
        Box::pin(async move {
            if let (Asked::Condition(condition), Some(table)) = (&argument, &table) {
                check_condition(&spec, &connector, table, condition).await?;
            }
            let verb = requests::Verb::of(&verb);
            let verb = verb.ok_or_else(|| Error::new(Kind::Usage, "there is no such verb"))?;
            let warehouse =
                connect(Side::Warehouse, &settings.warehouse, "siltstone request").await?;
            let argument = match &argument {
                Asked::Nothing => Argument::Nothing,
                Asked::Letter(id) => Argument::Letter(*id),
                Asked::Condition(condition) => Argument::Condition(condition),
            };
            requests::ask(&*warehouse, verb, &connector, (table.as_ref(), argument)).await
        })
    }

    fn why(&self, table: TableName) -> Later<Option<Value>> {
        let settings = self.settings.clone();
        Box::pin(async move {
            let warehouse =
                connect(Side::Warehouse, &settings.warehouse, "siltstone request").await?;
            account::table(&*warehouse, &table).await
        })
    }

    fn verify(&self, table: TableName) -> Later<Option<Value>> {
        let mut spec = Spec::clone(&self.files.borrow());
        spec.settings.warehouse = self.settings.warehouse.clone();
        Box::pin(async move {
            for connector in &spec.connectors {
                let report = verify_connector(&spec, connector, Some(&table)).await?;
                if let Some(found) = report.tables.iter().find(|found| found.table == table) {
                    return Ok(Some(found.to_json()));
                }
            }
            for connector in spec.kafka.iter().filter(|connector| connector.endpoint.is_some()) {
                let report = verify_topics(&spec, connector, Some(&table)).await?;
                if let Some(found) = report.tables.iter().find(|found| found.table == table) {
                    return Ok(Some(found.to_json()));
                }
            }
            Ok(None)
        })
    }

    fn dead_letters(&self, table: Option<TableName>, id: Option<i64>) -> Later<Vec<Value>> {
        let settings = self.settings.clone();
        Box::pin(async move {
            let warehouse =
                connect(Side::Warehouse, &settings.warehouse, "siltstone request").await?;
            dead_letters_as_json(&*warehouse, table.as_ref(), id).await
        })
    }
}

/// The open dead letters as `dead-letter list --json` and `/dead-letters` show them; a single one with
/// its values.
pub async fn dead_letters_as_json(
    client: &impl GenericClient,
    table: Option<&TableName>,
    id: Option<i64>,
) -> Result<Vec<Value>> {
    let mut shown = Vec::new();
    for letter in dead_letters::list(client, table, id).await? {
        let mut value = serde_json::to_value(&letter)
            .map_err(|error| Error::bug("a dead letter is no JSON").because(error))?;
        if let (Some(_), Some(fields)) = (id, value.as_object_mut()) {
            fields.extend(values(client, letter.id).await?);
        }
        shown.push(value);
    }
    Ok(shown)
}

/// The old and the new row of a dead letter, each value as text.
async fn values(client: &impl GenericClient, id: i64) -> Result<Map<String, Value>> {
    let mut values = Map::new();
    let Some((schema_id, binary, message)) = dead_letters::event(client, id).await? else {
        return Ok(values);
    };
    let Some(relation) = schemas::read(client, &[schema_id]).await?.into_values().next() else {
        return Ok(values);
    };
    let mut decoder = Decoder::default();
    decoder.install(Arc::new(relation.clone()), 0);
    if let Decoded::Change(event) = decoder.decode(&message)? {
        values.insert("operation".to_owned(), json!(event.op.letter()));
        let rows = [("old", event.old.map(|old| old.row)), ("new", event.new)];
        for (name, row) in rows.into_iter().filter_map(|(name, row)| Some((name, row?))) {
            values.insert(name.to_owned(), document(&relation, row, binary));
        }
    }
    Ok(values)
}

fn document(relation: &Relation, row: Row<'_>, binary: bool) -> Value {
    let member = |(column, cell): (&crate::relation::Column, Cell<'_>)| {
        let text = match (cell, Wire::of(column, binary)) {
            (Cell::Unchanged, _) => return None,
            (Cell::Binary(bytes), Wire::Binary(builtin)) => {
                let mut text = Vec::new();
                write_text(builtin, bytes, &mut text).ok().map(|()| text)
            }
            (cell, _) => cell.bytes().map(<[u8]>::to_vec),
        };
        let text = text.map(|text| String::from_utf8_lossy(&text).into_owned());
        Some((column.name.clone(), json!(text)))
    };
    Value::Object(relation.columns.iter().zip(row.cells()).filter_map(member).collect())
}
