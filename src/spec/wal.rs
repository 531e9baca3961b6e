//! `wal:` of a connector: what is done about the log that its slot keeps at the source.

use serde::Deserialize;

use super::file::{File, Given};
use super::scalar::Scalar;
use super::units::Size;
use crate::error::Result;

/// At how many bytes of log kept by the slot something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wal {
    /// It is said.
    pub warn: u64,
    /// Changes are only kept in the warehouse, so that the log can go.
    pub land: u64,
    /// The slot is dropped and everything read again; none for never.
    pub drop_slot: Option<u64>,
}

impl Default for Wal {
    fn default() -> Wal {
        Wal { warn: 5 << 30, land: 20 << 30, drop_slot: None }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWal {
    warn: Option<Given>,
    land: Option<Given>,
    drop_slot: Option<Given>,
}

/// A size, or `never`.
struct OrNever(Option<u64>);

impl Scalar for OrNever {
    const REMEDY: &'static str =
        "write never, or a whole number with B, KiB, MiB, GiB or TiB, such as 200GiB";

    fn read(text: &str) -> Result<OrNever, String> {
        match text {
            "never" => Ok(OrNever(None)),
            size => <Size as Scalar>::read(size).map(|size| OrNever(Some(size.0))),
        }
    }
}

/// Reads the field.
pub(super) fn read(file: &File<'_>, raw: Option<&RawWal>) -> Result<Wal> {
    let default = Wal::default();
    let Some(raw) = raw else { return Ok(default) };
    let warn = file.parse_or("wal.warn", raw.warn.as_ref(), Size(default.warn))?.0;
    let land = file.parse_or("wal.land", raw.land.as_ref(), Size(default.land.max(warn)))?.0;
    let drop_slot = file.parse_or("wal.drop_slot", raw.drop_slot.as_ref(), OrNever(None))?.0;
    let order = "write warn, land and drop_slot in rising order";
    if let Some(given) = raw.land.as_ref().or(raw.warn.as_ref()).filter(|_| land < warn) {
        return Err(file.refuse_given("wal.land", given, "it is below wal.warn", order));
    }
    if let Some(given) = raw.drop_slot.as_ref().filter(|_| drop_slot.is_some_and(|d| d <= land)) {
        return Err(file.refuse_given("wal.drop_slot", given, "it is not above wal.land", order));
    }
    Ok(Wal { warn, land, drop_slot })
}
