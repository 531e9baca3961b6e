//! The whole service: one task a connector, until all are told to stop or none can go on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::alarms::Alarms;
use super::books::WarehouseBooks;
use super::core::Basis;
use super::databases::Rates;
use super::drain::DAY;
use super::extracted::{Ground, suit};
use super::fleet::Fleet;
use super::kinds::AnySetup;
use super::lineage::Lineage;
use super::marts;
use super::reread::Reread;
use super::shared::{Setup, WalStep};
use super::timetable::Timetable;
use super::told::{self, Events};
use super::topics::TopicSetup;
use crate::capture::api::Paces;
use crate::capture::spool::Quota;
use crate::clock::Clock;
use crate::error::{Error, Policy, Result};
use crate::merge::{Templates, columns, define_calendar, fill_calendar};
use crate::postgres::{Session, Side, connect};
use crate::serve::{self, Board, Tokens};
use crate::spec::{Common, Connector, Disabled, Kafka, Model, Settings, Spec};
use crate::warehouse::{Claim, Durations, Fence, Fenced, migrate, refuse_outstanding, take_over};

/// How the service runs.
#[derive(Clone, Default)]
pub struct Options {
    /// Ends when every source is drained to where it stood at the start.
    pub until_caught_up: bool,
    /// Makes and alters no table, neither in the warehouse nor in publications.
    pub no_ddl: bool,
    /// Told when `siltstone apply` has changed tables: the files may have changed as well.
    pub reread: Arc<Reread>,
    /// The merge's statements; a test hands in altered ones.
    pub templates: Templates,
}

/// A service that is ready to run.
#[derive(Clone)]
pub struct Service {
    /// The validated files.
    pub spec: Spec,
    /// The time.
    pub clock: Clock,
    /// How it runs.
    pub options: Options,
    /// Where it shows what it is doing.
    pub board: Board,
}

impl Service {
    /// Runs every connector until `stop` turns true. An error is the last one that a connector could
    /// not go on with, once none goes on.
    pub async fn run(&self, stop: watch::Receiver<bool>) -> Result<()> {
        // files that never change
        let (_sender, files) = watch::channel(Arc::new(self.spec.clone()));
        self.run_with(files, stop).await
    }

    /// As [`Service::run`], following `files` as they are read again. The warehouse and the admin server
    /// stay those that it began with.
    pub async fn run_with(
        &self,
        mut files: watch::Receiver<Arc<Spec>>,
        stop: watch::Receiver<bool>,
    ) -> Result<()> {
        let mut spec = files.borrow_and_update().clone();
        self.calendars(&spec, stop.clone()).await?;
        let owner: Arc<str> = owner_name(&self.clock).into();
        let mut fleet = Fleet::default();
        name_idleness(&spec);
        let quota = Arc::new(Quota::new(self.spec.settings.spool_bytes));
        fleet.set(self.setups(&spec, &owner, &quota));
        let (events, teller) = told::channel(&files, &self.board, &self.clock);
        let (telling, mut tellers) = (watch::Sender::new(false), JoinSet::new());
        tellers.spawn(teller.run(telling.subscribe()));
        // dropped, they are given up
        let mut jobs = self.timetable(&files, (&owner, &events), stop.clone());
        let settle = watch::Sender::new(false);
        let mut marts = JoinSet::new();
        marts.spawn(marts::keep(
            self.marts(&owner, events),
            files.clone(),
            stop.clone(),
            settle.subscribe(),
        ));
        marts.spawn(self.lineage(&files, &owner, settle.subscribe()).run(stop.clone()));
        let (mut last, mut last_at) = (Ok(()), Instant::now());
        let mut ending = stop.clone();
        loop {
            // without connectors it waits for files that have some; newer ones may be there that are yet to be heeded
            let idle = spec.commons().next().is_none()
                && !(self.options.until_caught_up || fleet.is_stopping());
            tokio::select! {
                ended = fleet.next_ended(), if !(idle && fleet.is_empty()) => match ended {
                    None => break,
                    Some(Err(failed)) if failed.at >= last_at => {
                        (last, last_at) = (Err(failed.error), failed.at);
                    }
                    Some(_) => {}
                },
                Ok(()) = files.changed() => {
                    spec = files.borrow_and_update().clone();
                    self.name_what_stays(&spec);
                    name_idleness(&spec);
                    // what is wrong with one calendar ends nothing that runs
                    if let Err(error) = self.calendars(&spec, stop.clone()).await {
                        tracing::error!("the calendars stay as they are: {error}");
                    }
                    self.board.keep(&spec.commons().map(|common| common.name.as_str()).collect());
                    fleet.set(self.setups(&spec, &owner, &quota));
                    self.options.reread.note_read();
                }
                () = told(&mut ending), if !fleet.is_stopping() => fleet.stop(),
            }
        }
        while *stop.borrow() && jobs.join_next().await.is_some() {}
        // what the connectors brought last is to be in the marts as well
        settle.send_replace(true);
        marts.join_all().await;
        telling.send_replace(true);
        tellers.join_all().await;
        last
    }

