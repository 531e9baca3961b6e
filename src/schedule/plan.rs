//! What is queued: by the clock, or because rows changed; and what the runs that go on say to it.

use jiff::Timestamp;

use super::books::{self, Known, Queued, Run};
use super::calendar::{Calendar, Stretch};
use super::runner::Runner;
use crate::error::Result;
use crate::names::TableName;
use crate::postgres::Session;
use crate::spec::{Job, Overlap, Schedule};
use crate::warehouse::Fenced;

/// Of what was missed so much is queued at once; the rest comes with the next looks.
const AT_ONCE: usize = 50;

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
            if known.paused {
                continue;
            }
            if let Schedule::Changes(tables) = &job.schedule {
                self.look_for_changes(session, (job, tables), known, now).await?;
            }
            let due = calendar.due(known.decided_to, now, AT_ONCE);
            let Some(last) = due.last() else { continue };
            let to = last.at;
            let catches_up = matches!(&job.schedule, Schedule::Every { catchup: true, .. })
                || matches!(&job.schedule, Schedule::Cron(times) if times.catchup);
            let transaction = self.transaction(session).await?;
            let mut replaced = Vec::new();
            for due in &due {
                let queued = Queued { job, about: due.about, trigger: "schedule", now };
                replaced.extend(self.queue(&transaction, &queued, catches_up).await?);
            }
            books::decided(&transaction, &job.name, to).await?;
            transaction.commit().await?;
            self.abandon(&replaced);
        }
        Ok(())
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
        let open: Vec<&Run> = open.iter().filter(|run| run.job == job.name).collect();
        let mut replaced = Vec::new();
        match (job.overlap, open.first()) {
            // what was missed is caught up with one after the other
            (Overlap::Skip, Some(other)) if !catches_up => {
                let why = format!("the run of {} goes on", other.days.0);
                if books::leave_out(transaction, queued, &why).await?.is_some() {
                    tracing::warn!(job = job.name, "left out: {why}");
                }
            }
            (Overlap::Replace, _) => {
                if books::queue(transaction, queued).await?.is_some() {
                    for other in &open {
                        let why = "a later run took its place";
                        books::give_up(transaction, other.id, why, *now).await?;
                        replaced.push(other.id);
                    }
                }
            }
            _ => {
                books::queue(transaction, queued).await?;
            }
        }
        Ok(replaced)
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
