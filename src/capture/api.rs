//! Asks an API over HTTP, no faster than its file says, and again where that may go better. What comes back is
//! bytes: they are whole, and not more than the file says; what is in them others read.
//!
//! What is said of a failure has the URL's path in it, never its parameters or a header: a secret may be there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use reqwest::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue, LINK, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::de::IgnoredAny;

use super::bounds::Bounds;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::spec::{Auth, Http};

/// How often a page is asked for.
const ATTEMPTS: u32 = 6;

/// The first and the longest pause behind a failure; each is twice the one before.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// An API that asks for a longer pause is asked by the next attempt at the task.
const LONGEST_WAIT: Duration = Duration::from_mins(10);

/// How long it is waited for a connection, and for more of an answer.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));

/// When each API may be asked again. All that ask one share it.
#[derive(Clone, Default)]
pub struct Paces(Arc<Mutex<HashMap<String, Instant>>>);

impl Paces {
    /// How long a request waits that is ready at `now`; those behind it wait for longer.
    pub fn place(&self, source: &str, every: Duration, now: Instant) -> Duration {
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = next.get(source).copied().map_or(now, |at| at.max(now));
        next.insert(source.to_owned(), at + every);
        at.saturating_duration_since(now)
    }

    /// Nothing is sent before so long.
    fn rest(&self, source: &str, until: Instant) {
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = next.entry(source.to_owned()).or_insert(until);
        *at = until.max(*at);
    }
}

/// An answer that is whole.
pub struct Got {
    /// Its body.
    pub body: Vec<u8>,
    /// The next page, as its header `Link` tells it.
    pub next: Option<String>,
}

/// Why an attempt brought nothing.
enum Failure {
    /// Another one may bring more, not before so long.
    Passing(String, Option<Duration>),
    /// None will.
    Lasting(Error),
}

/// Asks one API.
pub struct Api {
    http: Arc<Http>,
    client: Client,
    headers: HeaderMap,
    paces: Paces,
    clock: Clock,
    bounds: Bounds,
}

impl Api {
    /// What asks an API.
    pub fn new(http: Arc<Http>, paces: Paces, clock: Clock, bounds: Bounds) -> Result<Api> {
        // who asks is told to nobody else
        let builder = Client::builder()
            .connect_timeout(PATIENCE.0)
            .read_timeout(PATIENCE.1)
            .redirect(Policy::none());
        // to this machine by no proxy
        let near = matches!(base(&http)?.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let builder = if near { builder.no_proxy() } else { builder };
        let client = builder.build();
        let client =
            client.map_err(|error| Error::bug("no HTTP client can be made").because(error))?;
        let headers = headers(&http)?;
        Ok(Api { http, client, headers, paces, clock, bounds })
    }

    /// The URL of a path with its parameters.
    pub fn url(&self, path: &str, params: &[(String, String)]) -> Result<Url> {
        let written = format!("{}{path}", self.http.url);
        let mut url = Url::parse(&written).map_err(|_| no_url(&self.http))?;
        if !params.is_empty() {
            url.query_pairs_mut().extend_pairs(params);
        }
        Ok(url)
    }

    /// Asks for a page; `place` is what messages call it.
    pub async fn get(&self, url: &Url, place: &str) -> Result<Got> {
        let mut pause = PAUSES.0;
        let mut attempt = 1;
        loop {
            let wait = self.paces.place(&self.http.source, self.http.every, Instant::now());
            self.bounds.waited(wait);
            tokio::time::sleep(wait).await;
            let (why, asked) = match self.attempt(url, place).await {
                Ok(got) => return Ok(got),
                Err(Failure::Lasting(error)) => return Err(error),
                Err(Failure::Passing(why, asked)) => (why, asked),
            };
            let wait = asked.unwrap_or(pause);
            if attempt >= ATTEMPTS || wait > LONGEST_WAIT {
                self.bounds.reached("attempts");
                let what = match asked.filter(|wait| *wait > LONGEST_WAIT) {
                    Some(wait) => {
                        format!("{place} {why}, and asks to be left alone for {} s", wait.as_secs())
                    }
                    None => format!("{place} {why}, {attempt} times"),
                };
                return Err(Error::new(Kind::SourceAway, what));
            }
            tracing::info!(attempt, "{place} {why}; asking again in {} ms", wait.as_millis());
            self.paces.rest(&self.http.source, Instant::now() + wait);
            pause = (pause * 2).min(PAUSES.1);
            attempt += 1;
        }
    }

    async fn attempt(&self, url: &Url, place: &str) -> Result<Got, Failure> {
        let request = self.client.get(url.clone()).headers(self.headers.clone());
        let response = match self.signed(request).send().await {
            Ok(response) => response,
            Err(error) if error.is_builder() => {
                return Err(Failure::Lasting(no_url(&self.http).because(error.without_url())));
            }
            Err(error) => return Err(Failure::Passing(chain(&error.without_url()), None)),
        };
        if !response.status().is_success() {
            return Err(self.refused(&response, place));
        }
        let next = response
            .headers()
            .get_all(LINK)
            .iter()
            .filter_map(|link| link.to_str().ok())
            .find_map(next_of);
        let body = self.body(response, place).await?;
        match serde_json::from_slice::<IgnoredAny>(&body) {
            // a connection that ended too early looks like the end of an answer without a length
            Err(error) if error.is_eof() => Err(Failure::Passing("is cut off".to_owned(), None)),
            Err(error) => {
                let what = format!("{place} is no JSON: {error}");
                Err(Failure::Lasting(self.mended(Error::new(Kind::Config, what))))
            }
            Ok(IgnoredAny) => Ok(Got { body, next }),
        }
    }

    fn signed(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.http.auth {
            Some(Auth::Basic(user, password)) => request.basic_auth(user, Some(password.expose())),
            Some(Auth::Bearer(token)) => request.bearer_auth(token.expose()),
            Some(Auth::Header(..)) | None => request,
        }
    }

    async fn body(&self, mut response: Response, place: &str) -> Result<Vec<u8>, Failure> {
        let most = self.http.limits.page_bytes;
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => return Ok(body),
                Err(error) => return Err(Failure::Passing(chain(&error.without_url()), None)),
            }
            if u64::try_from(body.len()).unwrap_or(u64::MAX) > most {
                self.bounds.reached("limits.page_bytes");
                let what = format!("{place} has more than {most} bytes");
                let remedy = format!(
                    "ask for fewer rows a page, or raise limits.page_bytes in {}",
                    self.http.file
                );
                return Err(Failure::Lasting(Error::new(Kind::Config, what).remedy(remedy)));
            }
        }
    }

    /// What an answer means that brings nothing.
    fn refused(&self, response: &Response, place: &str) -> Failure {
        let status = response.status();
        let why = format!("answers {}", status.as_u16());
        let error = |kind: Kind| Error::new(kind, format!("{place} {why}"));
        match status {
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                Failure::Passing(why, self.asked(response))
            }
            status if status.is_server_error() => Failure::Passing(why, self.asked(response)),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::Lasting(
                error(Kind::Rights).remedy(format!("see auth in {}", self.http.file)),
            ),
            status if status.is_redirection() => Failure::Lasting(
                error(Kind::Config)
                    .remedy(format!("write where it leads as url in {}", self.http.file)),
            ),
            _ => Failure::Lasting(self.mended(error(Kind::Config))),
        }
    }

    fn mended(&self, error: Error) -> Error {
        error.remedy(format!("see url and endpoints in {}", self.http.file))
    }

    /// For how long an API asks to be left alone: in seconds, or until a moment.
    fn asked(&self, response: &Response) -> Option<Duration> {
        let asked = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
        if let Ok(seconds) = asked.parse::<u64>() {
            return Some(Duration::from_secs(seconds));
        }
        let until = jiff::fmt::rfc2822::parse(asked).ok()?.timestamp();
        Some(until.duration_since(self.clock.now()).max(SignedDuration::ZERO).unsigned_abs())
    }
}

