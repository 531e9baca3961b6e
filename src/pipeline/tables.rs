//! The warehouse tables that a connector feeds, bound to what the source has and defined in the warehouse where
//! they are new.

use std::sync::Arc;

use super::adopt::made;
use super::fit::suit;
use super::follow::{follow_file, follow_source, goes_by_file, missed, refeed, stop};
use super::locked;
use super::note::Then;
use super::resolve::{Fed, LeftOut, Resolved};
use super::shared::Shared;
use crate::binding::bind;
use crate::capture::catalog::SourceTable;
use crate::capture::publication::Untold;
use crate::error::{Error, Kind, Result};
use crate::journey::Target;
use crate::merge::{Standing, define, feeds};
use crate::position::Lsn;
use crate::postgres::Session;
use crate::progress::holds::Hold;
use crate::progress::tables::{State, TableRecord};
use crate::progress::{schemas, tables};
use crate::relation::Relation;
use crate::spec::{Model, mirror};

/// A warehouse table of a session.
pub(super) struct Planned {
    pub(super) target: Arc<Target>,
    pub(super) source: SourceTable,
    pub(super) record: TableRecord,
}

/// Defines tables that are new and binds every one to the shape that was applied last.
pub(super) async fn plan(
    shared: &Shared,
    warehouse: &Session,
    resolved: &Resolved,
    untold: &Untold,
) -> Result<(Vec<Planned>, Vec<LeftOut>)> {
    let connector = shared.connector();
    let records = tables::read(&**warehouse, &connector.name).await?;
    let numbers: Vec<i32> = records.iter().filter_map(|record| record.schema_id).collect();
    let shapes = schemas::read(&**warehouse, &numbers).await?;
    let (mut planned, mut left_out) = (Vec::<Planned>::new(), Vec::new());
    for fed in &resolved.fed {
        for model in &fed.models {
            let record = records.iter().find(|record| record.table == model.table);
            let known = record.and_then(|record| shapes.get(&record.schema_id?));
            let told = !untold.contains_key(&fed.source.relation.table);
            let made = match (record, known) {
                (Some(record), Some(shape)) => {
                    recorded(shared, warehouse, fed, model, (record, shape, told)).await
                }
                // behind a gap it goes on in the shape that its source has now
                (Some(record), None) => {
                    let now = &fed.source.relation;
                    let schema_id = shared.number_shape(now).await?;
                    shared.define(&[], &record.table, Then::Shape(schema_id)).await?;
                    let record = TableRecord { schema_id: Some(schema_id), ..record.clone() };
                    recorded(shared, warehouse, fed, model, (&record, now, told)).await
                }
                (None, _) => fresh(shared, fed, model, planned.len()).await,
            };
            match made {
                Ok(mut table) => {
                    let mut target = (*table.target).clone();
                    target.index = planned.len();
                    table.target = Arc::new(target);
                    planned.push(table);
                }
                Err(error) if is_of_table(&error) => left_out.push(LeftOut {
                    table: model.table.clone(),
                    why: error.reason(),
                    remedy: error.remedy_text().unwrap_or_default().to_owned(),
                    refused: false,
                }),
                Err(error) => return Err(error),
            }
        }
    }
    for record in &records {
        if !planned.iter().any(|table| table.record.table == record.table) {
            let because = |out: &&LeftOut| {
                out.table == record.table || Some(&out.table) == record.source.as_ref()
            };
            let out = resolved.left_out.iter().chain(&left_out).find(because);
            shelve(shared, record, out).await?;
        }
    }
    Ok((planned, left_out))
}

/// Whether one table alone is concerned.
fn is_of_table(error: &Error) -> bool {
    match error.kind() {
        Kind::TableStops | Kind::Poison => true,
        Kind::Rights => error.table().is_some(),
        _ => false,
    }
}

/// What is done about a table that nothing feeds.
const FORGET: &str = "siltstone apply forgets it, and its rows stay; or write a file that feeds it";

