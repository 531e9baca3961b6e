//! Makes the differences that `plan` found: one transaction a table, with what follows from it in the
//! control tables.
//!
//! Beside a running service: the transaction waits for the service's open ones and raises the epoch, so
//! that no statement prepared for the old shape can write any more; the service begins a new session. The
//! change, what is noted of it and what ends the service's session are one transaction, always. What lasts
//! as long as the table is large comes before the epoch in it, and is done to a table that is held, so that
//! the others flow meanwhile; nobody but us or a human lets that one go on.

use std::time::Duration;

use tokio_postgres::Transaction;
use tokio_postgres::error::SqlState;

use super::core::Reads;
use super::differences::{ConnectorPlan, Plan, TablePlan};
use super::extracted::make_planned;
use super::follow::missed;
use super::lineage;
use super::mart;
use super::note::Then;
use super::placing;
use super::rights::locker;
use crate::capture::publication::{self, Locker};
use crate::error::{Error, Kind, Result};
use crate::merge::{Class, Leaf, Step, create_leaves, feeds};
use crate::postgres::{Session, Side, connect};
use crate::progress::holds::Hold;
use crate::progress::tables::State;
use crate::progress::{leaves, schemas, turns, unfed};
use crate::spec::{Connector, Spec};
use crate::warehouse::{interrupt, migrate, touch};

/// How often a transaction is tried, each time with locks that are waited for a second.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// What was long is not given up for a transaction of the service that is soon over.
const PATIENT: &str = "set local lock_timeout to '30s'";

/// Makes the differences of the classes that are allowed. `say` is told each that was made. A table that
/// cannot be changed is named, and the others are; the first failure is the answer then.
pub async fn apply(
    spec: &Spec,
    plan: &Plan,
    allowed: &[Class],
    say: &(dyn Fn(&str, &Step) + Sync),
) -> Result<()> {
    let mut warehouse =
        connect(Side::Warehouse, &spec.settings.warehouse, "siltstone apply").await?;
    if plan.lacks_control_tables() {
        migrate(&mut warehouse).await?;
    }
    plan.control_steps().for_each(|(subject, step)| say(&subject, &step));
    let mut making = Making { warehouse, allowed, say };
    let mut first = Ok(());
    for connector in &plan.connectors {
        for table in &connector.tables {
            let made = making.table(&connector.connector, table).await;
            if let Err(error) = made {
                match error.kind() {
                    Kind::WarehouseAway | Kind::Bug => return Err(error),
                    _ if first.is_ok() => first = Err(error),
                    _ => tracing::error!("{error}"),
                }
            }
        }
        making.publications(connector).await?;
        making.forget(connector).await?;
    }
    for calendar in plan.calendar_steps() {
        let (table, step) = calendar;
        let failed = |error| Error::warehouse(format!("making {table}"), error);
        for statement in &step.statements {
            making.warehouse.batch_execute(statement).await.map_err(failed)?;
        }
        say(&table, &step);
    }
    for found in &plan.extracted {
        match make_planned(&mut making.warehouse, found, allowed).await {
            Ok(made) => made.iter().for_each(|step| say(&found.model.table.to_string(), step)),
            Err(error) if first.is_ok() => first = Err(error),
            Err(error) => tracing::error!("{error}"),
        }
    }
    // as they are now: the tables may just have been made
    let (looked_up, notes) = placing::lacks(&mut making.warehouse, spec).await?;
    notes.iter().for_each(|note| tracing::warn!("nothing is looked up yet: {note}"));
    for (table, step) in looked_up {
        placing::make_for(&mut making.warehouse, spec, &table).await?;
        say(&table.to_string(), &step);
    }
    for declared in &spec.marts {
        let table = &declared.table;
        let readers = &spec.settings.readers;
        // as it is now: the tables that it reads may just have been made
        match mart::lacks(&mut making.warehouse, declared, readers).await {
            Ok(None) => {}
            Ok(Some(step)) => {
                mart::make_for(&mut making.warehouse, declared, readers).await?;
                say(&table.to_string(), &step);
            }
            Err(error) => tracing::warn!("{table} is not made yet: {}", error.reason()),
        }
    }
    // what cannot be written down now is by the service
    if let Err(error) = lineage::write_once(&mut making.warehouse, spec).await {
        tracing::warn!("lineage is not written down yet: {}", error.reason());
    }
    first
}

struct Making<'m> {
    warehouse: Session,
    allowed: &'m [Class],
    say: &'m (dyn Fn(&str, &Step) + Sync),
}

/// What one transaction does.
struct Work<'w> {
    connector: &'w Connector,
    table: &'w TablePlan,
    statements: Vec<&'w String>,
    /// whether they last as long as the table is large
    long: bool,
    /// whether the table is as its file says behind it
    stamps: bool,
    /// whether nothing of what its file asks for is left
    whole: bool,
    noted: Noted<'w>,
}

/// What is noted with it.
#[derive(Clone, Copy)]
enum Noted<'w> {
    Nothing,
    /// its changes are kept until we are through
    Held,
    /// we are through, or cannot come through
    LetGo,
    /// it is new
    New,
    /// so, as far as the table is known
    Then(Then<'w>),
    /// all of it is read again
    Read,
}

