//! Applies the kept changes of one table, in the order of the source, through the same fold and merge
//! as if they had just come.

use std::sync::Arc;

use tokio_postgres::Transaction;

use super::router::reshape;
use super::shared::{CaughtUp, Shared};
use crate::binding::bind;
use crate::decode::{Decoded, Decoder};
use crate::error::{Error, Result};
use crate::fold::{Limits, Window};
use crate::journey::{Applied, Before, ChangeEvent, Flow, Route, Target};
use crate::merge::{Apply, encode_batch};
use crate::names::TableName;
use crate::position::{Lsn, Order};
use crate::progress::pending::{self, Kept};
use crate::progress::{schemas, tables};

/// Microseconds of a day.
pub(super) const DAY: i64 = 86_400_000_000;

/// The draining of one table: its shape as far as it has been applied.
#[derive(Clone)]
pub(super) struct Drain {
    target: Arc<Target>,
    /// changes below it are in the table's rows: the stream may have been behind their snapshot
    floor: i64,
}

/// What a drain did.
#[derive(Default)]
pub(super) struct Drained {
    pub(super) events: u64,
    /// of the events, as they were kept
    pub(super) bytes: u64,
    pub(super) applied: Applied,
}

impl Drain {
    pub(super) fn new(table: CaughtUp) -> Drain {
        Drain { target: table.target, floor: table.floor }
    }

    pub(super) fn index(&self) -> usize {
        self.target.index
    }

    pub(super) fn table(&self) -> &TableName {
        &self.target.model.table
    }

    /// The table as it goes on: its changes come in the form of the connection, whatever the form of
    /// the kept ones was.
    pub(super) fn caught_up(&self, shared: &Shared) -> Result<CaughtUp> {
        let Target { index, model, relation, schema_id, .. } = &*self.target;
        let bound = bind(*index, model, relation, *schema_id, shared.binary)?;
        Ok(CaughtUp { target: Arc::new(bound.target), floor: self.floor })
    }

    /// Applies about `limit` changes, whole transactions only, or all that are left; removes them in
    /// the same transaction.
    pub(super) async fn run(
        &mut self,
        transaction: &Transaction<'_>,
        apply: &mut Apply,
        shared: &Shared,
        limit: Option<u64>,
    ) -> Result<Drained> {
        let table = self.table().clone();
        let mut at_work = AtWork {
            transaction,
            apply,
            shared,
            window: Window::new(limits(shared), Lsn(0)),
            decoder: Decoder::default(),
            target: self.target.clone(),
            drained: Drained::default(),
            open: None,
        };
        let mut after = Order { seq: -1, ord: -1 };
        'reading: loop {
            let portion = pending::next(transaction, &table, after).await?;
            if portion.is_empty() {
                break;
            }
            for kept in &portion {
                let enough = limit.is_some_and(|limit| at_work.drained.events >= limit);
                if enough && at_work.open != Some(kept.order.seq) {
                    break 'reading;
                }
                after = kept.order;
                if kept.order.seq < self.floor {
                    at_work.drained.events += 1;
                    continue;
                }
                at_work.take(kept).await.map_err(|error| on_table(error, &table))?;
            }
        }
        at_work.commit();
        at_work.flush().await.map_err(|error| on_table(error, &table))?;
        let AtWork { target, mut drained, .. } = at_work;
        if drained.events > 0 {
            drained.bytes = pending::remove(transaction, &table, after).await?;
        }
        if target.schema_id != self.target.schema_id {
            tables::set_schema(transaction, &table, target.schema_id).await?;
        }
        self.target = target;
        Ok(drained)
    }
}

/// A failure of this table's changes is this table's.
fn on_table(error: Error, table: &TableName) -> Error {
    if error.table().is_some() { error } else { error.on_table(table.to_string()) }
}

fn limits(shared: &Shared) -> Limits {
    super::session::limits(&shared.setup.settings)
}

struct AtWork<'w> {
    transaction: &'w Transaction<'w>,
    apply: &'w mut Apply,
    shared: &'w Shared,
    window: Window,
    decoder: Decoder,
    target: Arc<Target>,
    drained: Drained,
    /// the `seq` of the transaction at work
    open: Option<i64>,
}