/// A table that nothing feeds any more misses changes from now on: should it be fed again, it has to
/// be read again.
async fn shelve(shared: &Shared, record: &TableRecord, out: Option<&LeftOut>) -> Result<()> {
    let reason = out.map_or("nothing feeds it", |out| out.why.as_str());
    let again = record.is_shelved();
    if again && record.reason.as_deref() == Some(reason) {
        return Ok(());
    }
    let remedy = out.map_or(FORGET, |out| out.remedy.as_str());
    let (table, remedy) = (&record.table, Some(remedy));
    tracing::warn!(%table, reason, remedy, "nothing feeds this table any more; it stays as it is");
    shared.define(&[], table, Then::Shelve { reason, remedy, again }).await
}

/// A table that is fed again after a time in which it was not, or was in part.
async fn take_back(shared: &Shared, target: &Target, record: &mut TableRecord) -> Result<()> {
    let table = &record.table;
    let then = missed(shared.connector(), record, &target.model);
    shared.define(&[], table, then).await?;
    if matches!(then, Then::OpenChunk(_)) {
        tracing::warn!(%table, "the stream missed some of its changes: it is read again");
        (record.state, record.chunk_open) = (State::Resyncing, true);
    } else {
        tracing::warn!(%table, "the stream missed some of its changes: a gap in audit.gaps");
        (record.state, record.chunk_open) = (State::CatchingUp, false);
    }
    record.hold = None;
    Ok(())
}

fn bound(shared: &Shared, model: &Arc<Model>, shape: &Relation, schema_id: i32) -> Result<Target> {
    Ok(bind(0, model, &Arc::new(shape.clone()), schema_id, shared.binary)?.target)
}

/// The target of a table we know, in the shape that was applied last, or where that fits no more in the one that its
/// source has now.
async fn in_last_shape(
    shared: &Shared,
    fed: &Fed,
    model: &Arc<Model>,
    (record, shape): (&mut TableRecord, &Relation),
) -> Result<Target> {
    let shaped = match model.mirrored {
        true => mirror(shared.connector(), shape, &shared.extensions).map(Arc::new),
        false => Some(model.clone()),
    };
    let schema_id = record.schema_id.unwrap_or(0);
    if let Some(Ok(target)) = shaped.map(|model| bound(shared, &model, shape, schema_id)) {
        return Ok(target);
    }
    let now = &fed.source.relation;
    let schema_id = shared.number_shape(now).await?;
    let target = bound(shared, model, now, schema_id)?;
    if !record.chunk_open {
        stop(shared, record, "its rows are told apart by other columns now", None).await?;
    }
    Ok(target)
}

/// A table we know, in the shape that was applied last: the stream tells what changed since. One that
/// is to be read again is bound to what the source has now, if its last shape does not fit any more.
async fn recorded(
    shared: &Shared,
    warehouse: &Session,
    fed: &Fed,
    model: &Arc<Model>,
    (record, shape, told): (&TableRecord, &Relation, bool),
) -> Result<Planned> {
    let (mut record, now) = (record.clone(), &fed.source.relation);
    let mut target = in_last_shape(shared, fed, model, (&mut record, shape)).await?;
    if !record.made {
        if !record.is_held() {
            make(shared, &target, &mut record, false).await?;
        }
        if !record.made {
            if !told && !record.chunk_open {
                shared.define(&[], &record.table, Then::ReadAnew).await?;
                record.chunk_open = true;
            }
            let target = Arc::new(target);
            return Ok(Planned { target, source: fed.source.clone(), record });
        }
    }
    let standing = match record.chunk_open || !model.mirrored {
        true => Some(Standing::of(&**warehouse, &record.table).await?),
        false => None,
    };
    if record.chunk_open && standing.as_ref().is_some_and(|standing| !standing.is_there()) {
        // somebody dropped it, and asked for it again
        let statements = define(model, &shared.setup.settings.readers);
        let schema_id = shared.number_shape(now).await?;
        shared.define(&statements, &model.table, Then::Shape(schema_id)).await?;
        shared.define(&[], &model.table, Then::ReadAnew).await?;
        let target = Arc::new(bound(shared, model, now, schema_id)?);
        return Ok(Planned { target, source: fed.source.clone(), record });
    }
    let same = goes_by_file(shared, model, &mut record).await?;
    if let Some(standing) = standing.filter(|_| same && !model.mirrored) {
        let standing = follow_file(shared, warehouse, standing, (&target, &mut record)).await?;
        target = target.with_limits(standing.limits(model));
    }
    if same && model.mirrored {
        follow_source(shared, warehouse, (&target, now), &mut record).await?;
    }
    if same && (model.mirrored || record.chunk_open) {
        refeed(shared, model, &mut record).await?;
    }
    let recreated = shape.oid != now.oid;
    if recreated && !record.chunk_open && record.state != State::Stopped {
        // rows were written before the new table was published: the stream alone cannot tell them
        stop(shared, &mut record, "its source table was dropped and made again", None).await?;
    }
    if record.state == State::Stopped && !told && !record.chunk_open {
        // it goes on by being read again, whatever it stopped for
        shared.define(&[], &record.table, Then::ReadAnew).await?;
        record.chunk_open = true;
    } else if record.is_shelved() || (!told && !record.chunk_open) {
        take_back(shared, &target, &mut record).await?;
    }
    Ok(Planned { target: Arc::new(target), source: fed.source.clone(), record })
}

