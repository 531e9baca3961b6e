//! How a table that is there follows its file when a session begins: what is safe is done, any other
//! difference stops that table alone until `siltstone apply` has mended it, or the file is as it was.

use super::core::Core;
use super::fit::{present_model, renames};
use super::locked;
use super::note::Then;
use super::recall::raw_of;
use super::shared::{Shared, was_read};
use super::tables::Planned;
use crate::error::{Error, Kind, Policy, Result};
use crate::journey::Target;
use crate::merge::{
    Class, Leaves, Lock, Standing, Step, absent, ahead, compare, conform, differences, fed_no_more,
    fed_otherwise, feeds,
};
use crate::postgres::Session;
use crate::progress::holds::Hold;
use crate::progress::leaves;
use crate::progress::tables::{State, TableRecord};
use crate::relation::Relation;
use crate::spec::{Connector, Model};

/// The command that makes all of these steps.
pub(super) fn apply_line<'s>(steps: impl IntoIterator<Item = &'s Step>) -> String {
    let mut classes: Vec<Class> = steps.into_iter().map(|step| step.class).collect();
    classes.retain(|class| *class != Class::Safe);
    classes.sort_unstable();
    classes.dedup();
    let words: Vec<&str> = classes.into_iter().map(Class::word).collect();
    match words.as_slice() {
        [] => "siltstone apply".to_owned(),
        words => format!("siltstone apply --allow {}", words.join(",")),
    }
}

/// Makes the table of an edited file follow where that is safe; its rows are read again for the values of
/// new columns. Any other difference stops the table. Returns how the table stands then.
pub(super) async fn follow_file(
    shared: &Shared,
    warehouse: &Session,
    standing: Standing,
    (target, record): (&Target, &mut TableRecord),
) -> Result<Standing> {
    let waits = record.awaits_apply();
    // a table that is read again is made to fit by its reading
    let busy = (record.chunk_open || record.is_held()) && !waits;
    if busy || !standing.is_there() {
        return Ok(standing);
    }
    let (unfed, readers) = (target.unfed(), &shared.setup.settings.readers);
    let judged = match record.chunk_open || record.part_open {
        true => standing.clone().once_read(&target.model, &unfed),
        false => standing.clone(),
    };
    let steps = match differences(&**warehouse, (&target.model, &judged), &unfed, readers).await {
        Ok(steps) => steps,
        Err(error) if error.kind().policy() == Policy::Retry => return Err(error),
        // as with a type that the warehouse does not know
        Err(error) => {
            let (file, table) = (&target.model.declared_in, &record.table);
            let remedy = format!("mend {file}, then siltstone table resume {table:#}");
            stop(shared, record, &error.reason(), Some(&remedy)).await?;
            return Ok(standing);
        }
    };
    let mut steps: Vec<Step> = steps.into_iter().filter(|step| !step.later).collect();
    steps.extend(fed_otherwise(&target.model, Some(&judged), record.feeds.as_deref()));
    steps.extend(fed_no_more(&target.model, Some(&judged), record.feeds.as_deref()));
    let no_ddl = shared.setup.no_ddl;
    let bars = |step: &&Step| step.class != Class::Safe || (no_ddl && !step.statements.is_empty());
    let barred: Vec<&Step> = steps.iter().filter(bars).collect();
    if !barred.is_empty() {
        stop_for(shared, record, &barred).await?;
        return Ok(standing);
    }
    if no_ddl && waits && lacks_leaves(warehouse, target).await? {
        return Ok(standing);
    }
    let table = record.table.clone();
    let statements: Vec<String> = steps.iter().flat_map(|step| &step.statements).cloned().collect();
    if steps.iter().any(|step| step.reads) {
        let raw = raw_of(&shared.setup.models, &target.model);
        let then = raw.map_or(Then::OpenChunk(State::Resyncing), |raw| Then::Rebuild(&raw.table));
        if !change(shared, record, &statements, then).await? {
            return Ok(standing);
        }
        record.state = State::Resyncing;
        (record.chunk_open, record.part_open) = (raw.is_none(), raw.is_some());
        tracing::info!(%table, "its rows are read again: {}", names_of(&steps));
    } else {
        let then = Then::Shape(target.schema_id);
        if !statements.is_empty() && !change(shared, record, &statements, then).await? {
            return Ok(standing);
        }
        if !steps.is_empty() {
            tracing::info!(%table, "it follows its file: {}", names_of(&steps));
        }
        if waits {
            go_on(shared, record).await?;
        }
    }
    note_feeds(shared, &target.model, record).await?;
    match statements.is_empty() {
        true => Ok(standing),
        false => Standing::of(&**warehouse, &table).await,
    }
}

