//! A program. It is told the run's time by its environment and by `{ds}` and the like in its arguments, and
//! ends with its attempt and with the service, also where that is killed: it and all that it has started.
//!
//! Of the service's environment it gets what programs need to work at all. What else is in there may be a secret,
//! and what a program says is kept.

use std::ffi::OsString;
use std::future::Future;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::Notify;

use super::{Outcome, Work};
use crate::error::{Error, Kind, Result};
use crate::spec::Variable;

/// Of what it says so much is kept: the end, where programs say why they fail.
const KEPT: usize = 4000;

/// How long behind its end it is listened to: what it has left behind may hold its output open for ever.
const LISTENS: Duration = Duration::from_secs(1);

/// What it gets of the environment, and all that begins with `LC_`.
const PASSED: [&str; 6] = ["PATH", "HOME", "LANG", "TZ", "USER", "TMPDIR"];

/// Two processes beside the program, of one group with it and with what it starts. This one waits for the program
/// and ends as it does. The one in brackets waits for the end of a pipe that closes with ours, and then ends the
/// group: by TERM, which both do not hear, and by KILL once the program has ended or has had five seconds.
/// USR1 ends it, unless it is at that already.
const KEEPER: &str = r#"
exec 3<&0 </dev/null
"$@" 3<&- &
program=$!
trap '' TERM
(
  read -r _ <&3
  trap '' USR1
  kill -s TERM 0
  for second in 1 2 3 4 5; do
    kill -s 0 "$program" || break
    sleep 1
  done
  kill -s KILL 0
) >/dev/null 2>&1 &
keeper=$!
exec 3<&-
wait "$program"
status=$?
{ kill -s USR1 "$keeper" && wait "$keeper"; } 2>/dev/null
exit "$status"
"#;

pub(super) async fn run(work: &Work<'_>, words: &[String]) -> Result<Outcome> {
    let attempt = work.attempt;
    // its other words may be secrets
    let program = words.first().map_or("", String::as_str);
    let words: Vec<String> = words.iter().map(|word| attempt.filled(word)).collect();
    let mut command = kept(&words);
    command
        .current_dir(&work.hands.root)
        .env("SILTSTONE_DS", attempt.variable(Variable::Ds))
        .env("SILTSTONE_PREV_DS", attempt.variable(Variable::PrevDs))
        .env("SILTSTONE_INTERVAL_START", attempt.variable(Variable::IntervalStart))
        .env("SILTSTONE_INTERVAL_END", attempt.variable(Variable::IntervalEnd));
    let ended = ended(command, &work.given_up).await.map_err(|error| {
        Error::new(Kind::Config, format!("{program} cannot be run")).because(error)
    })?;
    let Some((status, said)) = ended else {
        return Err(Error::new(Kind::Cancelled, "the attempt was given up"));
    };
    if status.success() {
        return Ok(Outcome::Done(None));
    }
    let how = status.code().map_or("a signal".to_owned(), |code| format!("exit code {code}"));
    Ok(Outcome::Failed(format!("{program} ended with {how}: {}", said.trim())))
}

/// A program that ends with a pipe to us.
pub(super) fn kept(words: &[String]) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", KEEPER, "siltstone"])
        .args(words)
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| is_passed(name)))
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn is_passed(name: &OsString) -> bool {
    name.to_str().is_some_and(|name| PASSED.contains(&name) || name.starts_with("LC_"))
}

/// Runs it: how it ended and what it said at last, or none where it was given up before.
pub(super) async fn ended(
    mut command: Command,
    given_up: &Notify,
) -> std::io::Result<Option<(ExitStatus, String)>> {
    let mut child = command.spawn()?;
    // it closes where this is dropped, and the group is ended
    let held = child.stdin.take();
    let (from, errors_from) = (child.stdout.take(), child.stderr.take());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let listening = async { tokio::join!(tail(from, &mut out), tail(errors_from, &mut err)) };
    let Some(status) = waited((child, held), listening, given_up).await? else { return Ok(None) };
    let said = [err, out].map(|said| String::from_utf8_lossy(&said).into_owned());
    let said = said.into_iter().find(|said| !said.trim().is_empty());
    Ok(Some((status, said.unwrap_or_default())))
}

