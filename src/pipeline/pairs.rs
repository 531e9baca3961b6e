//! The pairs of tables that `verify` compares: what the files and the source say now, and what each
//! table is doing.

use std::sync::Arc;

use super::tables::resolve;
use crate::capture::catalog;
use crate::error::Result;
use crate::merge::{columns, extension_types};
use crate::names::TableName;
use crate::postgres::{Side, connect};
use crate::progress::tables::{self, State};
use crate::spec::{Connector, Spec};
use crate::verify::{Pair, Report, TableReport, compare};

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
    let resolved = resolve(connector, &spec.models, catalogue, &extensions)?;
    let records = tables::read(&*warehouse, &connector.name).await?;
    let mut pairs = Vec::new();
    for fed in &resolved.fed {
        for model in &fed.models {
            if only.is_some_and(|only| *only != model.table) {
                continue;
            }
            let record = records.iter().find(|record| record.table == model.table);
            let skipped = match record {
                None => Some("it is not in the warehouse yet".to_owned()),
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
        let why = out.map_or("nothing feeds it", |out| out.why.as_str());
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

/// Compares a connector's tables.
pub async fn verify_connector(
    spec: &Spec,
    connector: &Connector,
    only: Option<&TableName>,
) -> Result<Report> {
    let Pairs { pairs, unfed, left_out } = pairs(spec, connector, only).await?;
    for (table, why) in left_out {
        tracing::warn!(%table, "not in the warehouse, and not compared: {why}");
    }
    let mut report = compare(connector, &spec.settings.warehouse, &pairs).await?;
    report.tables.extend(unfed.into_iter().map(|(table, why)| TableReport {
        table,
        skipped: Some(why),
        ..TableReport::default()
    }));
    Ok(report)
}
