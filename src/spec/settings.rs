//! `siltstone.yaml`: the warehouse, the admin address, limits.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use serde::Deserialize;
use subtle::ConstantTimeEq;

use super::connector::URL;
use super::file::{File, Given};
use super::mask::{self, MaskKey};
use super::openlineage::{self, OpenLineage, RawOpenLineage};
use super::scalar::PgName;
use super::units::Size;
use crate::error::Result;
use crate::postgres::Endpoint;

/// The settings of a whole installation.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the warehouse is.
    pub warehouse: Endpoint,
    /// Roles that may select what we create.
    pub readers: Vec<String>,
    /// The admin server.
    pub admin: Admin,
    /// The time zone in which a date turns.
    pub timezone: String,
    /// The budget for everything in flight, in bytes.
    pub memory: u64,
    /// A batch is full at this many rows.
    pub batch_rows: usize,
    /// Where chunks of open transactions lie.
    pub spool_path: PathBuf,
    /// They may take this many bytes; above it large transactions arrive whole.
    pub spool_bytes: u64,
    /// Kept changes may take this many bytes; above it a source stops.
    pub pending_bytes: u64,
    /// A longer row is drained unread, in bytes.
    pub max_row_bytes: u64,
    /// The key that masked values are hashed with.
    pub mask_key: Option<MaskKey>,
    /// Where what happens is told by OpenLineage.
    pub lineage: Option<OpenLineage>,
}

impl Settings {
    /// Whether connectors work as under others; the admin server is none of theirs.
    pub fn works_as(&self, other: &Settings) -> bool {
        self.warehouse == other.warehouse
            && self.readers == other.readers
            && self.timezone == other.timezone
            && (&self.spool_path, self.spool_bytes) == (&other.spool_path, other.spool_bytes)
            && (self.memory, self.batch_rows) == (other.memory, other.batch_rows)
            && (self.pending_bytes, self.max_row_bytes)
                == (other.pending_bytes, other.max_row_bytes)
    }
}

/// The admin server's address and tokens.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The token for everything.
    pub token: Option<Secret>,
    /// The token for reading; open where none is set on loopback.
    pub read_token: Option<Secret>,
}

impl Admin {
    /// Whether address and tokens are the same.
    pub fn is_like(&self, other: &Admin) -> bool {
        let same = |one: &Option<Secret>, other: &Option<Secret>| match (one, other) {
            (Some(one), Some(other)) => one.is(other.expose()),
            (one, other) => one.is_none() && other.is_none(),
        };
        self.listen == other.listen
            && same(&self.token, &other.token)
            && same(&self.read_token, &other.read_token)
    }
}

