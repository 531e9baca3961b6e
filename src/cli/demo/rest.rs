//! The end of the demo: what is left is applied, and both sides are compared.

use std::time::{Duration, Instant};

use super::super::verify::add;
use super::{FRAME, RATED, draw, marts, say};
use crate::demo::screen::{Lag, Phase, Verdict, View};
use crate::demo::terminal::Screen;
use crate::error::{Error, Kind, Result};
use crate::pipeline::{Service, verify_connector, verify_topics};
use crate::postgres::{Session, Side, connect};
use crate::refresh::{self, Verdict as Verdicts};
use crate::serve::Board;
use crate::verify::Report;

/// What is left when the traffic has stopped is applied within this time, or something is wrong.
const DRAINED_WITHIN: Duration = Duration::from_secs(120);

/// What is left on the stage when the traffic has stopped.
pub(super) struct Rest {
    pub(super) service: Service,
    pub(super) shop: Session,
    pub(super) board: Board,
    pub(super) view: View,
    pub(super) started: Instant,
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
            self.view.elapsed = self.started.elapsed();
            let sent = self.shop.query_one(SENT, &[]).await;
            let sent: bool = sent
                .and_then(|row| row.try_get(0))
                .map_err(|error| Error::source("asking what it has sent", error))?;
            let views = self.board.views();
            let applied = views.iter().all(|view| !view.backlog());
            if let Some(shown) = views.first() {
                self.view.lag = Some(Lag {
                    milliseconds: shown.lag_micros(self.board.now()).unsigned_abs() / 1000,
                    bytes: shown.lag_bytes(),
                });
            }
            draw(&self.view, screen)?;
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
            self.view.elapsed = self.started.elapsed();
            draw(&self.view, screen)?;
            tokio::time::sleep(RATED).await;
            if self.board.views().iter().any(crate::serve::View::backlog) {
                continue;
            }
            let reports = self.compare().await?;
            if reports.iter().all(Report::passed) {
                return Ok(());
            }
        }
        // the verdict says what differs
        Ok(())
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

    async fn compare(&self) -> Result<Vec<Report>> {
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
        for report in self.compare().await? {
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
