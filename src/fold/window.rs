//! The open batch: a window over all tables of a connector.
//!
//! It closes on a source commit when the merge can take it or it is full, and inside a transaction
//! only when that transaction alone is larger than the limits. It knows no clock: nothing lingers.

use std::sync::Arc;

use super::bag::Bag;
use super::keyed::Keyed;
use super::log::Log;
use crate::error::Result;
use crate::journey::{
    Batch, Before, ChangeEvent, Digests, Flow, Folded, FoldedRow, Held, Letter, Mark, Refused,
    Route, Stretch, TableBatch, Target,
};
use crate::position::Order;
use crate::spec::History;

/// When a window is full.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Events folded into it.
    pub rows: usize,
    /// Memory it holds, in bytes.
    pub bytes: usize,
}

/// How an event is folded, by the history of its table.
enum Fold {
    Keyed(Keyed),
    Bag(Bag),
    Log(Log),
}

struct TableFold {
    target: Arc<Target>,
    fold: Fold,
}

/// The open batch.
pub struct Window {
    limits: Limits,
    tables: Vec<Option<TableFold>>,
    held: Vec<Held>,
    /// what the folded and held changes weigh
    bytes: usize,
    before: Vec<Before>,
    events: usize,
    transactions: u64,
    committed_at: i64,
    /// the `seq` of the open transaction: what was folded since its begin cannot be cut off
    open: Option<i64>,
    /// the `seq` of the last transaction
    last_seq: i64,
    /// the first transaction began in the batch before
    continues: bool,
    /// transactions that are not told apart have not come as a whole yet
    unfinished: bool,
}

impl Window {
    /// An empty window.
    pub fn new(limits: Limits) -> Window {
        Window {
            limits,
            tables: Vec::new(),
            held: Vec::new(),
            bytes: 0,
            before: Vec::new(),
            events: 0,
            transactions: 0,
            committed_at: 0,
            open: None,
            last_seq: 0,
            continues: false,
            unfinished: false,
        }
    }

    /// Notes the begin of the transaction `seq`.
    pub fn begin(&mut self, seq: i64) {
        self.open = Some(seq);
        self.last_seq = seq;
    }

    /// Goes on with a transaction of which changes were merged before.
    pub fn resume(&mut self) {
        self.continues = true;
    }

    /// Notes the end of a transaction.
    pub fn commit(&mut self, committed_at: i64) {
        self.open = None;
        self.transactions += 1;
        self.committed_at = committed_at;
    }

    /// Notes a change of a log in which the ends of transactions are not told: any cut is one.
    pub fn note(&mut self, seq: i64, committed_at: i64) {
        self.transactions += u64::from(seq != self.last_seq);
        self.last_seq = seq;
        self.committed_at = self.committed_at.max(committed_at);
    }

    /// Says whether transactions that are not told apart have come as a whole: until then no batch ends.
    pub fn set_unfinished(&mut self, unfinished: bool) {
        self.unfinished = unfinished;
    }

    /// Keeps a record that nobody can read as a dead letter.
    pub fn set_apart(
        &mut self,
        target: &Arc<Target>,
        (place, order, mark): (Order, Order, Mark),
        (digests, refused): (Digests, Refused),
        letter: Letter,
    ) {
        self.events += 1;
        self.bytes += letter.weight() + size_of::<FoldedRow>();
        self.held.push(Held {
            target: target.clone(),
            order,
            place,
            mark,
            comes_from: None,
            digests,
            waits: true,
            message: Vec::new(),
            refused: Some(refused),
            letter: Some(Box::new(letter)),
            readable: false,
        });
    }

    /// Gives the changes at this place the record that they came in: those that become dead letters, those
    /// that wait behind one, and others of tables of which it is asked for.
    pub fn attach(
        &mut self,
        place: Order,
        wanted: impl Fn(&Target) -> bool,
        letter: impl Fn() -> Letter,
    ) {
        let last = self.held.iter_mut().rev().take_while(|held| held.place == place);
        for held in last {
            if held.refused.is_none() && !held.waits && !wanted(&held.target) {
                continue;
            }
            let letter = letter();
            self.bytes += letter.weight();
            held.letter = Some(Box::new(letter));
        }
    }

    /// Takes a change to where its route leads. `message` is what arrived, for a table on hold.
    pub fn push(&mut self, route: &Route, event: &ChangeEvent<'_>, message: &[u8]) -> Result<()> {
        if event.order.seq < route.floor {
            return Ok(());
        }
        match route.flow {
            Flow::Hold => self.keep(&route.target, event, message, (Digests::default(), false)),
            Flow::Live => self.fold(&route.target, event)?,
        }
        self.weigh(message);
        Ok(())
    }

    /// Keeps a change that waits behind a dead letter.
    pub fn set_aside(
        &mut self,
        target: &Arc<Target>,
        event: &ChangeEvent<'_>,
        message: &[u8],
        digests: Digests,
    ) {
        self.keep(target, event, message, (digests, true));
        self.weigh(message);
    }

    /// Keeps a row that comes from another key until the delete there was applied.
    pub fn await_delete(
        &mut self,
        target: &Arc<Target>,
        event: &ChangeEvent<'_>,
        message: &[u8],
        (digests, comes_from): (Digests, String),
    ) {
        self.set_aside(target, event, message, digests);
        self.note_origin(comes_from);
    }

