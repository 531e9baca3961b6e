//! The `postgres` process of a cluster, and the shell that watches over it.
//!
//! `postgres` must end when we do, even by SIGKILL. The shell holds one end of a pipe whose other end
//! is ours: signals are sent as words through it, and when it closes without one, the shell shuts the
//! server down and removes its folder. This file never decides where a cluster lives.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::error::{Error, Kind, Result};

/// How long a server may take to become ready; recovery after a crash is part of it.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// `$1` is the cluster's folder, the rest the server's command line. Two processes: this one waits
/// for the server and ends as it does, the one in brackets reads the pipe. The server gets neither
/// end of the pipe. A process in the background ignores SIGINT at first; postgres sets its own
/// handler.
const WATCHDOG: &str = r#"
folder=$1; shift
exec 3<&0 </dev/null
"$@" 3<&- &
server=$!
(
  while read -r signal <&3; do kill -s "$signal" "$server"; done
  # the pipe is closed: nobody is left to remove the folder
  trap '' TERM
  kill -s INT "$server"
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

/// A program of the cluster: nothing of our environment reaches it, and it does not run as root.
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
}

impl Signal {
    fn word(self) -> &'static [u8] {
        match self {
            Signal::Interrupt => b"INT\n",
            Signal::Quit => b"QUIT\n",
        }
    }
}

/// A running `postgres` below its watchdog.
pub(super) struct Server {
    watchdog: Child,
    state: watch::Receiver<State>,
}

impl Server {
    /// Starts `program` with `arguments` and waits until it takes connections.
    pub(super) async fn start(
        program: &Path,
        arguments: &[String],
        folder: &Path,
        account: Option<Account>,
        log: &Log,
    ) -> Result<Server> {
        let mut command = command(Path::new("/bin/sh"), folder, account);
        command.args(["-c", WATCHDOG, "sh"]).arg(folder).arg(program).args(arguments);
        // a group of its own: Ctrl-C at the terminal is for us, and the end of the server is ours
        command.process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let failed = |error| Error::new(Kind::Config, "postgres cannot be started").because(error);
        let mut watchdog = command.spawn().map_err(failed)?;
        let (tell, state) = watch::channel(State::Starting);
        if let Some(errors) = watchdog.stderr.take() {
            let log = log.clone();
            let drain = move || drain(errors, &log, &tell);
            std::thread::Builder::new()
                .name("postgres-log".to_owned())
                .spawn(drain)
                .map_err(failed)?;
        }
        let mut server = Server { watchdog, state };
        server.ready(log).await?;
        Ok(server)
    }

    async fn ready(&mut self, log: &Log) -> Result<()> {
        let waiting = self.state.wait_for(|state| *state != State::Starting);
        let state = tokio::time::timeout(READY_WITHIN, waiting).await.map(|s| s.map(|s| *s));
        let why = match state {
            Ok(Ok(State::Ready)) => return Ok(()),
            Ok(_) => "postgres ended while it started",
            Err(_) => "postgres was not ready in time",
        };
        self.stop_now();
        Err(Error::new(Kind::Config, format!("{why}; it wrote: {}", log.tail(8).join(" | "))))
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
        self.send(Signal::Quit);
        // postgres itself kills what does not follow within 5 s
        let deadline = Instant::now() + Duration::from_secs(8);
        while !self.ended() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        // closing the pipe starts the watchdog's own, harder way where this has not helped
        drop(self.watchdog.stdin.take());
    }

    /// Whether the server has ended; its log is complete then, too.
    pub(super) fn ended(&mut self) -> bool {
        !matches!(self.watchdog.try_wait(), Ok(None))
    }

    fn send(&mut self, signal: Signal) {
        let Some(pipe) = self.watchdog.stdin.as_mut() else { return };
        if let Err(error) = pipe.write_all(signal.word()) {
            // it has ended already
            tracing::debug!(%error, "the server's watchdog takes no signal");
        }
    }
}

/// Reads what the server writes until its last process has ended.
fn drain(errors: ChildStderr, log: &Log, tell: &watch::Sender<State>) {
    let mut lines = BufReader::new(errors).split(b'\n');
    while let Some(Ok(line)) = lines.next() {
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.contains("ready to accept") {
            tell.send_replace(State::Ready);
        }
        log.push(line);
    }
    tell.send_replace(State::Ended);
}
