//! Where the programs of Postgres are on this machine. Downloads and installs nothing.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Kind, Result};

/// A program of Postgres.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    /// what it says of itself
    pub(super) version: String,
    pub(super) major: i32,
}

/// Finds a program of a major version, or of the next newer one that there is where `exactly` does not forbid it.
pub(super) async fn find(name: &'static str, major: i32, exactly: bool) -> Result<Program> {
    let found = tokio::task::spawn_blocking(move || {
        let all = folders().into_iter().filter_map(|folder| inspect(&folder.join(name)));
        let fits = |found: &Program| match exactly {
            true => found.major == major,
            false => found.major >= major,
        };
        all.filter(fits).min_by_key(|found| found.major)
    });
    let found = found.await.map_err(|error| Error::bug("a look broke off").because(error))?;
    found.ok_or_else(|| {
        let newer = if exactly { "" } else { " or newer" };
        let what = format!("no {name} of Postgres {major}{newer} was found on this machine");
        let package = if exactly { "postgresql" } else { "postgresql-client" };
        Error::new(Kind::Config, what).remedy(format!(
            "install the package {package}-{major}, or set PG_BIN_DIR to a folder that has it"
        ))
    })
}

/// Folders that may hold programs, best first.
fn folders() -> Vec<PathBuf> {
    let variable = |wanted: &str| -> Option<OsString> {
        std::env::vars_os().find(|(name, _)| name == wanted).map(|(_, value)| value)
    };
    let mut folders: Vec<PathBuf> = variable("PG_BIN_DIR").map(PathBuf::from).into_iter().collect();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    folders.extend(versions.map(|version| version.path().join("bin")));
    let path = variable("PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&path).filter(|folder| folder.is_absolute()));
    folders
}

fn inspect(path: &Path) -> Option<Program> {
    if !path.is_file() {
        return None;
    }
    let said = Command::new(path).arg("--version").env("LC_ALL", "C").output().ok()?;
    let version = String::from_utf8(said.stdout).ok()?.lines().next()?.to_owned();
    let digits: String =
        version.split_once("(PostgreSQL) ")?.1.chars().take_while(char::is_ascii_digit).collect();
    let major = digits.parse().ok()?;
    Some(Program { path: path.to_owned(), version, major })
}