    /// Notes of the change that was kept last which key its row comes from.
    pub fn note_origin(&mut self, comes_from: String) {
        if let Some(held) = self.held.last_mut() {
            held.comes_from = Some(comes_from);
        }
    }

    /// Whether the window has the delete by which a row left the key from which an event says that it comes.
    pub fn has_left(&self, target: &Target, event: &ChangeEvent<'_>) -> bool {
        let table = self.tables.get(target.index).and_then(Option::as_ref);
        match table.map(|table| &table.fold) {
            Some(Fold::Keyed(keyed)) => keyed.has_left(target, event),
            _ => false,
        }
    }

    /// Keeps a change that becomes a dead letter.
    pub fn bury(
        &mut self,
        target: &Arc<Target>,
        event: &ChangeEvent<'_>,
        message: &[u8],
        (digests, refused): (Digests, Refused),
    ) {
        self.set_aside(target, event, message, digests);
        if let Some(held) = self.held.last_mut() {
            held.refused = Some(refused);
        }
    }

    fn weigh(&mut self, message: &[u8]) {
        self.events += 1;
        self.bytes += message.len() + size_of::<FoldedRow>();
    }

    fn fold(&mut self, target: &Arc<Target>, event: &ChangeEvent<'_>) -> Result<()> {
        if self.tables.len() <= target.index {
            self.tables.resize_with(target.index + 1, || None);
        }
        let Some(slot) = self.tables.get_mut(target.index) else { return Ok(()) };
        let table = slot.get_or_insert_with(|| TableFold::new(target.clone()));
        match &mut table.fold {
            Fold::Keyed(keyed) => keyed.push(target, event),
            Fold::Bag(bag) => bag.push(event),
            Fold::Log(log) => log.push(target, event),
        }
    }

    fn keep(
        &mut self,
        target: &Arc<Target>,
        event: &ChangeEvent<'_>,
        message: &[u8],
        (digests, waits): (Digests, bool),
    ) {
        self.held.push(Held {
            target: target.clone(),
            order: event.order,
            place: event.place,
            mark: event.mark,
            comes_from: None,
            digests,
            waits,
            message: message.to_vec(),
            refused: None,
            letter: None,
            readable: true,
        });
    }

    /// Notes what must be done before the rows that follow. Only on a window without rows: what came
    /// earlier has to be merged earlier.
    pub fn first(&mut self, before: Before) {
        debug_assert!(self.events == 0, "a barrier behind rows");
        self.before.push(before);
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.events == 0 && self.before.is_empty() && self.transactions == 0 && !self.continues
    }

    /// Whether rows were folded or held: a barrier has to wait until they are merged.
    pub fn has_rows(&self) -> bool {
        self.events > 0
    }

    /// Whether it stands between two transactions.
    pub fn at_boundary(&self) -> bool {
        self.open.is_none()
    }

    /// Whether it has reached a limit, or the end of a transaction that came in several batches: the
    /// warehouse transaction that waits for it must not wait for another one.
    pub fn is_full(&self) -> bool {
        self.events >= self.limits.rows
            || self.bytes >= self.limits.bytes
            || (self.continues && self.at_boundary())
    }

    /// The memory it holds, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Closes the window, which covers these stretches, and opens the next one behind it. Inside a
    /// transaction the batch does not end there, and the next one continues it.
    pub fn close(&mut self, (stretches, name): (Vec<Stretch>, String), routing: u64) -> Batch {
        let ends = self.open.is_none() && !self.unfinished;
        let mut next = Window::new(self.limits);
        next.unfinished = self.unfinished;
        next.open = self.open;
        next.last_seq = self.last_seq;
        next.continues = self.open.is_some();
        let closed = std::mem::replace(self, next);
        let tables = closed.tables.into_iter().flatten().map(TableFold::finish);
        Batch {
            stretches,
            name,
            ends,
            continues: closed.continues,
            unfinished: closed.open.unwrap_or(0),
            last_seq: closed.last_seq,
            routing,
            before: closed.before,
            tables: tables.filter(|table| has_rows(&table.folded)).collect(),
            held: closed.held,
            transactions: closed.transactions,
            committed_at: closed.committed_at,
        }
    }
}

/// Whether there is anything to stage.
fn has_rows(folded: &Folded) -> bool {
    !(folded.rows.is_empty() && folded.late.is_empty() && folded.left.is_empty())
}

impl TableFold {
    fn new(target: Arc<Target>) -> TableFold {
        let fold = match target.model.history {
            History::Overwrite | History::Versions => Fold::Keyed(Keyed::new(&target)),
            History::Bag => Fold::Bag(Bag::new(target.arrival)),
            History::Append | History::Raw => Fold::Log(Log::new(&target)),
        };
        TableFold { target, fold }
    }

    fn finish(self) -> TableBatch {
        let folded: Folded = match self.fold {
            Fold::Keyed(keyed) => keyed.finish(),
            Fold::Bag(bag) => bag.finish(),
            Fold::Log(log) => log.finish(),
        };
        TableBatch { target: self.target, folded }
    }
}
