//! Which Java there is: `$JAVA_HOME`, then the first on `$PATH` that is new enough. Never installs one.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Kind, Result};
use crate::spec::Env;

/// The oldest that Kafka 4 and Debezium 3 run on.
pub const OLDEST: u32 = 17;

/// A Java that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Java {
    /// The program.
    pub program: PathBuf,
    /// The version, as it says it.
    pub version: String,
}

/// Finds a Java that is new enough.
pub fn find(env: &Env) -> Result<Java> {
    let home = env.get("JAVA_HOME").map(|home| Path::new(home).join("bin"));
    let path = env.get("PATH").map(std::env::split_paths).into_iter().flatten();
    let folders = home.into_iter().chain(path.filter(|folder| folder.is_absolute()));
    let mut too_old = None;
    for folder in folders {
        let Some(java) = inspect(&folder.join("java")) else { continue };
        if major_of(&java.version).is_some_and(|major| major >= OLDEST) {
            return Ok(java);
        }
        too_old = too_old.or(Some(java));
    }
    let what = match too_old {
        Some(java) => {
            format!("{} is Java {}, older than {OLDEST}", java.program.display(), java.version)
        }
        None => format!("no Java was found; Kafka needs {OLDEST} or newer"),
    };
    let remedy = "install one (Debian and Ubuntu: openjdk-17-jre-headless or \
        default-jre-headless; Fedora: java-latest-openjdk-headless), or set JAVA_HOME";
    Err(Error::new(Kind::Config, what).remedy(remedy))
}

fn inspect(program: &Path) -> Option<Java> {
    if !program.is_file() {
        return None;
    }
    let output = Command::new(program).arg("-version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr);
    let version = quoted(&text).filter(|_| output.status.success())?;
    Some(Java { program: program.to_owned(), version: version.to_owned() })
}

/// `openjdk version "17.0.15" 2025-04-15` holds 17.0.15. Lines about options may stand before it.
fn quoted(text: &str) -> Option<&str> {
    let line = text.lines().find(|line| line.contains(" version \""))?;
    line.split('"').nth(1)
}

/// `17.0.15` is 17, `25-ea` 25, and `1.8.0_402` 1.
fn major_of(version: &str) -> Option<u32> {
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A folder with a program that says it is this Java.
    fn java(version: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("bin")).unwrap();
        let program = folder.path().join("bin/java");
        let script = format!("#!/bin/sh\necho 'openjdk version \"{version}\" 2025-04-15' >&2\n");
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        folder
    }

    #[test]
    fn a_version_is_read_from_what_java_prints() {
        let text = "Picked up _JAVA_OPTIONS: -Da=\"b\"\nopenjdk version \"17.0.15\" 2025-04-15\n";
        assert_eq!(quoted(text), Some("17.0.15"));
        assert_eq!(major_of("17.0.15"), Some(17));
        assert_eq!(major_of("25-ea"), Some(25));
        assert_eq!(major_of("1.8.0_402"), Some(1));
    }

    #[test]
    fn the_home_comes_first_and_what_is_too_old_is_passed_by() {
        let (old, new) = (java("11.0.2"), java("21.0.1"));
        let bin = |folder: &tempfile::TempDir| folder.path().join("bin").display().to_string();
        let env = Env::default().with("JAVA_HOME", &old.path().display().to_string());
        let error = find(&env).unwrap_err().to_string();
        assert!(error.contains("is Java 11.0.2, older than 17"), "{error}");
        let env = env.with("PATH", &bin(&new));
        assert_eq!(find(&env).unwrap().version, "21.0.1");
        let error = find(&Env::default()).unwrap_err().to_string();
        assert!(error.contains("no Java was found") && error.contains("JAVA_HOME"), "{error}");
    }
}
