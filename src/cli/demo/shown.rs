//! What the board tells, as the demo's screen shows it. It asks no database.

use std::time::{Duration, Instant};

use crate::demo::screen::{Behind, Lag, Marts, TableProgress, View};
use crate::serve::{self, Board};

/// Rates are taken over this long.
const RATED: Duration = Duration::from_secs(1);

/// What was counted when rates were last taken.
#[derive(Default)]
pub(super) struct Rates {
    at: Option<Instant>,
    transactions: u64,
    events: u64,
    versions: u64,
}

impl Rates {
    /// Takes what was counted into the view, and once a second how much of it came in one.
    pub(super) fn take(&mut self, shown: &serve::View, transactions: u64, view: &mut View) {
        view.versions = shown.totals.versions;
        let elapsed = self.at.map(|at| at.elapsed());
        if elapsed.is_some_and(|elapsed| elapsed < RATED) {
            return;
        }
        let a_second = |now: u64, before: u64| {
            let micros = elapsed.map_or(u128::MAX, |elapsed| elapsed.as_micros().max(1));
            let rate = u128::from(now.saturating_sub(before)) * 1_000_000 / micros;
            u64::try_from(rate).unwrap_or(0)
        };
        view.source_transactions = a_second(transactions, self.transactions);
        view.applied_rows = a_second(shown.totals.events, self.events);
        view.versions_added = a_second(shown.totals.versions, self.versions);
        *self = Rates {
            at: Some(Instant::now()),
            transactions,
            events: shown.totals.events,
            versions: shown.totals.versions,
        };
    }
}

/// How far the warehouse is behind.
pub(super) fn lag(shown: &serve::View, now: i64) -> Lag {
    let behind = match shown.partitions.is_empty() {
        true => Behind::Bytes(shown.lag_bytes()),
        false => Behind::Records(shown.lag_records()),
    };
    Lag { milliseconds: shown.lag_micros(now).unsigned_abs() / 1000, behind }
}

/// How the marts follow.
pub(super) fn marts(board: &Board) -> Option<Marts> {
    let reports = board.marts();
    let count = |reports: usize| u64::try_from(reports).unwrap_or(u64::MAX);
    let behind = reports.iter().map(|report| report.lag_seconds).fold(0.0, f64::max);
    (!reports.is_empty()).then(|| Marts {
        count: count(reports.len()),
        fresh: count(reports.iter().filter(|report| report.state == "fresh").count()),
        milliseconds: count(
            usize::try_from(Duration::from_secs_f64(behind).as_millis()).unwrap_or(usize::MAX),
        ),
        written: reports.iter().map(|report| report.rows_written.unsigned_abs()).sum(),
        different: None,
    })
}

/// How far the first reading of each table is.
pub(super) fn progress(view: &serve::View) -> Vec<TableProgress> {
    let mut tables: Vec<TableProgress> = view
        .tables
        .iter()
        .filter(|(_, table)| table.rows_estimated > 0 || table.rows_read > 0)
        .map(|(name, table)| TableProgress {
            name: name.to_string(),
            done: table.rows_read,
            total: table.rows_estimated,
            finished: matches!(table.state.as_str(), "catching_up" | "streaming"),
        })
        .collect();
    tables.sort_by(|a, b| a.name.cmp(&b.name));
    tables
}
