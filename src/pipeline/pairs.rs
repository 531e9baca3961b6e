//! The pairs of tables that `verify` compares: what the files and the source say now, and what each
//! table is doing.

use std::sync::Arc;

use super::tables::resolve;
use crate::capture::catalog;
use crate::error::Result;
use crate::merge::extension_types;
use crate::names::TableName;
use crate::postgres::{Side, connect};
use crate::progress::tables::{self, State};
use crate::spec::{Connector, Spec};
use crate::verify::Pair;

/// The pairs of a connector; of one warehouse table, where it is named.
pub async fn pairs(
    spec: &Spec,
    connector: &Connector,
    only: Option<&TableName>,
) -> Result<Vec<Pair>> {
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
            pairs.push(Pair {
                model: model.clone(),
                relation: Arc::new(fed.source.relation.clone()),
                partitioned: fed.source.partitioned,
                skipped,
            });
        }
    }
    Ok(pairs)
}