/// Changes a table; false where that may not be, or not now, and the table stops alone.
async fn change(
    shared: &Shared,
    record: &mut TableRecord,
    statements: &[String],
    then: Then<'_>,
) -> Result<bool> {
    match shared.define(statements, &record.table, then).await {
        Err(error) if error.kind() == Kind::Rights => {
            stop(shared, record, &error.reason(), error.remedy_text()).await?;
            Ok(false)
        }
        Err(error) if locked::is_locked(&error) => {
            let Some((reason, remedy)) = locked::hold(shared, &record.table).await? else {
                return Err(error.with_kind(Kind::Busy));
            };
            (record.state, record.hold) = (State::Stopped, Some(Hold::Locked));
            (record.reason, record.remedy) = (Some(reason), Some(remedy));
            Ok(false)
        }
        defined => defined.map(|()| true),
    }
}

fn names_of<'s>(steps: impl IntoIterator<Item = &'s Step>) -> String {
    let what: Vec<&str> = steps.into_iter().map(|step| step.what.as_str()).collect();
    what.join("; ")
}

/// A table that takes values from other source columns than were noted while it is being read, or is mirrored, is
/// read from the beginning. One that is held is, when it is let go.
pub(super) async fn refeed(shared: &Shared, model: &Model, record: &mut TableRecord) -> Result<()> {
    if record.is_held() {
        return Ok(());
    }
    let steps = fed_otherwise(model, None, record.feeds.as_deref());
    let barred: Vec<&Step> = steps.iter().filter(|step| step.class == Class::Destructive).collect();
    if !barred.is_empty() && record.state != State::Snapshotting {
        return stop_for(shared, record, &barred).await;
    }
    if steps.iter().any(|step| step.reads) {
        let table = &record.table;
        tracing::info!(%table, "it is read from the beginning: {}", names_of(&steps));
        if record.chunk_open {
            shared.define(&[], table, Then::ReadAnew).await?;
        } else {
            shared.define(&[], table, Then::OpenChunk(State::Resyncing)).await?;
            (record.state, record.chunk_open) = (State::Resyncing, true);
        }
    }
    tell_no_more(model, None, record);
    note_feeds(shared, model, record).await
}

/// Says what a file asks of the rows of a table of topics, which are not read again.
pub(super) async fn tell_feeds(
    shared: &Core,
    (model, standing): (&Model, &Standing),
    record: &TableRecord,
) -> Result<()> {
    let steps = fed_otherwise(model, Some(standing), record.feeds.as_deref());
    if !steps.is_empty() {
        let remedy = "let Debezium read the table again, with an incremental snapshot";
        let (table, asked) = (&record.table, names_of(&steps));
        tracing::warn!(%table, remedy, "rows that are there stay as they are until they change: {asked}");
    }
    tell_no_more(model, Some(standing), record);
    note_feeds(shared, model, &mut record.clone()).await
}

fn tell_no_more(model: &Model, standing: Option<&Standing>, record: &TableRecord) {
    let steps = fed_no_more(model, standing, record.feeds.as_deref());
    if !steps.is_empty() {
        tracing::info!(table = %record.table, "it follows its file: {}", names_of(&steps));
    }
}

async fn note_feeds(shared: &Core, model: &Model, record: &mut TableRecord) -> Result<()> {
    let noted = feeds(model);
    if record.feeds.as_deref() != Some(&noted) {
        shared.define(&[], &record.table, Then::Feeds(&noted)).await?;
        record.feeds = Some(noted);
    }
    Ok(())
}

/// Whether the service goes by the file by which `siltstone apply` changed the table. One that has read an
/// older file would bring rows in without what that one asks for: the table waits, and files are read again.
pub(super) async fn goes_by_file(
    shared: &Shared,
    model: &Model,
    record: &mut TableRecord,
) -> Result<bool> {
    let Some(made_for) = record.made_for.take() else { return Ok(true) };
    if made_for == model.digest() {
        shared.define(&[], &record.table, Then::MadeFor(None)).await?;
        return Ok(true);
    }
    shared.setup.reread.ask();
    let why = "siltstone apply changed it by another file than the service has read";
    let remedy = "siltstone apply, where the service's file is the right one; else restart the service \
                  with the other";
    stop(shared, record, why, Some(remedy)).await?;
    Ok(false)
}

/// A mirrored table that waits for `siltstone apply` goes on once it has the shape of its source, or where
/// it may follow by itself.
pub(super) async fn follow_source(
    shared: &Shared,
    warehouse: &Session,
    (target, now): (&Target, &Relation),
    record: &mut TableRecord,
) -> Result<()> {
    if !record.awaits_apply() {
        return Ok(());
    }
    if shared.setup.no_ddl {
        let standing = Standing::of(&**warehouse, &record.table).await?;
        let model = present_model(shared.connector(), &shared.extensions, &target.model, now)?;
        let fits = mirrored_step(&model, standing, &target.relation, now);
        let fits = fits.is_ok_and(|step| step.is_none());
        if !fits || lacks_leaves(warehouse, target).await? {
            return Ok(());
        }
    }
    go_on(shared, record).await
}

async fn lacks_leaves(warehouse: &Session, target: &Target) -> Result<bool> {
    let days = leaves::wanted(&**warehouse, &target.model.table).await?;
    let wanted = Leaves::default().missing(&target.model, days)?;
    Ok(!absent(&**warehouse, wanted).await?.is_empty())
}

