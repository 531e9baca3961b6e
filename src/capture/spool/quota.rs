//! The disk that all spools of a process share: a count of bytes that is taken from and given back to.
//!
//! It only counts; it never looks at a file.

use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicU64, Ordering};

/// How much disk all spools of a process may take.
#[derive(Debug)]
pub struct Quota {
    max: u64,
    pub(super) used: AtomicU64,
}

impl Quota {
    /// A quota of which nothing is used, in bytes.
    pub fn new(max: u64) -> Quota {
        Quota { max, used: AtomicU64::new(0) }
    }

    pub(super) fn take(&self, bytes: u64) -> io::Result<()> {
        let sum = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.max);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum) {
            Ok(_) => Ok(()),
            Err(_) => {
                let why = format!("open transactions take more than {} bytes of disk", self.max);
                Err(io::Error::new(ErrorKind::QuotaExceeded, why))
            }
        }
    }

    pub(super) fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}
