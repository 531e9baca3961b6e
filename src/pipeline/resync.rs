//! What is read again because somebody asked: every table under a new slot, or the rows of a table that
//! meet a condition. What cannot be done is refused before anything of it is noted.

use std::sync::Arc;

use super::control::Control;
use super::core::Reads;
use super::cutting::ASKED;
use super::parts::{Part, unfit};
use super::rebuild::no_raw;
use super::recall::raw_of;
use super::resolve::{feeders, resolve};
use super::shared::{Setup, was_read};
use super::tables::Planned;
use super::topics::{not_read, not_read_again};
use crate::binding::bind;
use crate::capture::catalog::{self, SourceTable};
use crate::error::{Error, Kind, Result};
use crate::journey::Target;
use crate::merge::extension_types;
use crate::names::TableName;
use crate::postgres::{Session, Side, connect};
use crate::progress::parts::What;
use crate::progress::requests::{self, Request, Verb};
use crate::progress::tables::State;
use crate::progress::{chunks, forget, gaps, holds, parts, tables};
use crate::spec::{Model, Spec};
use crate::warehouse::{Fence, Fenced};

/// Every table is read again under a new slot. Where nobody asked for it by a request, a table that is
/// stopped or paused stays so: whoever lets it go on has it read, or sends it on behind the gap.
pub(super) async fn resync_all(
    setup: &Setup,
    (fence, warehouse): (&Fence, &mut Session),
    request: Option<i64>,
    why: &str,
) -> Result<()> {
    let connector = &setup.connector;
    let transaction = Fenced::begin(warehouse, fence, "request", &setup.durations).await?;
    let records = tables::read(&*transaction, &connector.name).await?;
    let stored = Reads::of(connector).stored(&transaction).await?;
    for record in &records {
        let table = &record.table;
        let stays = request.is_none() && record.is_held();
        let (reason, remedy) = (record.reason.as_deref(), record.remedy.as_deref());
        match setup.logs_events(table) && was_read(connector, record) {
            true => {
                gaps::note(&transaction, table, (stored, None), why).await?;
                match stays {
                    true => {
                        let held = (record.state, record.hold);
                        holds::set(&*transaction, table, held, reason, remedy).await?;
                    }
                    false => {
                        tables::set(&*transaction, table, State::Streaming, None, None).await?;
                    }
                }
            }
            false if stays => chunks::ask_for_reading(&transaction, table).await?,
            false => {
                chunks::open_table(&transaction, table, State::Resyncing, Some(why)).await?;
            }
        }
        if stays {
            let word = record.state.word();
            tracing::warn!(%table, reason, remedy, "the table stays {word}: {why}");
        }
    }
    forget(&transaction, &connector.name).await?;
    // the slot is made anew: it is found in this state and dropped first
    crate::progress::record_creating(&transaction, &connector.name, &connector.slot).await?;
    let answer = format!("{} tables are read again under a new slot", records.len());
    if let Some(id) = request {
        requests::answer(&*transaction, id, true, &answer).await?;
    }
    transaction.commit().await?;
    tracing::info!("{answer}");
    Ok(())
}

impl Control {
    /// The rows of a table that meet a condition are read again, or it is rebuilt from a raw table; true where
    /// a new session takes that up.
    pub(super) async fn mend(
        &self,
        (source, warehouse): (&mut Session, &mut Session),
        planned: &[Planned],
        request: &Request,
    ) -> Result<bool> {
        let condition = request.argument.as_deref().unwrap_or_default();
        let Some(table) = &request.table else { return Ok(false) };
        let of = planned.iter().find(|planned| planned.record.table == *table);
        let models = &self.shared.setup.models;
        let raw = of.and_then(|of| raw_of(models, &of.target.model));
        let refused = match (of, request.verb, raw) {
            (None, ..) => Some(format!("the connector feeds no table {table}")),
            (Some(of), Verb::Rebuild, None) => Some(no_raw(&of.target.model).advice()),
            (Some(_), Verb::Rebuild, Some(_)) => None,
            (Some(of), ..) => refusal(source, (&of.target, &of.source), condition).await?,
        };
        let (fence, durations) = (&self.shared.fence, &self.shared.setup.durations);
        let transaction = Fenced::begin(warehouse, fence, "request", durations).await?;
        let records = tables::read(&*transaction, &self.shared.connector().name).await?;
        let state = records.iter().find(|record| record.table == *table).map(|of| of.state);
        let refused = refused.or_else(|| match state {
            Some(State::Streaming) => None,
            Some(state) => Some(format!("{table} is {}, not streaming", state.word())),
            None => Some(format!("the connector feeds no table {table}")),
        });
        if let Some(why) = &refused {
            requests::answer(&*transaction, request.id, false, why).await?;
            transaction.commit().await?;
            tracing::info!(%table, "{why}");
            return Ok(false);
        }
        let (what, told) = match raw.filter(|_| request.verb == Verb::Rebuild) {
            Some(raw) => (What::Raw(&raw.table), "--from raw"),
            None => (What::Where(condition), "--where"),
        };
        let reason = format!("{ASKED} {told}");
        parts::open(&transaction, table, (what, Some(request.id)), Some(&reason)).await?;
        transaction.commit().await?;
        tracing::info!(%table, "{reason}: its changes are kept meanwhile");
        Ok(true)
    }
}