impl Making<'_> {
    async fn table(&mut self, connector: &Connector, table: &TablePlan) -> Result<()> {
        let steps: Vec<&Step> =
            table.steps.iter().filter(|step| is_allowed(step, self.allowed)).collect();
        let name = table.model.table.to_string();
        if !steps.is_empty() {
            let long = steps.iter().any(|step| step.long);
            if long {
                // so that the connector need not wait for it
                self.note(connector, table, Noted::Held).await?;
            }
            let noted = match &table.record {
                None => Noted::New,
                Some(_) if steps.iter().any(|step| step.reads) => Noted::Read,
                Some(_) => Noted::Nothing,
            };
            let statements = steps.iter().flat_map(|step| &step.statements).collect();
            let whole = steps.len() == table.steps.len();
            let work = Work { connector, table, statements, long, stamps: true, whole, noted };
            let made = self.run(&work).await;
            if made.is_err() && long {
                // it goes on as it was, or stops for what its file asks
                self.note(connector, table, Noted::LetGo).await.unwrap_or_else(|error| {
                    tracing::warn!(table = name, "it stays held: {}", error.reason());
                });
            }
            made?;
            steps.iter().for_each(|step| (self.say)(&name, step));
        }
        if table.leaves.is_empty() || steps.len() < table.steps.len() {
            return Ok(());
        }
        self.leaves(connector, table).await?;
        table.leaf_step().iter().for_each(|step| (self.say)(&name, step));
        Ok(())
    }

    /// Notes something, and nothing else.
    async fn note(
        &mut self,
        connector: &Connector,
        table: &TablePlan,
        noted: Noted<'_>,
    ) -> Result<()> {
        let (statements, long, stamps, whole) = (Vec::new(), false, false, false);
        self.run(&Work { connector, table, statements, long, stamps, whole, noted }).await
    }

    /// Makes leaves; the service begins anew with the last of them.
    async fn leaves(&mut self, connector: &Connector, table: &TablePlan) -> Result<()> {
        // one transaction must not hold the locks of hundreds of new leaves
        const LEAVES_AT_ONCE: usize = 50;
        let mut parts = table.leaves.chunks(LEAVES_AT_ONCE).peekable();
        while let Some(part) = parts.next() {
            let last = parts.peek().is_none();
            let mut tries = 1;
            // the service may make the same ones just now
            while let Err(error) = self.make_leaves(connector, table, (part, last)).await {
                if tries == TRIES || error.kind() != Kind::Busy {
                    return Err(error);
                }
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    async fn make_leaves(
        &mut self,
        connector: &Connector,
        table: &TablePlan,
        (part, last): (&[Leaf], bool),
    ) -> Result<()> {
        let failed = |error| Error::warehouse("making leaves", error);
        let transaction = self.warehouse.transaction().await.map_err(failed)?;
        transaction.batch_execute("set local lock_timeout to '1s'").await.map_err(failed)?;
        if last {
            interrupt(&transaction, &resource(connector)).await.map_err(failed)?;
        }
        create_leaves(&transaction, part).await?;
        let days: Vec<i64> = part.iter().map(Leaf::first_day).collect();
        leaves::made(&transaction, &table.model.table, &days).await?;
        transaction.commit().await.map_err(failed)
    }

    /// What the stream has not told of a table must be known before it is told to.
    async fn publications(&mut self, plan: &ConnectorPlan) -> Result<()> {
        if plan.publications.is_empty() {
            return Ok(());
        }
        let connector = &plan.connector;
        for (model, record) in &plan.untold {
            let then = match record.state {
                // whatever it is stopped for
                State::Stopped => Then::ReadAnew,
                _ => missed(connector, record, model),
            };
            let table = plan.tables.iter().find(|table| table.model.table == model.table);
            let Some(table) = table else { continue };
            self.note(connector, table, Noted::Then(then)).await?;
        }
        let source = connect(Side::Source, &connector.endpoint, "siltstone apply").await?;
        for (wanted, step) in plan.publication_steps() {
            let locked = publication::ensure(&source, wanted, plan.version).await?;
            if let Some(table) = locked.first() {
                let Locker { what, remedy } = locker(&source, table).await?;
                let what = format!("publishing it waits for {what}");
                let error = Error::new(Kind::Busy, what).on_table(table.to_string());
                return Err(error.remedy(format!("{remedy}; then siltstone apply")));
            }
            (self.say)(&format!("publication {}", wanted.name), &step);
        }
        match plan.tables.first() {
            Some(table) => self.note(connector, table, Noted::Nothing).await,
            None => Ok(()),
        }
    }

    /// Forgets the tables that nothing feeds any more.
    async fn forget(&mut self, plan: &ConnectorPlan) -> Result<()> {
        let failed = |error| Error::warehouse("forgetting a table", error);
        for (record, step) in plan.forgotten().filter(|(_, step)| is_allowed(step, self.allowed)) {
            let transaction = self.warehouse.transaction().await.map_err(failed)?;
            interrupt(&transaction, &resource(&plan.connector)).await.map_err(failed)?;
            unfed::forget(&transaction, &record.table).await?;
            transaction.commit().await.map_err(failed)?;
            (self.say)(&record.table.to_string(), &step);
        }
        Ok(())
    }

    async fn run(&mut self, work: &Work<'_>) -> Result<()> {
        let name = &work.connector.name;
        for _ in 0..TRIES {
            let failed = |error| Error::warehouse("beginning a change", error);
            let transaction = self.warehouse.transaction().await.map_err(failed)?;
            match work.run(&transaction).await {
                Ok(()) => {
                    return transaction.commit().await.map_err(|error| {
                        Error::warehouse(format!("changing {}", work.table.model.table), error)
                    });
                }
                Err(error) if may_pass(error.code()) => drop(transaction),
                Err(error) => return Err(error),
            }
            tokio::time::sleep(PAUSE).await;
        }
        let table = work.table.model.table.to_string();
        let what = "somebody holds a lock on it, or a transaction of the service goes on";
        Err(Error::new(Kind::Busy, what).on_table(table).remedy(format!(
            "again when the long query is over; or siltstone connector pause {name} --wait, \
             siltstone apply, siltstone connector resume {name}"
        )))
    }
}

fn resource(connector: &Connector) -> String {
    format!("connector:{}", connector.name)
}

/// Whether the same may succeed in a moment.
fn may_pass(code: Option<&SqlState>) -> bool {
    let passing =
        [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED, SqlState::DUPLICATE_TABLE];
    code.is_some_and(|code| passing.contains(code))
}

impl Work<'_> {
    async fn run(&self, transaction: &Transaction<'_>) -> Result<()> {
        let Work { connector, table, .. } = self;
        let name = &table.model.table;
        let failed = |error: tokio_postgres::Error| {
            let depends = error.code().is_some_and(|code| {
                [SqlState::DEPENDENT_OBJECTS_STILL_EXIST, SqlState::FEATURE_NOT_SUPPORTED]
                    .contains(code)
            });
            let error = Error::warehouse("changing it", error).on_table(name.to_string());
            let remedy = "drop what depends on it, siltstone apply again, and make it anew";
            if depends { error.remedy(remedy) } else { error }
        };
        transaction.batch_execute("set local lock_timeout to '1s'").await.map_err(failed)?;
        let resource = resource(connector);
        if !self.long {
            interrupt(transaction, &resource).await.map_err(failed)?;
        }
        for statement in &self.statements {
            transaction.batch_execute(statement).await.map_err(failed)?;
        }
        if !self.statements.is_empty() {
            touch(transaction, &name.to_string()).await.map_err(failed)?;
        }
        if self.long {
            // the others flowed until now
            transaction.batch_execute(PATIENT).await.map_err(failed)?;
            interrupt(transaction, &resource).await.map_err(failed)?;
        }
        self.write_down(transaction).await?;
        if !self.stamps {
            return Ok(());
        }
        // also what an apply held that did not come to its end
        turns::let_go(transaction, name, Hold::Changing).await?;
        let reads = Reads::of(connector);
        if self.whole {
            Then::Feeds(&feeds(&table.model)).note(transaction, &reads, name).await?;
        }
        Then::MadeFor(Some(&table.model.digest())).note(transaction, &reads, name).await
    }

    async fn write_down(&self, transaction: &Transaction<'_>) -> Result<()> {
        let Work { connector, table, .. } = self;
        let (name, reads) = (&table.model.table, Reads::of(connector));
        match (self.noted, table.record.as_ref()) {
            (Noted::Nothing, _) | (Noted::Read, None) => Ok(()),
            (Noted::Held, _) => {
                let remedy = format!("siltstone table resume {name:#}");
                turns::hold(transaction, name, "siltstone apply changes it", &remedy).await
            }
            (Noted::LetGo, _) => turns::let_go(transaction, name, Hold::Changing).await,
            (Noted::New, _) => {
                let (connector_name, relation) = (&connector.name, &table.relation);
                let schema_id = schemas::number(transaction, connector_name, relation).await?;
                let then = Then::Add { model: &table.model, schema_id, state: table.first };
                then.note(transaction, &reads, name).await
            }
            (Noted::Then(then), _) => then.note(transaction, &reads, name).await,
            (Noted::Read, Some(_)) => {
                let remade = table.steps.iter().any(|step| step.remakes);
                if remade {
                    let (of, relation) = (&connector.name, &table.relation);
                    let schema_id = schemas::number(transaction, of, relation).await?;
                    Then::Shape(schema_id).note(transaction, &reads, name).await?;
                }
                // whatever it was stopped for
                let state = if remade { State::Snapshotting } else { State::Resyncing };
                let then = match &table.raw {
                    Some(raw) if table.gets_columns_alone() => Then::Rebuild(raw),
                    _ => Then::OpenChunk(state),
                };
                then.note(transaction, &reads, name).await
            }
        }
    }
}

/// Whether a step may be made.
fn is_allowed(step: &Step, allowed: &[Class]) -> bool {
    step.class == Class::Safe || allowed.contains(&step.class)
}
