//! What the admin server and the command line read and write in the warehouse's control tables.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio_postgres::GenericClient;

use super::pairs::{verify_connector, verify_topics};
use super::resync::check_resync;
use crate::clock::Clock;
use crate::decode::{Decoded, Decoder};
use crate::error::{Error, Kind, Result};
use crate::lineage::{self, Lineage};
use crate::names::TableName;
use crate::postgres::{Session, Side, connect};
use crate::progress::requests::{self, About, Argument, JOBS, Span, Verb};
use crate::progress::{account, dead_letters, listed, poison, schemas, tables};
use crate::relation::{Relation, Wire};
use crate::schedule::{self, Wish};
use crate::serve::{Asked, Books, Later, Letters};
use crate::spec::{Settings, Spec};
use crate::types::write_text;
use crate::value::{Cell, Row};

/// The books of a warehouse; each look opens a connection of its own, for they are rare.
pub(super) struct WarehouseBooks {
    settings: Arc<Settings>,
    /// as they were read last
    files: watch::Receiver<Arc<Spec>>,
    clock: Clock,
}

impl WarehouseBooks {
    /// Whether the files have a job.
    fn has_job(&self, job: &str) -> bool {
        self.files.borrow().jobs.iter().any(|of| of.name == job)
    }

    /// The books of the warehouse that the service began with.
    pub(super) fn new(
        settings: Settings,
        files: watch::Receiver<Arc<Spec>>,
        clock: Clock,
    ) -> WarehouseBooks {
        WarehouseBooks { settings: Arc::new(settings), files, clock }
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
            let verb = verb_of(&verb)?;
            let condition = match &argument {
                Asked::Nothing => None,
                Asked::Condition(condition) => Some(condition.as_str()),
            };
            check_resync(&spec, (verb, &connector), table.as_ref(), condition).await?;
            let warehouse = session(&settings).await?;
            let argument = condition.map_or(Argument::Nothing, Argument::Condition);
            let about = About { table: table.as_ref(), argument, ..About::default() };
            requests::ask(&*warehouse, verb, &connector, &about).await
        })
    }

    fn settle(&self, verb: String, letters: Letters) -> Later<Vec<i64>> {
        let settings = self.settings.clone();
        Box::pin(async move {
            let warehouse = session(&settings).await?;
            ask_for_letters(&*warehouse, verb_of(&verb)?, &letters).await
        })
    }

    fn config(&self, connector: &str) -> Option<Value> {
        let spec = self.files.borrow();
        let mut config = Map::new();
        let mut put = |name: &str, value: &str| config.insert(name.to_owned(), json!(value));
        if let Some(of) = spec.connectors.iter().find(|of| of.name == connector) {
            put("connector.class", "siltstone.postgres");
            put("slot.name", &of.slot);
            put("publication.name", &of.publication);
        } else {
            let of = spec.kafka.iter().find(|of| of.name == connector)?;
            put("connector.class", "siltstone.kafka");
            put("group.id", &of.group);
        }
        let common = spec.commons().find(|common| common.name == connector)?;
        put("name", connector);
        put("tasks.max", "1");
        put("file", &common.file);
        put("source", &common.source);
        put("target.schema", common.target_schema.as_deref().unwrap_or_default());
        Some(Value::Object(config))
    }

    fn why(&self, table: TableName) -> Later<Option<Value>> {
        let settings = self.settings.clone();
        Box::pin(async move {
            let warehouse = session(&settings).await?;
            account::table(&*warehouse, &table).await
        })
    }

    fn verify(&self, table: TableName, max_rate: Option<u64>) -> Later<Option<Value>> {
        let mut spec = Spec::clone(&self.files.borrow());
        spec.settings.warehouse = self.settings.warehouse.clone();
        Box::pin(async move {
            for connector in &spec.connectors {
                let report = verify_connector(&spec, connector, (Some(&table), max_rate)).await?;
                if let Some(found) = report.tables.iter().find(|found| found.table == table) {
                    return Ok(Some(found.to_json()));
                }
            }
            let warehouse = session(&spec.settings).await?;
            for connector in &spec.kafka {
                let fed = tables::read(&*warehouse, &connector.name).await?;
                if fed.iter().all(|record| record.table != table) {
                    continue;
                }
                // says what is missing where the file has no url
                let report = verify_topics(&spec, connector, (Some(&table), max_rate)).await?;
                if let Some(found) = report.tables.iter().find(|found| found.table == table) {
                    return Ok(Some(found.to_json()));
                }
            }
            Ok(None)
        })
    }

    fn refresh(&self, mart: TableName) -> Later<bool> {
        let settings = self.settings.clone();
        Box::pin(async move {
            let warehouse = session(&settings).await?;
            crate::refresh::ask(&*warehouse, &mart).await
        })
    }

    fn dead_letters(&self, table: Option<TableName>, id: Option<i64>) -> Later<Vec<Value>> {
        let settings = self.settings.clone();
        Box::pin(async move {
            let warehouse = session(&settings).await?;
            dead_letters_as_json(&*warehouse, table.as_ref(), id).await
        })
    }

    fn jobs(&self) -> Later<Vec<Value>> {
        let (settings, clock) = (self.settings.clone(), self.clock.clone());
        let spec = self.files.borrow().clone();
        Box::pin(async move {
            let warehouse = session(&settings).await?;
            schedule::jobs_as_json(&*warehouse, &spec.jobs, clock.now()).await
        })
    }

    fn job_runs(&self, job: String) -> Later<Option<Vec<Value>>> {
        let (settings, known) = (self.settings.clone(), self.has_job(&job));
        Box::pin(async move {
            if !known {
                return Ok(None);
            }
            let warehouse = session(&settings).await?;
            schedule::runs_as_json(&*warehouse, &job).await.map(Some)
        })
    }

    fn alerts(&self) -> Later<Vec<Value>> {
        let settings = self.settings.clone();
        Box::pin(async move {
            let warehouse = session(&settings).await?;
            crate::alerts::as_json(&*warehouse).await
        })
    }

    fn lineage(&self, table: String) -> Later<Option<Value>> {
        let settings = self.settings.clone();
        Box::pin(async move {
            let warehouse = session(&settings).await?;
            let known = Lineage::new(lineage::read(&*warehouse).await?);
            Ok(known.knows(&table).then(|| known.as_json(&table)))
        })
    }

    fn checks(&self) -> Later<Vec<Value>> {
        let settings = self.settings.clone();
        let spec = self.files.borrow().clone();
        Box::pin(async move {
            let warehouse = session(&settings).await?;
            crate::quality::as_json(&*warehouse, &spec.checks).await
        })
    }

    fn ask_job(&self, job: String, wish: Value) -> Later<Option<i64>> {
        let (settings, known) = (self.settings.clone(), self.has_job(&job));
        Box::pin(async move {
            if !known {
                return Ok(None);
            }
            let verb = serde_json::from_value(wish)
                .map_err(|error| Error::bug("a wish is none of the schedule's").because(error))?;
            let wish = serde_json::to_string(&Wish { job, verb })
                .map_err(|error| Error::bug("a wish is no JSON").because(error))?;
            let warehouse = session(&settings).await?;
            let about = About { argument: Argument::Job(&wish), ..About::default() };
            requests::ask(&*warehouse, Verb::Job, JOBS, &about).await.map(Some)
        })
    }
}

