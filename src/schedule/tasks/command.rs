//! A program. It is told the run's time by its environment and by `{ds}` and the like in its arguments, and
//! ends with the service, also where that is killed.

use std::process::Stdio;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::{Outcome, Work};
use crate::error::{Error, Kind, Result};
use crate::spec::Variable;

/// Of what it says so much is kept: the end, where programs say why they fail.
const KEPT: usize = 4000;

/// Two processes: this one waits for the program and ends as it does, the one in brackets waits for the end
/// of a pipe that closes with ours, and then ends the program.
const KEEPER: &str = r#"
exec 3<&0 </dev/null
"$@" 3<&- &
program=$!
( read -r _ <&3; kill "$program" 2>/dev/null ) >/dev/null 2>&1 &
keeper=$!
exec 3<&-
wait "$program"
status=$?
kill "$keeper" 2>/dev/null
exit "$status"
"#;

pub(super) async fn run(work: &Work<'_>, words: &[String]) -> Result<Outcome> {
    let attempt = work.attempt;
    // its other words may be secrets
    let program = words.first().map_or("", String::as_str);
    let failed = |error: std::io::Error| {
        Error::new(Kind::Config, format!("{program} cannot be run")).because(error)
    };
    let mut command = Command::new("sh");
    command
        .args(["-c", KEEPER, "siltstone"])
        .args(words.iter().map(|word| attempt.filled(word)))
        .current_dir(&work.hands.root)
        .env("SILTSTONE_DS", attempt.variable(Variable::Ds))
        .env("SILTSTONE_PREV_DS", attempt.variable(Variable::PrevDs))
        .env("SILTSTONE_INTERVAL_START", attempt.variable(Variable::IntervalStart))
        .env("SILTSTONE_INTERVAL_END", attempt.variable(Variable::IntervalEnd))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(failed)?;
    // it closes where this attempt is dropped, and the keeper ends the program
    let _held = child.stdin.take();
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (ended, out, err) = tokio::join!(child.wait(), tail(out), tail(err));
    let status = ended.map_err(failed)?;
    if status.success() {
        return Ok(Outcome::Done(None));
    }
    let said = if err.trim().is_empty() { out } else { err };
    let how = status.code().map_or("a signal".to_owned(), |code| format!("exit code {code}"));
    Ok(Outcome::Failed(format!("{program} ended with {how}: {}", said.trim())))
}

/// The end of what it says.
async fn tail(from: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut from) = from else { return String::new() };
    let (mut kept, mut read) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = from.read(&mut read).await {
        kept.extend_from_slice(read.get(..length).unwrap_or_default());
        let surplus = kept.len().saturating_sub(KEPT);
        kept.drain(..surplus);
    }
    String::from_utf8_lossy(&kept).into_owned()
}
