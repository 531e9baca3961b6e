//! The whole service: one task a connector, until all are told to stop or none can go on.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::connector;
use super::shared::Setup;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::merge::{Templates, define_calendar};
use crate::postgres::{Side, connect};
use crate::serve::ConnectorBoard;
use crate::spec::{Model, Spec};
use crate::warehouse::{Durations, Fenced, migrate, take_over};

/// How the service runs.
#[derive(Clone, Default)]
pub struct Options {
    /// Ends when every source is drained to where it stood at the start.
    pub until_caught_up: bool,
    /// The merge's statements; a test hands in altered ones.
    pub templates: Templates,
}

/// A service that is ready to run.
pub struct Service {
    /// The validated files.
    pub spec: Spec,
    /// The time.
    pub clock: Clock,
    /// How it runs.
    pub options: Options,
    /// Where the durations of transactions are reported.
    pub durations: Durations,
}

impl Service {
    /// Runs every connector until `stop` turns true. An error is the last one that a connector could
    /// not go on with, once none goes on.
    pub async fn run(
        &self,
        board: impl Fn(&str) -> ConnectorBoard,
        stop: watch::Receiver<bool>,
    ) -> Result<()> {
        self.calendars().await?;
        let models: Arc<[Model]> = self.spec.models.clone().into();
        let settings = Arc::new(self.spec.settings.clone());
        let mut tasks = JoinSet::new();
        for spec in &self.spec.connectors {
            let setup = Setup {
                connector: Arc::new(spec.clone()),
                settings: settings.clone(),
                models: models.clone(),
                clock: self.clock.clone(),
                board: board(&spec.name),
                durations: self.durations.clone(),
                templates: self.options.templates.clone(),
                until_caught_up: self.options.until_caught_up,
                epoch: Arc::default(),
            };
            tasks.spawn(connector::run(setup, stop.clone()));
        }
        let mut last = Ok(());
        while let Some(ended) = tasks.join_next().await {
            let ended = ended.map_err(|e| Error::bug("a connector broke off").because(e))?;
            if let Err(error) = ended {
                tracing::error!("{error}");
                last = Err(error);
            }
        }
        last
    }

    /// Makes and fills the calendars; doing it again changes nothing.
    async fn calendars(&self) -> Result<()> {
        if self.spec.calendars.is_empty() {
            return Ok(());
        }
        let settings = &self.spec.settings;
        let mut warehouse =
            connect(Side::Warehouse, &settings.warehouse, "siltstone start").await?;
        migrate(&mut warehouse).await?;
        let fence = take_over(&mut warehouse, "calendars", "start", None).await?;
        for calendar in &self.spec.calendars {
            let transaction =
                Fenced::begin(&mut warehouse, &fence, "calendar", &self.durations).await?;
            for statement in define_calendar(calendar, &settings.readers) {
                transaction.batch_execute(&statement).await.map_err(|error| {
                    Error::warehouse(format!("filling {}", calendar.table), error)
                })?;
            }
            transaction.commit().await?;
        }
        Ok(())
    }
}
