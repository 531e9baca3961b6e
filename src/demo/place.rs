//! Where a throw-away server lives: a folder and a port of its own. Starts nothing and removes nothing.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use super::binaries;
use super::server::Account;
use crate::error::{Error, Kind, Result};
use crate::spec::Env;

/// How many ports are tried where another process is faster to take the one we found.
pub(super) const PORT_ATTEMPTS: u32 = 5;

/// A new folder of mode 700 that belongs to the account, below `base`, `$TMPDIR` or /tmp.
pub(super) fn make_folder(
    name: &str,
    base: Option<&Path>,
    env: &Env,
    account: Option<Account>,
) -> Result<PathBuf> {
    let temporary = || env.get("TMPDIR").filter(|path| path.starts_with('/')).map(Path::new);
    let base = base.or_else(temporary).unwrap_or(Path::new("/tmp"));
    let refuse = |what: &str| Error::new(Kind::Config, format!("{}: {what}", base.display()));
    if account.is_some() && !binaries::others_may_enter(base) {
        return Err(refuse("the user postgres cannot enter it, and Postgres does not run as root")
            .remedy("name another folder, or chmod o+x it and the folders above"));
    }
    let failed = |error: std::io::Error| refuse("no folder can be made in it").because(error);
    let base_path = fs::canonicalize(base).map_err(failed)?;
    let folder = base_path.join(format!("siltstone-{}-{}", name, hex(4)?));
    fs::DirBuilder::new().mode(0o700).create(&folder).map_err(failed)?;
    if let Some(account) = account {
        chown(&folder, Some(account.uid), Some(account.gid)).map_err(failed)?;
    }
    Ok(folder)
}

/// A free port below those that the system gives to outgoing connections: another process's
/// connection does not take it while the server restarts.
pub(super) fn free_port() -> Result<u16> {
    let failed = |error| Error::new(Kind::Config, "no port is free").because(error);
    for _ in 0..50 {
        let [high, low] = random::<2>()?;
        let port = 20_000 + u16::from_be_bytes([high, low]) % 12_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    Ok(listener.local_addr().map_err(failed)?.port())
}

/// So many bytes of chance, as text.
pub(super) fn hex(bytes: usize) -> Result<String> {
    let mut text = String::new();
    for _ in 0..bytes {
        let [byte] = random::<1>()?;
        text.push_str(&format!("{byte:02x}"));
    }
    Ok(text)
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let read = fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|error| Error::new(Kind::Config, "/dev/urandom cannot be read").because(error))?;
    Ok(bytes)
}