/// A session of its own for each request: people ask seldom.
async fn session(settings: &Settings) -> Result<Session> {
    connect(Side::Warehouse, &settings.warehouse, "siltstone request").await
}

fn verb_of(word: &str) -> Result<Verb> {
    Verb::of(word).ok_or_else(|| Error::new(Kind::Usage, "there is no such verb"))
}

/// Writes down what is asked for dead letters, one request for each table; their numbers.
pub async fn ask_for_letters(
    client: &impl GenericClient,
    verb: Verb,
    letters: &Letters,
) -> Result<Vec<i64>> {
    let Letters { table, id, since, until, edited } = letters;
    let span = Span { since: *since, until: *until };
    let places = listed::places(client, (table.as_ref(), *id), &span).await?;
    if edited.key.is_some() || edited.value.is_some() {
        let Some(id) = id else {
            let what = "a key or value can be put into one dead letter only";
            return Err(Error::new(Kind::Usage, what).remedy("name it by its number"));
        };
        let put = (edited.key.as_deref(), edited.value.as_deref());
        if !places.is_empty() && !poison::edit(client, *id, put).await? {
            let what = format!("dead letter {id} came by replication: it is no record of a topic");
            let remedy = "mend the row at its source, and drop or replay the letter";
            return Err(Error::new(Kind::Usage, what).remedy(remedy));
        }
    }
    let mut asked = Vec::new();
    for (connector, table, _) in places {
        let argument = id.map_or(Argument::Nothing, Argument::Letter);
        let about = About { table: Some(&table), argument, span };
        asked.push(requests::ask(client, verb, &connector, &about).await?);
    }
    Ok(asked)
}

/// The open dead letters as `dead-letter list --json` and `/dead-letters` show them; a single one with
/// its values.
pub async fn dead_letters_as_json(
    client: &impl GenericClient,
    table: Option<&TableName>,
    id: Option<i64>,
) -> Result<Vec<Value>> {
    let mut shown = Vec::new();
    for letter in listed::list(client, table, id).await? {
        let mut value = serde_json::to_value(&letter)
            .map_err(|error| Error::bug("a dead letter is no JSON").because(error))?;
        if let (Some(_), Some(fields)) = (id, value.as_object_mut()) {
            fields.extend(values(client, letter.id).await?);
            if let Some(record) = listed::record(client, letter.id).await? {
                fields.insert("record".to_owned(), record);
            }
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
    if message.is_empty() {
        // nobody could read what its record tells
        return Ok(values);
    }
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