async fn waited(
    (mut child, held): (Child, Option<ChildStdin>),
    listening: impl Future,
    given_up: &Notify,
) -> std::io::Result<Option<ExitStatus>> {
    let mut listening = pin!(listening);
    let mut silent = false;
    let status = loop {
        tokio::select! {
            // an end that was reached counts, also where it was to be given up in that moment
            biased;
            status = child.wait() => break status?,
            () = given_up.notified() => {
                drop(held);
                child.wait().await?;
                return Ok(None);
            }
            _ = &mut listening, if !silent => silent = true,
        }
    };
    if !silent {
        drop(tokio::time::timeout(LISTENS, listening).await);
    }
    Ok(Some(status))
}

/// Keeps the end of what it says.
async fn tail(from: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut from) = from else { return };
    let mut read = vec![0; 4096];
    while let Ok(length @ 1..) = from.read(&mut read).await {
        kept.extend_from_slice(read.get(..length).unwrap_or_default());
        let surplus = kept.len().saturating_sub(KEPT);
        kept.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn sh(script: &str) -> Command {
        kept(&["sh", "-c", script].map(str::to_owned))
    }

    fn is_there(process: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.trim()));
        // one that nobody has asked for its end is none any more
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    }

    async fn until_gone(process: &str) {
        let since = Instant::now();
        while is_there(process) {
            assert!(since.elapsed() < Duration::from_secs(20), "{process} goes on");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    #[tokio::test]
    async fn what_it_leaves_behind_does_not_hold_up_its_end() {
        let since = Instant::now();
        let ended = ended(sh("sleep 30 & echo $!; exit 3"), &Notify::new()).await.unwrap();
        let (status, said) = ended.unwrap();
        assert_eq!(status.code(), Some(3));
        assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
        assert!(is_there(&said), "it goes on as under cron");
        std::process::Command::new("kill").arg(said.trim()).status().unwrap();
    }

    #[tokio::test]
    async fn given_up_it_ends_with_what_it_started_and_deaf_ones_too() {
        let folder = tempfile::tempdir().unwrap();
        let note = folder.path().join("started");
        let script = "(trap '' TERM; sleep 300 & echo $! > \"$NOTE.part\"; mv \"$NOTE.part\" \"$NOTE\"; wait) & wait";
        let mut command = sh(script);
        command.env("NOTE", &note);
        let given_up = Notify::new();
        let tell = async {
            while !note.exists() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            given_up.notify_one();
        };
        let (ended, ()) = tokio::join!(ended(command, &given_up), tell);
        assert!(ended.unwrap().is_none());
        until_gone(&std::fs::read_to_string(&note).unwrap()).await;
    }

    #[tokio::test]
    async fn dropped_it_ends_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let note = folder.path().join("started");
        let mut command =
            sh("echo $$ > \"$NOTE.part\"; mv \"$NOTE.part\" \"$NOTE\"; sleep 300; true");
        command.env("NOTE", &note);
        let given_up = Notify::new();
        let tell = async {
            while !note.exists() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            _ = ended(command, &given_up) => panic!("it has ended"),
            () = tell => {}
        }
        until_gone(&std::fs::read_to_string(&note).unwrap()).await;
    }

    #[tokio::test]
    async fn it_gets_little_of_the_environment() {
        let ended = ended(sh("env; exit 1"), &Notify::new()).await.unwrap();
        let (_, said) = ended.unwrap();
        let passed = |line: &str| {
            let name = line.split('=').next().unwrap_or_default();
            // and what a shell sets by itself
            is_passed(&name.into()) || ["PWD", "OLDPWD", "SHLVL", "_"].contains(&name)
        };
        assert!(said.lines().any(|line| line.starts_with("PATH=")), "{said}");
        assert!(said.lines().all(passed), "{said}");
    }
}
