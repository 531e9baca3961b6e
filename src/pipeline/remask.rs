//! What was taken before files masked a column, or under another mask. Kept changes and dead letters are
//! masked where they lie. A table whose rows can be read again is emptied and read again; one that holds
//! what the source has no more stops until a person has seen to its rows: no table goes on with both
//! forms in it by itself.

use std::collections::{BTreeMap, HashMap};

use tokio_postgres::Transaction;

use super::resolve::{LeftOut, Resolved};
use super::shared::Shared;
use crate::decode::Veil;
use crate::error::{Error, Result};
use crate::names::TableName;
use crate::position::Order;
use crate::postgres::{Session, quote};
use crate::progress::pending::Span;
use crate::progress::tables::{State, TableRecord};
use crate::progress::{chunks, feeds, masks, pending, schemas, tables};
use crate::relation::{Column, Mask, Relation};
use crate::spec::{Deletes, History, Model};
use crate::warehouse::Fenced;

/// Makes everything in the warehouse that came by a connector fit the masks of the files.
pub(super) async fn remask(
    shared: &Shared,
    warehouse: &mut Session,
    resolved: &Resolved,
) -> Result<()> {
    let connector = shared.connector();
    note_sources(shared, warehouse, resolved).await?;
    let records = tables::read(&**warehouse, &connector.name).await?;
    let numbers: Vec<i32> = records.iter().filter_map(|record| record.schema_id).collect();
    let shapes = schemas::read(&**warehouse, &numbers).await?;
    for record in &records {
        let Some(known_as) = &record.source else { continue };
        let stands = record.schema_id.and_then(|number| shapes.get(&number));
        let dressed = stands.map(|shape| dressed(shared, known_as, shape));
        let differs = dressed.as_ref() != stands;
        let covered = connector.masks.covers(known_as);
        let stale = match covered {
            true => stale(shared, warehouse, (&record.table, known_as)).await?,
            false => HashMap::new(),
        };
        if !differs && stale.is_empty() {
            continue;
        }
        let transaction =
            Fenced::begin(warehouse, &shared.fence, "mask", &shared.setup.durations).await?;
        kept(shared, &transaction, &record.table, stale).await?;
        masks::forget_failed(&transaction).await?;
        if let (Some(before), Some(now), true) = (stands, &dressed, differs) {
            let number = schemas::number(&*transaction, &connector.name, now).await?;
            tables::set_schema(&*transaction, &record.table, number).await?;
            rows(shared, &transaction, record, &Differences::of(shared, record, before, now))
                .await?;
        }
        transaction.commit().await?;
    }
    Ok(())
}

/// Notes the present names of the tables that feed ours: masks are known by them. A file may name another one, or
/// the same one anew.
async fn note_sources(shared: &Shared, warehouse: &mut Session, resolved: &Resolved) -> Result<()> {
    for record in tables::read(&**warehouse, &shared.connector().name).await? {
        let Some(source) = resolved.feeder(&record.table) else { continue };
        if record.source.as_ref() != Some(source) {
            let durations = &shared.setup.durations;
            let transaction = Fenced::begin(warehouse, &shared.fence, "source", durations).await?;
            feeds::set_source(&*transaction, &record.table, source).await?;
            transaction.commit().await?;
        }
    }
    Ok(())
}

/// Leaves out what would be mirrored and was a masked table under another name: no file says what of it
/// nobody may see.
pub(super) async fn leave_out_renamed(
    shared: &Shared,
    warehouse: &Session,
    resolved: &mut Resolved,
) -> Result<()> {
    let connector = shared.connector();
    if connector.masks.is_empty() {
        return Ok(());
    }
    let records = tables::read(&**warehouse, &connector.name).await?;
    let numbers: Vec<i32> = records.iter().filter_map(|record| record.schema_id).collect();
    let shapes = schemas::read(&**warehouse, &numbers).await?;
    let masked = records.iter().filter_map(|record| {
        let source = record.source.as_ref().filter(|source| connector.masks.covers(source))?;
        Some((shapes.get(&record.schema_id?)?.oid, source))
    });
    let masked: HashMap<u32, &TableName> = masked.collect();
    let Resolved { fed, left_out, publications, .. } = resolved;
    fed.retain(|fed| {
        let relation = &fed.source.relation;
        let was = masked.get(&relation.oid).filter(|was| ***was != relation.table);
        let (Some(was), true) = (was, fed.models.iter().all(|model| model.mirrored)) else {
            return true;
        };
        left_out.push(LeftOut {
            table: relation.table.clone(),
            why: format!("it was {was}, which has masked columns"),
            remedy: format!(
                "write its new name at `from` in schemas/, or exclude {}",
                relation.table
            ),
            refused: false,
        });
        for wanted in publications.iter_mut() {
            wanted.tables.retain(|(of, _)| *of != relation.table);
        }
        false
    });
    Ok(())
}

