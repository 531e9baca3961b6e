//! Brings the rows of a snapshot into a table: all of them staged first, then merged at once, with
//! what the source no longer has deleted (versions: closed; append and raw: never).
//!
//! A change that the stream brings in the meantime waits in `audit.pending`, so the rows here may
//! take the place of whatever the table holds, whatever order it carries.

use std::sync::Arc;

use bytes::Bytes;
use tokio_postgres::Transaction;
use tokio_postgres::types::ToSql;

use super::answers::{Asker, Asks};
use super::apply::{counts_of, days_of, raw_copy_text};
use super::direct::{Direct, DirectEncoder};
use super::looks::placed;
use super::raw::RawEncoder;
use super::render::{Form, Templates, Within};
use super::stage::{Encoder, Shape, Staged};
use super::staging::Staging;
use super::table::{Cut, Merge};
use crate::clock::from_postgres_micros;
use crate::error::{Error, Result};
use crate::journey::{Applied, FoldedRow, Mark, Op, Span, Target};
use crate::position::{Lsn, Order};
use crate::postgres::Session;
use crate::spec::{Deletes, History};
use crate::value::Row;

/// Where a snapshot stands.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// The consistent point: commits that start before it are in the rows.
    pub as_of: Lsn,
    /// When it was taken, microseconds since 2000-01-01 UTC by the source's clock.
    pub taken_at: i64,
    /// The order that its rows get.
    pub order: Order,
}

/// Encodes the rows of a snapshot, one after the other.
pub struct Reading<'t> {
    rows: Rows<'t>,
    template: FoldedRow,
    count: u64,
}

enum Rows<'t> {
    Staged(Encoder<'t>),
    Direct(DirectEncoder<'t>),
    Raw(RawEncoder<'t>, &'t Target, Vec<u8>),
}

/// What was read, when all rows are encoded: the rest of the COPY and what the merge has to know.
pub struct Finished {
    staged: Staged,
    rows: u64,
    /// the rows went straight into their table
    copied: bool,
}

impl<'t> Reading<'t> {
    /// A reading of `target`'s rows, on the way that was chosen for it.
    pub fn new(target: &'t Target, point: Point, way: &Way) -> Result<Reading<'t>> {
        let nothing = Span { start: 0, end: 0 };
        let order = point.order;
        let template = FoldedRow {
            op: Op::Read,
            key: nothing,
            origin: None,
            image: None,
            before: None,
            order,
            told: None,
            mark: Mark { seq: order.seq, committed_at: point.taken_at, xid: 0 },
            unchanged: false,
            leaves: false,
            count: 1,
        };
        let rows = match (&way.direct, target.model.history) {
            (Some(direct), _) => Rows::Direct(DirectEncoder::new(target, order, direct)?),
            (None, History::Raw) => {
                let load_id = point.as_of.to_string();
                Rows::Raw(RawEncoder::new(target, &load_id), target, Vec::new())
            }
            (None, _) => Rows::Staged(Encoder::new(target)),
        };
        Ok(Reading { rows, template, count: 0 })
    }

    /// Appends a row of the relation.
    pub fn push(&mut self, row: Row<'_>) -> Result<()> {
        self.count += 1;
        match &mut self.rows {
            Rows::Staged(encoder) => encoder.push(&self.template, (Some(row), None), row, None),
            Rows::Direct(encoder) => encoder.push(row),
            Rows::Raw(encoder, target, key) => {
                key.clear();
                let mut writer = crate::value::RowWriter::new(key);
                target.key.iter().for_each(|column| writer.push(row.cell(*column)));
                encoder.push(&self.template, Row::from_bytes(key), None, Some(row))
            }
        }
    }

    /// Takes what is ready to be sent.
    pub fn take(&mut self) -> Vec<Bytes> {
        match &mut self.rows {
            Rows::Staged(encoder) => encoder.take(),
            Rows::Direct(encoder) => encoder.take(),
            Rows::Raw(encoder, ..) => encoder.take(),
        }
    }

    /// Whether rows that were pushed wait until they are looked up, and not for more of them.
    pub fn waits(&self) -> bool {
        matches!(&self.rows, Rows::Direct(encoder) if encoder.waits())
    }

    /// Looks up the rows that wait, which must be done before the end, too.
    pub async fn look_up(&mut self, asker: &mut Asker) -> Result<()> {
        match &mut self.rows {
            Rows::Direct(encoder) => encoder.look_up(asker).await,
            _ => Ok(()),
        }
    }

    /// How many rows were pushed.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Ends the COPY stream.
    pub fn finish(self) -> Finished {
        let copied = !matches!(self.rows, Rows::Staged(_));
        let staged = match self.rows {
            Rows::Staged(encoder) => encoder.finish(),
            Rows::Direct(encoder) => Staged { chunks: encoder.finish(), ..Staged::default() },
            Rows::Raw(encoder, ..) => Staged { chunks: encoder.finish(), ..Staged::default() },
        };
        Finished { staged, rows: self.count, copied }
    }
}

impl Finished {
    /// The end of the COPY stream.
    pub fn take(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.staged.chunks)
    }

    /// The days whose leaves the rows need.
    pub fn days(&self, target: &Target) -> Vec<i64> {
        days_of(&target.model, &self.staged)
    }
}

/// The way that a reading's rows take into their table.
#[derive(Clone, Debug)]
pub struct Way {
    /// The COPY statement that takes the stream.
    pub statement: String,
    direct: Option<Direct>,
}

impl Way {
    /// Whether rows are looked up on their way, by [`Way::asker`].
    pub fn looks_up(&self) -> bool {
        self.asks().is_some()
    }

    /// What asks for that, in a session of its own.
    pub async fn asker(&self, session: Session, target: &Target) -> Result<Asker> {
        let asks = self.asks().ok_or_else(|| Error::bug("nothing is looked up"))?;
        Asker::open(session, target, asks).await
    }

    fn asks(&self) -> Option<&Asks> {
        self.direct.as_ref().and_then(Direct::asks)
    }
}

/// How the rows of a reading may go straight into their table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Straight {
    /// They may not.
    No,
    /// If the table is empty.
    IfEmpty,
    /// Beside the rows of other ranges.
    Beside,
}

