//! Rows of topics that come from another key and leave out what they had there: they are kept until the delete
//! under that key, a record of its own, was applied. Asks for that and changes nothing.

use std::collections::HashSet;
use std::sync::Arc;

use tokio_postgres::{Row, Transaction};

use super::apply::{Apply, Overrules, Variant};
use crate::error::Result;
use crate::journey::{Arrival, Target};
use crate::position::Order;
use crate::spec::History;

/// The statements are the same in each.
const FORM: Variant = Variant { overrules: Overrules::Older, chains: false };

impl Apply {
    /// Whether the delete was applied that a row waits for, of those that come from another key and are kept of
    /// partitions with these numbers.
    pub async fn has_arrivals(
        &mut self,
        transaction: &Transaction<'_>,
        target: &Arc<Target>,
        numbers: Option<&[i64]>,
    ) -> Result<bool> {
        if !may_come(target) {
            return Ok(false);
        }
        let merge = self.merge(transaction, target, FORM).await?;
        Ok(!merge.query(transaction, "has_arrivals", &[&numbers]).await?.is_empty())
    }

    /// Of the rows that are kept at `places` and come from another key, those whose delete there was applied.
    pub async fn arrived(
        &mut self,
        transaction: &Transaction<'_>,
        target: &Arc<Target>,
        places: &[Order],
    ) -> Result<HashSet<Order>> {
        if places.is_empty() || !may_come(target) {
            return Ok(HashSet::new());
        }
        let (seqs, ords): (Vec<i64>, Vec<i64>) =
            places.iter().map(|place| (place.seq, place.ord)).unzip();
        let merge = self.merge(transaction, target, FORM).await?;
        let rows = merge.query(transaction, "arrived", &[&seqs, &ords]).await?;
        let place = |row: &Row| -> Result<Order, tokio_postgres::Error> {
            Ok(Order { seq: row.try_get(0)?, ord: row.try_get(1)? })
        };
        rows.iter().map(place).collect::<Result<_, _>>().map_err(|e| merge.failed("arrived", e))
    }
}

/// Whether rows of a table may come from another key before the delete there.
fn may_come(target: &Target) -> bool {
    let keyed = matches!(target.model.history, History::Overwrite | History::Versions);
    keyed && target.arrival == Arrival::MayBeLate
}
