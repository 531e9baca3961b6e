//! Tables of topics that are read again from the source that Debezium reads, by one of the group's members. When their
//! rows are in, all members begin anew, with what those rows have of the changes. A source that is away, or has no slot
//! to spare, keeps its tables waiting and not the stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::TopicSetup;
use super::asking::not_read;
use super::beside::names_another;
use super::tables::Tables;
use crate::capture::catalog::{self, SourceTable};
use crate::capture::preflight;
use crate::error::{Error, Kind, Policy, Result};
use crate::journey::Target;
use crate::postgres::{Side, connect};
use crate::progress::chunks::Chunk;
use crate::progress::feeds::Feeder;
use crate::progress::tables::State;
use crate::spec::Connector;

use super::super::awaited::tell;
use super::super::chunks::{APPLICATION, gone, run as read_all, stop};
use super::super::core::Core;
use super::super::cutting::Job;
use super::super::intake::End;
use super::super::leased::{Place, become_owner, keep_lease};
use super::super::router::Router;
use super::super::shared::Shared;

/// The first and the longest pause before a source that is away is asked again.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// A table that is to be read.
#[derive(Clone)]
struct Wanted {
    target: Arc<Target>,
    chunk: Chunk,
    by: Option<Feeder>,
}

/// The reading of a session.
pub(super) struct Reading {
    setup: TopicSetup,
    core: Arc<Core>,
    wanted: Vec<Wanted>,
    /// whether this member reads: its control need not look for what others have read
    reads: Arc<AtomicBool>,
}

impl Reading {
    /// What is to be read of a session's tables.
    pub(super) async fn of(
        setup: &TopicSetup,
        core: &Arc<Core>,
        (tables, router): (&Tables, &Router),
    ) -> Result<Reading> {
        let mut wanted = Vec::new();
        for chunk in core.open_chunks().await? {
            let record = tables.records.get(&chunk.table);
            if !record.is_some_and(|record| record.state == State::Resyncing) {
                continue;
            }
            let Some(target) = router.target(&chunk.table) else {
                let what = "nothing is known yet of what its topics tell";
                let remedy =
                    format!("siltstone table resync {:#}, when a record has come", chunk.table);
                let error = Error::new(Kind::TableStops, what).remedy(remedy);
                stop(core, &chunk.table, &error).await?;
                continue;
            };
            let by = tables.feeders.get(&chunk.table).cloned();
            wanted.push(Wanted { target, chunk, by });
        }
        Ok(Reading { setup: setup.clone(), core: core.clone(), wanted, reads: Arc::default() })
    }

    /// Whether this member reads, from now on.
    pub(super) fn reads(&self) -> Arc<AtomicBool> {
        self.reads.clone()
    }

    /// Reads, once no other member does; then every member begins anew.
    pub(super) async fn run(self, stopped: watch::Receiver<bool>) -> Result<End> {
        if self.wanted.is_empty() {
            return std::future::pending().await;
        }
        let (setup, connector) = (&self.setup, &self.setup.connector);
        let name = format!("siltstone {} reading", connector.name);
        let mut session = connect(Side::Warehouse, &setup.settings.warehouse, &name).await?;
        let resource = format!("reading:{}", connector.name);
        let what = format!("the reading of the tables of {}", connector.name);
        let place = Place { resource: &resource, what: &what, owner: &setup.owner };
        let Some(fence) = become_owner(&mut session, &place, stopped).await? else {
            return std::future::pending().await;
        };
        self.reads.store(true, Ordering::SeqCst);
        let ended = tokio::select! {
            lost = keep_lease(&session, &fence) => lost,
            read = self.read(fence.epoch()) => read,
        };
        fence.release(&session, true).await?;
        ended.map(|()| End::Restart)
    }