/// A new table: made in the warehouse, its rows yet to be read. One that somebody has locked waits alone.
async fn fresh(shared: &Shared, fed: &Fed, model: &Arc<Model>, index: usize) -> Result<Planned> {
    let relation = Arc::new(fed.source.relation.clone());
    let binding = suit(index, model, &relation, shared.binary)?;
    for column in &binding.untaken {
        tracing::info!(table = %model.table, column, "the file does not take this source column");
    }
    let schema_id = shared.number_shape(&relation).await?;
    let target = Target { schema_id, ..binding.target };
    let reads = shared.connector().snapshot.initial;
    let mut record = TableRecord {
        table: model.table.clone(),
        source: Some(relation.table.clone()),
        state: State::Streaming,
        made: false,
        hold: None,
        reason: None,
        remedy: None,
        floor: 0,
        schema_id: Some(schema_id),
        chunk_open: reads,
        part_open: false,
        joins: Lsn(0),
        was_read: !reads,
        made_for: None,
        feeds: Some(feeds(model)),
        seen: None,
    };
    make(shared, &target, &mut record, true).await?;
    Ok(Planned { target: Arc::new(target), source: fed.source.clone(), record })
}

/// Makes or adopts the table of a target; where somebody has a lock on it, it waits alone, and is made when that is
/// gone.
async fn make(
    shared: &Shared,
    target: &Target,
    record: &mut TableRecord,
    is_new: bool,
) -> Result<()> {
    let (model, schema_id) = (&*target.model, target.schema_id);
    let (connector, readers) = (shared.connector(), &shared.setup.settings.readers);
    let reads = connector.snapshot.initial;
    let found = {
        // which waits for no lock, as looking whether there are rows may
        let side = shared.side_session().await;
        made(side.session(), (connector, reads), target, (readers, false)).await
    };
    let defined = match found {
        Ok((statements, state)) => {
            let then = Then::Add { model, schema_id, state };
            shared.define(&statements, &model.table, then).await.map(|()| state)
        }
        Err(error) => Err(error),
    };
    match defined {
        Ok(state) => {
            record.made = true;
            if is_new || reads {
                (record.state, record.hold, record.chunk_open) = (state, None, reads);
                (record.reason, record.remedy) = (None, None);
            }
        }
        Err(error) if locked::is_locked(&error) => {
            if is_new {
                shared.define(&[], &model.table, Then::Await { model, schema_id }).await?;
            }
            let told = locked::hold(shared, &model.table).await?;
            (record.state, record.hold) = (State::Stopped, Some(Hold::Locked));
            (record.reason, record.remedy) = told.unzip();
        }
        Err(error) => return Err(error),
    }
    Ok(())
}
