//! Applies a run of one table's kept changes, and finds those that the warehouse refuses: by halves,
//! each behind a savepoint, until one key is left, and of that key the first transaction and change.
//!
//! What is found becomes a dead letter; the later changes of its key are set aside, all others are in.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use tokio_postgres::Transaction;

use super::core::Core;
use super::drain::DAY;
use super::held::HeldKeys;
use crate::decode::{Decoded, Decoder};
use crate::error::{Error, Kind, Result};
use crate::fold::{Window, digests, key_document, refusal, text_of};
use crate::journey::{Applied, Digests, Flow, Op, Refused, Route, Target};
use crate::merge::{Apply, Checks, Overrules, encode_batch};
use crate::position::{Lsn, Order};
use crate::progress::dead_letters::{self, DeadLetter};
use crate::progress::pending::Kept;
use crate::progress::poison;

/// More refused changes than this in one part are no exceptions: the table stops.
const DEAD_AT_MOST: usize = 50;

/// A kept change and its keys.
#[derive(Clone, Copy)]
pub(super) struct Item<'k> {
    pub(super) kept: &'k Kept,
    pub(super) digests: Digests,
}

/// Changes that are applied together, in order.
pub(super) struct Run<'k> {
    pub(super) items: Vec<Item<'k>>,
    /// changes of the first transaction were applied before
    pub(super) continues: bool,
    /// the `seq` of the transaction that goes on behind it; 0 where it ends
    pub(super) unfinished: i64,
}

/// Set aside: a change and its keys.
pub(super) type Aside = (Order, Digests);

/// The sieve.
pub(super) struct Sift<'w> {
    pub(super) transaction: &'w Transaction<'w>,
    pub(super) apply: &'w mut Apply,
    pub(super) shared: &'w Core,
    pub(super) decoder: Decoder,
    pub(super) target: Arc<Target>,
    pub(super) held: HeldKeys,
    /// whether refused changes are looked for; else a refusal is an error
    pub(super) splits: bool,
    pub(super) dead: usize,
    /// whether the transaction has altered the table
    pub(super) altered: bool,
    pub(super) applied: Applied,
}

