//! What the demo shows: a view of what is going on, as lines of text.
//!
//! Pure: it reads no clock, no database and no terminal; [`super::terminal`] writes the lines. The
//! words are the ones that `status` and the documentation use.

mod words;

use std::time::Duration;

use words::{clock, counted, cut, grouped, length, padded, size, time};

/// Everything the screen shows at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Since the demo began.
    pub elapsed: Duration,
    /// What is going on.
    pub phase: Phase,
    /// Transactions a second that the traffic commits.
    pub source_transactions: u64,
    /// Rows a second that the warehouse takes.
    pub applied_rows: u64,
    /// How far the warehouse is behind, where that is known.
    pub lag: Option<Lag>,
    /// Versions in the history table.
    pub versions: u64,
    /// How many of them are added in a second.
    pub versions_added: u64,
    /// How the marts follow, where there are some.
    pub marts: Option<Marts>,
    /// What became of the jobs, where there are some.
    pub jobs: Option<Jobs>,
    /// Transactions that were tried again.
    pub retries: u64,
    /// What a person should know, one sentence each.
    pub notes: Vec<String>,
    /// The admin server's address, such as `http://127.0.0.1:8088`.
    pub admin: Option<String>,
    /// Command lines that open the databases.
    pub psql: Vec<String>,
}

/// What the demo is doing.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Phase {
    /// Making the databases.
    #[default]
    Starting,
    /// Reading the rows that were there before.
    Snapshot(Vec<TableProgress>),
    /// Applying changes as they come.
    Streaming,
    /// The traffic has stopped; the rest is applied.
    Draining,
    /// Comparing source and warehouse.
    Verifying,
    /// The comparison's result.
    Verified(Verdict),
}

impl Phase {
    fn word(&self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Snapshot(_) => "snapshot",
            Phase::Streaming => "streaming",
            Phase::Draining => "draining",
            Phase::Verifying => "verifying",
            Phase::Verified(_) => "verified",
        }
    }
}

/// How far the first reading of a table is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableProgress {
    /// The table's name.
    pub name: String,
    /// Rows read so far.
    pub done: u64,
    /// Rows it is thought to have; an estimate, which `done` may pass.
    pub total: u64,
    /// Whether the table is read to its end.
    pub finished: bool,
}

impl TableProgress {
    /// Below 100 until the table is finished.
    fn percent(&self) -> u64 {
        if self.finished {
            return 100;
        }
        (self.done.saturating_mul(100) / self.total.max(1)).min(99)
    }
}

/// How far the warehouse is behind the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Since the newest applied change was committed at the source.
    pub milliseconds: u64,
    /// What is not applied.
    pub behind: Behind,
}

/// What the warehouse does not have yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// Bytes of WAL between the applied position and the source's end.
    Bytes(u64),
    /// Records of topics.
    Records(u64),
}

/// How the marts follow what is applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marts {
    /// How many there are.
    pub count: u64,
    /// How many of them have all that is applied.
    pub fresh: u64,
    /// How far the last one is behind what is applied.
    pub milliseconds: u64,
    /// Rows that were written to them.
    pub written: u64,
    /// How many differ from a full rebuild, once they were compared.
    pub different: Option<u64>,
}

/// What became of the jobs, each of which runs once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Jobs {
    /// How many there are.
    pub count: u64,
    /// How many went well.
    pub well: u64,
    /// Those that failed.
    pub failed: Vec<String>,
    /// The one that runs.
    pub runs: Option<String>,
}

/// What comparing source and warehouse has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Tables compared.
    pub tables: u64,
    /// Rows compared.
    pub rows: u64,
    /// The tables that differ.
    pub different: Vec<String>,
    /// The tables that could not be compared as they are: stopped, or being read.
    pub skipped: Vec<String>,
    /// Versions of one user that overlap.
    pub overlaps: u64,
    /// Users with two current versions.
    pub double_currents: u64,
}

impl Verdict {
    /// Whether everything is as it should be. Nothing compared is not enough.
    pub fn passed(&self) -> bool {
        let history = self.overlaps == 0 && self.double_currents == 0;
        self.tables > 0 && self.different.is_empty() && self.skipped.is_empty() && history
    }
}

/// Narrower terminals are treated as if they had so many columns.
pub const LEAST_WIDTH: usize = 60;

/// Where the values begin, behind a line's first word.
const INDENT: usize = 11;
const GAP: &str = "   ";

/// The view as lines of at most `width` columns. Only the command lines may be longer: broken in two
/// they could not be copied.
pub fn render(view: &View, width: usize) -> Vec<String> {
    let width = width.max(LEAST_WIDTH);
    let mut lines = vec![title(view)];
    match &view.phase {
        Phase::Starting => {}
        Phase::Snapshot(tables) => lines.extend(bars(tables, width)),
        _ => lines.extend(wrapped("source", &rates(view), width)),
    }
    if let Some(marts) = view.marts {
        lines.extend(wrapped("marts", &following(marts), width));
    }
    if let Some(jobs) = &view.jobs {
        lines.extend(wrapped("jobs", &run_once(jobs), width));
    }
    if let Phase::Verified(verdict) = &view.phase {
        lines.extend(verified(verdict, width));
    }
    if view.retries > 0 {
        lines.push(line("retries", &grouped(view.retries)));
    }
    lines.extend(view.notes.iter().map(|note| cut(&line("note", note), width)));
    lines.extend(view.admin.iter().map(|address| line("admin", address)));
    lines.extend(view.psql.iter().map(|command| line("psql", command)));
    lines
}

