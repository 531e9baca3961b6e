//! What becomes of a task now that those before it are where they are, and of a run. Pure.

use std::collections::HashMap;

use crate::spec::{Task, TriggerRule};

/// What a task of a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// It waits for others.
    Waiting,
    /// An attempt goes on.
    Running,
    /// It waits to be tried again.
    Retrying,
    /// It went well.
    Success,
    /// It has failed for good.
    Failed,
    /// It was left out.
    Skipped,
    /// It could not begin, for one before it has failed.
    UpstreamFailed,
}

const STATES: [(TaskState, &str); 7] = [
    (TaskState::Waiting, "waiting"),
    (TaskState::Running, "running"),
    (TaskState::Retrying, "retrying"),
    (TaskState::Success, "success"),
    (TaskState::Failed, "failed"),
    (TaskState::Skipped, "skipped"),
    (TaskState::UpstreamFailed, "upstream_failed"),
];

impl TaskState {
    /// The word in `audit.task_runs`.
    pub fn word(self) -> &'static str {
        STATES.iter().find(|(state, _)| *state == self).map_or("", |(_, word)| word)
    }

    /// The state of a word.
    pub fn of(word: &str) -> Option<TaskState> {
        STATES.iter().find(|(_, known)| *known == word).map(|(state, _)| *state)
    }

    /// Whether nothing more comes of it by itself.
    pub fn is_final(self) -> bool {
        !matches!(self, TaskState::Waiting | TaskState::Running | TaskState::Retrying)
    }
}

/// What becomes of a task that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Others are not that far.
    Wait,
    /// It may begin.
    Begin,
    /// It never will, and is left out.
    Skip,
    /// It never will, for one before it has failed.
    UpstreamFailed,
}

/// The states of a run's tasks by their names.
pub(super) type States<'s> = HashMap<&'s str, TaskState>;

/// A task's state as those behind it see it: one that may fail went well enough.
fn seen(tasks: &[Task], states: &States<'_>, name: &str) -> TaskState {
    let state = states.get(name).copied().unwrap_or(TaskState::Waiting);
    let may_fail = tasks.iter().any(|task| task.name == name && task.allow_failure);
    if may_fail && state == TaskState::Failed { TaskState::Success } else { state }
}

/// What becomes of a task that waits.
pub(super) fn judge(tasks: &[Task], states: &States<'_>, task: &Task) -> Verdict {
    let before: Vec<TaskState> =
        task.depends_on.iter().map(|name| seen(tasks, states, name)).collect();
    let count = |wanted: &[TaskState]| before.iter().filter(|state| wanted.contains(state)).count();
    let failed = count(&[TaskState::Failed, TaskState::UpstreamFailed]);
    let (good, skipped) = (count(&[TaskState::Success]), count(&[TaskState::Skipped]));
    let all = before.len();
    let done = failed + good + skipped == all;
    let never = if failed > 0 { Verdict::UpstreamFailed } else { Verdict::Skip };
    // what begins, and else what becomes of it once all are at an end
    let (begins, at_end) = match task.rule {
        // nothing before it: nothing to wait for
        _ if all == 0 => (true, Verdict::Begin),
        TriggerRule::Always => (true, Verdict::Begin),
        TriggerRule::AllSuccess if failed > 0 => (false, Verdict::UpstreamFailed),
        TriggerRule::AllSuccess => (good == all, Verdict::Skip),
        TriggerRule::AllFailed => (failed == all, Verdict::Skip),
        TriggerRule::AllDone => (done, Verdict::Begin),
        TriggerRule::OneSuccess => (good > 0, never),
        TriggerRule::OneFailed => (failed > 0, Verdict::Skip),
        TriggerRule::OneDone => (good + count(&[TaskState::Failed]) > 0, never),
        TriggerRule::NoneFailed => (done && failed == 0, Verdict::UpstreamFailed),
        TriggerRule::NoneFailedMinOneSuccess => (done && failed == 0 && good > 0, never),
        TriggerRule::NoneSkipped => (done && skipped == 0, Verdict::Skip),
    };
    // one that has failed settles it before the others are at an end
    let settled = failed > 0
        && matches!(
            task.rule,
            TriggerRule::AllSuccess
                | TriggerRule::NoneFailed
                | TriggerRule::NoneFailedMinOneSuccess
        );
    match begins {
        true => Verdict::Begin,
        false if done || settled => at_end,
        false => Verdict::Wait,
    }
}

