//! What is done to a table before it is rebuilt from its events, and behind the last of them: opens and
//! ends no transaction.
//!
//! Rows that are overwritten take their values from the events where they lie, so that columns of others
//! keep what they have. Versions and events are taken out first, and so are rows whose leaf is not told by
//! their key: the one that is there would stand beside what the events first make of it.

use std::sync::Arc;

use tokio_postgres::Transaction;

use super::render::{Form, Templates};
use super::stage::Shape;
use super::staging::Staging;
use super::standing::{Standing, is_ours};
use super::table::Merge;
use crate::error::{Error, Result};
use crate::journey::Target;
use crate::postgres::quote;
use crate::spec::{History, Model};

/// The frame around a rebuilding.
pub struct Rebuilding {
    merge: Merge,
    /// whether rows stay until events have spoken of them
    in_place: bool,
}

impl Rebuilding {
    /// Renders the statements of a target; its table is there.
    pub async fn of(
        transaction: &Transaction<'_>,
        templates: &Templates,
        target: Arc<Target>,
    ) -> Result<Rebuilding> {
        let stage = Staging::quoted(&Shape::of(&target));
        let (guard, dated, chains) = (false, false, false);
        let form = Form { stage, guard, dated, chains, range: None, lookups: Vec::new() };
        let in_place = stays(&target.model);
        let merge = Merge::of_table(transaction, templates, target, &form).await?;
        Ok(Rebuilding { merge, in_place })
    }

    /// Takes out what the events bring back.
    pub async fn begin(&mut self, transaction: &Transaction<'_>) -> Result<()> {
        match self.in_place {
            true => Ok(()),
            false => self.merge.execute(transaction, "clear", &[]).await.map(drop),
        }
    }

    /// Takes out the rows that no event of this transaction has spoken of; how many.
    pub async fn end(&mut self, transaction: &Transaction<'_>) -> Result<u64> {
        match self.in_place {
            true => self.merge.execute(transaction, "untouched", &[]).await,
            false => Ok(0),
        }
    }
}

/// Whether the rows of a table stay while it is rebuilt.
fn stays(model: &Model) -> bool {
    model.history == History::Overwrite && !model.has_locator()
}

/// Whether a row of a table is older than `seq`.
pub async fn has_older(transaction: &Transaction<'_>, model: &Model, seq: i64) -> Result<bool> {
    let query = format!("select exists (select from {} where _seq < $1)", model.quoted());
    one(transaction, model, &query, &[&seq]).await
}

/// A column that is neither the model's nor ours and holds values that would be lost, if there is one.
pub async fn foreign_column(
    transaction: &Transaction<'_>,
    model: &Model,
) -> Result<Option<String>> {
    if stays(model) {
        return Ok(None);
    }
    let standing = Standing::of(transaction, &model.table).await?;
    for name in standing.given() {
        if model.column(name).is_some() || model.has_lookup(name) || is_ours(model, name) {
            continue;
        }
        let query = format!(
            "select exists (select from {} where {} is not null)",
            model.quoted(),
            quote::ident(name)
        );
        if one(transaction, model, &query, &[]).await? {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

async fn one(
    transaction: &Transaction<'_>,
    model: &Model,
    query: &str,
    parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Result<bool> {
    let row = transaction.query_one(query, parameters).await;
    row.and_then(|row| row.try_get(0)).map_err(|error| {
        Error::warehouse("looking at its rows", error).on_table(model.table.to_string())
    })
}