/// Whether `target`'s rows can go straight into its table, as far as their types allow.
pub async fn goes_straight(transaction: &Transaction<'_>, target: &Target) -> Result<bool> {
    Ok(Direct::of(transaction, target, true).await?.is_some())
}

/// Chooses the way of `target`'s rows, its staging table made if it needs one.
pub async fn way(
    transaction: &Transaction<'_>,
    target: &Target,
    straight: Straight,
) -> Result<Way> {
    if target.model.history == History::Raw {
        return Ok(Way { statement: raw_copy_text(&target.model), direct: None });
    }
    let direct = match straight {
        Straight::No => None,
        straight => Direct::of(transaction, target, straight == Straight::Beside).await?,
    };
    if let Some(direct) = direct {
        return Ok(Way { statement: direct.statement.clone(), direct: Some(direct) });
    }
    let shape = Shape::of(target);
    let mut staging = Staging::default();
    staging.fill(transaction, &shape, empty(target)).await?;
    let quoted = Staging::quoted(&shape);
    Ok(Way { statement: shape.copy(&quoted), direct: None })
}

fn empty(target: &Target) -> Staged {
    Encoder::new(target).finish()
}

/// A range of a key: from `lower` on, up to but without `upper`.
#[derive(Clone, Debug)]
pub struct Stretch {
    /// The model's column.
    pub column: String,
    /// Its first value, as text.
    pub lower: Option<String>,
    /// The first value behind it, as text.
    pub upper: Option<String>,
}

/// Merges what was staged, if it was. `fresh`: the table holds nothing of it yet. `stretch`: what was
/// staged are the rows of this range only.
pub async fn merge(
    transaction: &Transaction<'_>,
    templates: &Templates,
    target: &Arc<Target>,
    finished: &Finished,
    (point, fresh, stretch): (Point, bool, Option<&Stretch>),
) -> Result<Applied> {
    let rows = finished.rows;
    let mut counts = counts_of(&finished.staged, rows);
    if finished.copied {
        return Ok(Applied { events: rows, staged: rows, upserted: rows, ..Applied::default() });
    }
    let stage = Staging::quoted(&Shape::of(target));
    let failed = |error| {
        Error::warehouse("preparing the rows of a snapshot", error)
            .on_table(target.model.table.to_string())
    };
    transaction.batch_execute(&format!("analyze {stage}")).await.map_err(failed)?;
    let range = stretch.map(|stretch| Within {
        column: stretch.column.clone(),
        lower: stretch.lower.is_some(),
        upper: stretch.upper.is_some(),
    });
    let lookups = placed(transaction, &target.model).await?;
    let form = Form { stage, guard: false, dated: false, chains: false, range, lookups };
    let mut merge = Merge::of_table(transaction, templates, target.clone(), &form).await?;
    let deletes = !matches!(target.model.deletes, Deletes::Ignore | Deletes::Row);
    if !fresh && target.model.history == History::Bag {
        merge.execute(transaction, "clear", &[]).await?;
    } else if !fresh && deletes {
        let order = point.order;
        let at = from_postgres_micros(point.taken_at);
        let ends = stretch.map(|stretch| [&stretch.lower, &stretch.upper]);
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&order.seq, &at];
        for end in ends.into_iter().flatten().flatten() {
            parameters.push(end);
        }
        if target.model.has_locator() {
            merge.execute(transaction, "astray", &parameters).await?;
        }
        let missing = merge.execute(transaction, "missing", &parameters).await?;
        counts.deletes += missing;
        counts.rows += missing;
    }
    merge.run(transaction, counts, Cut::default()).await
}

/// Ends the reading of a table that had rows before: a recreated source counts from lower positions, and
/// what is stored must not outrank it.
pub async fn rebase(
    transaction: &Transaction<'_>,
    templates: &Templates,
    target: &Arc<Target>,
    point: Point,
) -> Result<()> {
    let model = &target.model;
    if !matches!(model.history, History::Versions | History::Overwrite) {
        return Ok(());
    }
    let stage = Staging::quoted(&Shape::of(target));
    let (guard, dated, chains) = (false, false, false);
    let form = Form { stage, guard, dated, chains, range: None, lookups: Vec::new() };
    let mut merge = Merge::of_table(transaction, templates, target.clone(), &form).await?;
    let seq = point.order.seq;
    if model.history == History::Versions || model.has_locator() {
        merge.execute(transaction, "rebase", &[&seq]).await?;
    }
    let keeps_rows = matches!(model.deletes, Deletes::Soft | Deletes::Ignore);
    if keeps_rows && model.history == History::Overwrite {
        merge.execute(transaction, "rebase_rows", &[&seq]).await?;
    }
    Ok(())
}