/// How a run ended; none while something may still come of it.
pub(super) fn ended(tasks: &[Task], states: &States<'_>) -> Option<bool> {
    let state = |task: &Task| states.get(task.name.as_str()).copied();
    if !tasks.iter().all(|task| state(task).is_some_and(TaskState::is_final)) {
        return None;
    }
    Some(!tasks.iter().any(|task| state(task) == Some(TaskState::Failed) && !task.allow_failure))
}

/// The tasks behind some, and these themselves.
pub(super) fn with_downstream(tasks: &[Task], first: &str) -> Vec<String> {
    let mut found = vec![first.to_owned()];
    // they stand behind those they depend on
    for task in tasks {
        if task.depends_on.iter().any(|before| found.contains(before)) {
            found.push(task.name.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::spec::TaskKind;

    fn task(name: &str, depends_on: &[&str], rule: TriggerRule, allow_failure: bool) -> Task {
        Task {
            name: name.to_owned(),
            kind: TaskKind::Command(Vec::new()),
            depends_on: depends_on.iter().map(|name| (*name).to_owned()).collect(),
            rule,
            retries: 0,
            retry_delay: Duration::ZERO,
            backoff: false,
            timeout: Duration::ZERO,
            allow_failure,
        }
    }

    /// S, F, K (skipped), U, W, R.
    fn state(letter: char) -> TaskState {
        match letter {
            'S' => TaskState::Success,
            'F' => TaskState::Failed,
            'K' => TaskState::Skipped,
            'U' => TaskState::UpstreamFailed,
            'R' => TaskState::Running,
            _ => TaskState::Waiting,
        }
    }

    fn verdict(rule: TriggerRule, before: &str) -> Verdict {
        let names = ["a", "b"];
        let target = task("t", &names, rule, false);
        let states = names.iter().zip(before.chars()).map(|(name, c)| (*name, state(c))).collect();
        judge(&[], &states, &target)
    }

    #[test]
    fn each_rule_says_when_a_task_begins_and_when_it_never_will() {
        use TriggerRule as T;
        use Verdict::{Begin, Skip, UpstreamFailed, Wait};
        for (rule, cases) in [
            (T::AllSuccess, [("SS", Begin), ("SW", Wait), ("FW", UpstreamFailed), ("SK", Skip)]),
            (T::AllFailed, [("FU", Begin), ("FW", Wait), ("FS", Skip), ("KK", Skip)]),
            (T::AllDone, [("FK", Begin), ("SR", Wait), ("SS", Begin), ("UW", Wait)]),
            (T::OneSuccess, [("SW", Begin), ("FW", Wait), ("FF", UpstreamFailed), ("KK", Skip)]),
            (T::OneFailed, [("FW", Begin), ("SW", Wait), ("SS", Skip), ("UK", Begin)]),
            (T::OneDone, [("FW", Begin), ("KW", Wait), ("KK", Skip), ("SW", Begin)]),
            (T::NoneFailed, [("SK", Begin), ("KW", Wait), ("FW", UpstreamFailed), ("KK", Begin)]),
            (
                T::NoneFailedMinOneSuccess,
                [("SK", Begin), ("SW", Wait), ("KK", Skip), ("UK", UpstreamFailed)],
            ),
            (T::NoneSkipped, [("FS", Begin), ("FW", Wait), ("KS", Skip), ("SS", Begin)]),
            (T::Always, [("WW", Begin), ("FW", Begin), ("KK", Begin), ("RR", Begin)]),
        ] {
            for (before, expected) in cases {
                assert_eq!(verdict(rule, before), expected, "{rule:?} {before}");
            }
        }
    }

    #[test]
    fn a_task_that_may_fail_holds_up_nobody() {
        let tasks = [
            task("a", &[], TriggerRule::AllSuccess, true),
            task("b", &["a"], TriggerRule::AllSuccess, false),
        ];
        let states = States::from([("a", TaskState::Failed), ("b", TaskState::Waiting)]);
        assert_eq!(judge(&tasks, &states, &tasks[1]), Verdict::Begin);
        assert_eq!(ended(&tasks, &states), None);
        let states = States::from([("a", TaskState::Failed), ("b", TaskState::Success)]);
        assert_eq!(ended(&tasks, &states), Some(true));
        let states = States::from([("a", TaskState::Success), ("b", TaskState::Failed)]);
        assert_eq!(ended(&tasks, &states), Some(false));
        assert_eq!(with_downstream(&tasks, "a"), ["a", "b"]);
    }
}
