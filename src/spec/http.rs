//! `connectors/*.yaml` of kind `http`: an API without a stream. Jobs read its endpoints, an interval at a time.

use std::fmt;
use std::time::Duration;

use indexmap::IndexMap;
use serde::Deserialize;

use super::file::{File, Given};
use super::paging::{self, Paging, RawPaging};
use super::scalar::{Identifier, PgName, Scalar};
use super::settings::Secret;
use super::template::Template;
use super::units::Size;
use crate::error::Result;

/// An API that jobs read.
#[derive(Clone, Debug, PartialEq)]
pub struct Http {
    /// Its name, in messages.
    pub name: String,
    /// The logical source: the first part of a table's `from`.
    pub source: String,
    /// Where it is, without the slash behind it. No secret is in it.
    pub url: String,
    /// What says who asks.
    pub auth: Option<Auth>,
    /// What is sent with every request beside.
    pub headers: Vec<(String, Secret)>,
    /// How long a request waits behind the one before it.
    pub every: Duration,
    /// What one extract may bring at most.
    pub limits: HttpLimits,
    /// What can be read of it.
    pub endpoints: Vec<HttpEndpoint>,
    /// The file it stands in, for messages.
    pub file: String,
}

/// What says who asks.
#[derive(Clone, Debug, PartialEq)]
pub enum Auth {
    /// A token.
    Bearer(Secret),
    /// A user and a password.
    Basic(String, Secret),
    /// A header of this name.
    Header(String, Secret),
}

/// What one extract may bring at most: beyond it the extract fails, and nothing is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// Pages.
    pub pages: usize,
    /// Bytes of a page.
    pub page_bytes: u64,
    /// Rows.
    pub rows: usize,
}

/// What can be read of an API.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpEndpoint {
    /// Its name: the second part of a table's `from`.
    pub name: String,
    /// Where it is below the API's URL, with its slash.
    pub path: Template,
    /// What is asked for.
    pub params: Vec<(String, Template)>,
    /// Where the rows of an answer are.
    pub records: JsonPath,
    /// How what does not fit into one answer is asked for.
    pub page: Option<Paging>,
    /// The fields that tell its rows apart.
    pub key: Vec<String>,
}

/// A place in a JSON document, as `$.a.b`: the names of the fields that lead there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JsonPath(pub Vec<String>);

impl Http {
    /// An endpoint by its name.
    pub fn endpoint(&self, name: &str) -> Option<&HttpEndpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.name == name)
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("$")?;
        self.0.iter().try_for_each(|field| write!(f, ".{field}"))
    }
}

impl Scalar for JsonPath {
    const REMEDY: &'static str =
        "write $ for the whole answer, or a plain path such as $.data.items";

    fn read(text: &str) -> Result<JsonPath, String> {
        let plain = |field: &str| {
            let legal = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
            !field.is_empty() && field.chars().all(legal)
        };
        let fields = match text.strip_prefix('$') {
            Some("") => return Ok(JsonPath::default()),
            Some(rest) => rest.strip_prefix('.').map(|rest| rest.split('.')),
            None => None,
        };
        let fields = fields.map(|fields| fields.map(str::to_owned).collect::<Vec<_>>());
        match fields.filter(|fields| fields.iter().all(|field| plain(field))) {
            Some(fields) => Ok(JsonPath(fields)),
            None => Err(format!("{text:?} is no plain path")),
        }
    }
}

/// How often is asked: `5/s`, `100/m`.
struct Rate(Duration);

impl Scalar for Rate {
    const REMEDY: &'static str =
        "write how many requests in a second, a minute or an hour, such as 5/s or 100/m";

    fn read(text: &str) -> Result<Rate, String> {
        let refuse = || format!("{text:?} is no rate");
        let (count, unit) = text.split_once('/').ok_or_else(refuse)?;
        let per = match unit.trim() {
            "s" => Duration::from_secs(1),
            "m" => Duration::from_mins(1),
            "h" => Duration::from_hours(1),
            _ => return Err(refuse()),
        };
        match count.trim().parse::<u32>() {
            Ok(count @ 1..=1_000_000) => Ok(Rate(per / count)),
            _ => Err(refuse()),
        }
    }
}

/// A header's name.
struct HeaderName(String);

impl Scalar for HeaderName {
    const REMEDY: &'static str = "write the name of a header, such as X-Api-Key";

