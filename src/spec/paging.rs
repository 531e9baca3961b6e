//! How what does not fit into one answer of an API is asked for.

use serde::Deserialize;

use super::file::{File, Given};
use super::http::JsonPath;
use super::scalar::Scalar;
use crate::error::Result;

/// How the pages of an endpoint are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paging {
    /// How the next one is.
    pub by: By,
    /// The parameter that says how many rows a page may have, and how many.
    pub size: Option<(String, usize)>,
}

/// How the next page is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// By how many rows came before it; up to an empty page, or to the number that the answer says.
    Offset {
        /// The parameter.
        param: String,
        /// Where an answer says how many rows there are.
        total: Option<JsonPath>,
    },
    /// By its number; up to an empty page, or to the number of rows that the answer says.
    Page {
        /// The parameter.
        param: String,
        /// The number of the first one.
        first: u32,
        /// Where an answer says how many rows there are.
        total: Option<JsonPath>,
    },
    /// By what the page before it says; up to one that says nothing.
    Cursor {
        /// The parameter.
        param: String,
        /// Where an answer says it.
        next: JsonPath,
    },
    /// By the URL that the page before it tells, in its header `Link` or its answer; up to one that tells none.
    Link {
        /// Where an answer tells it; in the header where none is given.
        next: Option<JsonPath>,
    },
}

impl Paging {
    /// The parameters that it sets.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let param = match &self.by {
            By::Offset { param, .. } | By::Page { param, .. } | By::Cursor { param, .. } => {
                Some(param.as_str())
            }
            By::Link { .. } => None,
        };
        param.into_iter().chain(self.size.as_ref().map(|(name, _)| name.as_str()))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPaging {
    by: Given,
    param: Option<Given>,
    size: Option<Given>,
    limit: Option<Given>,
    first: Option<Given>,
    next: Option<Given>,
    total: Option<Given>,
}

/// The name of a parameter.
struct Param(String);

impl Scalar for Param {
    const REMEDY: &'static str = "write the name of a parameter, such as offset";

    fn read(text: &str) -> Result<Param, String> {
        match text.is_empty() {
            true => Err("it is empty".to_owned()),
            false => Ok(Param(text.to_owned())),
        }
    }
}

/// Reads how pages are asked for.
pub(super) fn read(file: &File<'_>, field: &str, raw: &RawPaging) -> Result<Paging> {
    let at = |below: &str| format!("{field}.{below}");
    let by = file.choice(&at("by"), Some(&raw.by), &["offset", "page", "cursor", "link"])?;
    let given = [
        ("param", raw.param.is_some(), &["offset", "page", "cursor"][..]),
        ("first", raw.first.is_some(), &["page"]),
        ("next", raw.next.is_some(), &["cursor", "link"]),
        ("total", raw.total.is_some(), &["offset", "page"]),
    ];
    if let Some((name, _, _)) = given.iter().find(|(_, given, of)| *given && !of.contains(&by)) {
        let why = format!("pages by {by} have none");
        return Err(file.refuse(&at(name), &why, "remove the field"));
    }
    let param = |default: &str| -> Result<String> {
        Ok(file.parse_or(&at("param"), raw.param.as_ref(), Param(default.to_owned()))?.0)
    };
    let path = |name: &str, given: Option<&Given>| -> Result<Option<JsonPath>> {
        given.map(|given| file.parse(&at(name), given)).transpose()
    };
    let next = path("next", raw.next.as_ref())?;
    let total = path("total", raw.total.as_ref())?;
    let by = match by {
        "offset" => By::Offset { param: param("offset")?, total },
        "page" => {
            let first = file.parse_or(&at("first"), raw.first.as_ref(), 1_u32)?;
            By::Page { param: param("page")?, first, total }
        }
        "cursor" => {
            let Some(next) = next else {
                let remedy = "add where an answer says it, such as next: $.next_cursor";
                return Err(file.refuse(&at("next"), "nothing says where the cursor is", remedy));
            };
            By::Cursor { param: param("cursor")?, next }
        }
        _ => By::Link { next },
    };
    Ok(Paging { by, size: size(file, field, raw)? })
}

/// How many rows a page is to have: the parameter, and the number.
fn size(file: &File<'_>, field: &str, raw: &RawPaging) -> Result<Option<(String, usize)>> {
    let at = |below: &str| format!("{field}.{below}");
    match (&raw.size, &raw.limit) {
        (None, None) => Ok(None),
        (Some(size), limit) => {
            let limit = file.parse_or(&at("limit"), limit.as_ref(), Param("limit".to_owned()))?;
            Ok(Some((limit.0, file.parse(&at("size"), size)?)))
        }
        (None, Some(_)) => {
            let remedy = "add how many rows a page is to have, such as size: 100";
            Err(file.refuse(&at("limit"), "nothing says how many", remedy))
        }
    }
}
