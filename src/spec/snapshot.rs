//! `snapshot:` of a connector: how rows that were there before are read.

use std::str::FromStr;

use serde::Deserialize;

use super::connector::URL;
use super::file::{File, Given};
use super::scalar::Scalar;
use super::units::Size;
use crate::error::Result;
use crate::postgres::Endpoint;

/// How rows that were there before are read.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Whether they are, for tables that are new.
    pub initial: bool,
    /// How many tables or ranges are read at once.
    pub workers: usize,
    /// How many bytes of rows a second, all workers together; none for as many as there are.
    pub max_rate: Option<u64>,
    /// A table whose rows are more bytes at the source waits for somebody to ask for it.
    pub max_size: Option<u64>,
    /// The physical standby that they are read from; none for the source itself.
    pub standby: Option<Endpoint>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSnapshot {
    mode: Option<Given>,
    workers: Option<Given>,
    max_rate: Option<Given>,
    max_size: Option<Given>,
    url: Option<Given>,
}

impl RawSnapshot {
    /// Its fields that mean nothing without a stream, and whether each is there.
    pub(super) fn of_streams(&self) -> [(&'static str, bool); 3] {
        [
            ("snapshot.mode", self.mode.is_some()),
            ("snapshot.workers", self.workers.is_some()),
            ("snapshot.max_size", self.max_size.is_some()),
        ]
    }
}

/// A size that is not exceeded, or `none` for no such size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtMost(pub Option<u64>);

impl Scalar for AtMost {
    const REMEDY: &'static str =
        "write none, or a whole number with B, KiB, MiB, GiB or TiB, such as 64MiB";

    fn read(text: &str) -> Result<AtMost, String> {
        match text {
            "none" => Ok(AtMost(None)),
            size => <Size as Scalar>::read(size).map(|size| AtMost(Some(size.0))),
        }
    }
}

impl FromStr for AtMost {
    type Err = String;

    fn from_str(text: &str) -> Result<AtMost, String> {
        <AtMost as Scalar>::read(text)
    }
}

impl Default for Snapshot {
    fn default() -> Snapshot {
        const WORKERS: usize = 2;
        Snapshot { initial: true, workers: WORKERS, max_rate: None, max_size: None, standby: None }
    }
}

/// Reads the field.
pub(super) fn read(file: &File<'_>, raw: Option<&RawSnapshot>) -> Result<Snapshot> {
    let default = Snapshot::default();
    let Some(raw) = raw else { return Ok(default) };
    let mode = file.choice("snapshot.mode", raw.mode.as_ref(), &["initial", "none"])?;
    let workers = file.parse_or("snapshot.workers", raw.workers.as_ref(), default.workers)?;
    if let Some(given) = raw.workers.as_ref().filter(|_| !(1..=16).contains(&workers)) {
        let why = format!("{workers} tables cannot be read at once");
        return Err(file.refuse_given("snapshot.workers", given, &why, "write 1 to 16"));
    }
    let at_most =
        |field: &str, given: Option<&Given>| Ok(file.parse_or(field, given, AtMost(None))?.0);
    let standby = |given: &Given| {
        let url = file.text("snapshot.url", given)?;
        Endpoint::parse(&url)
            .map_err(|error| file.refuse_given("snapshot.url", given, &error.reason(), URL))
    };
    Ok(Snapshot {
        initial: mode == "initial",
        workers,
        max_rate: at_most("snapshot.max_rate", raw.max_rate.as_ref())?,
        max_size: at_most("snapshot.max_size", raw.max_size.as_ref())?,
        standby: raw.url.as_ref().map(standby).transpose()?,
    })
}
