//! Who may ask what, by two tokens.

use std::io::Read;

use axum::http::{HeaderMap, Method, header};

use crate::error::{Error, Result};
use crate::spec::{Admin, Secret};

/// The tokens of the admin server.
#[derive(Clone, Debug)]
pub struct Tokens {
    all: Secret,
    read: Option<Secret>,
    /// whether reading needs no token
    open: bool,
}

/// What a request may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may.
    Allowed,
    /// It has no token, or a wrong one.
    Unknown,
    /// Its token is for reading only.
    ReadOnly,
}

impl Tokens {
    /// The tokens of the settings. Where none is set, on loopback, one is made and returned, to be
    /// shown once.
    pub fn of(admin: &Admin) -> Result<(Tokens, Option<String>)> {
        let open = admin.read_token.is_none() && admin.listen.ip().is_loopback();
        let read = admin.read_token.clone();
        if let Some(token) = &admin.token {
            return Ok((Tokens { all: token.clone(), read, open }, None));
        }
        let made = make()?;
        Ok((Tokens { all: Secret::new(made.clone()), read, open }, Some(made)))
    }

    /// Judges a request.
    pub(super) fn judge(&self, method: &Method, path: &str, headers: &HeaderMap) -> Verdict {
        if matches!(path, "/livez" | "/readyz") {
            return Verdict::Allowed;
        }
        let reads = method == Method::GET || method == Method::HEAD;
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(bearer).unwrap_or_default();
        let is = |secret: &Secret| secret.is(given);
        let reader = self.read.as_ref().is_some_and(is);
        match (is(&self.all), reads) {
            (true, _) => Verdict::Allowed,
            (false, true) if self.open || reader => Verdict::Allowed,
            (false, false) if reader => Verdict::ReadOnly,
            _ => Verdict::Unknown,
        }
    }
}

/// The token of an `Authorization`, whose scheme is written in any case (RFC 9110, 11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_start_matches(' '))
}

/// A token of 128 random bits, from the system.
fn make() -> Result<String> {
    let failed = |error| Error::bug("the system gives no random bytes").because(error);
    let mut bytes = [0_u8; 16];
    let mut source = std::fs::File::open("/dev/urandom").map_err(failed)?;
    source.read_exact(&mut bytes).map_err(failed)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(tokens: &Tokens, method: Method, path: &str, token: &str) -> Verdict {
        let mut headers = HeaderMap::new();
        if !token.is_empty() {
            headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        }
        tokens.judge(&method, path, &headers)
    }

    #[test]
    fn the_scheme_is_read_in_any_case() {
        for value in ["Bearer all", "bearer all", "BEARER  all"] {
            assert_eq!(bearer(value), Some("all"), "{value}");
        }
        assert_eq!(bearer("Basic all"), None);
        assert_eq!(bearer("all"), None);
    }

    #[test]
    fn the_rules_hold() {
        let admin = |listen: &str, token: Option<&str>, read: Option<&str>| Admin {
            listen: listen.parse().unwrap(),
            token: token.map(|token| Secret::new(token.to_owned())),
            read_token: read.map(|token| Secret::new(token.to_owned())),
        };
        let (get, post) = (Method::GET, Method::POST);
        let (tokens, made) = Tokens::of(&admin("127.0.0.1:1", None, None)).unwrap();
        let made = made.unwrap();
        assert_eq!(verdict(&tokens, get.clone(), "/status", ""), Verdict::Allowed);
        assert_eq!(verdict(&tokens, post.clone(), "/tables/x/resume", ""), Verdict::Unknown);
        assert_eq!(verdict(&tokens, post.clone(), "/tables/x/resume", &made), Verdict::Allowed);
        let (tokens, made) = Tokens::of(&admin("0.0.0.0:1", Some("all"), None)).unwrap();
        assert!(made.is_none());
        assert_eq!(verdict(&tokens, get.clone(), "/status", ""), Verdict::Unknown);
        assert_eq!(verdict(&tokens, get.clone(), "/readyz", ""), Verdict::Allowed);
        assert_eq!(verdict(&tokens, get.clone(), "/status", "all"), Verdict::Allowed);
        let (tokens, _) = Tokens::of(&admin("127.0.0.1:1", Some("all"), Some("read"))).unwrap();
        assert_eq!(verdict(&tokens, get.clone(), "/metrics", ""), Verdict::Unknown);
        assert_eq!(verdict(&tokens, get.clone(), "/metrics", "read"), Verdict::Allowed);
        assert_eq!(verdict(&tokens, post.clone(), "/tables/x/resume", "read"), Verdict::ReadOnly);
        assert_eq!(verdict(&tokens, get, "/metrics", "rea"), Verdict::Unknown);
        assert!(!format!("{tokens:?}").contains("all\""));
    }
}
