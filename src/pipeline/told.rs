//! Tells what has happened to who follows lineage by OpenLineage: a bounded queue, one that sends, and nobody that
//! waits for it. What has no room is dropped and counted.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::alerts::Sender;
use crate::clock::Clock;
use crate::error::{Error, Kind, Policy, Result};
use crate::lineage::{self, Catalogue, Happening};
use crate::postgres::{Host, Side, connect};
use crate::serve::Board;
use crate::spec::{OpenLineage, Spec};

/// How much may wait to be told.
const WAITING: usize = 1_000;

/// A mart that follows without end tells of a turn so often at most.
const MART_EVERY: Duration = Duration::from_secs(60);

/// How old what is known of tables may be.
const KNOWN_FOR: Duration = Duration::from_secs(30);

/// How long is waited before an event is sent again, each time.
const PAUSES: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(20)];

/// How long an ending service goes on telling.
const AT_END: Duration = Duration::from_secs(5);

/// Where happenings are told.
#[derive(Clone)]
pub(super) struct Events {
    queue: mpsc::Sender<Happening>,
    files: watch::Receiver<Arc<Spec>>,
    board: Board,
    clock: Clock,
    marts: Arc<Mutex<HashMap<String, Last>>>,
}

/// When a mart was told of last, and what went wrong then.
type Last = (Instant, Option<String>);

/// Sends what is told.
pub(super) struct Teller {
    queue: mpsc::Receiver<Happening>,
    files: watch::Receiver<Arc<Spec>>,
    board: Board,
    known: Option<(Instant, Arc<Spec>, Catalogue)>,
}

/// A place to tell, and who sends what is told there.
pub(super) fn channel(
    files: &watch::Receiver<Arc<Spec>>,
    board: &Board,
    clock: &Clock,
) -> (Events, Teller) {
    let (sender, queue) = mpsc::channel(WAITING);
    let (files, board) = (files.clone(), board.clone());
    let events = Events {
        queue: sender,
        files: files.clone(),
        board: board.clone(),
        clock: clock.clone(),
        marts: Arc::default(),
    };
    (events, Teller { queue, files, board, known: None })
}

impl Events {
    fn tells(&self) -> bool {
        self.files.borrow().settings.lineage.is_some()
    }

    fn put(&self, happening: Happening) {
        if self.queue.try_send(happening).is_err() {
            self.board.lineage_event("dropped");
        }
    }

    /// A turn of a mart, or why it does not go on.
    pub(super) fn mart(&self, mart: &str, took: Duration, ended: Result<i64, &str>) {
        if !self.tells() {
            return;
        }
        let failed = ended.err().map(str::to_owned);
        {
            let mut marts = self.marts.lock().unwrap_or_else(PoisonError::into_inner);
            let last = marts.get(mart);
            if last.is_some_and(|(at, why)| at.elapsed() < MART_EVERY && *why == failed) {
                return;
            }
            marts.insert(mart.to_owned(), (Instant::now(), failed.clone()));
        }
        let ended_at = self.clock.now();
        self.put(Happening {
            job: mart.to_owned(),
            kind: "MART",
            run: format!("mart {mart} {} {}", std::process::id(), ended_at.as_nanosecond()),
            table: Some(mart.to_owned()),
            rows: ended.ok(),
            began: before(ended_at, took),
            ended: ended_at,
            failed,
        });
    }

    /// An attempt at a task of a job has ended.
    pub(super) fn task(&self, job: &str, task: &str, attempt: (&str, Duration, Option<&str>)) {
        let (run, took, failed) = attempt;
        if !self.tells() {
            return;
        }
        let ended = self.clock.now();
        self.put(Happening {
            job: format!("{job}.{task}"),
            kind: "TASK",
            run: format!("task {job} {task} {run}"),
            table: None,
            rows: None,
            began: before(ended, took),
            ended,
            failed: failed.map(str::to_owned),
        });
    }
}

fn before(moment: Timestamp, took: Duration) -> Timestamp {
    moment.checked_sub(took).unwrap_or(moment)
}

