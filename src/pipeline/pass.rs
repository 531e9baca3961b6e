//! One pass over the kept changes of a table, in the order of the source: portion by portion through the
//! same fold and merge as if they had just come. Opens and ends no warehouse transaction.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::follow::permitted;
use super::guard::{Guard, ignores_truncate};
use super::held::{HeldKeys, refuse_truncate};
use super::points::{Due, Points};
use super::reshape::reshape;
use super::sift::{Aside, Item, Run, Sift};
use crate::binding::bind;
use crate::decode::Decoded;
use crate::error::{Error, Kind, Result};
use crate::journey::{Arrival, Batch, Before, Digests, Op, Target};
use crate::merge::encode_batch;
use crate::position::Order;
use crate::progress::pending::{self, Kept, Span};
use crate::progress::{dead_letters, schemas};
use crate::spec::History;

/// One pass over kept changes.
pub(super) struct Pass<'w> {
    pub(super) sift: Sift<'w>,
    /// as the warehouse table stands; a change that waited may have come in an older shape
    pub(super) standing: Arc<Target>,
    pub(super) floor: i64,
    pub(super) points: Arc<Points>,
    pub(super) events: u64,
    pub(super) reached: Order,
    /// how far each partition was gone through, where there are some
    pub(super) offsets: BTreeMap<i64, i64>,
    /// the `seq` of a transaction that was cut and goes on
    pub(super) open: Option<i64>,
    pub(super) aside: Vec<Aside>,
    pub(super) guard: Guard,
    /// a human has said yes to what came before
    pub(super) answered: i64,
    /// rows from other keys whose delete there was applied, of the portion
    pub(super) has_come: HashSet<Order>,
    /// whether deletes of rows that go on under other keys were applied
    pub(super) left: bool,
    /// the keys of rows from other keys whose delete there was not applied
    pub(super) arriving: HeldKeys,
    /// whether there are some among them that did not wait before
    pub(super) begins_to_wait: bool,
    /// whether one was applied
    pub(super) arrived: bool,
    /// the shapes that tell no column which its rows were read without
    pub(super) told: HashSet<i32>,
}

