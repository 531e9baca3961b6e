//! What differs between files, warehouse and source, by the functions that a start and `apply` ask as well.
//! Reads in sessions that cannot write; works beside a running service, and before the first start.

use std::sync::Arc;

use super::adopt::made;
use super::differences::{ConnectorPlan, Plan, TablePlan};
use super::extracted::lacks;
use super::fit::suit;
use super::follow::mirrored_step;
use super::mart;
use super::placing;
use super::recall::raw_of;
use super::resolve::{Fed, LeftOut, Resolved, feeders, resolve};
use super::rights::leave_out_unowned;
use crate::binding::bind;
use crate::capture::publication;
use crate::capture::{catalog, preflight, ranges, slot};
use crate::clock::Clock;
use crate::error::{Error, Kind, Policy, Result};
use crate::merge::{
    Leaf, Leaves, Lock, Standing, Step, absent, ahead, columns, define, define_calendar,
    differences, estimate_rows, extension_types, fed_no_more, fed_otherwise,
};
use crate::names::TableName;
use crate::postgres::{Endpoint, Session, Side, connect};
use crate::progress::leaves::wanted;
use crate::progress::tables::{State, TableRecord};
use crate::progress::{schemas, tables, unfed};
use crate::relation::Relation;
use crate::spec::{Connector, Model, Spec};
use crate::warehouse::outstanding;

/// Looks for every difference.
pub async fn plan(spec: &Spec, clock: &Clock) -> Result<Plan> {
    let warehouse = reader(Side::Warehouse, &spec.settings.warehouse).await?;
    let control = outstanding(&*warehouse).await?;
    let known = "select to_regclass('audit.tables') is not null";
    let known = warehouse.query_one(known, &[]).await.and_then(|row| row.try_get(0));
    let known: bool =
        known.map_err(|error| Error::warehouse("looking for its control tables", error))?;
    let knows_leaves = control.is_empty();
    let today = clock.now_postgres().div_euclid(super::drain::DAY);
    let mut plan = Plan {
        control,
        connectors: Vec::new(),
        calendars: Vec::new(),
        extracted: Vec::new(),
        marts: Vec::new(),
        lookups: Vec::new(),
        notes: Vec::new(),
    };
    for connector in &spec.connectors {
        let source = reader(Side::Source, &connector.endpoint).await?;
        let look = Look {
            spec,
            connector,
            warehouse: &warehouse,
            source: &source,
            known,
            knows_leaves,
            today,
        };
        plan.connectors.push(look.all(&mut plan.notes).await?);
    }
    plan.notes.extend(spec.kafka.iter().map(|connector| {
        let what = "are not planned: siltstone run makes and widens them as records come";
        format!("the tables that the topics of {} feed {what}", connector.name)
    }));
    for calendar in &spec.calendars {
        if columns(&*warehouse, &calendar.table).await?.is_empty() {
            let statements = define_calendar(calendar, &spec.settings.readers);
            plan.calendars.push((calendar.table.clone(), statements));
        }
    }
    extracted(spec, (&warehouse, today), &mut plan).await?;
    marts(spec, &mut plan).await?;
    Ok(plan)
}

