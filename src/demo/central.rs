//! Maven Central: files that are known by their SHA-256, and nothing else. Proxies and certificates are
//! those of the environment.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::error::{Error, Kind, Result};

const REPOSITORY: &str = "https://repo1.maven.org/maven2";

/// A file is asked for so many times before its failure is one.
const ATTEMPTS: u32 = 3;

/// The address of a path in the repository.
pub(super) fn url(path: &str) -> String {
    format!("{REPOSITORY}/{path}")
}

/// What speaks to the repository.
pub(super) fn client() -> Result<reqwest::Client> {
    build(builder())
}

/// What speaks to servers on this machine: by no proxy.
pub(super) fn local_client() -> Result<reqwest::Client> {
    build(builder().no_proxy().read_timeout(Duration::from_secs(120)))
}

fn builder() -> reqwest::ClientBuilder {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("another part of the process has chosen the TLS provider");
    }
    let timeouts = reqwest::Client::builder().connect_timeout(Duration::from_secs(10));
    timeouts.read_timeout(Duration::from_secs(30))
}

fn build(builder: reqwest::ClientBuilder) -> Result<reqwest::Client> {
    builder.build().map_err(|error| Error::bug("no HTTP client can be made").because(error))
}

/// A file's bytes. What differs from its digest is an error.
pub(super) async fn fetch(client: &reqwest::Client, path: &str, sha256: &str) -> Result<Vec<u8>> {
    let mut attempt = 1;
    let bytes = loop {
        match get(client, path).await {
            Ok(bytes) => break bytes,
            Err(error) if attempt == ATTEMPTS => {
                let what = format!("{} cannot be downloaded", url(path));
                return Err(Error::new(Kind::SourceAway, what).because(error));
            }
            Err(error) => tracing::debug!(%error, path, "downloading again"),
        }
        tokio::time::sleep(Duration::from_secs(u64::from(attempt))).await;
        attempt += 1;
    };
    let digest = hex(&Sha256::digest(&bytes));
    if digest != sha256 {
        let what = format!("{} has SHA-256 {digest}, expected {sha256}", url(path));
        return Err(Error::new(Kind::Config, what));
    }
    Ok(bytes)
}

async fn get(client: &reqwest::Client, path: &str) -> reqwest::Result<Vec<u8>> {
    let reply = client.get(url(path)).send().await?.error_for_status()?;
    Ok(reply.bytes().await?.into())
}

/// Every folder that is missing is made with mode 755, whatever the umask says.
pub(super) fn make_folder(folder: &Path) -> std::io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        make_folder(above)?;
    }
    match fs::create_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
