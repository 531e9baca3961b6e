//! What a raw table can tell of a table: whether its events are all there, and how each becomes an event of
//! the table as it is now. What it cannot tell is named.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio_postgres::Transaction;

use super::guard::ignores_truncate;
use super::shared::Shared;
use crate::decode::{Image, Layout};
use crate::error::{Error, Kind, Result};
use crate::journey::{ChangeEvent, OldRow, Op, Target};
use crate::merge::{Change, Extent, Recalled, compare, foreign_column, has_older};
use crate::position::{Lsn, Order};
use crate::progress::tables::State;
use crate::progress::{dead_letters, gaps, parts, schemas, tables};
use crate::relation::{Column, Fill, Relation};
use crate::spec::{Deletes, History, Model};
use crate::value::Row;

/// The raw table that is fed by the source table of a model, if there is one.
pub(super) fn raw_of<'m>(models: &'m [Model], model: &Model) -> Option<&'m Model> {
    let of_same = |raw: &&Model| raw.history == History::Raw && raw.from == model.from;
    models.iter().find(of_same).filter(|_| model.history != History::Raw)
}

/// The events of a raw table, as far as a table needs them.
pub(super) struct Recall {
    /// what comes behind it is all that counts
    pub(super) after: Option<Order>,
    layouts: HashMap<i32, Layout>,
    /// dead letters that were dropped for good
    dropped: HashSet<Order>,
    target: Arc<Target>,
}

/// What an event's rows are written to.
#[derive(Default)]
pub(super) struct Rows {
    old: Vec<u8>,
    new: Vec<u8>,
}

impl Recall {
    /// Looks whether `raw` tells all that `target` needs, in the form of text; refuses where it does not.
    pub(super) async fn of(
        shared: &Shared,
        reading: &Transaction<'_>,
        raw: &Model,
        target: &Arc<Target>,
    ) -> Result<Recall> {
        let refused = |why: String| cannot_tell(raw, &target.model, &why);
        let records = tables::read(reading, &shared.connector().name).await?;
        match records.iter().find(|record| record.table == raw.table) {
            Some(record) if record.state == State::Streaming && !record.chunk_open => {}
            Some(record) => return Err(refused(format!("it is {}", record.state.word()))),
            None => return Err(refused("nothing feeds it yet".to_owned())),
        }
        if let Some(gap) = gaps::first(reading, &raw.table).await? {
            return Err(refused(format!("it lacks what came {gap}")));
        }
        let (open, lost) = dead_letters::settled(reading, &raw.table).await?;
        if open || !lost.is_empty() {
            return Err(refused("some of its events are dead letters".to_owned()));
        }
        let model = &target.model;
        let (open, dropped) = dead_letters::settled(reading, &model.table).await?;
        if open || dropped.iter().any(|place| place.ord < 0) {
            let what = format!(
                "dead letters of {} are open, or rows that were read were dropped",
                model.table
            );
            return Err(refused(what));
        }
        let extent = Extent::of(reading, raw).await?;
        let hard = model.history == History::Overwrite && model.deletes == Deletes::Hard;
        let after = extent.emptied.filter(|_| hard && !ignores_truncate(shared, target));
        if after.is_none() {
            let first = parts::first_rows(reading, &raw.table).await?;
            is_whole(&extent, first).map_err(refused)?;
        }
        if !hard {
            let from = extent.from.unwrap_or(i64::MAX);
            if has_older(reading, model, from).await? {
                let (table, from) = (&model.table, Lsn::from_i64(from));
                return Err(refused(format!(
                    "it begins at {from}, and {table} has rows from before"
                )));
            }
        }
        if let Some(column) = foreign_column(reading, model).await? {
            let what = format!("{} has the column {column}, whose values would go", model.table);
            return Err(refused(what));
        }
        let shapes = schemas::read(reading, &extent.shapes).await?;
        let mut layouts = HashMap::new();
        for id in &extent.shapes {
            let unknown = || refused(format!("the shape {id} of its rows is not known"));
            let shape = shapes.get(id).ok_or_else(unknown)?;
            differs(shape, target).map_or(Ok(()), |why| Err(refused(why)))?;
            layouts.insert(*id, Layout::between(shape, &target.relation));
        }
        let dropped = dropped.into_iter().collect();
        Ok(Recall { after, layouts, dropped, target: target.clone() })
    }