/// What gives a mirrored table the shape that its source has `now`; none where it has it. `was` is the shape
/// that was applied last.
pub(super) fn mirrored_step(
    model: &Model,
    mut standing: Standing,
    was: &Relation,
    now: &Relation,
) -> Result<Option<Step>> {
    let mut statements = renames(&compare(was, now), model, &mut standing)?;
    let fit = conform(model, &standing, &[])?;
    statements.extend(fit.statements);
    if statements.is_empty() {
        return Ok(None);
    }
    let what = format!("follow {}", now.table);
    let step = Step::new(what, statements, Lock::AccessExclusive);
    let class = if fit.empties { Class::Destructive } else { Class::Safe };
    Ok(Some(Step { class, reads: true, ..step }))
}

/// The statements that a change of shape asks for, as far as they may be made here: where somebody else makes
/// them, they are made, or the table stops.
pub(super) async fn permitted(
    shared: &Core,
    target: &Target,
    statements: Vec<String>,
) -> Result<Vec<String>> {
    if !shared.setup.no_ddl || statements.is_empty() {
        return Ok(statements);
    }
    let (model, side) = (&target.model, shared.side_session().await);
    let standing = Standing::of(&**side.session(), &model.table).await?;
    match conform(model, &standing, &target.unfed())?.statements.is_empty() {
        true => Ok(Vec::new()),
        false => {
            let table = model.table.to_string();
            Err(not_ours("its source has another shape now").on_table(table))
        }
    }
}

/// Stops a table until these differences are mended.
async fn stop_for(shared: &Shared, record: &mut TableRecord, steps: &[&Step]) -> Result<()> {
    let why = if shared.setup.no_ddl { "--no-ddl leaves to others" } else { "takes your word" };
    let reason = format!("its file asks for what {why}: {}", names_of(steps.iter().copied()));
    stop(shared, record, &reason, Some(&apply_line(steps.iter().copied()))).await
}

/// A table that waited for `siltstone apply` goes on with its kept changes.
pub(super) async fn go_on(shared: &Shared, record: &mut TableRecord) -> Result<()> {
    let unread = record.chunk_open || record.part_open;
    let state = if unread { State::Resyncing } else { State::CatchingUp };
    shared.define(&[], &record.table, Then::GoOn(state)).await?;
    tracing::info!(table = %record.table, "its table and its file agree: it goes on");
    (record.state, record.hold) = (state, None);
    (record.reason, record.remedy) = (None, None);
    Ok(())
}

/// Stops a table; its changes are kept. The remedy is a resync where none is given.
pub(super) async fn stop(
    shared: &Shared,
    record: &mut TableRecord,
    reason: &str,
    remedy: Option<&str>,
) -> Result<()> {
    let table = &record.table;
    let resync = format!("siltstone table resync {table:#}");
    let remedy = remedy.unwrap_or(&resync);
    let known = (record.reason.as_deref(), record.remedy.as_deref());
    if record.state == State::Stopped && known == (Some(reason), Some(remedy)) {
        return Ok(());
    }
    shared.define(&[], table, Then::Stop { reason, remedy, unread: false }).await?;
    tracing::error!(%table, reason, remedy, "the table stops");
    (record.state, record.hold) = (State::Stopped, None);
    (record.reason, record.remedy) = (Some(reason.to_owned()), Some(remedy.to_owned()));
    Ok(())
}

/// What is noted of a table of which the stream missed changes. What was kept for a table of events is
/// applied, and what comes behind it.
pub(super) fn missed(connector: &Connector, record: &TableRecord, model: &Model) -> Then<'static> {
    if !(model.history.logs_events() && was_read(connector, record)) {
        return Then::OpenChunk(State::Resyncing);
    }
    if record.state == State::CatchingUp { Then::NameGap } else { Then::Gap }
}

/// Makes the leaves that tables should have before anything asks for them. Where that fails, it is tried
/// again when something does.
pub(super) async fn leaves_ahead(shared: &Shared, planned: &[Planned]) -> Result<()> {
    if shared.setup.no_ddl {
        return Ok(());
    }
    let today = shared.setup.clock.now_postgres().div_euclid(super::drain::DAY);
    for Planned { target, record, .. } in planned.iter().filter(|table| table.record.made) {
        let wanted = [(target.model.clone(), ahead(&target.model, today))];
        match shared.ensure_leaves(&wanted, None).await {
            Err(error) if matches!(error.kind(), Kind::TableStops | Kind::Poison | Kind::Busy) => {
                tracing::warn!(table = %record.table, "leaves ahead: {}", error.reason());
            }
            made => made?,
        }
    }
    Ok(())
}

/// What somebody else is to do before a table goes on.
pub(super) fn not_ours(what: &str) -> Error {
    let what = format!("{what}, and --no-ddl leaves that to others");
    Error::new(Kind::TableStops, what).remedy("siltstone apply")
}
