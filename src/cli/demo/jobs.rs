//! One run of each job of the files, one after the other, while the stream goes on.

use std::collections::VecDeque;
use std::path::Path;

use tokio_postgres::error::SqlState;

use super::super::job::ask;
use crate::demo::screen::Jobs as Shown;
use crate::error::{Error, Result};
use crate::names::TableName;
use crate::postgres::{Session, Side, connect, quote};
use crate::progress::requests;
use crate::schedule::{JobVerb, Wish, run_of};
use crate::spec::{History, Spec, TaskKind};

/// What others wait for comes before them, and a backup before it is tried.
const FIRST: [&str; 5] =
    ["source_systems_sync", "etl_daily", "data_quality", "marts", "maintenance"];

/// The jobs of a demo.
pub(super) struct Jobs {
    warehouse: Session,
    /// of topics: how many events of each raw table have come once Debezium has told all that the shop began with,
    /// before which checks would find half of it
    awaited: Vec<(TableName, i64)>,
    waiting: VecDeque<String>,
    /// the one that runs, and the request that asks for it
    open: Option<(String, i64)>,
    pub(super) shown: Shown,
}

impl Jobs {
    /// Those of the files, but for the ones that need programs which the folder of the cluster's has not.
    pub(super) async fn of(spec: &Spec, programs: &Path, shop: &Session) -> Result<Jobs> {
        let warehouse =
            connect(Side::Warehouse, &spec.settings.warehouse, "siltstone demo").await?;
        let has_programs = programs.join("pg_dump").is_file();
        let needs =
            |kind: &TaskKind| matches!(kind, TaskKind::Backup(_) | TaskKind::RestoreDrill(_));
        let runs = spec
            .jobs
            .iter()
            .filter(|job| has_programs || !job.tasks.iter().any(|task| needs(&task.kind)));
        let mut names: Vec<String> = runs.map(|job| job.name.clone()).collect();
        let place = |name: &String| FIRST.iter().position(|first| first == name);
        names.sort_by_key(|name| place(name).unwrap_or(FIRST.len()));
        let mut awaited = Vec::new();
        let raw = spec.models.iter().filter(|model| model.history == History::Raw);
        for model in raw.filter(|_| !spec.kafka.is_empty()) {
            let count = format!("select count(*) from {}", quote::table(&model.from.table));
            let row = shop.query_one(&count, &[]).await.and_then(|row| row.try_get(0));
            let rows: i64 = row.map_err(|error| Error::source("counting its rows", error))?;
            awaited.push((model.table.clone(), rows));
        }
        let shown =
            Shown { count: u64::try_from(names.len()).unwrap_or(u64::MAX), ..Shown::default() };
        Ok(Jobs { warehouse, awaited, waiting: names.into(), open: None, shown })
    }

    /// Looks how the one that runs is, and asks for the next one where it has ended.
    pub(super) async fn look(&mut self) -> Result<()> {
        while let Some((table, rows)) = self.awaited.last() {
            let enough = format!("select count(*) >= {rows} from {}", quote::table(table));
            match self.warehouse.query_one(&enough, &[]).await {
                Ok(row) if row.try_get(0).unwrap_or(false) => drop(self.awaited.pop()),
                Ok(_) => return Ok(()),
                Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => return Ok(()),
                Err(error) => return Err(Error::warehouse("counting what has come", error)),
            }
        }
        if let Some((name, request)) = &self.open {
            let answered = requests::answered(&*self.warehouse, *request).await?;
            let state = match answered {
                // such as one whose run is not over
                Some((false, why)) => {
                    tracing::warn!("{why}");
                    Some("refused".to_owned())
                }
                _ => run_of(&*self.warehouse, *request).await?,
            };
            match state.as_deref() {
                None => return Ok(()),
                Some("success") => self.shown.well += 1,
                Some(_) => self.shown.failed.push(name.clone()),
            }
            self.open = None;
        }
        self.shown.runs = self.waiting.pop_front();
        if let Some(job) = self.shown.runs.clone() {
            let wish = Wish { job: job.clone(), verb: JobVerb::Run(None) };
            self.open = Some((job, ask(&self.warehouse, wish).await?));
        }
        Ok(())
    }

    /// Whether each has run.
    pub(super) fn have_run(&self) -> bool {
        self.open.is_none() && self.waiting.is_empty()
    }
}