    /// The event of a raw row; none of one that was dropped. Its rows are written to `rows`.
    pub(super) fn event<'r>(
        &self,
        recalled: &Recalled,
        rows: &'r mut Rows,
    ) -> Result<Option<ChangeEvent<'r>>> {
        let Recalled { op, order, mark, .. } = recalled;
        if self.dropped.contains(order) {
            return Ok(None);
        }
        let layout = self.layouts.get(&recalled.schema_id);
        let layout = layout.ok_or_else(|| Error::bug("a raw row has a shape that was not seen"))?;
        let Rows { old, new } = rows;
        old.clear();
        new.clear();
        let partial = *op != Op::Read && !layout.is_whole();
        if let Some(values) = &recalled.before {
            layout.write(&Image { values, unchanged: &[] }, partial, old)?;
        }
        if let Some(values) = &recalled.after {
            let unchanged = &recalled.unchanged;
            layout.write(&Image { values, unchanged }, false, new)?;
        }
        let before = recalled.before.is_some();
        Ok(Some(ChangeEvent {
            relation: self.target.relation.clone(),
            op: *op,
            old: before.then_some(OldRow { row: Row::from_bytes(old), whole: !partial }),
            new: recalled.after.is_some().then_some(Row::from_bytes(new)),
            order: *order,
            mark: *mark,
            leaves: false,
            place: *order,
        }))
    }
}

fn cannot_tell(raw: &Model, model: &Model, why: &str) -> Error {
    let what = format!("{} cannot tell all of it: {why}", raw.table);
    Error::new(Kind::TableStops, what).remedy(read_the_source(model))
}

/// What brings a table's rows where raw does not.
pub(super) fn read_the_source(model: &Model) -> String {
    format!("siltstone table resync {:#} reads the source", model.table)
}

/// Whether every key has an event: all rows of the first reading are there, or older ones were carried on.
fn is_whole(extent: &Extent, first: Option<i64>) -> Result<(), String> {
    match first {
        None => Err("it has no first reading".to_owned()),
        Some(first) if !extent.carried && extent.reads != first => {
            Err(format!("it has {} of the {first} rows of its first reading", extent.reads))
        }
        Some(_) => Ok(()),
    }
}

/// Why rows of the shape `then` do not tell all that the target takes; none where they do.
fn differs(then: &Relation, target: &Target) -> Option<String> {
    let now = &target.relation;
    if then.attnums > now.attnums {
        return Some("its source has changed shape just now".to_owned());
    }
    let places = target.feeds.iter().map(|feed| feed.from);
    let fed: Vec<&Column> = places.filter_map(|from| now.columns.get(from)).collect();
    let is_fed = |name: &str| fed.iter().any(|column| column.name == name);
    let unlike = |change: Change| match change {
        Change::Added(column) if is_fed(&column.name) && column.fill == Fill::Unknown => {
            Some(format!("the source gave {} to its rows without an event", column.name))
        }
        Change::Retyped { column, widened: false } if is_fed(&column.name) => {
            Some(format!("the source rewrote {} without an event", column.name))
        }
        Change::KeyChanged => Some("the source told its rows apart by another key then".to_owned()),
        Change::Recreated => Some("its source table was dropped and made again".to_owned()),
        _ => None,
    };
    if let Some(why) = compare(then, now).into_iter().find_map(unlike) {
        return Some(why);
    }
    let known = |column: &&&Column| {
        let same = |known: &&Column| known.attnum == column.attnum && known.attnum != 0;
        then.columns.iter().find(same)
    };
    let masked = fed.iter().find(|column| {
        let alike = |then: &Column| match (&then.mask, &column.mask) {
            (None, None) => !then.hidden,
            (Some(then), Some(now)) => then.is_like(now),
            _ => false,
        };
        known(column).is_some_and(|then| !alike(then))
    });
    masked.map(|column| format!("its rows hold {} in another form", column.name))
}
