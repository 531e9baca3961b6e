//! Jobs: when they are due, what state their runs and tasks are in, and who runs them.
//!
//! `calendar` and `judge` are pure: they say what is due and what becomes of a task. `runner` looks at the
//! clock and the books and does it; `attempt` is one try at a task, `tasks` what tasks do. Runs, tasks and
//! attempts are rows, changed only by the owner of the schedule.

#![warn(missing_docs)]

mod asked;
mod attempt;
mod books;
mod calendar;
mod changes;
mod judge;
mod listed;
mod plan;
mod runner;
mod starts;
mod tasks;

pub use asked::{Answer, JobVerb, Wish, carry_out, note_run, run_of};
pub use calendar::{Calendar, Due, Stretch, Ticks, midnight, moment};
pub use judge::{TaskState, Verdict};
pub use listed::{jobs_as_json, runs_as_json};
pub use runner::{Attempted, Ended, Runner, Watcher};
pub use tasks::{
    About, Asking, Bringing, Brings, Feeds, Gate, Hands, Judged, JudgesChecks, Judging, LogEnd,
    MakesLeaves, Making, MartStands, Posting, Restored, TaskTold, Telling, Tells, Told,
    WatchesArchives, archives_left, keep_archives,
};
