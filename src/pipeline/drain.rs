//! Applies the kept changes of one table, in the order of the source, through the same fold and merge
//! as if they had just come. What waits behind a dead letter stays.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use tokio_postgres::Transaction;

use super::core::{CaughtUp, Core};
use super::guard::Guard;
use super::held::HeldKeys;
use super::pass::Pass;
use super::points::Points;
use super::sift::Sift;
use crate::binding::bind;
use crate::decode::Decoder;
use crate::error::{Error, Kind, Result};
use crate::journey::{Applied, Target};
use crate::merge::Apply;
use crate::names::TableName;
use crate::position::{Lsn, Order, Positions};
use crate::progress::pending::Span;
use crate::progress::{chunks, dead_letters, pending, tables, turns};

/// Microseconds of a day.
pub(super) const DAY: i64 = 86_400_000_000;

/// The draining of one table: its shape as far as it has been applied.
#[derive(Clone)]
pub(super) struct Drain {
    target: Arc<Target>,
    /// changes below it are in the table's rows: the stream may have been behind their snapshot
    floor: i64,
    /// the table goes on with the batches behind this position
    not_before: Positions,
    /// its kept changes are applied when the stream has come so far: before it others may come
    joins: Lsn,
    /// whether it is drained because it refused a change
    sifted: bool,
    /// the keys that are let wait, where its changes come with the batches already
    flows: Option<HeldKeys>,
    /// whether its kept changes were gone through to the last one
    is_through: bool,
    /// the points of its ranges, once they have been read
    points: Option<Arc<Points>>,
    /// the last of them: the stream may still be before it
    points_end: i64,
    /// when its table's state had changed last, as it began
    since: Option<String>,
    /// behind it nothing was applied or set aside; of topics in each partition, for others come to those that were
    /// gone through
    after: Order,
    offsets: BTreeMap<i64, i64>,
    /// the keys that wait, once they have been read
    held: Option<HeldKeys>,
    /// those that wait for a delete under a former key
    arriving: HeldKeys,
    /// whether such rows were applied or began to wait since the kept changes were gone through from the first on
    stirred: bool,
    /// whether such rows were applied
    arrived: bool,
}

/// What a drain did.
#[derive(Default)]
pub(super) struct Drained {
    /// of the changes, as they were kept
    pub(super) bytes: u64,
    pub(super) applied: Applied,
    /// whether the table was altered
    pub(super) altered: bool,
    /// whether a change became a dead letter
    pub(super) refused: bool,
    /// whether more are left that may be applied now
    pub(super) goes_on: bool,
}

impl Drain {
    pub(super) fn new(table: CaughtUp) -> Drain {
        let CaughtUp { target, floor, held, not_before, joins, flows, .. } = table;
        let after = Order { seq: -1, ord: -1 };
        let sifted = not_before != Positions::default();
        Drain {
            target,
            floor,
            not_before,
            joins,
            sifted,
            flows: flows.then_some(held),
            is_through: false,
            points: None,
            points_end: 0,
            since: None,
            after,
            offsets: BTreeMap::new(),
            held: None,
            arriving: HeldKeys::default(),
            stirred: false,
            arrived: false,
        }
    }

    pub(super) fn index(&self) -> usize {
        self.target.index
    }

    pub(super) fn table(&self) -> &TableName {
        &self.target.model.table
    }

    /// The table as it goes on: its changes come in the form of the connection, whatever the form of
    /// the kept ones was.
    pub(super) fn caught_up(&self, shared: &Core) -> Result<CaughtUp> {
        let Target { index, model, relation, schema_id, .. } = &*self.target;
        let bound = bind(*index, model, relation, *schema_id, shared.binary)?;
        let held = self.held.clone().unwrap_or_default();
        let target = Arc::new(bound.target.standing_as(&self.target));
        let (floor, joins, not_before) = (self.floor, self.joins, self.not_before.clone());
        let (arriving, flows) = (self.arriving.clone(), self.flows.is_some());
        Ok(CaughtUp { target, floor, held, arriving, not_before, joins, flows })
    }

    /// Whether it is drained because it refused a change.
    pub(super) fn is_sifted(&self) -> bool {
        self.sifted
    }

    /// Whether its kept changes are all there that come before those that it may apply, when so much is
    /// stored.
    pub(super) fn may_begin(&self, stored: &Positions) -> bool {
        stored.lsn() >= self.joins
    }

    /// Whether its changes may come with the batches, when so much is stored.
    pub(super) fn may_go_on(&self, stored: &Positions) -> bool {
        let behind_all = |position: i64| position >= self.points_end;
        stored.reach(&self.not_before) && stored.iter().all(|(_, position)| behind_all(position))
    }

    /// Lets its table go on, in the transaction that applied the last of its kept changes; false where
    /// somebody has asked for something else since it began.
    pub(super) async fn end(&self, transaction: &Transaction<'_>) -> Result<bool> {
        let since = self.since.as_deref().unwrap_or_default();
        turns::stream(transaction, self.table(), since).await
    }

