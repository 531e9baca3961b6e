//! The process of a throw-away server, `postgres` or `java`, and the shell that watches over it.
//!
//! A server must end when we do, even by SIGKILL. The shell holds one end of a pipe whose other end
//! is ours: signals are sent as words through it, and when it closes without one, the shell shuts the
//! server down and removes its folder. This file never decides where a server lives.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::error::{Error, Kind, Result};

/// How long a server may take to become ready; recovery after a crash is part of it.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// `$1` is the server's folder, `$2` the signal that ends it when we are gone, the rest its command
/// line. Two processes: this one waits for the server and ends as it does, the one in brackets reads
/// the pipe. The server gets neither end of the pipe. A process in the background ignores SIGINT at
/// first; postgres sets its own handler, java does not.
const WATCHDOG: &str = r#"
folder=$1 orphaned=$2; shift 2
exec 3<&0 </dev/null
"$@" 3<&- &
server=$!
(
  while read -r signal <&3; do kill -s "$signal" "$server"; done
  # the pipe is closed: nobody is left to remove the folder
  trap '' TERM
  kill -s "$orphaned" "$server"
  waited=0
  while kill -0 "$server" && [ "$waited" -lt 10 ]; do sleep 1; waited=$((waited + 1)); done
  kill -s KILL "$server" && sleep 1
  rm -rf -- "$folder"
) >/dev/null 2>&1 &
reader=$!
exec 3<&-
wait "$server"
status=$?
kill "$reader" 2>/dev/null
exit "$status"
"#;

/// The user and group that a program runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// How a kind of server is watched.
pub(super) struct Manner {
    /// What it is called in messages.
    pub(super) name: &'static str,
    /// What stands in the line by which it says that it is ready.
    pub(super) ready: &'static str,
    /// What ends it when our process is gone.
    pub(super) orphaned: Signal,
    /// What ends it when its owner is dropped.
    pub(super) dropped: Signal,
}

/// A program to start.
pub(super) struct Launch<'a> {
    pub(super) manner: &'static Manner,
    pub(super) program: &'a Path,
    pub(super) arguments: &'a [String],
    /// Variables of its environment, beside the few that every server gets.
    pub(super) variables: &'a [(String, String)],
    /// Where it runs; the folder goes when our process is killed.
    pub(super) folder: &'a Path,
    pub(super) account: Option<Account>,
    /// Where everything that it writes is kept, beside the last lines.
    pub(super) log_file: Option<PathBuf>,
}

/// A program of a server: nothing of our environment reaches it, and as `account` it is not root.
pub(super) fn command(program: &Path, folder: &Path, account: Option<Account>) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(folder)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("LC_ALL", "C")
        .env("TZ", "UTC");
    if let Some(account) = account {
        command.gid(account.gid).uid(account.uid);
    }
    command
}

/// The last lines that a server wrote, for messages.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<VecDeque<String>>>);

impl Log {
    const LINES: usize = 200;

    fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == Log::LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// The last `count` lines.
    pub(super) fn tail(&self, count: usize) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().skip(lines.len().saturating_sub(count)).cloned().collect()
    }

    pub(super) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Starting,
    Ready,
    Ended,
}

/// A signal that ends a server, by the name `kill -s` knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Fast: open transactions are rolled back, everything is written out.
    Interrupt,
    /// Immediate: as a crash, with recovery at the next start.
    Quit,
    /// In order, for programs other than postgres.
    Terminate,
    /// Nothing is written out and nobody is told.
    Kill,
}

impl Signal {
    fn word(self) -> &'static str {
        match self {
            Signal::Interrupt => "INT",
            Signal::Quit => "QUIT",
            Signal::Terminate => "TERM",
            Signal::Kill => "KILL",
        }
    }
}

/// A running server below its watchdog.
pub(super) struct Server {
    manner: &'static Manner,
    watchdog: Child,
    state: watch::Receiver<State>,
}