/// A text that is never printed.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: String) -> Secret {
        Secret(text)
    }

    /// Whether a text is this one, in constant time: the only comparison of a secret.
    pub fn is(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        self.is(&other.0)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSettings {
    warehouse: RawWarehouse,
    admin: Option<RawAdmin>,
    timezone: Option<Given>,
    memory: Option<Given>,
    batch: Option<RawBatch>,
    #[serde(default)]
    spool: RawSpool,
    pending: Option<RawPending>,
    max_row_bytes: Option<Given>,
    mask_key: Option<Given>,
    lineage: Option<RawOpenLineage>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWarehouse {
    url: Option<Given>,
    host: Option<Given>,
    port: Option<Given>,
    database: Option<Given>,
    user: Option<Given>,
    password: Option<Given>,
    tls: Option<Given>,
    #[serde(default)]
    readers: Vec<Given>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAdmin {
    listen: Option<Given>,
    token: Option<Given>,
    read_token: Option<Given>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBatch {
    max_rows: Given,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSpool {
    path: Option<Given>,
    max: Option<Given>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPending {
    max_bytes: Given,
}

const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8088);

const TIMEZONE: &str = "write a name of the IANA database, such as Europe/Berlin or UTC";

/// Below this the window could not hold one ordinary batch.
const LEAST_MEMORY: Size = Size(16 << 20);

/// Reads `siltstone.yaml`; paths in it are below `root`.
pub(super) fn read(file: &File<'_>, root: &Path) -> Result<Settings> {
    let raw: RawSettings = file.read()?;
    let (warehouse, readers) = read_warehouse(file, &raw.warehouse)?;
    let timezone = match &raw.timezone {
        None => "UTC".to_owned(),
        Some(given) => {
            let name = file.text("timezone", given)?;
            TimeZone::get(&name)
                .map_err(|_| file.refuse_given("timezone", given, &unknown(&name), TIMEZONE))?;
            name
        }
    };
    let memory = file.parse_or("memory", raw.memory.as_ref(), Size(192 << 20))?;
    if let Some(given) = raw.memory.as_ref().filter(|_| memory < LEAST_MEMORY) {
        return Err(file.refuse_given("memory", given, "it is too little", "write at least 16MiB"));
    }
    let spool_path = match &raw.spool.path {
        None => "spool".to_owned(),
        Some(given) => file.text("spool.path", given)?,
    };
    let batch_rows = raw.batch.as_ref().map(|batch| &batch.max_rows);
    let pending = raw.pending.as_ref().map(|pending| &pending.max_bytes);
    Ok(Settings {
        warehouse,
        readers,
        admin: read_admin(file, raw.admin.as_ref())?,
        timezone,
        memory: memory.0,
        batch_rows: file.parse_or("batch.max_rows", batch_rows, 50_000_usize)?,
        spool_path: root.join(spool_path),
        spool_bytes: file.parse_or("spool.max", raw.spool.max.as_ref(), Size(10 << 30))?.0,
        pending_bytes: file.parse_or("pending.max_bytes", pending, Size(10 << 30))?.0,
        max_row_bytes: file
            .parse_or("max_row_bytes", raw.max_row_bytes.as_ref(), Size(64 << 20))?
            .0,
        mask_key: mask::read_key(file, raw.mask_key.as_ref())?,
        lineage: openlineage::read(file, raw.lineage.as_ref(), root)?,
    })
}

fn unknown(timezone: &str) -> String {
    format!("there is no time zone {timezone:?}")
}

fn read_warehouse(file: &File<'_>, raw: &RawWarehouse) -> Result<(Endpoint, Vec<String>)> {
    let mut readers = Vec::new();
    for given in &raw.readers {
        readers.push(file.parse::<PgName>("warehouse.readers", given)?.0);
    }
    if let Some(url) = &raw.url {
        let text = file.text("warehouse.url", url)?;
        let endpoint = Endpoint::parse(&text)
            .map_err(|error| file.refuse_given("warehouse.url", url, &error.reason(), URL))?;
        let parts = [
            ("host", &raw.host),
            ("port", &raw.port),
            ("database", &raw.database),
            ("user", &raw.user),
            ("password", &raw.password),
            ("tls", &raw.tls),
        ];
        if let Some((name, _)) = parts.iter().find(|(_, given)| given.is_some()) {
            let field = format!("warehouse.{name}");
            let remedy = "put it into the url, or give all of it in single fields";
            return Err(file.refuse(&field, "the url says it already", remedy));
        }
        return Ok((endpoint, readers));
    }
    let need = |name: &str, given: &Option<Given>| match given {
        Some(given) => file.text(&format!("warehouse.{name}"), given),
        None => {
            let field = format!("warehouse.{name}");
            Err(file.refuse(&field, "the field is missing", "add it, or warehouse.url alone"))
        }
    };
    let port = file.parse_or("warehouse.port", raw.port.as_ref(), 5432)?;
    let host = need("host", &raw.host)?;
    let (database, user) = (need("database", &raw.database)?, need("user", &raw.user)?);
    let mut endpoint = Endpoint::from_parts(&host, port, &database, &user);
    if let Some(given) = &raw.password {
        endpoint = endpoint.with_password(&file.text("warehouse.password", given)?);
    }
    endpoint.ssl_mode = file.parse_or("warehouse.tls", raw.tls.as_ref(), endpoint.ssl_mode)?;
    Ok((endpoint, readers))
}

fn read_admin(file: &File<'_>, raw: Option<&RawAdmin>) -> Result<Admin> {
    let token = |field: &str, given: Option<&Given>| -> Result<Option<Secret>> {
        let Some(given) = given else { return Ok(None) };
        let text = file.text(field, given)?;
        Ok(Some(text).filter(|text| !text.is_empty()).map(Secret::new))
    };
    let Some(raw) = raw else {
        return Ok(Admin { listen: DEFAULT_LISTEN, token: None, read_token: None });
    };
    let admin = Admin {
        listen: file.parse_or("admin.listen", raw.listen.as_ref(), DEFAULT_LISTEN)?,
        token: token("admin.token", raw.token.as_ref())?,
        read_token: token("admin.read_token", raw.read_token.as_ref())?,
    };
    if !admin.listen.ip().is_loopback() && admin.token.is_none() {
        let why = "an address other than loopback needs a token";
        return Err(file.refuse("admin.listen", why, "set admin.token, or listen on 127.0.0.1"));
    }
    Ok(admin)
}