fn dressed(shared: &Shared, known_as: &TableName, shape: &Relation) -> Relation {
    let mut shape = shape.clone();
    shared.connector().masks.dress(known_as, &mut shape);
    shape
}

/// Shapes of a table's kept changes in which columns lie open that are masked now: each with those masks
/// alone.
async fn stale(
    shared: &Shared,
    warehouse: &Session,
    (table, known_as): (&TableName, &TableName),
) -> Result<HashMap<i32, (Relation, Relation)>> {
    let numbers = masks::kept_shapes(&**warehouse, table).await?;
    let shapes = schemas::read(&**warehouse, &numbers).await?;
    let mut stale = HashMap::new();
    for (number, shape) in shapes {
        let now = dressed(shared, known_as, &shape);
        let (mut masked, mut added) = (shape.clone(), shape);
        for (column, now) in masked.columns.iter_mut().zip(&now.columns) {
            if column.mask.is_none() && now.mask.is_some() {
                column.clone_from(now);
            }
        }
        for (column, now) in added.columns.iter_mut().zip(&masked.columns) {
            match column.mask.take() {
                // what is masked already is not masked twice
                Some(_) => {}
                None => column.clone_from(now),
            }
        }
        if added.masked().next().is_some() {
            stale.insert(number, (masked, added));
        }
    }
    Ok(stale)
}

/// Masks kept changes and dead letters.
async fn kept(
    shared: &Shared,
    transaction: &Transaction<'_>,
    table: &TableName,
    stale: HashMap<i32, (Relation, Relation)>,
) -> Result<()> {
    let connector = shared.connector();
    let mut veils: HashMap<i32, (i32, Veil)> = HashMap::new();
    for (number, (masked, added)) in stale {
        let to = schemas::number(transaction, &connector.name, &masked).await?;
        veils.extend(Veil::of(&added, connector.masks.key()).map(|veil| (number, (to, veil))));
    }
    if veils.is_empty() {
        return Ok(());
    }
    tracing::warn!(%table, "kept changes and dead letters of it are masked");
    let (mut after, offsets) = (Order { seq: -1, ord: -1 }, BTreeMap::new());
    loop {
        let span = Span { after, numbers: None, offsets: &offsets };
        let portion = pending::next(transaction, table, span).await?;
        let Some(last) = portion.last() else { break };
        after = last.place;
        let mut masked = Vec::new();
        for change in &portion {
            let Some((to, veil)) = veils.get_mut(&change.schema_id) else { continue };
            masked.push((change.place, *to, message(veil, &change.message)?));
        }
        masks::replace_pending(transaction, table, &masked).await?;
    }
    let numbers: Vec<i32> = veils.keys().copied().collect();
    for (id, number, event) in masks::letters(transaction, table, &numbers).await? {
        let Some((to, veil)) = veils.get_mut(&number) else { continue };
        let masked = message(veil, &event).ok();
        masks::replace_letter(transaction, (id, *to), masked.as_deref()).await?;
    }
    Ok(())
}

fn message(veil: &mut Veil, message: &[u8]) -> Result<Vec<u8>> {
    let (tag, body) = message.split_first().ok_or_else(|| Error::bug("a kept change is none"))?;
    let mut masked = vec![*tag];
    veil.body(*tag, body, &mut masked)?;
    Ok(masked)
}

/// The columns of a table whose mask is another one now.
struct Differences<'a> {
    /// none of a mirrored table
    model: Option<&'a Model>,
    /// masked now, and in another way or not at all before: the warehouse column, its type, the mask
    masked: Vec<(String, String, Mask)>,
    /// not masked any more
    bared: Vec<String>,
    /// the source columns that are masked now
    covered: Vec<String>,
}

