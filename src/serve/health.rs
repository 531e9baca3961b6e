//! Readiness, by progress: ready while rows move, while nothing waits, in a snapshot; not ready when
//! something waits and nothing was committed for a minute, or when a connector has stopped.

use super::view::{Phase, View};

/// Backlog without a commit for so long means that something is stuck, in microseconds.
const STUCK_AFTER: i64 = 60_000_000;

/// Whether the service is ready, else why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It is.
    Ready,
    /// It is not, for these reasons.
    NotReady(Vec<String>),
}

/// Judges what the connectors are doing; `now` in microseconds since 2000-01-01 UTC.
pub fn readiness(views: &[View], now: i64) -> Readiness {
    let reasons: Vec<String> = views.iter().filter_map(|view| why_not(view, now)).collect();
    if reasons.is_empty() { Readiness::Ready } else { Readiness::NotReady(reasons) }
}

fn why_not(view: &View, now: i64) -> Option<String> {
    let name = &view.name;
    let because = view.reason.as_deref().unwrap_or("no reason is known");
    if view.phase == Phase::Stopped {
        return Some(format!("{name} has stopped: {because}"));
    }
    let still = now.saturating_sub(view.moved_at);
    if still < STUCK_AFTER || !view.backlog() || is_at_rest(view.phase) {
        return None;
    }
    let seconds = still / 1_000_000;
    Some(match view.phase {
        Phase::Waiting => format!("{name} waits since {seconds} s: {because}"),
        _ => format!("{name} has a backlog and has committed nothing for {seconds} s"),
    })
}

/// Whether nothing is expected of a connector in this phase.
fn is_at_rest(phase: Phase) -> bool {
    matches!(phase, Phase::Standby | Phase::Paused | Phase::Halted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(phase: Phase, backlog: bool, moved_at: i64) -> View {
        View {
            name: "shop".to_owned(),
            phase,
            received_commit: i64::from(backlog),
            moved_at,
            ..View::default()
        }
    }

    #[test]
    fn progress_is_readiness() {
        let now = 1_000_000_000;
        let minute_ago = now - 61_000_000;
        let cases = [
            (view(Phase::Streaming, false, minute_ago), true, "idle"),
            (view(Phase::Streaming, true, now - 1), true, "busy"),
            (view(Phase::Streaming, true, minute_ago), false, "stuck"),
            (view(Phase::Snapshotting, true, now - 5), true, "reading"),
            (view(Phase::Waiting, true, now - 5), true, "just lost"),
            (view(Phase::Waiting, true, minute_ago), false, "away"),
            (view(Phase::Stopped, false, now), false, "stopped"),
            (view(Phase::Starting, false, now - 5), true, "starting"),
            (view(Phase::Waiting, false, minute_ago), false, "never reached"),
            (view(Phase::Standby, false, minute_ago), true, "standing by"),
            (view(Phase::Paused, true, minute_ago), true, "paused"),
        ];
        for (view, ready, what) in cases {
            assert_eq!(readiness(&[view], now) == Readiness::Ready, ready, "{what}");
        }
    }
}