fn base(http: &Http) -> Result<Url> {
    Url::parse(&http.url).map_err(|_| no_url(http))
}

fn no_url(http: &Http) -> Error {
    Error::new(Kind::Config, format!("{} and what is asked for make no URL", http.url))
        .remedy(format!("see url and endpoints in {}", http.file))
}

/// What is sent with every request.
fn headers(http: &Http) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    let auth = match &http.auth {
        Some(Auth::Header(name, value)) => Some((name, value)),
        _ => None,
    };
    for (name, value) in http.headers.iter().map(|(name, value)| (name, value)).chain(auth) {
        let unfit =
            || Error::new(Kind::Config, format!("{}: the header {name} cannot be sent", http.file));
        let header = HeaderName::try_from(name.as_str()).map_err(|_| unfit())?;
        let mut value = HeaderValue::try_from(value.expose()).map_err(|_| unfit())?;
        value.set_sensitive(true);
        headers.insert(header, value);
    }
    Ok(headers)
}

/// The next page that a header `Link` tells (RFC 8288): `<https://…>; rel="next"`.
fn next_of(link: &str) -> Option<String> {
    let mut rest = link;
    while let Some((_, behind)) = rest.split_once('<') {
        let (url, behind) = behind.split_once('>')?;
        let of_this = behind.split('<').next().unwrap_or_default();
        let is_next = of_this.split(';').map(str::trim).any(|parameter| {
            let relation = parameter.trim_end_matches(',').trim().strip_prefix("rel=");
            let relation = relation.map(|relation| relation.trim_matches('"'));
            relation.is_some_and(|all| all.split(' ').any(|one| one.eq_ignore_ascii_case("next")))
        });
        if is_next {
            return Some(url.trim().to_owned());
        }
        rest = behind;
    }
    None
}

/// What an error and those beneath it say.
fn chain(error: &dyn std::error::Error) -> String {
    let mut said = format!("does not answer ({error}");
    let mut below = error.source();
    while let Some(cause) = below {
        said.push_str(&format!(": {cause}"));
        below = cause.source();
    }
    said.push(')');
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_as_far_apart_as_they_are_to_be() {
        let (paces, now) = (Paces::default(), Instant::now());
        let every = Duration::from_millis(200);
        let waits = |count: usize, now| -> Vec<u128> {
            (0..count).map(|_| paces.place("a", every, now).as_millis()).collect()
        };
        assert_eq!(waits(3, now), [0, 200, 400]);
        // another source has a pace of its own
        assert_eq!(paces.place("b", every, now), Duration::ZERO);
        // the places that were given are kept, and an idle time is not made up for
        assert_eq!(waits(1, now + Duration::from_millis(500)), [100]);
        assert_eq!(waits(2, now + Duration::from_secs(60)), [0, 200]);
        paces.rest("a", now + Duration::from_secs(70));
        assert_eq!(waits(1, now + Duration::from_secs(61)), [9_000]);
    }

    #[test]
    fn the_next_page_is_found_among_the_links() {
        let link =
            r#"<https://a/x?page=1>; rel="prev", <https://a/x?page=3>; title="n"; rel="next last""#;
        assert_eq!(next_of(link).as_deref(), Some("https://a/x?page=3"));
        assert_eq!(next_of("</x?page=2>; rel=next").as_deref(), Some("/x?page=2"));
        assert_eq!(next_of(r#"<https://a/x>; rel="nextish""#), None);
        assert_eq!(next_of("rel=next"), None);
    }
}