impl Teller {
    /// Sends until nobody tells any more; once `stop` turns true what waits is sent, and not for long.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let sender = match Sender::new() {
            Ok(sender) => sender,
            Err(error) => return tracing::error!("lineage: {error}"),
        };
        let told = self.tell_all(&sender, stop.clone());
        let ending = async {
            if stop.wait_for(|stop| *stop).await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(AT_END).await;
        };
        tokio::select! {
            () = told => {}
            () = ending => tracing::warn!("lineage: not all that has happened was told before the end"),
        }
    }

    async fn tell_all(&mut self, sender: &Sender, mut stop: watch::Receiver<bool>) {
        let mut open = true;
        loop {
            let happening = tokio::select! {
                biased;
                happening = self.queue.recv() => happening,
                _ = stop.wait_for(|stop| *stop), if open => {
                    open = false;
                    self.queue.close();
                    continue;
                }
            };
            let Some(happening) = happening else { return };
            let spec = self.files.borrow().clone();
            let Some(place) = spec.settings.lineage.clone() else { continue };
            self.learn(&spec).await;
            let Some((_, _, catalogue)) = &self.known else { continue };
            for event in lineage::events(&happening, catalogue) {
                let told = tell(sender, &place, event).await;
                if let Err(error) = &told {
                    tracing::warn!("lineage: {} is not told: {}", happening.job, error.reason());
                }
                self.board.lineage_event(if told.is_ok() { "sent" } else { "failed" });
            }
        }
    }

    /// Looks up anew what tables are made of. Where that fails, what was known is told, or nothing of columns.
    async fn learn(&mut self, spec: &Arc<Spec>) {
        let fresh = self
            .known
            .as_ref()
            .is_some_and(|(at, of, _)| at.elapsed() < KNOWN_FOR && Arc::ptr_eq(of, spec));
        if fresh {
            return;
        }
        let endpoint = &spec.settings.warehouse;
        let host = match endpoint.hosts().into_iter().next() {
            Some((Host::Tcp(name), port)) => format!("{name}:{port}"),
            Some((Host::Unix(_), port)) => format!("localhost:{port}"),
            None => "localhost".to_owned(),
        };
        let learnt = async {
            let session = connect(Side::Warehouse, endpoint, "siltstone lineage").await?;
            let facts = lineage::gather(&*session, spec).await?;
            let edges = lineage::derive_all(spec, &facts).await?;
            Ok::<_, Error>((edges, facts.all_columns()))
        };
        let (edges, columns) = match learnt.await {
            Ok(learnt) => learnt,
            Err(_) if self.known.is_some() => return,
            Err(error) => {
                tracing::debug!("lineage: columns are not known: {}", error.reason());
                Default::default()
            }
        };
        let catalogue = Catalogue {
            namespace: format!("postgres://{host}"),
            database: endpoint.database().to_owned(),
            edges,
            columns,
        };
        self.known = Some((Instant::now(), spec.clone(), catalogue));
    }
}

async fn tell(sender: &Sender, place: &OpenLineage, event: Value) -> Result<()> {
    match place {
        OpenLineage::File(path, max) => {
            let (path, max) = (path.clone(), *max);
            let appended = tokio::task::spawn_blocking(move || append(&path, max, &event)).await;
            let appended = appended.map_err(|error| Error::bug("writing broke off").because(error));
            appended?.map_err(|error| {
                Error::new(Kind::Config, "the file of lineage cannot be written").because(error)
            })
        }
        OpenLineage::Url(url, token) => {
            let mut pauses = PAUSES.into_iter();
            loop {
                let told = sender.post(url, token.as_ref(), &event).await;
                let again = told.as_ref().err().is_some_and(|e| e.kind().policy() == Policy::Retry);
                match pauses.next().filter(|_| again) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return told,
                }
            }
        }
    }
}

/// Appends a line, whole. A file that would become too large is put aside first, in the place of one before.
fn append(path: &Path, max: u64, event: &Value) -> std::io::Result<()> {
    let line = format!("{event}\n");
    let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let there = std::fs::metadata(path).map_or(0, |there| there.len());
    if there > 0 && there.saturating_add(length) > max {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".1");
        std::fs::rename(path, PathBuf::from(aside))?;
    }
    // one write of all of it: another process may append to the same file
    std::fs::OpenOptions::new().create(true).append(true).open(path)?.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_full_is_put_aside_and_lines_stay_whole() {
        let folder = std::env::temp_dir().join(format!("siltstone-told-{}", std::process::id()));
        let path = folder.join("lineage.jsonl");
        let event = serde_json::json!({ "x": "y".repeat(30) });
        for _ in 0..7 {
            append(&path, 100, &event).unwrap();
        }
        let lines = |path: &Path| std::fs::read_to_string(path).unwrap().lines().count();
        assert_eq!((lines(&path), lines(&folder.join("lineage.jsonl.1"))), (1, 2));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
