//! The connectors that run, and what becomes of them when files are read again: one whose files are as
//! they were is left alone, one that changed begins a new session, new ones start, and those that are
//! gone stop.

use std::collections::BTreeMap;
use std::time::Instant;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::connector::{self, Failed};
use super::kinds::AnySetup;
use super::resting::AtWork;
use crate::error::{Error, Result};
use crate::serve::Phase;

/// The connectors that run.
#[derive(Default)]
pub(super) struct Fleet {
    /// until they have ended, those that were told to stop as well: two of one name would take the lease from
    /// each other
    running: BTreeMap<String, Running>,
    /// what begins when the one of its name that was told to stop has ended
    next: BTreeMap<String, (AnySetup, AtWork)>,
    tasks: JoinSet<(String, Result<(), Failed>)>,
    at_work: watch::Sender<usize>,
    stopping: bool,
}

struct Running {
    setup: watch::Sender<AnySetup>,
    stop: watch::Sender<bool>,
}

impl Fleet {
    /// Makes the connectors that run those of `setups`.
    pub(super) fn set(&mut self, setups: Vec<AnySetup>) {
        if self.stopping {
            return;
        }
        let gone = |name: &String| setups.iter().all(|setup| setup.common.name != *name);
        for (name, running) in &self.running {
            if gone(name) && !running.is_stopping() {
                tracing::warn!(connector = name, "its file is gone or disabled: it stops");
                running.stop.send_replace(true);
            }
        }
        // those that are to begin count as at work until the new ones do
        let _before = std::mem::take(&mut self.next);
        for setup in setups {
            let name = setup.common.name.clone();
            match self.running.get(&name) {
                // it counts as one at work: others must not end in between
                Some(running) if running.is_stopping() => {
                    self.next.insert(name, (setup, AtWork::of(&self.at_work)));
                }
                Some(running) => running.change(setup),
                None => self.start(setup),
            }
        }
    }

    fn start(&mut self, setup: AnySetup) {
        let name = setup.common.name.clone();
        let (setup, changes) = watch::channel(setup);
        let (stop, stopped) = watch::channel(false);
        self.running.insert(name.clone(), Running { setup, stop });
        let at_work = AtWork::of(&self.at_work);
        self.tasks.spawn(async move { (name, connector::run(changes, stopped, at_work).await) });
    }

    /// Waits for the next connector that ends, and how it ended. None if none runs.
    pub(super) async fn next_ended(&mut self) -> Option<Result<(), Failed>> {
        let ended = self.tasks.join_next().await?;
        let (name, ended) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                let error = Error::bug("a connector broke off").because(error);
                tracing::error!("{error}");
                return Some(Err(Failed { error, at: Instant::now() }));
            }
        };
        self.running.remove(&name);
        if let Some((setup, at_work)) = self.next.remove(&name) {
            self.start(setup);
            drop(at_work);
        }
        Some(ended)
    }

    /// Whether none runs.
    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Tells all to stop.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
        self.next.clear();
        for running in self.running.values() {
            running.stop.send_replace(true);
        }
    }

    /// Whether all were told to stop.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping
    }
}

impl Running {
    fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Gives a connector other files, if they are others. What it knows of itself stays.
    fn change(&self, new: AnySetup) {
        let old = self.setup.borrow().clone();
        let name = new.common.name.clone();
        let stopped = old.board.view().phase == Phase::Stopped;
        if let Some(setup) = old.with(new) {
            tracing::info!(connector = name, "its files changed: it begins a new session");
            self.setup.send_replace(setup);
        } else if stopped {
            // what was mended may be none of its files
            self.setup.send_replace(old);
        }
    }
}