impl Pass<'_> {
    /// Applies about `limit` changes, whole transactions only, or all that are left.
    pub(super) async fn all(&mut self, limit: Option<u64>) -> Result<()> {
        let table = self.standing.model.table.clone();
        let (mut portion, mut read): (Vec<Kept>, _) = (Vec::new(), self.reached);
        let before = self.offsets.clone();
        loop {
            let numbers = self.sift.shared.numbers();
            let span = Span { after: read, numbers, offsets: &before };
            let next = pending::next(self.sift.transaction, &table, span).await?;
            let (last, behind) = (next.is_empty(), next.last().map(|kept| kept.place));
            read = behind.unwrap_or(read);
            portion.extend(self.due(next).await?);
            // the last transaction may go on in the next portion: it is cut only if it is all there is
            let end = if last { portion.len() } else { last_begins(&portion) };
            let (cut, end) = if end == 0 { (true, portion.len()) } else { (false, end) };
            let rest = portion.split_off(end);
            let seq = portion.last().map_or(0, |kept| kept.mark.seq);
            self.look_for_arrivals(&portion).await?;
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

    /// Asks of all rows of a portion at once whether their delete was applied before it.
    async fn look_for_arrivals(&mut self, portion: &[Kept]) -> Result<()> {
        let come = portion.iter().filter(|kept| kept.comes_from.is_some());
        let places: Vec<Order> = come.map(|kept| kept.place).collect();
        let Sift { apply, transaction, target, .. } = &mut self.sift;
        self.has_come = apply.arrived(transaction, target, &places).await?;
        Ok(())
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
        for (at, kept) in portion.iter().enumerate() {
            self.events += 1;
            self.reached = kept.place;
            if self.sift.shared.numbers().is_some() {
                self.offsets.insert(kept.place.seq, kept.place.ord);
            }
            if !kept.was_read() && (kept.order.seq < self.floor || self.has(kept).await?) {
                continue;
            }
            // rows that were read overrule the stored ones, and are merged apart
            let apart =
                items.last().is_some_and(|item: &Item<'_>| item.kept.was_read() != kept.was_read());
            if apart || !self.fits(kept) {
                self.merge(std::mem::take(&mut items), kept.mark.seq).await?;
            }
            if !self.fits(kept) {
                self.fit(kept).await?;
            }
            // what is before it is applied first: the delete of its former key, and for those that come from it
            let alone = kept.comes_from.is_some();
            if alone && (self.left || self.has_come.contains(&kept.place)) {
                self.merge(std::mem::take(&mut items), kept.mark.seq).await?;
            }
            if alone && self.waits_for_delete(kept).await? {
                continue;
            }
            let logs = self.sift.target.model.history.logs_events();
            let looked = self.sift.look(kept)?;
            if let Some((digests, _)) = &looked
                && kept.was_read()
            {
                self.supersede(kept, digests.new).await?;
            }
            // what came to its former key since is not before it
            let own = |(digests, refused): (Digests, _)| match alone {
                true => (digests.alone(), refused),
                false => (digests, refused),
            };
            let looked = looked.map(own);
            if let Some((digests, _)) = &looked
                && self.sets_aside(kept.place, *digests)
            {
                continue;
            }
            match looked {
                Some((digests, Some(refused))) => {
                    self.sift.write(Item { kept, digests }, refused).await?;
                }
                Some((digests, None)) => {
                    self.arrived |= alone;
                    self.left |= kept.leaves();
                    self.ask_about(kept).await?;
                    items.push(Item { kept, digests });
                }
                None if logs => items.push(Item { kept, digests: Default::default() }),
                None => {
                    self.merge(std::mem::take(&mut items), kept.mark.seq).await?;
                    self.truncate(kept).await?;
                }
            }
            if alone {
                let behind = portion.get(at + 1).map_or(next, |kept| kept.mark.seq);
                self.merge(std::mem::take(&mut items), behind).await?;
            }
        }
        self.merge(items, next).await
    }

    /// Sets a change aside whose key waits.
    fn sets_aside(&mut self, place: Order, digests: Digests) -> bool {
        let Sift { held, target, .. } = &mut self.sift;
        let under = held.wait_under((target.arrival, digests), &self.arriving);
        self.aside.extend(under.map(|digests| (place, digests)));
        under.is_some()
    }

    /// A row that was read takes the place of what waits of its key alone.
    async fn supersede(&mut self, kept: &Kept, key: i64) -> Result<()> {
        let target = &self.sift.target;
        let waits_alone = |(_, digests): &Aside| {
            let (new, old) = (digests.new == key, digests.old == key);
            new == old
        };
        if !self.sift.held.has(key) || target.has_loose_key() || !self.aside.iter().all(waits_alone)
        {
            return Ok(());
        }
        let table = &target.model.table;
        if dead_letters::supersede(self.sift.transaction, table, key, kept.order).await? {
            self.sift.held.release(key);
            self.aside.retain(|(_, digests)| digests.new != key);
        }
        Ok(())
    }

    /// Sets aside a row that comes from another key, as long as the delete there was not applied.
    async fn waits_for_delete(&mut self, kept: &Kept) -> Result<bool> {
        if self.has_come.contains(&kept.place) {
            return Ok(false);
        }
        let Sift { apply, transaction, target, .. } = &mut self.sift;
        // the delete may have been among those just applied
        if self.left && !apply.arrived(transaction, target, &[kept.place]).await?.is_empty() {
            return Ok(false);
        }
        let Some((digests, _)) = self.sift.look(kept)? else { return Ok(false) };
        self.begins_to_wait |= !kept.waits;
        let alone = digests.alone();
        self.sift.held.add(alone);
        self.arriving.add(alone);
        self.aside.push((kept.place, alone));
        Ok(true)
    }

    /// Asks a human where the table loses more rows than it may, unless this was asked.
    async fn ask_about(&mut self, kept: &Kept) -> Result<()> {
        if kept.order.seq <= self.answered || !kept.is_delete() || kept.was_read() {
            return Ok(());
        }
        let (shared, target) = (self.sift.shared, self.sift.target.clone());
        match self.guard.note(shared, (&target, Op::Delete), kept.order) {
            Some(deletes) => self.guard.refuse(shared, &target, (deletes, kept.order)).await,
            None => Ok(()),
        }
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
        if ignores_truncate(self.sift.shared, &target) {
            return Ok(());
        }
        if kept.order.seq > self.answered {
            self.guard.refuse_truncate(self.sift.shared, &target, kept.order).await?;
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
            stretches: Vec::new(),
            name: String::new(),
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
            // the shapes of topics come in no order, and a table takes them all
            let in_order = self.standing.arrival == Arrival::InOrder;
            match kept.waits && in_order {
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
        self.sift.target = Arc::new(bound.target.standing_as(&self.standing));
        self.sift.decoder.install(relation, 0);
        Ok(())
    }

    async fn reshape(
        &mut self,
        schema_id: i32,
        relation: &Arc<crate::relation::Relation>,
    ) -> Result<()> {
        let at = (self.sift.shared, Some(self.sift.transaction));
        let (target, statements) = reshape(&self.standing, relation, schema_id, at).await?;
        let statements = permitted(self.sift.shared, &target, statements).await?;
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
    // each row that was read stands by itself
    if last.was_read() {
        return portion.len();
    }
    portion.iter().rposition(|kept| kept.mark.seq != last.mark.seq).map_or(0, |at| at + 1)
}

fn is_binary(target: &Target) -> bool {
    target.wires.iter().any(|wire| matches!(wire, crate::relation::Wire::Binary(_)))
}
