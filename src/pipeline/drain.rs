//! Applies the kept changes of one table, in the order of the source, through the same fold and merge
//! as if they had just come. What waits behind a dead letter stays.

use std::sync::Arc;

use tokio_postgres::Transaction;

use super::held::{HeldKeys, refuse_truncate};
use super::points::{Due, Points};
use super::router::reshape;
use super::shared::{CaughtUp, Shared};
use super::sift::{Aside, Item, Run, Sift};
use crate::binding::bind;
use crate::decode::{Decoded, Decoder};
use crate::error::{Error, Kind, Result};
use crate::journey::{Applied, Batch, Before, PositionRange, Target};
use crate::merge::{Apply, encode_batch};
use crate::names::TableName;
use crate::position::{Lsn, Order};
use crate::progress::dead_letters;
use crate::progress::pending::{self, Kept};
use crate::progress::{chunks, schemas, tables};
use crate::spec::{Deletes, History};

/// Microseconds of a day.
pub(super) const DAY: i64 = 86_400_000_000;

/// The draining of one table: its shape as far as it has been applied.
#[derive(Clone)]
pub(super) struct Drain {
    target: Arc<Target>,
    /// changes below it are in the table's rows: the stream may have been behind their snapshot
    floor: i64,
    /// the table goes on with the batches behind this position
    not_before: Lsn,
    /// whether it is drained because it refused a change
    sifted: bool,
    /// the points of its ranges, once they have been read
    points: Option<Arc<Points>>,
    /// behind it nothing was applied or set aside
    after: Order,
    /// the keys that wait, once they have been read
    held: Option<HeldKeys>,
}

/// What a drain did.
#[derive(Default)]
pub(super) struct Drained {
    pub(super) events: u64,
    /// of the events, as they were kept
    pub(super) bytes: u64,
    pub(super) applied: Applied,
    /// whether the table was altered
    pub(super) altered: bool,
    /// whether a change became a dead letter
    pub(super) refused: bool,
}

impl Drain {
    pub(super) fn new(table: CaughtUp) -> Drain {
        let CaughtUp { target, floor, not_before, .. } = table;
        let after = Order { seq: -1, ord: -1 };
        let sifted = not_before > Lsn(0);
        Drain { target, floor, not_before, sifted, points: None, after, held: None }
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
        let held = self.held.clone().unwrap_or_default();
        let limits = self.target.limits.clone();
        let (target, not_before) = (Arc::new(bound.target.with_limits(limits)), self.not_before);
        Ok(CaughtUp { target, floor: self.floor, held, not_before })
    }

    /// Whether it is drained because it refused a change.
    pub(super) fn is_sifted(&self) -> bool {
        self.sifted
    }

    /// Whether its changes may come with the batches, when `stored` is the stored position.
    pub(super) fn may_go_on(&self, stored: Lsn) -> bool {
        stored >= self.not_before
    }

    /// Applies about `limit` changes, whole transactions only, or all that are left; removes them in
    /// the same transaction. Without a limit no change may be refused: whoever sends the next ones must
    /// know before which keys wait.
    pub(super) async fn run(
        &mut self,
        transaction: &Transaction<'_>,
        apply: &mut Apply,
        shared: &Shared,
        limit: Option<u64>,
    ) -> Result<Drained> {
        let table = self.table().clone();
        let held = match self.held.take() {
            Some(held) => held,
            None => HeldKeys::new(dead_letters::keys(transaction, &table).await?),
        };
        let known = held.len();
        let points = match self.points.take() {
            Some(points) => points,
            None => {
                let points = chunks::points(transaction, &table, self.floor).await?;
                Arc::new(Points::new(points))
            }
        };
        // the stream may still be before the snapshot of some of its ranges
        self.not_before = self.not_before.max(Lsn::from_i64(points.last()));
        self.points = Some(points.clone());
        let mut pass = Pass {
            sift: Sift {
                transaction,
                apply,
                shared,
                decoder: Decoder::default(),
                target: self.target.clone(),
                held,
                splits: limit.is_some(),
                dead: 0,
                altered: false,
                applied: Applied::default(),
            },
            standing: self.target.clone(),
            floor: self.floor,
            points,
            events: 0,
            reached: self.after,
            open: None,
            aside: Vec::new(),
        };
        pass.all(limit).await.map_err(|error| on_table(error, &table))?;
        let Pass { sift, standing, events, reached, aside, .. } = pass;
        if limit.is_none() && sift.held.len() > known {
            let what = "a key began to wait while its table was about to go on";
            return Err(Error::new(Kind::Poison, what).on_table(table.to_string()));
        }
        sift.held.refuse_too_many(&table, shared.connector().held_keys)?;
        let (applied, altered, refused) = (sift.applied, sift.altered, sift.dead > 0);
        let held = sift.held;
        let mut bytes = 0;
        if events > 0 {
            bytes = pending::remove(transaction, &table, (self.after, reached), &aside).await?;
        }
        if standing.schema_id != self.target.schema_id {
            tables::set_schema(transaction, &table, standing.schema_id).await?;
        }
        (self.target, self.after, self.held) = (standing, reached, Some(held));
        Ok(Drained { events, bytes, applied, altered, refused })
    }
}