impl<'a> Differences<'a> {
    fn of(
        shared: &'a Shared,
        record: &TableRecord,
        before: &Relation,
        now: &Relation,
    ) -> Differences<'a> {
        let model = shared.setup.models.iter().find(|model| model.table == record.table);
        let mut differences =
            Differences { model, masked: Vec::new(), bared: Vec::new(), covered: Vec::new() };
        for (before, now) in before.columns.iter().zip(&now.columns) {
            let taken: Vec<(String, String)> = match model {
                Some(model) if model.history != History::Raw => {
                    let fed = model.columns.iter().filter(|column| column.from == now.name);
                    fed.map(|column| (column.name.clone(), column.ty.clone())).collect()
                }
                _ => vec![(now.name.clone(), String::new())],
            };
            differences.note(before, now, taken);
        }
        differences
    }

    fn note(&mut self, before: &Column, now: &Column, taken: Vec<(String, String)>) {
        match (&before.mask, &now.mask) {
            (Some(before), Some(now)) if before.is_like(now) => {}
            (_, Some(mask)) => {
                self.covered.push(now.name.clone());
                self.masked.extend(taken.into_iter().map(|(name, ty)| (name, ty, mask.by)));
            }
            (Some(_), None) => self.bared.extend(taken.into_iter().map(|(name, _)| name)),
            (None, None) => {}
        }
    }

    /// Whether the table holds rows that reading the source does not bring back.
    fn keeps_rows(&self) -> bool {
        self.model.is_some_and(|model| {
            !matches!(model.history, History::Overwrite | History::Bag)
                || matches!(model.deletes, Deletes::Soft | Deletes::Ignore)
        })
    }

    fn logs_events(&self) -> bool {
        self.model.is_some_and(|model| model.history.logs_events())
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self.masked.iter().map(|(name, ..)| name.as_str()).collect();
        names.join(", ")
    }

    /// What a person may run so that no row shows what it held.
    fn statement(&self, table: &TableName) -> String {
        let bound = |name: &String| {
            let model = self.model.into_iter();
            let mut column = model.filter_map(|model| Some((model, model.column(name)?)));
            column.any(|(model, column)| column.required || model.key.contains(name))
        };
        let masks_itself = |(column, ty, mask): &(String, String, Mask)| {
            let name = quote::ident(column);
            let zoned = ty.starts_with("timestamptz") || ty.ends_with("with time zone");
            match mask {
                // no statement knows the key
                Mask::Hash if bound(column) => None,
                Mask::Hash | Mask::Null => Some(format!("{name} = null")),
                Mask::Year if zoned => Some(format!("{name} = date_trunc('year', {name}, 'UTC')")),
                Mask::Year => Some(format!("{name} = date_trunc('year', {name})")),
            }
        };
        let raw = self.model.is_none_or(|model| model.history == History::Raw);
        let sets: Option<Vec<String>> = self.masked.iter().map(masks_itself).collect();
        match sets.filter(|_| !raw) {
            Some(sets) => format!("update {} set {}", quote::table(table), sets.join(", ")),
            None => format!("delete from {}", quote::table(table)),
        }
    }
}

/// What becomes of a table that has rows of another form.
async fn rows(
    shared: &Shared,
    transaction: &Transaction<'_>,
    record: &TableRecord,
    found: &Differences<'_>,
) -> Result<()> {
    let table = &record.table;
    let logs = found.logs_events();
    masks::forget_bounds(transaction, table, &found.covered).await?;
    let (masked, bared) = (!found.masked.is_empty(), found.bared.join(", "));
    let unread = record.chunk_open && !shared.was_read(record);
    if unread && (masked || !bared.is_empty()) {
        // what is in of it are its first rows, which go
        return chunks::ask_for_reading(transaction, table).await;
    }
    if masked && found.keeps_rows() {
        let reason = format!("its rows hold {} from before it was masked so", found.names());
        let statement = found.statement(table);
        let remedy = format!("{statement}; then siltstone table resume {table:#}");
        tracing::error!(%table, reason, remedy, "the table stops");
        if !logs {
            chunks::ask_for_reading(transaction, table).await?;
        }
        let stopped = State::Stopped;
        return tables::set(transaction, table, stopped, Some(&reason), Some(&remedy)).await;
    }
    if logs || (!masked && bared.is_empty()) {
        if !bared.is_empty() {
            tracing::warn!(%table, "not masked any more, from here on: {bared}");
        }
        return Ok(());
    }
    let reason = "its masks changed";
    tracing::warn!(%table, reason, "the table is read again");
    match record.is_held() {
        // whoever lets it go on has it read
        true => chunks::ask_for_reading(transaction, table).await?,
        false => {
            let state = State::Resyncing;
            chunks::open_table(transaction, table, state, Some(reason)).await?;
        }
    }
    match masked {
        true => masks::empty_first(transaction, table).await,
        false => Ok(()),
    }
}
