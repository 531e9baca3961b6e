//! The pairs of tables that `verify` compares: what the files and the source say now, and what each
//! table is doing.

use std::sync::Arc;
use std::time::Duration;

use super::resolve::{feeders, resolve};
use super::topics;
use crate::capture::catalog;
use crate::error::{Error, Kind, Result};
use crate::merge::{StoredColumn, columns, extension_types};
use crate::names::TableName;
use crate::postgres::{Endpoint, Session, Side, connect};
use crate::progress::standing;
use crate::progress::tables::{self, State, TableRecord};
use crate::progress::wanted::{self, Wanted};
use crate::spec::{Connector, Kafka, Model, Spec, mirror};
use crate::verify::{Against, Pair, Report, TableReport, compare};

/// What of a connector is compared, and what is not.
pub struct Pairs {
    /// What is compared.
    pub pairs: Vec<Pair>,
    /// Tables that are declared or were fed, and are not now, with the reason.
    pub unfed: Vec<(TableName, String)>,
    /// Source tables that were never taken, with the reason.
    pub left_out: Vec<(TableName, String)>,
}

/// The pairs of a connector; of one warehouse table, where it is named.
pub async fn pairs(spec: &Spec, connector: &Connector, only: Option<&TableName>) -> Result<Pairs> {
    let source = connect(Side::Source, &connector.endpoint, "siltstone verify").await?;
    let warehouse = connect(Side::Warehouse, &spec.settings.warehouse, "siltstone verify").await?;
    let extensions = extension_types(&*warehouse).await?;
    let catalogue = catalog::tables(&*source).await?;
    let known = feeders(&tables::read(&*warehouse, &connector.name).await?);
    let resolved = resolve(connector, &spec.models, catalogue, &extensions, &known);
    let records = settled(&warehouse, &connector.name, only).await?;
    let noted = standing::left_out(&*warehouse, &connector.name).await?;
    let mut pairs = Vec::new();
    for fed in &resolved.fed {
        for model in &fed.models {
            if only.is_some_and(|only| *only != model.table) {
                continue;
            }
            let record = records.iter().find(|record| record.table == model.table);
            let skipped = match record {
                None => Some(match noted.iter().find(|out| out.table == model.table) {
                    Some(out) => format!("it is left out: {}", out.why),
                    None => "the service has not taken it up yet".to_owned(),
                }),
                Some(record) if record.state == State::Streaming => None,
                Some(record) => {
                    let reason = record.reason.as_deref().unwrap_or("no reason is known");
                    Some(format!("it is {} ({reason})", record.state.word()))
                }
            };
            let mut model = (**model).clone();
            // what the warehouse computes itself
            for column in columns(&*warehouse, &model.table).await?.iter().filter(|c| c.generated) {
                model.columns.retain(|known| known.name != column.name);
            }
            pairs.push(Pair {
                model: Arc::new(model),
                relation: Arc::new(fed.source.relation.clone()),
                partitioned: fed.source.partitioned,
                skipped,
            });
        }
    }
    let wanted = |table: &TableName| only.is_none_or(|only| only == table);
    let fed = |table: &TableName| pairs.iter().any(|pair| pair.model.table == *table);
    let mut unfed: Vec<(TableName, String)> = Vec::new();
    for record in records.iter().filter(|record| wanted(&record.table) && !fed(&record.table)) {
        let out = resolved
            .left_out
            .iter()
            .find(|out| out.table == record.table || Some(&out.table) == record.source.as_ref());
        let why = out.map_or("nothing feeds it; siltstone apply forgets it", |out| &out.why);
        unfed.push((record.table.clone(), why.to_owned()));
    }
    let mut left_out = Vec::new();
    for out in &resolved.left_out {
        let models = spec.models.iter().filter(|model| {
            model.from.source == connector.source
                && (model.from.table == out.table || model.table == out.table)
        });
        let known = |table: &TableName| unfed.iter().any(|(unfed, _)| unfed == table);
        let mut models = models.map(|model| &model.table).peekable();
        let was_fed = records.iter().any(|record| record.source.as_ref() == Some(&out.table));
        if models.peek().is_none() && !was_fed && only.is_none() {
            left_out.push((out.table.clone(), out.why.clone()));
        }
        let new: Vec<_> = models.filter(|table| wanted(table) && !known(table)).cloned().collect();
        unfed.extend(new.into_iter().map(|table| (table, out.why.clone())));
    }
    Ok(Pairs { pairs, unfed, left_out })
}

/// What a connector's tables are doing, once those that are about to go on have done so, or for a while have not: on
/// a quiet source that takes as long as its position takes to be stored.
async fn settled(
    warehouse: &Session,
    connector: &str,
    only: Option<&TableName>,
) -> Result<Vec<TableRecord>> {
    const LOOKS: u32 = 60;
    const PAUSE: Duration = Duration::from_millis(250);
    for _ in 0..LOOKS {
        let records = tables::read(&**warehouse, connector).await?;
        let about_to = |record: &TableRecord| {
            record.state == State::CatchingUp && record.reason.is_none() && !record.chunk_open
        };
        let mut ours =
            records.iter().filter(|record| only.is_none_or(|only| record.table == *only));
        if !ours.any(about_to) {
            return Ok(records);
        }
        tokio::time::sleep(PAUSE).await;
    }
    tables::read(&**warehouse, connector).await
}