impl Server {
    /// Starts a program and waits until it says that it is ready.
    pub(super) async fn start(launch: Launch<'_>, log: &Log) -> Result<Server> {
        let manner = launch.manner;
        let failed = |error| {
            Error::new(Kind::Config, format!("{} cannot be started", manner.name)).because(error)
        };
        let mut watchdog = watched(&launch).spawn().map_err(failed)?;
        let (tell, state) = watch::channel(State::Starting);
        if let Some(errors) = watchdog.stderr.take() {
            let mut lines = Lines { log: log.clone(), file: None, ready: manner.ready, tell };
            if let Some(path) = launch.log_file {
                let file = File::options().create(true).append(true).open(path);
                lines.file = Some(file.map_err(failed)?);
            }
            std::thread::Builder::new()
                .name("server-log".to_owned())
                .spawn(move || lines.drain(errors))
                .map_err(failed)?;
        }
        let mut server = Server { manner, watchdog, state };
        server.ready(log).await?;
        Ok(server)
    }

    async fn ready(&mut self, log: &Log) -> Result<()> {
        let waiting = self.state.wait_for(|state| *state != State::Starting);
        let state = tokio::time::timeout(READY_WITHIN, waiting).await.map(|s| s.map(|s| *s));
        let why = match state {
            Ok(Ok(State::Ready)) => return Ok(()),
            Ok(_) => "ended while it started",
            Err(_) => "was not ready in time",
        };
        self.stop_now();
        let (name, wrote) = (self.manner.name, log.tail(8).join(" | "));
        Err(Error::new(Kind::Config, format!("{name} {why}; it wrote: {wrote}")))
    }

    /// Sends a signal and waits for the end, at most `within`. Says whether it has ended.
    pub(super) async fn stop(&mut self, signal: Signal, within: Duration) -> bool {
        self.send(signal);
        let deadline = Instant::now() + within;
        while !self.ended() {
            if Instant::now() > deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        true
    }

    /// As a crash, without an executor: for destructors. Blocks some tens of milliseconds.
    pub(super) fn stop_now(&mut self) {
        self.send(self.manner.dropped);
        // postgres itself kills what does not follow within 5 s
        let deadline = Instant::now() + Duration::from_secs(8);
        while !self.ended() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        // closing the pipe starts the watchdog's own, harder way where this has not helped
        drop(self.watchdog.stdin.take());
    }

    /// The watchdog's process, of which the server is a child.
    pub(super) fn pid(&self) -> u32 {
        self.watchdog.id()
    }

    /// Whether the server has ended; its log is complete then, too.
    pub(super) fn ended(&mut self) -> bool {
        !matches!(self.watchdog.try_wait(), Ok(None))
    }

    fn send(&mut self, signal: Signal) {
        let Some(pipe) = self.watchdog.stdin.as_mut() else { return };
        if let Err(error) = pipe.write_all(format!("{}\n", signal.word()).as_bytes()) {
            // it has ended already
            tracing::debug!(%error, "the server's watchdog takes no signal");
        }
    }
}

/// The shell that runs a program and watches over it.
fn watched(launch: &Launch<'_>) -> Command {
    let mut shell = command(Path::new("/bin/sh"), launch.folder, launch.account);
    shell.envs(launch.variables.iter().map(|(name, value)| (name, value)));
    shell.args(["-c", WATCHDOG, "sh"]).arg(launch.folder).arg(launch.manner.orphaned.word());
    shell.arg(launch.program).args(launch.arguments);
    // a group of its own: Ctrl-C at the terminal is for us, and the end of the server is ours
    shell.process_group(0);
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    shell
}

/// Where the lines go that a server writes.
struct Lines {
    log: Log,
    file: Option<File>,
    ready: &'static str,
    tell: watch::Sender<State>,
}

impl Lines {
    /// Reads what the server writes until its last process has ended.
    fn drain(mut self, errors: ChildStderr) {
        let mut lines = BufReader::new(errors).split(b'\n');
        while let Some(Ok(line)) = lines.next() {
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.contains(self.ready) {
                self.tell.send_replace(State::Ready);
            }
            if let Some(file) = &mut self.file
                && let Err(error) = writeln!(file, "{line}")
            {
                tracing::debug!(%error, "a server's log is not written any more");
                self.file = None;
            }
            self.log.push(line);
        }
        self.tell.send_replace(State::Ended);
    }
}
