//! The folder of a server that a backup is tried in. It goes with its drill, or with the next one.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown, lchown};
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::command::kept;
use crate::error::{Error, Kind, Result};

/// The folder of a server that is tried out.
pub(super) struct Scratch {
    pub(super) path: PathBuf,
    /// as whom it runs, where we are root, which Postgres refuses
    account: Option<(u32, u32)>,
}

impl Scratch {
    /// Makes it, where an earlier try may have left its own.
    pub(super) fn make(name: String) -> Result<Scratch> {
        let path = std::env::temp_dir().join(name);
        let made = || -> std::io::Result<()> {
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            fs::DirBuilder::new().mode(0o700).create(&path)
        };
        made().map_err(at(&path))?;
        let account = account().map_err(at(&path))?;
        let scratch = Scratch { path, account };
        scratch.own(&scratch.path)?;
        Ok(scratch)
    }

    /// Gives a file to the server.
    pub(super) fn own(&self, path: &Path) -> Result<()> {
        match self.account {
            Some((uid, gid)) => chown(path, Some(uid), Some(gid)).map_err(at(path)),
            None => Ok(()),
        }
    }

    /// Gives a folder with all that it holds to the server.
    pub(super) fn own_all(&self, path: &Path) -> Result<()> {
        let Some((uid, gid)) = self.account else { return Ok(()) };
        let mut left = vec![path.to_owned()];
        while let Some(path) = left.pop() {
            lchown(&path, Some(uid), Some(gid)).map_err(at(&path))?;
            if fs::symlink_metadata(&path).map_err(at(&path))?.is_dir() {
                for entry in fs::read_dir(&path).map_err(at(&path))? {
                    left.push(entry.map_err(at(&path))?.path());
                }
            }
        }
        Ok(())
    }

    /// A program that runs as the server does.
    pub(super) fn command(&self, words: &[String]) -> Command {
        let mut command = kept(words);
        command.current_dir(&self.path);
        if let Some((uid, gid)) = self.account {
            command.uid(uid).gid(gid);
        }
        command
    }

    pub(super) fn data(&self) -> PathBuf {
        self.path.join("data")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!("{} stays until the next drill: {error}", self.path.display());
        }
    }
}

/// As whom a server runs where we are root.
fn account() -> std::io::Result<Option<(u32, u32)>> {
    if fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let of = |name: &str| {
        let mut fields =
            users.lines().find(|line| line.split(':').next() == Some(name))?.split(':');
        Some((fields.nth(2)?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    let found = of("postgres").or_else(|| of("nobody"));
    found.map(Some).ok_or_else(|| std::io::Error::other("there is neither postgres nor nobody"))
}

/// A file or folder that cannot be used.
pub(super) fn at(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |error| {
        Error::new(Kind::Config, format!("{} cannot be used", path.display())).because(error)
    }
}