/// That an operator lets a connector rest, with who said so and when.
async fn resting(spec: &Spec, connector: &str) -> Result<Option<String>> {
    let warehouse = connect(Side::Warehouse, &spec.settings.warehouse, "siltstone verify").await?;
    Ok(match wanted::read(&*warehouse, connector).await? {
        Wanted::Running => None,
        Wanted::Paused(by) | Wanted::Stopped(by) => Some(by),
    })
}

/// Compares a connector's tables, or the one that is named, reading so many bytes a second of each side at most.
pub async fn verify_connector(
    spec: &Spec,
    connector: &Connector,
    (only, max_rate): (Option<&TableName>, Option<u64>),
) -> Result<Report> {
    let Pairs { pairs, unfed, left_out } = pairs(spec, connector, only).await?;
    for (table, why) in left_out {
        tracing::warn!(%table, "not in the warehouse, and not compared: {why}");
    }
    let (name, slot) = (connector.name.as_str(), Some(connector.slot.as_str()));
    let resting = resting(spec, name).await?;
    let resting = resting.as_deref();
    let source = &connector.endpoint;
    let against = Against { connector: name, source, slot, resting, max_rate };
    let mut report = compare(against, &spec.settings.warehouse, &pairs).await?;
    report.tables.extend(unfed.into_iter().map(|(table, why)| TableReport {
        table,
        skipped: Some(why),
        ..TableReport::default()
    }));
    Ok(report)
}

/// The same for a connector that reads topics: with the Postgres that Debezium reads.
pub async fn verify_topics(
    spec: &Spec,
    connector: &Kafka,
    (only, max_rate): (Option<&TableName>, Option<u64>),
) -> Result<Report> {
    let Some(endpoint) = &connector.endpoint else {
        let what = format!("{}: no url says where the source is", connector.file);
        return Err(Error::new(Kind::Usage, what)
            .remedy("write the url of the Postgres that Debezium reads; nothing else uses it"));
    };
    let asked = match topics::of_another(spec, connector).await {
        Ok(Some(another)) => return Err(another),
        Ok(None) => true,
        Err(error) => {
            let reason = error.reason();
            tracing::warn!("{reason}: that all of its topics is read is taken for granted");
            false
        }
    };
    let pairs = topic_pairs(spec, (connector, endpoint), only).await?;
    let resting = resting(spec, &connector.name).await?;
    let (name, resting) = (connector.name.as_str(), resting.as_deref());
    let against = Against { connector: name, source: endpoint, slot: None, resting, max_rate };
    let mut report = Report::default();
    // a table that differs for as long as it is looked at has had these by then, if it is read on
    let ends = if asked { topics::ends(connector).await? } else { Vec::new() };
    for pair in pairs {
        let compared = compare(against, &spec.settings.warehouse, &[pair]).await?;
        for mut table in compared.tables {
            if table.differing > table.waiting {
                let warehouse =
                    connect(Side::Warehouse, &spec.settings.warehouse, "siltstone verify").await?;
                match topics::unread(connector, (&warehouse, &table.table), &ends).await? {
                    0 => {}
                    unread => table.wait_for(unread),
                }
            }
            report.tables.push(table);
        }
    }
    Ok(report)
}

/// The tables that were fed, each beside the source table of its name.
async fn topic_pairs(
    spec: &Spec,
    (connector, endpoint): (&Kafka, &Endpoint),
    only: Option<&TableName>,
) -> Result<Vec<Pair>> {
    let source = connect(Side::Source, endpoint, "siltstone verify").await?;
    let warehouse = connect(Side::Warehouse, &spec.settings.warehouse, "siltstone verify").await?;
    let extensions = extension_types(&*warehouse).await?;
    let catalogue = catalog::tables(&*source).await?;
    let mut pairs = Vec::new();
    for record in tables::read(&*warehouse, &connector.name).await? {
        if only.is_some_and(|only| *only != record.table) {
            continue;
        }
        let stored = columns(&*warehouse, &record.table).await?;
        let of = |name: &TableName| catalogue.iter().find(|at| at.relation.table == *name);
        let Some(at_source) = record.source.as_ref().and_then(of) else {
            tracing::warn!(table = %record.table, "not compared: the source has no such table");
            continue;
        };
        let mut relation = at_source.relation.clone();
        connector.masks.dress(&relation.table.clone(), &mut relation);
        let declared = spec.models.iter().find(|model| model.table == record.table).cloned();
        let model = declared.or_else(|| mirror(connector, &relation, &extensions));
        let Some(model) = model else { continue };
        let skipped = match (record.state, &record.reason) {
            (State::Streaming, _) => None,
            (state, reason) => {
                let reason = reason.as_deref().unwrap_or("no reason is known");
                Some(format!("it is {} ({reason})", state.word()))
            }
        };
        pairs.push(Pair {
            model: Arc::new(as_stored(model, &stored)),
            relation: Arc::new(relation),
            partitioned: at_source.partitioned,
            skipped,
        });
    }
    Ok(pairs)
}

/// A model with the columns that the warehouse has: topics may leave some out, and tell others' types coarsely.
fn as_stored(mut model: Model, stored: &[StoredColumn]) -> Model {
    model.columns.retain_mut(|column| {
        let there = stored.iter().find(|there| there.name == column.name && !there.generated);
        if let Some(there) = there.filter(|_| model.mirrored) {
            column.ty.clone_from(&there.declared);
        }
        there.is_some()
    });
    model
}
