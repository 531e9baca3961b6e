//! The end of the demo: what is left is applied, and both sides are compared.

use std::time::{Duration, Instant};

use super::super::verify::add;
use super::jobs::Jobs;
use super::shown::{Rates, lag, marts};
use super::{FRAME, draw, say};
use crate::demo::screen::{Phase, Verdict, View};
use crate::demo::terminal::Screen;
use crate::error::{Error, Kind, Result};
use crate::pipeline::{Service, verify_connector, verify_topics};
use crate::postgres::{Session, Side, connect};
use crate::refresh::{self, Verdict as Verdicts};
use crate::serve::Board;
use crate::verify::Report;

/// What is left when the traffic has stopped is applied within this time, or something is wrong.
const DRAINED_WITHIN: Duration = Duration::from_secs(120);

/// A shop whose changes come by topics has sent them all when none has come for so long, or nearly.
const QUIET: Duration = Duration::from_secs(2);

/// What is left on the stage when the traffic has stopped.
pub(super) struct Rest {
    pub(super) service: Service,
    pub(super) shop: Session,
    pub(super) board: Board,
    pub(super) view: View,
    pub(super) started: Instant,
    pub(super) rates: Rates,
    /// how many the source had
    pub(super) transactions: u64,
    pub(super) jobs: Option<Jobs>,
}

impl Rest {
    /// Waits until everything that the source has sent is applied.
    pub(super) async fn drain(&mut self, screen: &mut Screen) -> Result<()> {
        const SENT: &str = "select coalesce(bool_and(sent_lsn >= pg_current_wal_flush_lsn()), false) \
            from pg_stat_replication where application_name = 'siltstone stream'";
        let from = Instant::now();
        self.view.phase = Phase::Draining;
        if !self.service.spec.kafka.is_empty() {
            return self.drain_topics(screen).await;
        }
        while from.elapsed() < DRAINED_WITHIN {
            let sent = self.shop.query_one(SENT, &[]).await;
            let sent: bool = sent
                .and_then(|row| row.try_get(0))
                .map_err(|error| Error::source("asking what it has sent", error))?;
            let views = self.board.views();
            let applied = views.iter().all(|view| !view.backlog());
            self.show(screen)?;
            if sent && applied {
                return Ok(());
            }
            tokio::time::sleep(FRAME).await;
        }
        let what = format!("the rest was not applied within {} s", DRAINED_WITHIN.as_secs());
        Err(Error::new(Kind::Differs, what))
    }

    /// Waits until Debezium has sent everything and all of it is applied: where the topics end nobody
    /// knows but by looking at both sides.
    async fn drain_topics(&mut self, screen: &mut Screen) -> Result<()> {
        let from = Instant::now();
        while from.elapsed() < DRAINED_WITHIN {
            self.until_quiet(screen, from).await?;
            let reports = self.compare(screen).await?;
            if reports.iter().all(Report::passed) {
                return Ok(());
            }
        }
        // the verdict says what differs
        Ok(())
    }

    /// Waits until nothing has come for a while: keys that still change take long to compare.
    async fn until_quiet(&mut self, screen: &mut Screen, from: Instant) -> Result<()> {
        let (mut seen, mut since) = (0, Instant::now());
        while since.elapsed() < QUIET && from.elapsed() < DRAINED_WITHIN {
            self.show(screen)?;
            tokio::time::sleep(FRAME).await;
            let views = self.board.views();
            let events = views.iter().map(|view| view.totals.events).sum::<u64>();
            if events != seen || views.iter().any(crate::serve::View::backlog) {
                (seen, since) = (events, Instant::now());
            }
        }
        Ok(())
    }

    /// Lets the jobs that have not run yet run; whether all went well.
    pub(super) async fn run_jobs(&mut self, screen: &mut Screen) -> Result<bool> {
        let from = Instant::now();
        let Some(mut jobs) = self.jobs.take() else { return Ok(true) };
        while !jobs.have_run() && from.elapsed() < DRAINED_WITHIN {
            jobs.look().await?;
            self.view.jobs = Some(jobs.shown.clone());
            self.show(screen)?;
            tokio::time::sleep(FRAME).await;
        }
        Ok(jobs.have_run() && jobs.shown.failed.is_empty())
    }

    /// Draws how far it is.
    fn show(&mut self, screen: &mut Screen) -> Result<()> {
        self.view.elapsed = self.started.elapsed();
        self.view.marts = marts(&self.board);
        if let Some(shown) = self.board.views().first() {
            self.view.lag = Some(lag(shown, self.board.now()));
            self.rates.take(shown, self.transactions, &mut self.view);
        }
        draw(&self.view, screen)
    }

    /// Waits until the marts have everything, and compares them with a full rebuild; how many differ.
    async fn compare_marts(&self, screen: &mut Screen) -> Result<u64> {
        let spec = &self.service.spec;
        let warehouse = &spec.settings.warehouse;
        let mut session = connect(Side::Warehouse, warehouse, "siltstone demo").await?;
        let from = Instant::now();
        while from.elapsed() < DRAINED_WITHIN {
            let standings = refresh::standings(&*session, None).await?;
            let fresh = standings.iter().filter(|standing| standing.state == "fresh").count();
            if fresh == spec.marts.len() {
                break;
            }
            tokio::time::sleep(FRAME).await;
        }
        let mut different = 0;
        for mart in &spec.marts {
            match refresh::verify(&mut session, mart).await? {
                Verdicts::Equal { pending: 0, .. } => {}
                verdict => {
                    different += 1;
                    say(screen, &format!("{}: {verdict:?}", mart.table))?;
                }
            }
        }
        Ok(different)
    }

    /// Compares both sides; the clock goes on meanwhile.
    async fn compare(&self, screen: &mut Screen) -> Result<Vec<Report>> {
        let mut view = self.view.clone();
        let mut reports = std::pin::pin!(self.reports());
        loop {
            tokio::select! {
                reports = &mut reports => return reports,
                () = tokio::time::sleep(FRAME) => {}
            }
            view.elapsed = self.started.elapsed();
            draw(&view, screen)?;
        }
    }

    async fn reports(&self) -> Result<Vec<Report>> {
        let spec = &self.service.spec;
        let mut reports = Vec::new();
        for connector in &spec.connectors {
            reports.push(verify_connector(spec, connector, (None, None)).await?);
        }
        for connector in &spec.kafka {
            reports.push(verify_topics(spec, connector, (None, None)).await?);
        }
        Ok(reports)
    }

    /// Compares everything, and shows the verdict.
    pub(super) async fn verify(&mut self, screen: &mut Screen) -> Result<bool> {
        self.view.phase = Phase::Verifying;
        self.view.elapsed = self.started.elapsed();
        draw(&self.view, screen)?;
        let mut verdict = Verdict::default();
        let mut passed = true;
        for report in self.compare(screen).await? {
            passed &= report.passed();
            add(&mut verdict, &report);
            for line in report.findings() {
                say(screen, &line)?;
            }
        }
        passed &= verdict.passed();
        let different = self.compare_marts(screen).await?;
        passed &= different == 0;
        self.view.marts = marts(&self.board);
        if let Some(marts) = &mut self.view.marts {
            marts.different = Some(different);
        }
        self.view.elapsed = self.started.elapsed();
        self.view.psql.clear();
        self.view.admin = None;
        self.view.phase = Phase::Verified(verdict);
        draw(&self.view, screen)?;
        Ok(passed)
    }
}
