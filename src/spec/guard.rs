//! `guard:` of a connector: how much one source transaction may delete before a human is asked.

use serde::Deserialize;

use super::file::{File, Given};
use super::scalar::Scalar;
use crate::error::Result;

/// More deletes of one table in one source transaction than both limits stop the table. A limit that is
/// none is exceeded by any delete, but where both are none nothing is guarded.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DeleteGuard {
    /// So many rows.
    pub rows: Option<u64>,
    /// Such a share of the warehouse table's rows, 0 to 1.
    pub share: Option<f64>,
}

impl DeleteGuard {
    /// Whether anything is guarded.
    pub fn is_on(&self) -> bool {
        self.rows.is_some() || self.share.is_some()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGuard {
    delete_rows: Option<Given>,
    delete_share: Option<Given>,
}

/// A number of rows, or `none`.
struct Rows(Option<u64>);

impl Scalar for Rows {
    const REMEDY: &'static str = "write none, or a whole number such as 10000";

    fn read(text: &str) -> Result<Rows, String> {
        match text {
            "none" => Ok(Rows(None)),
            number => number
                .parse()
                .map(|rows| Rows(Some(rows)))
                .map_err(|_| format!("{number:?} is no number of rows")),
        }
    }
}

/// A share, or `none`.
struct Share(Option<f64>);

impl Scalar for Share {
    const REMEDY: &'static str = "write none, or a share such as 30% or 0.3";

    fn read(text: &str) -> Result<Share, String> {
        if text == "none" {
            return Ok(Share(None));
        }
        let share = match text.strip_suffix('%') {
            Some(percent) => percent.parse::<f64>().map(|percent| percent / 100.0),
            None => text.parse::<f64>(),
        };
        match share {
            Ok(share) if (0.0..=1.0).contains(&share) => Ok(Share(Some(share))),
            _ => Err(format!("{text:?} is no share of a table")),
        }
    }
}

/// Reads the field.
pub(super) fn read(file: &File<'_>, raw: Option<&RawGuard>) -> Result<DeleteGuard> {
    let Some(raw) = raw else { return Ok(DeleteGuard::default()) };
    let rows = file.parse_or("guard.delete_rows", raw.delete_rows.as_ref(), Rows(None))?.0;
    let share = file.parse_or("guard.delete_share", raw.delete_share.as_ref(), Share(None))?.0;
    Ok(DeleteGuard { rows, share })
}