    /// What keeps lineage.
    fn lineage(
        &self,
        files: &watch::Receiver<Arc<Spec>>,
        owner: &Arc<str>,
        settle: watch::Receiver<bool>,
    ) -> Lineage {
        Lineage {
            endpoint: self.spec.settings.warehouse.clone(),
            files: files.clone(),
            durations: self.durations(),
            owner: owner.clone(),
            no_ddl: self.options.no_ddl,
            settle,
        }
    }

    /// What marts are kept with.
    fn marts(&self, owner: &Arc<str>, events: Events) -> marts::Ground {
        marts::Ground {
            settings: Arc::new(self.spec.settings.clone()),
            owner: owner.clone(),
            board: self.board.clone(),
            durations: self.durations(),
            events,
            reread: self.options.reread.clone(),
            no_ddl: self.options.no_ddl,
        }
    }

    /// Runs the jobs, and tells people of what goes wrong, beside the connectors. A run that ends when it has caught up begins none.
    fn timetable(
        &self,
        files: &watch::Receiver<Arc<Spec>>,
        (owner, events): (&Arc<str>, &Events),
        stop: watch::Receiver<bool>,
    ) -> JoinSet<()> {
        let timetable = Timetable {
            files: files.clone(),
            clock: self.clock.clone(),
            board: self.board.clone(),
            durations: self.durations(),
            events: events.clone(),
            owner: owner.clone(),
            no_ddl: self.options.no_ddl,
            templates: self.options.templates.clone(),
            paces: Paces::default(),
            rates: Rates::default(),
        };
        let alarms = Alarms {
            files: files.clone(),
            clock: self.clock.clone(),
            board: self.board.clone(),
            durations: self.durations(),
            owner: owner.clone(),
            no_ddl: self.options.no_ddl,
        };
        let mut jobs = JoinSet::new();
        if !self.options.until_caught_up {
            jobs.spawn(timetable.run(stop.clone()));
            jobs.spawn(alarms.run(stop));
        }
        jobs
    }

    /// What each connector of the files is run with.
    fn setups(&self, spec: &Spec, owner: &Arc<str>, quota: &Arc<Quota>) -> Vec<AnySetup> {
        let models: Arc<[Model]> = spec.models.clone().into();
        let (warehouse, admin) = (&self.spec.settings.warehouse, &self.spec.settings.admin);
        let settings = Settings {
            warehouse: warehouse.clone(),
            admin: admin.clone(),
            ..spec.settings.clone()
        };
        let settings = Arc::new(settings);
        let slots: Arc<[String]> = spec.connectors.iter().map(|c| c.slot.clone()).collect();
        let disabled: Arc<[Disabled]> = spec.disabled.clone().into();
        let basis = |common: &Arc<Common>| Basis {
            common: common.clone(),
            settings: settings.clone(),
            models: models.clone(),
            clock: self.clock.clone(),
            board: self.board.connector(&common.name),
            durations: self.durations(),
            templates: self.options.templates.clone(),
            until_caught_up: self.options.until_caught_up,
            no_ddl: self.options.no_ddl,
            reread: self.options.reread.clone(),
            owner: owner.clone(),
            reloading: Arc::default(),
        };
        let setup = |connector: &Connector| {
            AnySetup::Postgres(Box::new(Setup {
                basis: basis(&connector.common),
                connector: Arc::new(connector.clone()),
                epoch: Arc::default(),
                slots: slots.clone(),
                disabled: disabled.clone(),
                landing: watch::Sender::new(false),
                wal_step: WalStep::default(),
                stored: Arc::default(),
                slot_dropped: Arc::default(),
                quota: quota.clone(),
                whole: Arc::default(),
            }))
        };
        let topics = |connector: &Kafka| {
            let basis = basis(&connector.common);
            let declared = spec.topics.as_ref().filter(|of| of.connector == connector.name);
            let declared = declared.cloned().map(Arc::new);
            let connector = Arc::new(connector.clone());
            AnySetup::Topics(Box::new(TopicSetup::new(basis, connector, declared)))
        };
        spec.connectors.iter().map(setup).chain(spec.kafka.iter().map(topics)).collect()
    }

    /// Says what of files that were read again takes a restart.
    fn name_what_stays(&self, spec: &Spec) {
        let (old, new) = (&self.spec.settings, &spec.settings);
        if old.warehouse != new.warehouse {
            tracing::warn!("warehouse: another one takes a restart; the old one stays");
        }
        if !old.admin.is_like(&new.admin) {
            tracing::warn!("admin: another address or token takes a restart; the old ones stay");
        }
        if old.readers != new.readers {
            tracing::warn!(
                "warehouse.readers: other ones may read what connectors make from now on; marts and calendars \
                 take a restart"
            );
        }
        if old.spool_bytes != new.spool_bytes {
            tracing::warn!("spool.max: another one takes a restart; the old one stays");
        }
    }