/// Refuses, where it is asked, to read again what cannot be read: of topics what their source does not have, and no
/// rows by a condition that does not fit, as far as that can be told without the service.
pub async fn check_resync(
    spec: &Spec,
    (verb, connector): (Verb, &str),
    table: Option<&TableName>,
    condition: Option<&str>,
) -> Result<()> {
    if let Some(kafka) = spec.kafka.iter().find(|known| known.name == connector) {
        let whose = table.map_or_else(|| connector.to_owned(), ToString::to_string);
        let model = table.and_then(|table| spec.models.iter().find(|model| model.table == *table));
        let whole = |model: &Model| not_read(&model.table, model.history);
        let refused = not_read_again(kafka, verb, &whose)
            .or_else(|| model.filter(|_| verb == Verb::Resync).and_then(whole));
        return refused.map_or(Ok(()), |why| Err(Error::new(Kind::Usage, why)));
    }
    match (condition, table) {
        (Some(condition), Some(table)) => check_condition(spec, connector, table, condition).await,
        _ => Ok(()),
    }
}

async fn check_condition(
    spec: &Spec,
    connector: &str,
    table: &TableName,
    condition: &str,
) -> Result<()> {
    let usage = |what: String| Error::new(Kind::Usage, what);
    let connector = spec.connectors.iter().find(|known| known.name == connector);
    let unknown = || usage(format!("no connector feeds {table}"));
    let connector = connector.ok_or_else(unknown)?;
    let mut source = connect(Side::Source, &connector.endpoint, "siltstone request").await?;
    let warehouse = connect(Side::Warehouse, &spec.settings.warehouse, "siltstone request").await?;
    let extensions = extension_types(&*warehouse).await?;
    let known = feeders(&tables::read(&*warehouse, &connector.name).await?);
    let catalogue = catalog::tables(&*source).await?;
    let resolved = resolve(connector, &spec.models, catalogue, &extensions, &known);
    let mut fed = resolved.fed.into_iter().filter_map(|fed| {
        let model = fed.models.iter().find(|model| model.table == *table)?.clone();
        Some((model, fed.source))
    });
    let (model, now) = fed.next().ok_or_else(unknown)?;
    let target = bind(0, &model, &Arc::new(now.relation.clone()), 0, false)?.target;
    match refusal(&mut source, (&target, &now), condition).await? {
        Some(why) => Err(usage(why)),
        None => Ok(()),
    }
}

/// Why a condition is of no use for a table; none where it can be read.
async fn refusal(
    source: &mut Session,
    (target, now): (&Target, &SourceTable),
    condition: &str,
) -> Result<Option<String>> {
    let table = &target.model.table;
    if let Some(why) = unfit(target) {
        return Ok(Some(format!("no part of {table} can be read again: {why}")));
    }
    let failed = |error| Error::source("reading a condition", error);
    let reading = source.build_transaction().read_only(true).start().await.map_err(failed)?;
    let checked = match Part::of(target, now, condition) {
        Ok(part) => part.condition.check(&reading).await,
        Err(error) => Err(error),
    };
    match checked {
        Ok(()) => Ok(None),
        Err(error) if error.kind() == Kind::TableStops => Ok(Some(error.reason())),
        Err(error) => Err(error),
    }
}
