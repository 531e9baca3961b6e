//! Asks a human before one source transaction takes most of a table away: `guard` counts its deletes, and
//! `truncate: stop` asks about every TRUNCATE.
//!
//! The table stops in front of the transaction, with its changes kept; to resume it is to say yes. Nothing
//! of the transaction is in the table then, for the warehouse transaction is given up with the session.

use std::collections::HashMap;

use super::core::Core;
use super::note::Then;
use super::router::Router;
use crate::error::{Error, Kind, Result};
use crate::fold::Window;
use crate::journey::{ChangeEvent, Flow, Op, Route, Target};
use crate::merge::count_rows;
use crate::position::{Lsn, Order};
use crate::spec::{Deletes, Truncates};

/// The deletes of the open source transaction, by table.
#[derive(Default)]
pub(super) struct Guard {
    seq: i64,
    deletes: HashMap<usize, u64>,
    /// the rows of warehouse tables
    rows: HashMap<usize, Rows>,
}

/// What is known of a table's rows without counting them. It is never too many, for nothing would lead to
/// another count then.
#[derive(Clone, Copy, Debug, Default)]
struct Rows {
    /// none before the first count
    counted: Option<u64>,
    /// deleted since then, by the transactions before the open one
    gone: u64,
}

impl Rows {
    fn at_least(self) -> Option<u64> {
        self.counted.map(|rows| rows.saturating_sub(self.gone))
    }

    /// After a count. What went since the one before may be on its way to the table, and was counted then.
    fn count(&mut self, rows: u64) {
        *self = Rows { counted: Some(rows.saturating_sub(self.gone)), gone: 0 };
    }

    fn lose(&mut self, rows: u64) {
        self.gone = self.gone.saturating_add(rows);
    }
}

impl Guard {
    /// Notes a change; how many deletes of its table its transaction has, where those may be too many.
    pub(super) fn note(
        &mut self,
        shared: &Core,
        (target, op): (&Target, Op),
        order: Order,
    ) -> Option<u64> {
        let limits = &shared.connector().guard;
        if op != Op::Delete || !limits.is_on() || !takes_rows_away(target) {
            return None;
        }
        if self.seq != order.seq {
            self.seq = order.seq;
            for (index, deletes) in self.deletes.drain() {
                self.rows.entry(index).or_default().lose(deletes);
            }
        }
        let deletes = self.deletes.entry(target.index).or_default();
        *deletes += 1;
        let rows = self.rows.get(&target.index).and_then(|rows| rows.at_least());
        exceeds(*deletes, rows, (limits.rows, limits.share)).then_some(*deletes)
    }

