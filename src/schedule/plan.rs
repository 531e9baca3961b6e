//! What is queued: by the clock, or because rows changed; and what the runs that go on say to it.

use jiff::{SignedDuration, Timestamp};

use super::books::{self, Known, Queued, Run};
use super::calendar::{Calendar, Stretch};
use super::runner::Runner;
use crate::error::Result;
use crate::names::TableName;
use crate::postgres::Session;
use crate::spec::{Job, Overlap, Schedule};
use crate::warehouse::Fenced;

/// Of a job so many runs of its schedule are queued at once; the rest comes as these end.
const AT_ONCE: usize = 50;

/// Clocks of two instances may differ by so much.
const APART: SignedDuration = SignedDuration::from_mins(1);

impl Runner {
    /// Queues what is due.
    pub(super) async fn plan(
        &mut self,
        session: &mut Session,
        jobs: &[Job],
        now: Timestamp,
    ) -> Result<()> {
        let known = books::known(&**session).await?;
        for job in jobs {
            let calendar = Calendar::of(job);
            let Some(known) = known.get(&job.name) else {
                let transaction = self.transaction(session).await?;
                books::meet(&transaction, &job.name, calendar.first(now)).await?;
                transaction.commit().await?;
                continue;
            };
            self.take_back(session, job, known, now).await?;
            if known.paused {
                continue;
            }
            if let Schedule::Changes(tables) = &job.schedule {
                self.look_for_changes(session, (job, tables), known, now).await?;
            }
            let due = calendar.due(known.decided_to, now, AT_ONCE);
            if due.is_empty() {
                continue;
            }
            let open = books::open(&**session).await?;
            let open = open.iter().filter(|run| run.scheduled && run.job == job.name).count();
            // what has no room is decided later
            let due = due.get(..due.len().min(AT_ONCE.saturating_sub(open))).unwrap_or_default();
            let Some(last) = due.last() else { continue };
            let to = last.at;
            let catches_up = matches!(&job.schedule, Schedule::Every { catchup: true, .. })
                || matches!(&job.schedule, Schedule::Cron(times) if times.catchup);
            let transaction = self.transaction(session).await?;
            let mut replaced = Vec::new();
            for due in due {
                let queued = Queued { job, about: due.about, trigger: "schedule", now };
                replaced.extend(self.queue(&transaction, &queued, catches_up).await?);
            }
            books::decided(&transaction, &job.name, to).await?;
            transaction.commit().await?;
            self.abandon(&replaced);
        }
        Ok(())
    }

    /// What was decided by a clock that was ahead is decided again: else nothing would be due until then. An
    /// interval that was run has its run already.
    async fn take_back(
        &self,
        session: &mut Session,
        job: &Job,
        known: &Known,
        now: Timestamp,
    ) -> Result<()> {
        if known.decided_to.duration_since(now) <= APART {
            return Ok(());
        }
        let to = known.decided_to;
        tracing::warn!(job = job.name, "decided up to {to}, and it is {now}: the clock was ahead");
        let transaction = self.transaction(session).await?;
        books::undecided(&transaction, &job.name, now).await?;
        transaction.commit().await
    }

    /// Queues a run, as the job's overlap says; the runs that are given up for it.
    async fn queue(
        &self,
        transaction: &Fenced<'_>,
        queued: &Queued<'_>,
        catches_up: bool,
    ) -> Result<Vec<i64>> {
        let Queued { job, now, .. } = queued;
        let open = books::open(&**transaction).await?;
        // what somebody has asked for is in nobody's way, and is not given up
        let own = |run: &&Run| run.scheduled && run.job == job.name;
        let open: Vec<&Run> = open.iter().filter(own).collect();
        let mut replaced = Vec::new();
        match (job.overlap, open.first()) {
            // what was missed is caught up with one after the other
            _ if catches_up => self.queue_or_again(transaction, queued).await.map(drop)?,
            // it has not begun, for another one goes on that somebody has asked for: the newest waits in its place. One
            // that waits for data keeps it: the newest would always be the last to have its own
            (Overlap::Skip, Some(other)) if !other.running && other.reason.is_none() => {
                if self.queue_or_again(transaction, queued).await? {
                    let why = "left out: a later one waits in its place";
                    books::finish(transaction, other.id, ("skipped", Some(why)), *now).await?;
                    tracing::warn!(job = job.name, "the run of {} is {why}", other.days.0);
                }
            }
            (Overlap::Skip, Some(other)) => {
                let why = format!("the run of {} goes on", other.days.0);
                if books::leave_out(transaction, queued, &why).await?.is_some() {
                    tracing::warn!(job = job.name, "left out: {why}");
                }
            }
            (Overlap::Replace, _) => {
                if self.queue_or_again(transaction, queued).await? {
                    for other in &open {
                        let why = "a later run took its place";
                        books::give_up(transaction, other.id, why, *now).await?;
                        replaced.push(other.id);
                    }
                }
            }
            _ => self.queue_or_again(transaction, queued).await.map(drop)?,
        }
        Ok(replaced)
    }

    /// Queues a run, another round of the interval's where that one stands for none; whether it was.
    async fn queue_or_again(&self, transaction: &Fenced<'_>, queued: &Queued<'_>) -> Result<bool> {
        let Queued { job, about, trigger, now } = queued;
        if books::queue(transaction, queued).await?.is_some() {
            return Ok(true);
        }
        match books::of_interval(&**transaction, &job.name, about.start).await? {
            Some(there) if there.is_none(about.end, *now) => {
                books::again(transaction, there.run, None, (trigger, *now)).await?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn look_for_changes(
        &mut self,
        session: &mut Session,
        (job, tables): (&Job, &[TableName]),
        known: &Known,
        now: Timestamp,
    ) -> Result<()> {
        let Some(counted) = self.counting.look(session, &job.name, tables).await? else {
            return Ok(());
        };
        if counted == known.counted {
            return Ok(());
        }
        let first = known.counted.as_object().is_none_or(serde_json::Map::is_empty);
        let open = books::open(&**session).await?;
        // what changes while it runs is for the next run
        if open.iter().any(|run| run.job == job.name) {
            return Ok(());
        }
        let transaction = self.transaction(session).await?;
        books::counted(&transaction, &job.name, &counted).await?;
        if !first {
            let about = Stretch { start: now, end: now };
            let queued = Queued { job, about, trigger: "changes", now };
            books::queue(&transaction, &queued).await?;
        }
        transaction.commit().await
    }
}
