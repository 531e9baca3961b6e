//! What a connector tells of itself in the control tables, for people who ask without its service: why it
//! waits or has ended, and which tables it leaves out.

use std::time::Duration;

use super::core::{Basis, Core};
use super::resolve::{LeftOut, Resolved};
use super::shared::Shared;
use crate::error::{Error, Kind, Result};
use crate::names::TableName;
use crate::postgres::{Side, connect};
use crate::progress::standing::{self, Standing};
use crate::warehouse::Fenced;

/// Telling is given up after this time: what it tells of is in the log as well.
const TOLD_WITHIN: Duration = Duration::from_secs(3);

/// Tells why a connector waits or has ended. A warehouse that is away is not told.
pub(super) async fn tell(setup: &Basis, standing: Standing, error: &Error) {
    // whoever has taken over tells of itself
    if matches!(error.kind(), Kind::WarehouseAway | Kind::Fenced) {
        return;
    }
    let telling = async {
        let warehouse =
            connect(Side::Warehouse, &setup.settings.warehouse, "siltstone status").await?;
        let who = (setup.common.name.as_str(), &*setup.owner);
        standing::tell(&*warehouse, who, standing, (&error.reason(), error.remedy_text())).await
    };
    if let Ok(Err(error)) = tokio::time::timeout(TOLD_WITHIN, telling).await {
        tracing::debug!("telling why it does not work: {}", error.reason());
    }
}

/// Tells that a connector works, without the tables that it leaves out.
pub(super) async fn works(core: &Core, left_out: &[standing::LeftOut]) -> Result<()> {
    let mut side = core.side_session().await;
    let durations = &core.setup.durations;
    let transaction = Fenced::begin(side.session_mut(), &core.fence, "standing", durations).await?;
    standing::works(&transaction, &core.connector().name, left_out).await?;
    transaction.commit().await
}

/// Tells of a source table that is left out beside others, and by which name.
pub(super) async fn leaves_out(core: &Core, name: &TableName, out: &LeftOut) -> Result<()> {
    let noted = note(name, Some(&out.table), out);
    let mut side = core.side_session().await;
    let durations = &core.setup.durations;
    let transaction = Fenced::begin(side.session_mut(), &core.fence, "standing", durations).await?;
    standing::leave_out(&transaction, &core.connector().name, &[noted]).await?;
    transaction.commit().await
}

fn note(table: &TableName, source: Option<&TableName>, out: &LeftOut) -> standing::LeftOut {
    standing::LeftOut {
        table: table.clone(),
        source: source.cloned(),
        why: out.why.clone(),
        remedy: Some(out.remedy.clone()).filter(|remedy| !remedy.is_empty()),
    }
}

/// What is left out, by what it would be in the warehouse: what files and source ask for, and then
/// what the warehouse refuses.
pub(super) fn left_out(
    shared: &Shared,
    resolved: &Resolved,
    refused: &[LeftOut],
) -> Vec<standing::LeftOut> {
    let connector = shared.connector();
    let fed = |table: &TableName| {
        resolved.fed.iter().any(|fed| fed.models.iter().any(|model| model.table == *table))
    };
    let mut found = Vec::new();
    for out in &resolved.left_out {
        let ours = shared.setup.models.iter().filter(|m| m.from.source == connector.source);
        let declared = ours.filter(|m| m.from.table == out.table || m.table == out.table);
        let before = found.len();
        found.extend(declared.map(|model| note(&model.table, Some(&model.from.table), out)));
        if let Some(schema) = connector.target_schema.as_ref().filter(|_| found.len() == before) {
            let table = TableName::new(schema.clone(), out.table.name.clone());
            // what another one feeds is no name for it
            let taken = fed(&table);
            found.push(note(if taken { &out.table } else { &table }, Some(&out.table), out));
        }
    }
    for out in refused {
        let feeds = |table: &TableName| {
            resolved.fed.iter().find(|fed| fed.models.iter().any(|model| model.table == *table))
        };
        let source = feeds(&out.table).map(|fed| &fed.source.relation.table);
        found.push(note(&out.table, source, out));
    }
    found
}
