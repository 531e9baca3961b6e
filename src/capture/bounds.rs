//! Tells of the limits that extracts come to, to whoever counts them.

use std::sync::Arc;
use std::time::Duration;

/// What an extract came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// A limit, by its name in files where it has one: the extract fails.
    Reached(&'static str),
    /// The rate: it waited for so long.
    Waited(Duration),
}

/// Where an extract's limits are told.
#[derive(Clone)]
pub struct Bounds(Arc<dyn Fn(Bound) + Send + Sync>);

impl Bounds {
    /// Tells `count`.
    pub fn new(count: impl Fn(Bound) + Send + Sync + 'static) -> Bounds {
        Bounds(Arc::new(count))
    }

    /// Tells of a limit.
    pub fn reached(&self, limit: &'static str) {
        (self.0)(Bound::Reached(limit));
    }

    /// Tells of a wait.
    pub fn waited(&self, wait: Duration) {
        if !wait.is_zero() {
            (self.0)(Bound::Waited(wait));
        }
    }
}