    fn read(text: &str) -> Result<HeaderName, String> {
        let legal = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        match !text.is_empty() && text.chars().all(legal) {
            true => Ok(HeaderName(text.to_owned())),
            false => Err(format!("{text:?} is no name of a header")),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHttp {
    name: Given,
    #[allow(dead_code, reason = "read by Head; named here so that it is a known field")]
    kind: Given,
    #[allow(dead_code, reason = "read by Head; named here so that it is a known field")]
    enabled: Option<bool>,
    source: Option<Given>,
    url: Given,
    auth: Option<RawAuth>,
    #[serde(default)]
    headers: IndexMap<String, Given>,
    rate: Option<Given>,
    limits: Option<RawLimits>,
    endpoints: IndexMap<String, RawEndpoint>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAuth {
    bearer: Option<Given>,
    basic: Option<RawBasic>,
    header: Option<RawHeader>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBasic {
    user: Given,
    password: Given,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHeader {
    name: Given,
    value: Given,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    pages: Option<Given>,
    page_bytes: Option<Given>,
    rows: Option<Given>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEndpoint {
    path: Given,
    #[serde(default)]
    params: IndexMap<String, Given>,
    records: Option<Given>,
    page: Option<RawPaging>,
    #[serde(default)]
    key: Vec<Given>,
}

/// What is taken where a file says nothing.
const LIMITS: HttpLimits = HttpLimits { pages: 10_000, page_bytes: 64 << 20, rows: 10_000_000 };

/// Reads a connector's file.
pub(super) fn read(file: &File<'_>) -> Result<Http> {
    let raw: RawHttp = file.read()?;
    let name = file.parse::<Identifier>("name", &raw.name)?.0;
    let source = match &raw.source {
        Some(given) => file.parse::<Identifier>("source", given)?.0,
        None => name.clone(),
    };
    let mut headers = Vec::new();
    for (name, value) in &raw.headers {
        let field = format!("headers.{name}");
        if let Err(why) = HeaderName::read(name) {
            return Err(file.refuse(&field, &why, HeaderName::REMEDY));
        }
        headers.push((name.clone(), secret(file, &field, value)?));
    }
    if raw.endpoints.is_empty() {
        let remedy = "add what is read of it, such as products: { path: /products, key: [id] }";
        return Err(file.refuse("endpoints", "there is none", remedy));
    }
    let endpoints = raw.endpoints.iter().map(|(name, raw)| endpoint(file, name, raw));
    let rate = raw.rate.as_ref();
    Ok(Http {
        url: url(file, &raw.url)?,
        auth: raw.auth.as_ref().map(|raw| auth(file, raw)).transpose()?.flatten(),
        headers,
        every: file.parse_or("rate", rate, Rate(Duration::ZERO))?.0,
        limits: limits(file, raw.limits.as_ref())?,
        endpoints: endpoints.collect::<Result<_>>()?,
        name,
        source,
        file: file.path.clone(),
    })
}

/// Where the API is: what stands in it is said in messages, so no secret may.
fn url(file: &File<'_>, given: &Given) -> Result<String> {
    const REMEDY: &str = "write https://host/path";
    let text = file.text("url", given)?;
    let refuse = |why: &str, remedy: &str| Err(file.refuse_given("url", given, why, remedy));
    let Ok(url) = reqwest::Url::parse(&text) else {
        // not quoted: a password may be in it
        return refuse("it is no URL", REMEDY);
    };
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return refuse("it is no URL of HTTP", REMEDY);
    }
    if !url.username().is_empty() || url.password().is_some() {
        let remedy = "write auth: { basic: { user: …, password: \"${…}\" } }";
        return refuse("it holds who asks, which would be told with it", remedy);
    }
    if url.query().is_some() || url.fragment().is_some() {
        return refuse("it has more than a path", "write what is asked for as params of endpoints");
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// A value that is sent as a header.
fn secret(file: &File<'_>, field: &str, given: &Given) -> Result<Secret> {
    let text = file.text(field, given)?;
    match text.bytes().all(|byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f)) {
        true => Ok(Secret::new(text)),
        // not quoted: it is a secret
        false => {
            let remedy = "write it on one line, without control characters";
            Err(file.refuse_given(field, given, "no header can hold it", remedy))
        }
    }
}

/// What says who asks; an empty token stands for nobody.
fn auth(file: &File<'_>, raw: &RawAuth) -> Result<Option<Auth>> {
    match (&raw.bearer, &raw.basic, &raw.header) {
        (Some(given), None, None) => {
            let token = secret(file, "auth.bearer", given)?;
            Ok((!token.expose().is_empty()).then_some(Auth::Bearer(token)))
        }
        (None, Some(basic), None) => {
            let user = file.text("auth.basic.user", &basic.user)?;
            let password = file.text("auth.basic.password", &basic.password)?;
            Ok(Some(Auth::Basic(user, Secret::new(password))))
        }
        (None, None, Some(header)) => {
            let name = file.parse::<HeaderName>("auth.header.name", &header.name)?.0;
            Ok(Some(Auth::Header(name, secret(file, "auth.header.value", &header.value)?)))
        }
        _ => {
            let remedy =
                "write one of bearer, basic and header, such as auth: { bearer: \"${TOKEN}\" }";
            Err(file.refuse("auth", "it does not say one way", remedy))
        }
    }
}

fn limits(file: &File<'_>, raw: Option<&RawLimits>) -> Result<HttpLimits> {
    let Some(raw) = raw else { return Ok(LIMITS) };
    let bytes = Size(LIMITS.page_bytes);
    Ok(HttpLimits {
        pages: file.parse_or("limits.pages", raw.pages.as_ref(), LIMITS.pages)?,
        page_bytes: file.parse_or("limits.page_bytes", raw.page_bytes.as_ref(), bytes)?.0,
        rows: file.parse_or("limits.rows", raw.rows.as_ref(), LIMITS.rows)?,
    })
}

fn endpoint(file: &File<'_>, name: &str, raw: &RawEndpoint) -> Result<HttpEndpoint> {
    let at = |below: &str| format!("endpoints.{name}.{below}");
    if let Err(why) = Identifier::read(name) {
        return Err(file.refuse(&format!("endpoints.{name}"), &why, Identifier::REMEDY));
    }
    let written = file.text(&at("path"), &raw.path)?;
    if !written.starts_with('/') || written.contains(['?', '#']) {
        let remedy = "write a path such as /products, and what is asked for as params";
        return Err(file.refuse_given(&at("path"), &raw.path, "it is no path", remedy));
    }
    let mut params = Vec::new();
    for (param, given) in &raw.params {
        let template = file.parse(&at(&format!("params.{param}")), given)?;
        params.push((param.clone(), template));
    }
    let key = raw.key.iter().map(|given| Ok(file.parse::<PgName>(&at("key"), given)?.0));
    let key = key.collect::<Result<Vec<_>>>()?;
    if key.is_empty() {
        let remedy = "name the fields that tell rows apart, such as key: [id]";
        return Err(file.refuse(&at("key"), "its rows have no key", remedy));
    }
    let page = raw.page.as_ref().map(|raw| paging::read(file, &at("page"), raw)).transpose()?;
    if let Some(taken) =
        page.as_ref().and_then(|page| page.names().find(|name| raw.params.contains_key(*name)))
    {
        let why = format!("{taken} is what its pages are asked for by");
        return Err(file.refuse(&at(&format!("params.{taken}")), &why, "remove it"));
    }
    Ok(HttpEndpoint {
        name: name.to_owned(),
        path: file.parse(&at("path"), &raw.path)?,
        params,
        records: file.parse_or(&at("records"), raw.records.as_ref(), JsonPath::default())?,
        page,
        key,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_plain() {
        let path = |text: &str| JsonPath::read(text).map(|path| path.0);
        assert_eq!(path("$"), Ok(Vec::new()));
        assert_eq!(path("$.data.items"), Ok(vec!["data".to_owned(), "items".to_owned()]));
        for wrong in ["", "data", "$.", "$data", "$.a[0]", "$..a", "$.a.*", "$.a b"] {
            assert!(path(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rate_is_a_pause() {
        let pause = |text: &str| Rate::read(text).map(|rate| rate.0);
        assert_eq!(pause("5/s"), Ok(Duration::from_millis(200)));
        assert_eq!(pause("120/m"), Ok(Duration::from_millis(500)));
        for wrong in ["5", "0/s", "5/d", "-1/s", "1.5/s"] {
            assert!(pause(wrong).is_err(), "{wrong}");
        }
    }
}
