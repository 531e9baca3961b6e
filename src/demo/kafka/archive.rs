//! What a Java has learnt of its classes, kept for its next start, which then takes half the time.
//!
//! A server without an archive notes its classes, and writes them down if it ends in order; only one
//! that did is kept in the cache. A Java that cannot use an archive starts without it.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::java::Java;
use crate::demo::central;

/// The archive of one Java with one class path.
pub(super) struct Archive {
    kept: PathBuf,
    written: PathBuf,
}

impl Archive {
    /// The archive of a server whose folder is `folder`. Nothing is read or written yet.
    pub(super) fn new(cache: &Path, java: &Java, class_path: &str, folder: &Path) -> Archive {
        let all = format!("{}\n{}\n{class_path}", java.program.display(), java.version);
        let digest = central::hex(&Sha256::digest(all));
        let name = format!("{}.jsa", digest.get(..16).unwrap_or(&digest));
        Archive { kept: cache.join("jars").join(name), written: folder.join("classes.jsa") }
    }

    /// What the Java is told: to use it, or to write it.
    pub(super) fn argument(&self) -> String {
        if self.kept.is_file() {
            return format!("-XX:SharedArchiveFile={}", self.kept.display());
        }
        format!("-XX:ArchiveClassesAtExit={}", self.written.display())
    }

    /// Keeps what a server has written that ended in order. A failure costs the next start some time.
    pub(super) fn keep(&self) {
        if !self.written.is_file() {
            return;
        }
        let beside = self.kept.with_extension(format!("{}.part", std::process::id()));
        let copied = fs::copy(&self.written, &beside);
        if let Err(error) = copied.and_then(|_| fs::rename(&beside, &self.kept)) {
            tracing::debug!(%error, path = %self.kept.display(), "an archive is not kept");
            drop(fs::remove_file(&beside));
        }
        drop(fs::remove_file(&self.written));
    }
}