impl AtWork<'_> {
    async fn take(&mut self, kept: &Kept) -> Result<()> {
        self.drained.events += 1;
        if self.open != Some(kept.mark.seq) {
            self.commit();
            if self.window.is_full() {
                // the end of a transaction that came in several pieces: it is settled by itself
                self.flush().await?;
            }
            self.window.begin(kept.mark.seq);
            self.open = Some(kept.mark.seq);
        }
        self.fit(kept).await?;
        self.decoder.resume(kept.mark, kept.order);
        match self.decoder.decode(&kept.message)? {
            Decoded::Change(event) => self.push(&event, &kept.message)?,
            Decoded::Truncate(events) => {
                let events: Vec<_> =
                    events.into_iter().map(|e| (e.relation, e.order, e.mark)).collect();
                for (relation, order, mark) in events {
                    let op = crate::journey::Op::Truncate;
                    self.truncate(ChangeEvent { relation, op, old: None, new: None, order, mark })
                        .await?;
                }
            }
            _ => return Err(Error::bug("a kept change is none")),
        }
        if self.window.is_full() {
            self.flush().await?;
        }
        Ok(())
    }

    fn push(&mut self, event: &ChangeEvent<'_>, message: &[u8]) -> Result<()> {
        let route = Route { target: self.target.clone(), flow: Flow::Live, floor: 0 };
        self.window.push(&route, event, message)
    }

    async fn truncate(&mut self, event: ChangeEvent<'_>) -> Result<()> {
        if self.target.model.history.logs_events() {
            return self.push(&event, &[]);
        }
        if self.target.model.deletes == crate::spec::Deletes::Ignore {
            return Ok(());
        }
        self.flush().await?;
        self.window.first(Before::Truncate {
            target: self.target.clone(),
            order: event.order,
            mark: event.mark,
        });
        Ok(())
    }

    fn commit(&mut self) {
        if self.open.take().is_some() {
            self.window.commit(0);
        }
    }

    /// Brings the table into the shape and the target into the form that a kept change has.
    async fn fit(&mut self, kept: &Kept) -> Result<()> {
        let same_form = self.target.wires.is_empty() || self.binary() == kept.binary;
        if kept.schema_id == self.target.schema_id && same_form {
            if self.decoder.relation(self.target.relation.oid).is_none() {
                self.decoder.install(self.target.relation.clone());
            }
            return Ok(());
        }
        let shapes = schemas::read(self.transaction, &[kept.schema_id]).await?;
        let shape = shapes.into_values().next();
        let relation = Arc::new(shape.ok_or_else(|| Error::bug("a kept change has no shape"))?);
        self.flush().await?;
        let mut target = (*self.target).clone();
        if kept.schema_id != target.schema_id {
            let (reshaped, statements) = reshape(&target, &relation, kept.schema_id, self.shared)?;
            let reshaped = Arc::new(reshaped);
            self.window.first(Before::Reshape { target: reshaped.clone(), statements });
            self.flush().await?;
            target = (*reshaped).clone();
        }
        let bound = bind(target.index, &target.model, &relation, kept.schema_id, kept.binary)?;
        self.target = Arc::new(bound.target);
        self.decoder.install(relation);
        Ok(())
    }

    fn binary(&self) -> bool {
        self.target.wires.iter().any(|wire| matches!(wire, crate::relation::Wire::Binary(_)))
    }

    /// Applies what is folded.
    async fn flush(&mut self) -> Result<()> {
        if self.window.is_empty() {
            return Ok(());
        }
        let batch = self.window.close(Lsn(0), 0);
        let piece = encode_batch(batch)?;
        let today = self.shared.setup.clock.now_postgres().div_euclid(DAY);
        let wanted: Vec<_> = piece
            .tables
            .iter()
            .map(|table| (table.target.model.clone(), table.days(today)))
            .collect();
        self.shared.ensure_leaves(&wanted).await?;
        for (_, applied) in self.apply.piece(self.transaction, piece).await? {
            self.drained.applied.add(&applied);
        }
        Ok(())
    }
}