    /// Takes a change to its routes; those of them where its transaction may delete too much.
    pub(super) fn take(
        &mut self,
        shared: &Core,
        (router, window): (&mut Router, &mut Window),
        routes: &[usize],
        (event, message): (&ChangeEvent<'_>, &[u8]),
    ) -> Result<Vec<(usize, u64)>> {
        let mut many = Vec::new();
        for at in routes {
            if router.has(*at, event)? {
                router.route(*at).into_iter().for_each(|route| shared.count_stale(&route.target));
                continue;
            }
            router.push(*at, event, message, window)?;
            let live = |route: &&Route| route.flow == Flow::Live && event.order.seq >= route.floor;
            let Some(route) = router.route(*at).filter(live) else { continue };
            let deletes = self.note(shared, (&route.target, event.op), event.order);
            many.extend(deletes.map(|deletes| (*at, deletes)));
        }
        Ok(many)
    }

    /// Refuses deletes that are too many by a new count of the table's rows.
    pub(super) async fn refuse(
        &mut self,
        shared: &Core,
        target: &Target,
        (deletes, order): (u64, Order),
    ) -> Result<()> {
        let limits = &shared.connector().guard;
        let rows = shared.rows_of(target).await?;
        self.rows.entry(target.index).or_default().count(rows);
        if !exceeds(deletes, Some(rows), (limits.rows, limits.share)) {
            return Ok(());
        }
        let position = Lsn::from_i64(order.seq);
        let what = format!(
            "a transaction at {position} deletes {deletes} or more of its {rows} rows, more than guard \
             allows"
        );
        Err(ask(shared, target, order, &what).await?)
    }

    /// Refuses a TRUNCATE where files say so.
    pub(super) async fn refuse_truncate(
        &mut self,
        shared: &Core,
        target: &Target,
        order: Order,
    ) -> Result<()> {
        let connector = shared.connector();
        let limits = &connector.guard;
        if connector.truncate == Truncates::Stop {
            let what = format!("a TRUNCATE at {} would empty it", Lsn::from_i64(order.seq));
            return Err(ask(shared, target, order, &what).await?);
        }
        if limits.is_on() {
            let rows = shared.rows_of(target).await?;
            if rows > 0 && exceeds(rows, Some(rows), (limits.rows, limits.share)) {
                let what = format!(
                    "a TRUNCATE at {} would take all of its {rows} rows, more than guard allows",
                    Lsn::from_i64(order.seq)
                );
                return Err(ask(shared, target, order, &what).await?);
            }
        }
        self.rows.entry(target.index).or_default().lose(u64::MAX);
        Ok(())
    }
}

/// Whether a TRUNCATE is not for this table, by the files.
pub(super) fn ignores_truncate(shared: &Core, target: &Target) -> bool {
    let ignored = shared.connector().truncate == Truncates::Ignore;
    if ignored {
        tracing::warn!(table = %target.model.table, "a TRUNCATE is ignored, by truncate: ignore");
    }
    ignored || target.model.deletes == Deletes::Ignore
}

fn takes_rows_away(target: &Target) -> bool {
    let deletes = target.model.deletes;
    !target.model.history.logs_events() && !matches!(deletes, Deletes::Ignore | Deletes::Row)
}

/// Whether so many deletes of a table are above both limits; of rows that were not counted yet, maybe.
#[allow(clippy::cast_precision_loss, reason = "a share of rows is about right")]
fn exceeds(deletes: u64, rows: Option<u64>, limits: (Option<u64>, Option<f64>)) -> bool {
    let above_rows = limits.0.is_none_or(|limit| deletes > limit);
    let above_share = match (limits.1, rows) {
        (Some(share), Some(rows)) => deletes as f64 > share * rows as f64,
        _ => true,
    };
    above_rows && above_share
}

/// Notes what is asked about, and says how to answer.
async fn ask(shared: &Core, target: &Target, order: Order, what: &str) -> Result<Error> {
    let table = &target.model.table;
    shared.define(&[], table, Then::Ask(order.seq)).await?;
    Ok(Error::new(Kind::TableStops, what).on_table(table.to_string()).remedy(format!(
        "siltstone table resume {table:#} applies it; siltstone table resync {table:#} reads what the \
         source has now"
    )))
}

impl Core {
    /// The rows of a warehouse table: counted, or as the planner knows where they are many.
    async fn rows_of(&self, target: &Target) -> Result<u64> {
        let side = self.side_session().await;
        count_rows(&**side.session(), &target.model).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_never_thought_to_be_more_than_there_are() {
        let mut rows = Rows::default();
        assert_eq!(rows.at_least(), None, "to be counted");
        rows.count(1_000);
        rows.lose(900);
        assert_eq!(rows.at_least(), Some(100));
        // the 900 were not applied yet
        rows.count(1_000);
        assert_eq!(rows.at_least(), Some(100));
        rows.count(100);
        assert_eq!(rows.at_least(), Some(100));
        rows.lose(u64::MAX);
        assert_eq!(rows.at_least(), Some(0), "emptied");
    }

    #[test]
    fn both_limits_are_to_be_exceeded() {
        let both = (Some(10), Some(0.5));
        assert!(!exceeds(10, Some(10), both) && exceeds(11, Some(20), both));
        assert!(!exceeds(11, Some(22), both), "half is not more than half");
        assert!(exceeds(11, None, both), "to be counted");
        assert!(!exceeds(5, Some(5), (Some(5), None)) && exceeds(6, Some(1_000), (Some(5), None)));
        assert!(exceeds(3, Some(5), (None, Some(0.5))) && !exceeds(2, Some(5), (None, Some(0.5))));
    }
}