/// A failure of this table's changes is this table's.
fn on_table(error: Error, table: &TableName) -> Error {
    if error.table().is_some() { error } else { error.on_table(table.to_string()) }
}

/// One pass over kept changes.
struct Pass<'w> {
    sift: Sift<'w>,
    /// as the warehouse table stands; a change that waited may have come in an older shape
    standing: Arc<Target>,
    floor: i64,
    points: Arc<Points>,
    events: u64,
    reached: Order,
    /// the `seq` of a transaction that was cut and goes on
    open: Option<i64>,
    aside: Vec<Aside>,
}

impl Pass<'_> {
    async fn all(&mut self, limit: Option<u64>) -> Result<()> {
        let table = self.standing.model.table.clone();
        let (mut portion, mut read): (Vec<Kept>, _) = (Vec::new(), self.reached);
        loop {
            let next = pending::next(self.sift.transaction, &table, read).await?;
            let (last, behind) = (next.is_empty(), next.last().map(|kept| kept.order));
            read = behind.unwrap_or(read);
            portion.extend(self.due(next).await?);
            // the last transaction may go on in the next portion: it is cut only if it is all there is
            let end = if last { portion.len() } else { last_begins(&portion) };
            let (cut, end) = if end == 0 { (true, portion.len()) } else { (false, end) };
            let rest = portion.split_off(end);
            let seq = portion.last().map_or(0, |kept| kept.mark.seq);
            self.portion(&portion, if cut && !last { seq } else { 0 }).await?;
            portion = rest;
            if last {
                // those behind it were in the rows
                self.reached = self.reached.max(read);
            }
            if last || (!cut && limit.is_some_and(|limit| self.events >= limit)) {
                return self.end_transaction().await;
            }
        }
    }

    /// Leaves out the changes that are in the rows already, as their range was read behind them.
    async fn due(&mut self, kept: Vec<Kept>) -> Result<Vec<Kept>> {
        let all = kept.iter().all(|kept| kept.order.seq >= self.points.last());
        if all {
            return Ok(kept);
        }
        let mut numbers: Vec<i32> = kept.iter().map(|kept| kept.schema_id).collect();
        numbers.dedup();
        let shapes = schemas::read(self.sift.transaction, &numbers).await?;
        let logs = self.standing.model.history.logs_events();
        let mut due = Vec::new();
        for kept in kept {
            let shape = shapes.get(&kept.schema_id);
            let shape = shape.ok_or_else(|| Error::bug("a kept change has no shape"))?;
            match self.points.due(&kept, shape, logs) {
                Due::Whole => due.push(kept),
                Due::Nothing => self.events += 1,
                Due::Half(message) => due.push(Kept { message, ..kept }),
                Due::Unknown => {
                    let what = "its rows moved between parts of it that were read apart";
                    return Err(Error::new(Kind::Reread, what));
                }
            }
        }
        Ok(due)
    }

    /// Takes changes; `next` is the `seq` of the one behind them, where that is known to go on.
    async fn portion(&mut self, portion: &[Kept], next: i64) -> Result<()> {
        let mut items = Vec::new();
        for kept in portion {
            self.events += 1;
            self.reached = kept.order;
            if kept.order.seq < self.floor {
                continue;
            }
            if !self.fits(kept) {
                self.merge(std::mem::take(&mut items), kept.mark.seq).await?;
                self.fit(kept).await?;
            }
            let logs = self.sift.target.model.history.logs_events();
            match self.sift.look(kept)? {
                Some((digests, _)) if self.sift.held.catches(digests) => {
                    self.aside.push((kept.order, digests));
                }
                Some((digests, Some(refused))) => {
                    self.sift.write(Item { kept, digests }, refused).await?;
                }
                Some((digests, None)) => items.push(Item { kept, digests }),
                None if logs => items.push(Item { kept, digests: Default::default() }),
                None => {
                    self.merge(std::mem::take(&mut items), kept.mark.seq).await?;
                    self.truncate(kept).await?;
                }
            }
        }
        self.merge(items, next).await
    }

    /// Applies changes; `next` is the `seq` of what comes behind them.
    async fn merge(&mut self, items: Vec<Item<'_>>, next: i64) -> Result<()> {
        let (Some(first), Some(last)) = (items.first(), items.last()) else { return Ok(()) };
        let (first, last) = (first.kept.mark.seq, last.kept.mark.seq);
        if self.open.is_some_and(|open| open != first) {
            self.end_transaction().await?;
        }
        // the rest of a transaction whose other changes did not have to wait
        let waited = items.iter().any(|item| item.kept.waits);
        let unfinished = if last == next { last } else { 0 };
        let run = Run { items, continues: waited || self.open.is_some(), unfinished };
        let aside = self.sift.merge(&run).await?;
        self.aside.extend(aside);
        if unfinished != 0 {
            self.open = Some(unfinished);
        } else if self.open.is_some_and(|open| open != last) {
            self.end_transaction().await?;
        }
        Ok(())
    }

    /// Settles a transaction that was cut.
    async fn end_transaction(&mut self) -> Result<()> {
        let Some(seq) = self.open.take() else { return Ok(()) };
        let Sift { apply, transaction, target, .. } = &mut self.sift;
        match target.model.history {
            History::Versions => apply.end(transaction, target, seq).await,
            _ => Ok(()),
        }
    }

    async fn truncate(&mut self, kept: &Kept) -> Result<()> {
        let target = self.sift.target.clone();
        if target.model.deletes == Deletes::Ignore {
            return Ok(());
        }
        refuse_truncate(&self.sift.held, &target.model.table)?;
        let Decoded::Truncate(_) = self.sift.decoder.decode(&kept.message)? else {
            return Err(Error::bug("a kept change decodes into something else the second time"));
        };
        let before = Before::Truncate { target, order: kept.order, mark: kept.mark };
        // what its transaction does behind it is seen as if nothing had been before
        self.open = Some(kept.mark.seq);
        self.before(before).await
    }

    /// Does what must be done before rows.
    async fn before(&mut self, before: Before) -> Result<()> {
        let batch = Batch {
            range: PositionRange { after: Lsn(0), until: Lsn(0) },
            ends: false,
            continues: false,
            unfinished: 0,
            last_seq: 0,
            routing: 0,
            before: vec![before],
            tables: Vec::new(),
            held: Vec::new(),
            transactions: 0,
            committed_at: 0,
        };
        let piece = encode_batch(batch)?;
        self.sift.apply.piece(self.sift.transaction, piece).await?;
        Ok(())
    }

    /// Whether a change has the shape and the form of those before it.
    fn fits(&self, kept: &Kept) -> bool {
        let target = &self.sift.target;
        let same_form = target.wires.is_empty() || is_binary(target) == kept.binary;
        let known = self.sift.decoder.relation(target.relation.oid).is_some();
        kept.schema_id == target.schema_id && same_form && known
    }

    /// Brings the table into the shape and the target into the form that a kept change has.
    async fn fit(&mut self, kept: &Kept) -> Result<()> {
        let relation = if kept.schema_id == self.standing.schema_id {
            self.standing.relation.clone()
        } else {
            let shapes = schemas::read(self.sift.transaction, &[kept.schema_id]).await?;
            let shape = shapes.into_values().next();
            Arc::new(shape.ok_or_else(|| Error::bug("a kept change has no shape"))?)
        };
        if kept.schema_id != self.standing.schema_id {
            let logs = self.standing.model.history.logs_events();
            match kept.waits {
                false => self.reshape(kept.schema_id, &relation).await?,
                // events keep the shape they came in
                true if logs => {}
                true => {
                    let what = "it changed shape while changes waited behind dead letters";
                    return Err(Error::new(Kind::Reread, what));
                }
            }
        }
        let Target { index, model, .. } = &*self.standing;
        let bound = bind(*index, model, &relation, kept.schema_id, kept.binary)?;
        let limits = self.standing.limits.clone();
        self.sift.target = Arc::new(bound.target.with_limits(limits));
        self.sift.decoder.install(relation);
        Ok(())
    }

    async fn reshape(
        &mut self,
        schema_id: i32,
        relation: &Arc<crate::relation::Relation>,
    ) -> Result<()> {
        let (target, statements) = reshape(&self.standing, relation, schema_id, self.sift.shared)?;
        let target = Arc::new(target);
        self.sift.altered |= !statements.is_empty();
        self.before(Before::Reshape { target: target.clone(), statements }).await?;
        self.standing = target;
        Ok(())
    }
}

/// Where the last transaction of a portion begins.
fn last_begins(portion: &[Kept]) -> usize {
    let Some(last) = portion.last() else { return 0 };
    portion.iter().rposition(|kept| kept.mark.seq != last.mark.seq).map_or(0, |at| at + 1)
}

fn is_binary(target: &Target) -> bool {
    target.wires.iter().any(|wire| matches!(wire, crate::relation::Wire::Binary(_)))
}