    async fn read(&self, epoch: i64) -> Result<()> {
        let (mut pause, mut attempt) = (PAUSES.0, 0);
        loop {
            attempt += 1;
            let error = match self.attempt(format!("{epoch}_{attempt}")).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let (reason, remedy) = (error.reason(), error.remedy_text());
            match error.kind().policy() {
                Policy::Human | Policy::StopTable | Policy::Sift | Policy::RereadTable => {
                    return self.stop_all(&error).await;
                }
                _ if error.kind() != Kind::SourceAway => return Err(error),
                _ => {}
            }
            let seconds = pause.as_secs();
            tracing::warn!(remedy, "{reason}; asking the source again in {seconds} s");
            let why = format!("the source: {reason}");
            tell(&self.core, &self.names(), Some((&why, remedy))).await?;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    fn names(&self) -> Vec<String> {
        self.wanted.iter().map(|wanted| wanted.chunk.table.to_string()).collect()
    }

    /// None of the tables that are left can be read.
    async fn stop_all(&self, error: &Error) -> Result<()> {
        let open = self.core.open_chunks().await?;
        for Wanted { chunk, .. } in &self.wanted {
            if open.iter().any(|open| open.id == chunk.id) {
                stop(&self.core, &chunk.table, error).await?;
            }
        }
        Ok(())
    }

    async fn attempt(&self, reading: String) -> Result<()> {
        let Some(connector) = Connector::of_rows(&self.setup.connector) else {
            let what = "no url says where the source is from which its rows are to be read";
            let remedy = format!("write url into {}", self.setup.connector.file);
            return Err(Error::new(Kind::SourceLacks, what).remedy(remedy));
        };
        let source = connect(Side::Source, &connector.endpoint, APPLICATION).await?;
        let settings = preflight::inspect(&source, 0).await?;
        if settings.standby {
            let what = "the server at url is a standby, which is behind what Debezium has told";
            let remedy = "write the url of the primary";
            return Err(Error::new(Kind::SourceLacks, what).remedy(remedy));
        }
        preflight::refuse(&settings.findings)?;
        let catalogue = catalog::tables(&*source).await?;
        let open = self.core.open_chunks().await?;
        let mut jobs = Vec::new();
        for wanted in &self.wanted {
            // another member may have read it while this one stood by
            let is_open = open.iter().any(|open| open.id == wanted.chunk.id);
            match job(wanted, &catalogue, connector.endpoint.database()) {
                _ if !is_open => {}
                Ok(job) => jobs.push(job),
                Err(error) => stop(&self.core, &wanted.chunk.table, &error).await?,
            }
        }
        tell(&self.core, &self.names(), None).await?;
        let shared = Arc::new(Shared::of_topics(self.core.clone(), (connector, settings), reading));
        // the next session applies what was kept
        let (done, mut received) = mpsc::channel(1);
        let read = read_all(shared, jobs, None, done);
        let forgotten = async { while received.recv().await.is_some() {} };
        tokio::join!(read, forgotten).0
    }
}

/// What is read of a table; or why nothing is.
fn job(wanted: &Wanted, catalogue: &[SourceTable], database: &str) -> Result<Job> {
    let Wanted { target, chunk, by } = wanted;
    let (table, from) = (&target.model.table, &target.relation.table);
    let stops = |what: String| Error::new(Kind::TableStops, what).on_table(table.to_string());
    if let Some(why) = not_read(table, target.model.history) {
        return Err(stops(why).remedy(format!("siltstone table resume {table:#}")));
    }
    if chunk.range.is_some() {
        let what = "a part of it was read while no topics fed it";
        return Err(stops(what.to_owned()).remedy(format!("siltstone table resync {table:#}")));
    }
    let told = by.as_ref().and_then(|by| by.source.rsplit_once('/'));
    if let Some((_, told)) = told.filter(|(_, told)| *told != database) {
        let what = names_another(database, told);
        let remedy = format!("mend url, then siltstone table resync {table:#}");
        return Err(stops(what).remedy(remedy));
    }
    let found = catalogue.iter().find(|found| found.relation.table == *from);
    let source = found.ok_or_else(|| gone(table, from))?.clone();
    let (target, chunk) = (target.clone(), chunk.clone());
    Ok(Job { target, source, chunk, rows: Arc::new(AtomicU64::new(0)), asked: true })
}