/// What tables lack whose rows tasks of jobs bring.
async fn extracted(
    spec: &Spec,
    (warehouse, today): (&Session, i64),
    plan: &mut Plan,
) -> Result<()> {
    for model in spec.models.iter().filter(|model| spec.is_extracted(model)) {
        match lacks(&**warehouse, model, (&spec.settings.readers, today)).await {
            Ok(found) => plan.extracted.push(found),
            Err(error) if error.kind().policy() == Policy::StopTable => {
                let remedy = error.remedy_text().unwrap_or("see its file");
                plan.notes.push(format!("{}: {}; {remedy}", model.table, error.reason()));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What marts and lookups lack. A view tells what their queries answer, and is gone with its transaction.
async fn marts(spec: &Spec, plan: &mut Plan) -> Result<()> {
    let made = |mart: &TableName| format!("{mart} is made when the tables that it reads are there");
    if !plan.control.is_empty() {
        plan.notes.extend(placing::to_come(spec));
        plan.notes.extend(spec.marts.iter().map(|mart| made(&mart.table)));
        return Ok(());
    }
    let mut session = connect(Side::Warehouse, &spec.settings.warehouse, "siltstone plan").await?;
    let (steps, notes) = placing::lacks(&mut session, spec).await?;
    plan.lookups = steps;
    plan.notes.extend(notes);
    for mart in &spec.marts {
        match mart::lacks(&mut session, mart, &spec.settings.readers).await {
            Ok(None) => {}
            Ok(Some(step)) => plan.marts.push((mart.table.clone(), step)),
            Err(error) if error.kind() == Kind::Busy => plan.notes.push(made(&mart.table)),
            Err(error) if error.kind().policy() == Policy::StopTable => {
                let remedy = error.remedy_text().map(|remedy| format!(" ({remedy})"));
                plan.notes.push(format!("{}{}", error.reason(), remedy.unwrap_or_default()));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A session that cannot write.
async fn reader(side: Side, endpoint: &Endpoint) -> Result<Session> {
    let session = connect(side, endpoint, "siltstone plan").await?;
    let reads = session.batch_execute("set default_transaction_read_only to on").await;
    reads.map_err(|error| match side {
        Side::Source => Error::source("setting up a session", error),
        Side::Warehouse => Error::warehouse("setting up a session", error),
    })?;
    Ok(session)
}

struct Look<'l> {
    spec: &'l Spec,
    connector: &'l Connector,
    warehouse: &'l Session,
    source: &'l Session,
    /// whether there are control tables
    known: bool,
    /// whether they are as young as this program
    knows_leaves: bool,
    today: i64,
}

impl Look<'_> {
    async fn all(&self, notes: &mut Vec<String>) -> Result<ConnectorPlan> {
        let connector = self.connector;
        let preflight::Source { findings, version, .. } =
            preflight::inspect(self.source, 0).await?;
        preflight::refuse(&findings)?;
        let extensions = extension_types(&**self.warehouse).await?;
        let catalogue = catalog::tables(&**self.source).await?;
        let records = match self.known {
            true => tables::read(&**self.warehouse, &connector.name).await?,
            false => Vec::new(),
        };
        let (models, known) = (&self.spec.models, feeders(&records));
        let mut resolved = resolve(connector, models, catalogue, &extensions, &known);
        let untold = publication::untold(self.source, &resolved.publications, version).await?;
        leave_out_unowned(&mut resolved, self.source, (&untold, &connector.name)).await?;
        let tables = self.tables(&resolved, &records, notes).await?;
        let of = |fed: &Fed, model: &Arc<Model>| {
            let record = records.iter().find(|record| record.table == model.table)?;
            let missed = untold.contains_key(&fed.source.relation.table) && !record.chunk_open;
            missed.then(|| (model.clone(), record.clone()))
        };
        let fed = resolved.fed.iter();
        let untold =
            fed.flat_map(|fed| fed.models.iter().filter_map(move |model| of(fed, model))).collect();
        let mut publications = Vec::new();
        for wanted in resolved.publications {
            let statements = publication::statements(self.source, &wanted, version).await?;
            if !statements.is_empty() {
                publications.push((wanted, statements));
            }
        }
        let unfed = self.unfed(&records, &resolved.fed, &resolved.left_out).await?;
        for out in &resolved.left_out {
            notes.push(format!("{} is left out: {}; {}", out.table, out.why, out.remedy));
        }
        if slot::inspect(self.source, &connector.slot).await?.is_none() {
            let (slot, name) = (&connector.slot, &connector.name);
            // with the snapshot that goes with it, which nobody could use later
            notes.push(format!("the first start of {name} makes the replication slot {slot}"));
        }
        let connector = connector.clone();
        Ok(ConnectorPlan { connector, tables, publications, untold, unfed, version })
    }

    /// The tables that are known, and that no file and no table of the source feeds.
    async fn unfed(
        &self,
        records: &[TableRecord],
        fed: &[Fed],
        left_out: &[LeftOut],
    ) -> Result<Vec<(TableRecord, bool)>> {
        let is_fed = |record: &TableRecord| {
            let models = fed.iter().flat_map(|fed| &fed.models);
            models.into_iter().any(|model| model.table == record.table)
        };
        // one that is left out for something that a person may mend is waited for
        let waits = |record: &TableRecord| {
            let of = |out: &LeftOut| {
                out.table == record.table || Some(&out.table) == record.source.as_ref()
            };
            left_out.iter().any(of)
        };
        let mut nobodys = Vec::new();
        for record in records.iter().filter(|record| !is_fed(record) && !waits(record)) {
            let holds = unfed::holds(&**self.warehouse, &record.table).await?;
            nobodys.push((record.clone(), holds));
        }
        Ok(nobodys)
    }

    async fn tables(
        &self,
        resolved: &Resolved,
        records: &[TableRecord],
        notes: &mut Vec<String>,
    ) -> Result<Vec<TablePlan>> {
        let numbers: Vec<i32> = records.iter().filter_map(|record| record.schema_id).collect();
        let shapes = match self.known {
            true => schemas::read(&**self.warehouse, &numbers).await?,
            false => std::collections::HashMap::new(),
        };
        let dressed = records.iter().filter_map(|record| {
            let known_as = resolved.feeder(&record.table).or(record.source.as_ref())?;
            self.masks((record, known_as), shapes.get(&record.schema_id?)?)
        });
        notes.extend(dressed);
        let mut tables = Vec::new();
        for fed in &resolved.fed {
            for model in &fed.models {
                // one that waits for a lock is as new as one that nobody has begun with
                let record = records.iter().find(|of| of.table == model.table && of.made);
                let shape = record.and_then(|record| shapes.get(&record.schema_id?));
                let found = match record {
                    Some(record) => self.known(fed, model, record, shape).await,
                    None => self.fresh(fed, model).await,
                };
                match found {
                    Ok(table) => tables.push(table),
                    Err(error) if matches!(error.kind(), Kind::TableStops | Kind::Poison) => {
                        let remedy = error.remedy_text().unwrap_or("see siltstone why");
                        notes.push(format!("{}: {}; {remedy}", model.table, error.reason()));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(tables)
    }

    /// What a start does to a table whose columns are masked otherwise than its rows.
    fn masks(
        &self,
        (record, known_as): (&TableRecord, &TableName),
        shape: &Relation,
    ) -> Option<String> {
        let mut now = shape.clone();
        self.connector.masks.dress(known_as, &mut now);
        let columns = shape.columns.iter().zip(&now.columns);
        let names = columns.filter(|(was, now)| was.mask != now.mask);
        let names: Vec<&str> = names.map(|(was, _)| was.name.as_str()).collect();
        let (table, names) = (&record.table, names.join(", "));
        let what = "the next start masks what is kept where it lies, and empties the table and reads it again; \
                    or stops it, with the statement that clears it, where its rows hold what the source has no more";
        (!names.is_empty()).then(|| format!("{table}: {names}: its masks changed; {what}"))
    }

    /// A table that is yet to be made.
    async fn fresh(&self, fed: &Fed, model: &Arc<Model>) -> Result<TablePlan> {
        let relation = &fed.source.relation;
        let binding = suit(0, model, &Arc::new(relation.clone()), true)?;
        let there = !columns(&**self.warehouse, &model.table).await?.is_empty();
        let readers = (&self.spec.settings.readers[..], true);
        let terms = (&**self.connector, self.connector.snapshot.initial);
        let (statements, first) = made(self.warehouse, terms, &binding.target, readers).await?;
        let what = if there { "take it as it is, fed by" } else { "make it, fed by" };
        let step = Step::new(format!("{what} {}", relation.table), statements, Lock::None);
        let steps = vec![step];
        let leaves = self.leaves(model, relation, true).await?;
        let (model, relation) = (model.clone(), relation.clone());
        let (record, raw, rows, held_alone) = (None, None, 0, None);
        Ok(TablePlan { model, relation, record, first, steps, raw, leaves, rows, held_alone })
    }

    fn make(&self, model: &Model, relation: &Relation) -> Step {
        let statements = define(model, &self.spec.settings.readers);
        Step::new(format!("make it, fed by {}", relation.table), statements, Lock::None)
    }

    /// A table that we know.
    async fn known(
        &self,
        fed: &Fed,
        model: &Arc<Model>,
        record: &TableRecord,
        shape: Option<&Relation>,
    ) -> Result<TablePlan> {
        let relation = &fed.source.relation;
        let standing = Standing::of(&**self.warehouse, &model.table).await?;
        let held_alone = standing.held_alone();
        let mut steps = Vec::new();
        if !standing.is_there() {
            let step = self.make(model, relation);
            steps.push(Step { reads: true, remakes: true, ..step });
        } else if !model.mirrored {
            // one that is being read gets the shape that its source has now
            let shape = shape.filter(|_| !record.chunk_open).unwrap_or(relation);
            let bound = bind(0, model, &Arc::new(shape.clone()), 0, true)
                .or_else(|_| bind(0, model, &Arc::new(relation.clone()), 0, true));
            let unfed = bound?.target.unfed();
            let reads = record.chunk_open || record.part_open;
            let judged = if reads { standing.once_read(model, &unfed) } else { standing };
            steps = self.of_model(model, &judged, &unfed).await?;
            steps.extend(fed_otherwise(model, Some(&judged), record.feeds.as_deref()));
            steps.extend(fed_no_more(model, Some(&judged), record.feeds.as_deref()));
            // its indexes come behind its rows
            steps.retain(|step| !(reads && step.long && step.later));
        } else if record.awaits_apply() {
            // any other one follows by itself
            let was = shape.unwrap_or(relation);
            match mirrored_step(model, standing.clone(), was, relation) {
                Ok(step) => steps.extend(step),
                // it takes another table
                Err(_) => steps = self.of_model(model, &standing, &[]).await?,
            }
        } else {
            steps = self.of_model(model, &standing, &[]).await?;
            steps.retain(|step| step.later);
        }
        let other_file = record.made_for.as_ref().is_some_and(|digest| *digest != model.digest());
        if other_file && steps.iter().all(|step| step.later) {
            let what = format!("go by {} as it is now", model.declared_in);
            steps.push(Step::new(what, Vec::new(), Lock::None));
        }
        let anew = steps.iter().any(|step| step.remakes);
        let needed = self.leaves(model, relation, anew || record.chunk_open).await?;
        // those that are there go with the table
        let leaves = if anew { needed } else { absent(&**self.warehouse, needed).await? };
        Ok(TablePlan {
            rows: estimate_rows(&**self.warehouse, &model.table).await?,
            model: model.clone(),
            relation: relation.clone(),
            record: Some(record.clone()),
            first: State::Snapshotting,
            raw: raw_of(&self.spec.models, model).map(|raw| raw.table.clone()),
            steps,
            leaves,
            held_alone,
        })
    }

    async fn of_model(
        &self,
        model: &Model,
        standing: &Standing,
        unfed: &[String],
    ) -> Result<Vec<Step>> {
        let readers = &self.spec.settings.readers;
        differences(&**self.warehouse, (model, standing), unfed, readers).await
    }

    /// The leaves that a table needs, as far as is known; where its rows are yet to be read, for those too.
    async fn leaves(&self, model: &Model, relation: &Relation, all: bool) -> Result<Vec<Leaf>> {
        let mut days = ahead(model, self.today);
        if all {
            days.extend(self.days_at_source(model, relation).await);
        }
        if self.knows_leaves {
            days.extend(wanted(&**self.warehouse, &model.table).await?);
        }
        days.sort_unstable();
        Leaves::default().missing(model, days)
    }

    /// A day in each leaf from the first to the last of the source's rows, within the file's range. None
    /// where the source cannot tell.
    async fn days_at_source(&self, model: &Model, relation: &Relation) -> Vec<i64> {
        const LEAVES_AT_MOST: usize = 10_000;
        let Some(partition) = &model.partition else { return Vec::new() };
        let from = model.column(&partition.by).map_or("", |column| column.from.as_str());
        let days = ranges::days(&**self.source, &relation.table, from).await;
        let Some((first, last)) = days else { return Vec::new() };
        let (first, last) = (first.max(partition.range.0), last.min(partition.range.1));
        let starts = std::iter::successors(Some(first), |day| {
            Some(partition.every.next(partition.every.start(*day)))
        });
        starts.take_while(|day| *day <= last).take(LEAVES_AT_MOST).collect()
    }
}
