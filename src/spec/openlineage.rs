//! `lineage:` of `siltstone.yaml`: where what happens is told in the words of OpenLineage.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::channel;
use super::file::{File, Given};
use super::settings::Secret;
use super::units::Size;
use crate::error::Result;

/// Where events go.
#[derive(Clone, Debug, PartialEq)]
pub enum OpenLineage {
    /// To a file, one a line; it is put aside when it would be larger than so many bytes, and one of old is kept.
    File(PathBuf, u64),
    /// To a program, by POST, with a token where it wants one.
    Url(Secret, Option<Secret>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOpenLineage {
    file: Option<Given>,
    max: Option<Given>,
    url: Option<Given>,
    token: Option<Given>,
}

/// How large the file may be where nothing is said.
const MAX: Size = Size(64 << 20);

/// One event has to have room in it.
const LEAST: Size = Size(1 << 20);

/// Reads where events go; an empty URL stands for nowhere.
pub(super) fn read(
    file: &File<'_>,
    raw: Option<&RawOpenLineage>,
    root: &Path,
) -> Result<Option<OpenLineage>> {
    let Some(raw) = raw else { return Ok(None) };
    let of = |name: &str, given: bool, other: &str| match given {
        true => {
            let (field, why) = (format!("lineage.{name}"), format!("only lineage.{other} has it"));
            Err(file.refuse(&field, &why, "remove the field"))
        }
        false => Ok(()),
    };
    match (&raw.file, &raw.url) {
        (Some(given), None) => {
            of("token", raw.token.is_some(), "url")?;
            let path = file.text("lineage.file", given)?;
            if path.is_empty() {
                let why = "it names no file";
                let remedy = "write a path, such as ./lineage.jsonl";
                return Err(file.refuse_given("lineage.file", given, why, remedy));
            }
            let max = file.parse_or("lineage.max", raw.max.as_ref(), MAX)?;
            if let Some(given) = raw.max.as_ref().filter(|_| max < LEAST) {
                let remedy = "write at least 1MiB";
                return Err(file.refuse_given("lineage.max", given, "it is too little", remedy));
            }
            Ok(Some(OpenLineage::File(root.join(path), max.0)))
        }
        (None, Some(given)) => {
            of("max", raw.max.is_some(), "file")?;
            let url = channel::secret_url(file, "lineage.url", given)?;
            let token = channel::token(file, "lineage.token", raw.token.as_ref())?;
            Ok((!url.expose().is_empty()).then_some(OpenLineage::Url(url, token)))
        }
        (given, _) => {
            let why = match given {
                Some(_) => "events go to a file or to a URL",
                None => "nothing says where events go",
            };
            let remedy = "write one of file: ./lineage.jsonl and url: \"${OPENLINEAGE_URL}\"";
            Err(file.refuse("lineage", why, remedy))
        }
    }
}