impl Sift<'_> {
    /// Applies a run; returns what is set aside.
    pub(super) async fn merge(&mut self, run: &Run<'_>) -> Result<Vec<Aside>> {
        let mut aside = Vec::new();
        match self.attempt(run, &run.items).await {
            Err(error) if error.kind() == Kind::Poison && self.splits => {}
            done => return done.map(|()| aside),
        }
        let suspects = self.suspects(&run.items).await?;
        let suspected =
            |key: &Vec<Item<'_>>| key.iter().any(|item| suspects.contains(&item.kept.place));
        let mut keys = by_key(&run.items);
        keys.sort_by_key(suspected);
        let clean = keys.partition_point(|key| !suspected(key));
        // the last part is taken first
        let mut parts: Vec<Range<usize>> = match clean == keys.len() {
            true => halves(0..keys.len()),
            false => (clean..keys.len()).rev().map(|key| key..key + 1).collect(),
        };
        if clean > 0 && clean < keys.len() {
            parts.push(0..clean);
        }
        while let Some(part) = parts.pop() {
            let mut items = keys.get(part.clone()).unwrap_or_default().concat();
            items.sort_by_key(|item| item.kept.place);
            match self.attempt(run, &items).await {
                Ok(()) => {}
                Err(error) if error.kind() != Kind::Poison => return Err(error),
                Err(_) if part.len() > 1 => parts.extend(halves(part)),
                Err(_) => self.one_key(run, (&items, &suspects), &mut aside).await?,
            }
        }
        Ok(aside)
    }

    /// The changes whose rows a constraint of the table refuses. A later change of the same key may yet
    /// make them good.
    async fn suspects(&mut self, items: &[Item<'_>]) -> Result<HashSet<Order>> {
        let Some(checks) = Checks::of(self.transaction, &self.target).await? else {
            return Ok(HashSet::new());
        };
        let mut columns = vec![Vec::new(); checks.cells.len()];
        let mut orders = Vec::new();
        for Item { kept, .. } in items {
            self.decoder.resume(kept.mark, kept.order);
            let Decoded::Change(event) = self.decoder.decode(&kept.message)? else { continue };
            let Some(new) = event.new else { continue };
            orders.push(kept.place);
            for (values, cell) in columns.iter_mut().zip(&checks.cells) {
                let text = text_of(&self.target, *cell, new.cell(*cell));
                values.push(text.and_then(|text| String::from_utf8(text).ok()));
            }
        }
        let refused = checks.refused(self.transaction, &columns).await?;
        Ok(refused.into_iter().filter_map(|at| orders.get(at).copied()).collect())
    }

    /// Applies the transactions of one key up to the first one that is refused.
    async fn one_key(
        &mut self,
        run: &Run<'_>,
        (items, suspects): (&[Item<'_>], &HashSet<Order>),
        aside: &mut Vec<Aside>,
    ) -> Result<()> {
        let transactions: Vec<&[Item<'_>]> =
            items.chunk_by(|a, b| a.kept.mark.seq == b.kept.mark.seq).collect();
        let suspected =
            |part: &&[Item<'_>]| part.iter().any(|item| suspects.contains(&item.kept.place));
        // up to the first one that is suspected, then that one
        let next = |from: usize| match transactions.iter().skip(from).position(suspected) {
            Some(0) => from + 1,
            Some(clean) => from + clean,
            None => transactions.len(),
        };
        let (mut from, mut until) = (0, next(0));
        while from < transactions.len() {
            let part = transactions.get(from..until).unwrap_or_default().concat();
            match self.attempt(run, &part).await {
                Ok(()) => (from, until) = (until, next(until)),
                Err(error) if error.kind() != Kind::Poison => return Err(error),
                Err(_) if until - from > 1 => until = from + (until - from) / 2,
                Err(error) => {
                    let waiting = transactions.get(from..).unwrap_or_default().concat();
                    return self.bury(run, &waiting, part.len(), error, aside).await;
                }
            }
        }
        Ok(())
    }

    /// Makes a dead letter of the change that is refused among the first `length`; sets aside the rest.
    async fn bury(
        &mut self,
        run: &Run<'_>,
        waiting: &[Item<'_>],
        length: usize,
        mut error: Error,
        aside: &mut Vec<Aside>,
    ) -> Result<()> {
        self.dead += 1;
        if self.dead > DEAD_AT_MOST {
            return Err(self.too_many(&error));
        }
        let last = length.saturating_sub(1);
        let mut refused = last;
        for at in 0..last {
            match self.attempt_in_vain(run, waiting.get(..=at).unwrap_or_default()).await {
                Ok(()) => {}
                Err(found) if found.kind() == Kind::Poison => {
                    (refused, error) = (at, found);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        for (at, item) in waiting.iter().enumerate() {
            self.held.add(item.digests);
            if at != refused {
                aside.push((item.kept.place, item.digests));
                continue;
            }
            self.decoder.resume(item.kept.mark, item.kept.order);
            let key = match self.decoder.decode(&item.kept.message)? {
                Decoded::Change(event) => key_document(&self.target, &event),
                _ => None,
            };
            self.write(*item, Refused { reason: error.reason(), key }).await?;
        }
        Ok(())
    }

    /// Writes a dead letter; its key waits.
    pub(super) async fn write(&mut self, item: Item<'_>, refused: Refused) -> Result<()> {
        self.held.add(item.digests);
        let (table, position) = (&self.target.model.table, Lsn::from_i64(item.kept.order.seq));
        let Refused { reason, key } = refused;
        tracing::warn!(%table, %position, ordinal = item.kept.order.ord, reason,
            "a change is refused: it becomes a dead letter, and its key waits");
        let (kept, digests) = (item.kept, item.digests);
        let letter = DeadLetter { kept, digests, key, reason, record: None, readable: true };
        let connector = &self.shared.connector().name;
        dead_letters::write(self.transaction, connector, table, &letter).await?;
        if self.shared.numbers().is_some() {
            poison::take_record(self.transaction, connector, (table, kept.place)).await?;
        }
        Ok(())
    }

    fn too_many(&self, error: &Error) -> Error {
        let table = &self.target.model.table;
        let what = format!(
            "more than {DEAD_AT_MOST} changes of one batch are refused, the last one because {}",
            error.reason()
        );
        Error::new(Kind::TableStops, what)
            .remedy(format!("mend the cause, then siltstone table resume {table:#}"))
            .on_table(table.to_string())
    }

    /// Applies changes, or leaves the transaction as it was.
    async fn attempt(&mut self, run: &Run<'_>, items: &[Item<'_>]) -> Result<()> {
        self.savepoint("savepoint part").await?;
        let applied = self.apply_all(run, items).await;
        match applied {
            Ok(applied) => {
                self.savepoint("release savepoint part").await?;
                self.applied.add(&applied);
                Ok(())
            }
            Err(error) if error.kind() == Kind::Poison && self.splits => {
                self.undo().await?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether changes could be applied; the transaction stays as it was.
    async fn attempt_in_vain(&mut self, run: &Run<'_>, items: &[Item<'_>]) -> Result<()> {
        self.savepoint("savepoint part").await?;
        let applied = self.apply_all(run, items).await;
        if let Err(error) = &applied
            && error.kind() != Kind::Poison
        {
            return applied.map(|_| ());
        }
        self.undo().await?;
        applied.map(|_| ())
    }

    async fn undo(&mut self) -> Result<()> {
        self.savepoint("rollback to savepoint part; release savepoint part").await?;
        self.apply.rolled_back();
        Ok(())
    }

    async fn savepoint(&self, statement: &str) -> Result<()> {
        let failed = |error| Error::warehouse("applying kept changes", error);
        self.transaction.batch_execute(statement).await.map_err(failed)
    }

    /// Folds and merges changes.
    async fn apply_all(&mut self, run: &Run<'_>, items: &[Item<'_>]) -> Result<Applied> {
        let limits = super::session::limits(&self.shared.setup.settings);
        let mut window = Window::new(limits);
        if run.continues {
            window.resume();
        }
        let route = Route { target: self.target.clone(), flow: Flow::Live, floor: 0 };
        let mut open = None;
        for Item { kept, .. } in items {
            if open != Some(kept.mark.seq) {
                if open.is_some() {
                    window.commit(0);
                }
                window.begin(kept.mark.seq);
                open = Some(kept.mark.seq);
            }
            self.decoder.resume(kept.mark, kept.order);
            match self.decoder.decode(&kept.message)? {
                Decoded::Change(mut event) => {
                    if kept.was_read() {
                        event.order.ord = 0;
                        event.op = if event.op == Op::Create { Op::Read } else { event.op };
                    }
                    window.push(&route, &event, &kept.message)?;
                }
                Decoded::Truncate(events) => {
                    for event in events {
                        window.push(&route, &event, &kept.message)?;
                    }
                }
                _ => return Err(Error::bug("a kept change is none")),
            }
        }
        if open.is_some_and(|open| open != run.unfinished) {
            window.commit(0);
        }
        let name = items.last().map_or(String::new(), |item| name_of(item.kept));
        let mut piece = encode_batch(window.close((Vec::new(), name), 0))?;
        if items.iter().all(|item| item.kept.was_read()) {
            piece.overrules = Overrules::AllForRead;
        }
        let today = self.shared.setup.clock.now_postgres().div_euclid(DAY);
        let days = piece.tables.iter().map(|table| (table.target.model.clone(), table.days(today)));
        let wanted: Vec<_> = days.collect();
        let within = self.altered.then_some(self.transaction);
        self.shared.ensure_leaves(&wanted, within).await?;
        let mut sum = Applied::default();
        for (_, applied) in self.apply.piece(self.transaction, piece).await? {
            sum.add(&applied);
        }
        self.apply.check(self.transaction).await?;
        Ok(sum)
    }

    /// The keys of a kept change, and why it will be refused if that can be told; none of a TRUNCATE.
    pub(super) fn look(&mut self, kept: &Kept) -> Result<Option<(Digests, Option<Refused>)>> {
        self.decoder.resume(kept.mark, kept.order);
        match self.decoder.decode(&kept.message)? {
            Decoded::Change(event) => {
                Ok(Some((digests(&self.target, &event), refusal(&self.target, &event))))
            }
            Decoded::Truncate(_) => Ok(None),
            _ => Err(Error::bug("a kept change is none")),
        }
    }
}

/// What raw rows of a kept change are marked with: where its transaction stands.
fn name_of(kept: &Kept) -> String {
    Lsn::from_i64(kept.order.seq).to_string()
}

/// The two halves of a range, the first one last: it is taken first.
fn halves(range: Range<usize>) -> Vec<Range<usize>> {
    if range.len() < 2 {
        return vec![range];
    }
    let middle = range.start + range.len() / 2;
    vec![middle..range.end, range.start..middle]
}

/// The changes of each key, where keys between which a row moved count as one; in the order in which
/// the keys come first.
fn by_key<'k>(items: &[Item<'k>]) -> Vec<Vec<Item<'k>>> {
    let mut parents: HashMap<i64, i64> = HashMap::new();
    fn root(parents: &mut HashMap<i64, i64>, mut key: i64) -> i64 {
        while let Some(parent) = parents.get(&key).copied().filter(|parent| *parent != key) {
            // paths are shortened on the way
            let above = parents.get(&parent).copied().unwrap_or(parent);
            parents.insert(key, above);
            key = parent;
        }
        key
    }
    for item in items {
        let (new, old) =
            (root(&mut parents, item.digests.new), root(&mut parents, item.digests.old));
        parents.insert(new, old);
        parents.entry(old).or_insert(old);
    }
    let mut places: HashMap<i64, usize> = HashMap::new();
    let mut keys: Vec<Vec<Item<'k>>> = Vec::new();
    for item in items {
        let at = *places.entry(root(&mut parents, item.digests.new)).or_insert(keys.len());
        if at == keys.len() {
            keys.push(Vec::new());
        }
        if let Some(key) = keys.get_mut(at) {
            key.push(*item);
        }
    }
    keys
}

#[cfg(test)]
mod tests;