/// The view as one line, for a log: no notes, no addresses.
pub fn render_plain(view: &View) -> String {
    let mut parts = vec![clock(view.elapsed), view.phase.word().to_owned()];
    match &view.phase {
        Phase::Starting => {}
        Phase::Snapshot(tables) => {
            parts.extend(tables.iter().map(|t| format!("{} {} %", t.name, t.percent())));
        }
        _ => {
            let mut rates = rates(view);
            if let Some(first) = rates.first_mut() {
                first.insert_str(0, "source ");
            }
            parts.extend(rates);
            parts.extend(view.marts.map(|marts| format!("marts {}", following(marts).join(GAP))));
            let jobs = view.jobs.as_ref().map(run_once);
            parts.extend(jobs.map(|jobs| format!("jobs {}", jobs.join(GAP))));
        }
    }
    parts.join(GAP)
}

/// The lines that tell a result, as [`render`] has them.
pub fn verified(verdict: &Verdict, width: usize) -> Vec<String> {
    let width = width.max(LEAST_WIDTH);
    let tables = counted(verdict.tables, "table");
    let equal = match verdict.different.as_slice() {
        [] => "equal".to_owned(),
        different => format!("different in {}", different.join(", ")),
    };
    let equal = match verdict.skipped.as_slice() {
        [] => equal,
        skipped => format!("{equal}; not compared: {}", skipped.join(", ")),
    };
    let rows = counted(verdict.rows, "row");
    let overlaps = counted(verdict.overlaps, "overlap");
    let currents = counted(verdict.double_currents, "double current");
    let word = if verdict.passed() { "PASSED" } else { "FAILED" };
    let parts = [
        format!("{tables}, {rows}: {equal}"),
        format!("SCD2: {overlaps}, {currents}"),
        format!("{GAP}{word}"),
    ];
    wrapped("VERIFY", &parts, width)
}

fn following(marts: Marts) -> Vec<String> {
    let compared = marts.different.map(|different| match different {
        0 => "all equal a full rebuild".to_owned(),
        _ => format!("{} of them differ from a full rebuild", grouped(different)),
    });
    // while rows come all the time, none ever has all of them
    let behind = match marts.fresh == marts.count {
        true => format!("{} have all rows", grouped(marts.count)),
        false => format!("{} at most {} behind", grouped(marts.count), time(marts.milliseconds)),
    };
    let mut parts = vec![behind, format!("{} rows written", grouped(marts.written))];
    parts.extend(compared);
    parts
}

fn run_once(jobs: &Jobs) -> Vec<String> {
    let mut parts = vec![format!("{} of {} went well", grouped(jobs.well), grouped(jobs.count))];
    if !jobs.failed.is_empty() {
        parts.push(format!("failed: {}", jobs.failed.join(", ")));
    }
    parts.extend(jobs.runs.as_ref().map(|job| format!("{job} runs")));
    parts
}

fn title(view: &View) -> String {
    ["shop → warehouse".to_owned(), clock(view.elapsed), view.phase.word().to_owned()].join(GAP)
}

fn rates(view: &View) -> Vec<String> {
    let lag = match view.lag {
        Some(Lag { milliseconds, behind: Behind::Bytes(bytes) }) => {
            format!("lag {} / {}", time(milliseconds), size(bytes))
        }
        Some(Lag { milliseconds, behind: Behind::Records(records) }) => {
            format!("lag {} / {}", time(milliseconds), counted(records, "record"))
        }
        None => "lag unknown".to_owned(),
    };
    vec![
        format!("{} tx/s", grouped(view.source_transactions)),
        format!("applied {} rows/s", grouped(view.applied_rows)),
        lag,
        format!("versions {} (+{}/s)", grouped(view.versions), grouped(view.versions_added)),
    ]
}

/// A bar for each table, as wide as the line allows.
fn bars(tables: &[TableProgress], width: usize) -> Vec<String> {
    const LONGEST_BAR: usize = 40;
    let names = tables.iter().map(|table| length(&table.name)).max().unwrap_or(0);
    let names = names.clamp(INDENT - 1, width / 3);
    let counts: Vec<String> = tables
        .iter()
        .map(|table| match table.finished {
            true => grouped(table.done),
            false => format!("{} of {}", grouped(table.done), grouped(table.total)),
        })
        .collect();
    let widest = counts.iter().map(|count| length(count)).max().unwrap_or(0);
    let bar = width.saturating_sub(names + widest + " 100 %".len() + 2 + GAP.len());
    let bar = bar.min(LONGEST_BAR);
    let shown = |(table, count): (&TableProgress, &String)| {
        let percent = table.percent();
        let full = bar * usize::try_from(percent).unwrap_or(0) / 100;
        let (full, empty) = ("█".repeat(full), "░".repeat(bar - full));
        let name = padded(&cut(&table.name, names), names);
        format!("{name} {full}{empty} {percent:>3} %{GAP}{count}")
    };
    tables.iter().zip(&counts).map(shown).collect()
}

fn line(word: &str, text: &str) -> String {
    format!("{}{text}", padded(word, INDENT))
}

/// A first word and parts behind it, on as many lines as the width asks for.
fn wrapped(word: &str, parts: &[String], width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut current = padded(word, INDENT);
    let mut is_empty = true;
    for part in parts {
        if !is_empty && length(&current) + GAP.len() + length(part) > width {
            lines.push(std::mem::replace(&mut current, " ".repeat(INDENT)));
            is_empty = true;
        }
        if is_empty {
            current.push_str(part.trim_start());
        } else {
            current.push_str(GAP);
            current.push_str(part);
        }
        is_empty = false;
    }
    lines.push(current);
    lines.iter().map(|line| cut(line, width)).collect()
}

#[cfg(test)]
mod tests;