    /// What is to be known before the kept changes are looked at.
    async fn begin(&mut self, transaction: &Transaction<'_>) -> Result<(HeldKeys, Arc<Points>)> {
        let table = self.table().clone();
        if self.since.is_none() {
            // what is put among the kept changes from now on is not looked for
            self.since = Some(turns::changed_at(transaction, &table).await?);
        }
        // letters may have come since
        let mut held = HeldKeys::new(dead_letters::keys(transaction, &table).await?);
        held.extend(&self.held.take().unwrap_or_default());
        let points = match self.points.take() {
            Some(points) => points,
            None => {
                let points = chunks::points(transaction, &table, self.floor).await?;
                Arc::new(Points::new(points))
            }
        };
        // the stream may still be before the snapshot of some of its ranges
        self.points_end = points.last();
        self.points = Some(points.clone());
        Ok((held, points))
    }

    /// Whether who sends its changes is to hear of the keys that wait now: of a table that flows only where it lets
    /// others wait.
    pub(super) fn has_news(&self) -> bool {
        let (Some(known), Some(held)) = (&self.flows, &self.held) else { return true };
        self.arrived || !known.are_among(held)
    }

    /// Whether only rows are looked after that wait for deletes, and none of those has come since all of them were
    /// gone through.
    pub(super) async fn is_idle(
        &mut self,
        transaction: &Transaction<'_>,
        apply: &mut Apply,
        shared: &Core,
    ) -> Result<bool> {
        if self.flows.is_none() || !self.is_through {
            return Ok(false);
        }
        if !apply.has_arrivals(transaction, &self.target, shared.numbers()).await? {
            return Ok(true);
        }
        self.begin_again();
        Ok(false)
    }

    /// Applies about `limit` changes, whole transactions only, or all that are left; removes them in
    /// the same transaction. Without a limit no change may be refused: whoever sends the next ones must
    /// know before which keys wait. It knows of those that came from other keys since (`Router`).
    pub(super) async fn run(
        &mut self,
        transaction: &Transaction<'_>,
        apply: &mut Apply,
        shared: &Core,
        limit: Option<u64>,
    ) -> Result<Drained> {
        let table = self.table().clone();
        let heard = self.held.clone();
        let (held, points) = self.begin(transaction).await?;
        let known = heard.filter(|_| limit.is_none());
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
            offsets: self.offsets.clone(),
            open: None,
            aside: Vec::new(),
            guard: Guard::default(),
            answered: tables::answered(transaction, &table).await?,
            has_come: HashSet::new(),
            left: false,
            arriving: HeldKeys::default(),
            begins_to_wait: false,
            arrived: false,
            told: HashSet::new(),
        };
        pass.all(limit).await.map_err(|error| on_table(error, &table))?;
        let Pass { sift, standing, events, reached, offsets, aside, arriving, .. } = pass;
        let (begins_to_wait, arrived) = (pass.begins_to_wait, pass.arrived);
        refuse_unheard(known, (&sift.held, &arriving), &table)?;
        sift.held.refuse_too_many(&table, shared.connector().held_keys)?;
        let (applied, altered, refused) = (sift.applied, sift.altered, sift.dead > 0);
        let mut bytes = 0;
        if events > 0 {
            let span =
                Span { after: self.after, numbers: shared.numbers(), offsets: &self.offsets };
            bytes = pending::remove(transaction, &table, (span, reached), &aside).await?;
        }
        if standing.schema_id != self.target.schema_id {
            tables::set_schema(transaction, &table, standing.schema_id).await?;
        }
        (self.target, self.held) = (standing, Some(sift.held));
        match shared.numbers() {
            None => self.after = reached,
            Some(_) => self.offsets = offsets,
        }
        self.arriving.extend(&arriving);
        self.stirred |= begins_to_wait || arrived;
        self.arrived |= arrived;
        let goes_on = limit.is_some_and(|limit| events >= limit || self.goes_through_again());
        self.is_through = !goes_on;
        Ok(Drained { bytes, applied, altered, refused, goes_on })
    }

    /// Whether what waits is gone through once more: the delete of a row's former key may have been behind it.
    fn goes_through_again(&mut self) -> bool {
        let again = self.stirred && !self.arriving.is_empty();
        if again {
            self.begin_again();
        }
        again
    }

    /// Begins with the first of the kept changes.
    fn begin_again(&mut self) {
        (self.after, self.offsets) = (Order { seq: -1, ord: -1 }, BTreeMap::new());
        (self.held, self.arriving, self.stirred) = (None, HeldKeys::default(), false);
    }
}

/// Refuses that a key waits of which whoever sends the table's changes has not heard. It knows of rows that wait for
/// deletes, for it has sent them itself.
fn refuse_unheard(
    known: Option<HeldKeys>,
    (held, arriving): (&HeldKeys, &HeldKeys),
    table: &TableName,
) -> Result<()> {
    let Some(mut known) = known else { return Ok(()) };
    known.extend(arriving);
    if held.are_among(&known) {
        return Ok(());
    }
    let what = "a key began to wait while its table was about to go on";
    Err(Error::new(Kind::Poison, what).on_table(table.to_string()))
}

/// A failure of this table's changes is this table's.
fn on_table(error: Error, table: &TableName) -> Error {
    if error.table().is_some() { error } else { error.on_table(table.to_string()) }
}
