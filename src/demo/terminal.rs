//! Writes the demo's screen: redrawn in place on a terminal, one plain line a second elsewhere.
//!
//! Knows a handful of ANSI sequences and nothing of what the lines mean. The cursor is hidden while
//! it draws and comes back at the end, also when a [`Screen`] is just dropped.

use std::fs::File;
use std::io::{self, IsTerminal, Stdout, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::screen::{Phase, View, render, render_plain, verified};
use crate::spec::Env;

const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";
/// From the cursor to the end of the screen.
const ERASE_BELOW: &str = "\x1b[J";
/// From the cursor to the end of the line.
const ERASE_RIGHT: &str = "\x1b[K";

const DEFAULT_WIDTH: usize = 80;
/// A plain verdict stands on one line.
const PLAIN_WIDTH: usize = 200;
/// How often the terminal's width is asked for.
const WIDTH_FOR: Duration = Duration::from_secs(2);

/// The place where views are shown.
pub struct Screen<W: Write = Stdout> {
    out: W,
    mode: Mode,
}

enum Mode {
    Terminal {
        width: usize,
        /// When the width was asked for; none where it is fixed.
        measured: Option<Instant>,
        /// Rows of the terminal that the last view took.
        rows: usize,
    },
    Plain {
        /// The second of the last line.
        second: Option<u64>,
        /// How many lines below the rates have been written: they are written once.
        told: Vec<String>,
    },
}

impl Screen<Stdout> {
    /// The process's standard output; plain where it is no terminal or `TERM` is `dumb`.
    pub fn stdout(env: &Env) -> Screen<Stdout> {
        let out = io::stdout();
        if !out.is_terminal() || env.get("TERM") == Some("dumb") {
            return Screen::plain(out);
        }
        let mut screen = Screen::terminal(out, terminal_width().unwrap_or(DEFAULT_WIDTH));
        if let Mode::Terminal { measured, .. } = &mut screen.mode {
            *measured = Some(Instant::now());
        }
        screen
    }
}

impl<W: Write> Screen<W> {
    /// A terminal of so many columns.
    pub fn terminal(out: W, width: usize) -> Screen<W> {
        Screen { out, mode: Mode::Terminal { width, measured: None, rows: 0 } }
    }

    /// A log: a line for each second of the view's time.
    pub fn plain(out: W) -> Screen<W> {
        Screen { out, mode: Mode::Plain { second: None, told: Vec::new() } }
    }

    /// Shows a view in place of the last one.
    pub fn show(&mut self, view: &View) -> io::Result<()> {
        match &mut self.mode {
            Mode::Terminal { width, measured, rows } => {
                if measured.is_some_and(|at| at.elapsed() > WIDTH_FOR) {
                    *width = terminal_width().unwrap_or(*width);
                    *measured = Some(Instant::now());
                }
                let lines = render(view, *width);
                let mut text = HIDE_CURSOR.to_owned() + &up(*rows);
                for line in &lines {
                    text.push_str(line);
                    text.push_str(ERASE_RIGHT);
                    text.push_str("\r\n");
                }
                text.push_str(ERASE_BELOW);
                *rows = lines.iter().map(|line| rows_of(line, *width)).sum();
                self.out.write_all(text.as_bytes())?;
            }
            Mode::Plain { second, told } => {
                let now = view.elapsed.as_secs();
                let is_result = matches!(view.phase, Phase::Verified(_));
                if *second == Some(now) && !is_result {
                    return Ok(());
                }
                *second = Some(now);
                let mut lines = vec![render_plain(view)];
                lines.extend(once(view, told));
                self.out.write_all((lines.join("\n") + "\n").as_bytes())?;
            }
        }
        self.out.flush()
    }

    /// Leaves the view where it stands: what comes next is written below it.
    pub fn leave(&mut self) {
        if let Mode::Terminal { rows, .. } = &mut self.mode {
            *rows = 0;
        }
    }

    /// Writes a line above the view, which the next [`Screen::show`] draws again below it.
    pub fn say(&mut self, line: &str) -> io::Result<()> {
        let text = match &mut self.mode {
            Mode::Terminal { rows, .. } => {
                format!("{}{ERASE_BELOW}{line}\r\n", up(std::mem::take(rows)))
            }
            Mode::Plain { .. } => format!("{line}\n"),
        };
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }
}

impl<W: Write> Drop for Screen<W> {
    fn drop(&mut self) {
        let is_terminal = matches!(self.mode, Mode::Terminal { .. });
        if is_terminal && write!(self.out, "{SHOW_CURSOR}").and_then(|()| self.out.flush()).is_err()
        {
            tracing::debug!("the terminal has gone");
        }
    }
}

/// The view's lines that a log has not had yet.
fn once(view: &View, told: &mut Vec<String>) -> Vec<String> {
    let mut lines: Vec<String> = view.notes.iter().map(|note| format!("note: {note}")).collect();
    lines.extend(view.admin.iter().map(|address| format!("admin: {address}")));
    lines.extend(view.psql.iter().cloned());
    if let Phase::Verified(verdict) = &view.phase {
        lines.extend(verified(verdict, PLAIN_WIDTH));
    }
    lines.retain(|line| !told.contains(line));
    told.extend(lines.iter().cloned());
    lines
}

/// To the beginning of the line so many rows above.
fn up(rows: usize) -> String {
    if rows == 0 { "\r".to_owned() } else { format!("\r\x1b[{rows}A") }
}

/// How many rows a terminal needs for a line that it breaks itself.
fn rows_of(line: &str, width: usize) -> usize {
    line.chars().count().div_ceil(width.max(1)).max(1)
}

/// The terminal's columns, as `stty` knows them.
fn terminal_width() -> Option<usize> {
    let terminal = File::open("/dev/tty").ok()?;
    let mut stty = Command::new("stty");
    let output = stty.arg("size").stdin(terminal).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let width = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(width).filter(|width| *width > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::screen::Verdict;

    fn view(seconds: u64, phase: Phase) -> View {
        View {
            elapsed: Duration::from_secs(seconds),
            phase,
            notes: vec!["audit_log is left out".to_owned()],
            ..View::default()
        }
    }

    #[test]
    fn a_terminal_is_redrawn_in_place_and_gets_its_cursor_back() {
        let mut out = Vec::new();
        let mut screen = Screen::terminal(&mut out, 80);
        let mut first = view(1, Phase::Starting);
        first.psql.push("x".repeat(100));
        screen.show(&first).unwrap();
        screen.show(&view(2, Phase::Starting)).unwrap();
        screen.say("a word").unwrap();
        drop(screen);
        let text = String::from_utf8(out).unwrap();
        let moves = text.matches("\x1b[4A").count();
        assert_eq!(moves, 1, "two short lines and one of two rows: {text:?}");
        assert!(text.contains("\r\x1b[2A\x1b[Ja word\r\n"), "{text:?}");
        assert!(text.ends_with(SHOW_CURSOR));
    }

    #[test]
    fn a_log_has_a_line_a_second_and_every_note_once() {
        let mut out = Vec::new();
        let mut screen = Screen::plain(&mut out);
        let verdict = Verdict { tables: 1, rows: 2, ..Verdict::default() };
        for at in [0, 0, 1, 1] {
            screen.show(&view(at, Phase::Starting)).unwrap();
        }
        screen.show(&view(1, Phase::Verified(verdict))).unwrap();
        drop(screen);
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r#"
        00:00   starting
        note: audit_log is left out
        00:01   starting
        00:01   verified   source 0 tx/s   applied 0 rows/s   lag unknown   versions 0 (+0/s)
        VERIFY     1 table, 2 rows: equal   SCD2: 0 overlaps, 0 double currents      PASSED
        "#);
    }
}
