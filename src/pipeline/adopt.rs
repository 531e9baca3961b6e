//! What a table that is new to a connector needs in the warehouse: all of it, or what a table of its name
//! that is there lacks. Changes nothing.

use super::shared::Shared;
use crate::error::Result;
use crate::journey::Target;
use crate::merge::{Standing, Terms, adopt, define, define_unkeyed};
use crate::postgres::Session;
use crate::progress::tables::State;

/// The statements for the table of a target, and what it is then doing.
pub(super) async fn made(
    shared: &Shared,
    warehouse: &Session,
    target: &Target,
) -> Result<(Vec<String>, State)> {
    let (connector, model) = (shared.connector(), &*target.model);
    let (reads, readers) = (connector.snapshot.initial, &shared.setup.settings.readers);
    let first = if reads { State::Snapshotting } else { State::Streaming };
    let standing = Standing::of(&**warehouse, &model.table).await?;
    if !standing.is_there() {
        let define = if reads { define_unkeyed } else { define };
        return Ok((define(model, readers), first));
    }
    let terms = Terms { trust: connector.trusts_rows, reads, readers, file: &connector.file };
    let found = adopt(&**warehouse, target, standing, terms).await?;
    tracing::info!(table = %model.table, rows = found.has_rows, "a table that is there is taken");
    let again = reads && found.has_rows;
    Ok((found.statements, if again { State::Resyncing } else { first }))
}