    /// The same service, with its admin server on any free port of the same address.
    #[must_use]
    pub fn on_any_port(&self) -> Service {
        let mut service = self.clone();
        service.spec.settings.admin.listen.set_port(0);
        service
    }

    fn durations(&self) -> Durations {
        let board = self.board.clone();
        Durations::new(move |name, took| board.observe_transaction(name, took))
    }

    /// Starts the admin server beside it, until `stop` turns true. Returns its address, and the token
    /// that was made where none is set.
    pub async fn serve(
        &self,
        files: watch::Receiver<Arc<Spec>>,
        stop: watch::Receiver<bool>,
    ) -> Result<(SocketAddr, Option<String>)> {
        let settings = self.spec.settings.clone();
        let (tokens, made) = Tokens::of(&settings.admin)?;
        let listen = settings.admin.listen;
        let books = Arc::new(WarehouseBooks::new(settings, files, self.clock.clone()));
        let address = serve::start(listen, self.board.clone(), tokens, books, stop).await?;
        Ok((address, made))
    }

    /// Makes and fills the calendars; doing it again changes nothing. A warehouse that is away is
    /// waited for.
    async fn calendars(&self, spec: &Spec, mut stop: watch::Receiver<bool>) -> Result<()> {
        const PAUSE: Duration = Duration::from_secs(2);
        let extracted = spec.models.iter().any(|model| spec.is_extracted(model));
        while (extracted || !spec.calendars.is_empty()) && !*stop.borrow() {
            match self.fill_calendars(spec).await {
                Err(error) if error.kind().policy() == Policy::Retry => {
                    tracing::warn!("{}; trying again in {} s", error.reason(), PAUSE.as_secs());
                    tokio::select! {
                        () = tokio::time::sleep(PAUSE) => {}
                        _ = stop.wait_for(|stop| *stop) => {}
                    }
                }
                filled => return filled,
            }
        }
        Ok(())
    }

    async fn fill_calendars(&self, spec: &Spec) -> Result<()> {
        let settings = &self.spec.settings;
        let mut warehouse =
            connect(Side::Warehouse, &settings.warehouse, "siltstone start").await?;
        let no_ddl = self.options.no_ddl;
        if no_ddl {
            refuse_outstanding(&*warehouse).await?;
        } else {
            migrate(&mut warehouse).await?;
        }
        let fence = take_over(&mut warehouse, "calendars", "start", Claim::Anyway).await?;
        for calendar in &spec.calendars {
            let transaction =
                Fenced::begin(&mut warehouse, &fence, "calendar", &self.durations()).await?;
            let statements = match no_ddl {
                false => define_calendar(calendar, &settings.readers),
                // `siltstone apply` makes it
                true if columns(&*transaction, &calendar.table).await?.is_empty() => Vec::new(),
                true => vec![fill_calendar(calendar)],
            };
            for statement in statements {
                transaction.batch_execute(&statement).await.map_err(|error| {
                    Error::warehouse(format!("filling {}", calendar.table), error)
                })?;
            }
            transaction.commit().await?;
        }
        self.make_extracted(spec, &mut warehouse, &fence).await
    }

    /// Makes the tables that no stream feeds, so that they are there before a task brings their rows. One that
    /// cannot be made fails its task, and nothing here.
    async fn make_extracted(
        &self,
        spec: &Spec,
        warehouse: &mut Session,
        fence: &Fence,
    ) -> Result<()> {
        let ground = Ground {
            fence,
            durations: &self.durations(),
            readers: &self.spec.settings.readers,
            no_ddl: self.options.no_ddl,
            today: self.clock.now_postgres().div_euclid(DAY),
        };
        for model in spec.models.iter().filter(|model| spec.is_extracted(model)) {
            match suit(warehouse, model, &ground).await {
                Err(error) if error.kind().policy() == Policy::Retry => return Err(error),
                Err(error) => tracing::warn!("{error}"),
                Ok(()) => {}
            }
        }
        Ok(())
    }
}

/// Says that there is nothing to run.
fn name_idleness(spec: &Spec) {
    if spec.commons().next().is_none() && spec.asked_count() == 0 {
        tracing::warn!("no connector is enabled: write connectors/NAME.yaml, and send SIGHUP");
    }
}

/// Waits until told to stop.
async fn told(stop: &mut watch::Receiver<bool>) {
    let gone = stop.wait_for(|stop| *stop).await.is_err();
    if gone {
        std::future::pending::<()>().await;
    }
}

/// A name that no other run of the service has, and that tells a person where it runs.
fn owner_name(clock: &Clock) -> String {
    static RUNS: AtomicU64 = AtomicU64::new(1);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "unknown host" } else { host.trim() };
    let (process, run) = (std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
    format!("{host}, pid {process}, run {run}, since {}", clock.now())
}
