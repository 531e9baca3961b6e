//! What a table that is new to a connector needs in the warehouse: all of it, or what a table of its name
//! that is there lacks. Changes nothing.

use crate::error::Result;
use crate::journey::Target;
use crate::merge::{Standing, Terms, adopt, define, define_unkeyed};
use crate::postgres::Session;
use crate::progress::tables::State;
use crate::spec::Common;

/// The statements for the table of a target, and what it is then doing. `readers` may select from it. Where
/// its rows are read at once (`reads`), its key may come behind them; `keyed`: it does not.
pub(super) async fn made(
    warehouse: &Session,
    (connector, reads): (&Common, bool),
    target: &Target,
    (readers, keyed): (&[String], bool),
) -> Result<(Vec<String>, State)> {
    let model = &*target.model;
    let first = if reads { State::Snapshotting } else { State::Streaming };
    let standing = Standing::of(&**warehouse, &model.table).await?;
    let keyed = keyed || !reads;
    if !standing.is_there() {
        let define = if keyed { define } else { define_unkeyed };
        return Ok((define(model, readers), first));
    }
    let terms =
        Terms { trust: connector.trusts_rows, reads, keyed, readers, file: &connector.file };
    let found = adopt(&**warehouse, target, standing, terms).await?;
    tracing::info!(table = %model.table, rows = found.has_rows, "a table that is there is taken");
    let again = reads && found.has_rows;
    Ok((found.statements, if again { State::Resyncing } else { first }))
}
