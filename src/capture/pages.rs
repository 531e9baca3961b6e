//! Which page of an endpoint is asked for next, and which was the last one. Pure.
//!
//! It does not go on for ever: a page that has the rows of one before, a cursor or a URL that came already and
//! a number of rows that does not come true are errors. Where nothing else says so, only an empty page is the
//! end: one with fewer rows than were asked for may be all that an API gives at once.

use std::collections::HashSet;

use reqwest::Url;

use crate::names::fingerprint;
use crate::spec::{By, Paging};

/// What of an answer decides what comes next.
#[derive(Clone, Debug, Default)]
pub struct Answered {
    /// How many rows it has.
    pub rows: u64,
    /// What tells its rows from others.
    pub digest: u64,
    /// What it says of the next one: a cursor or a URL.
    pub next: Option<String>,
    /// How many rows it says there are.
    pub total: Option<u64>,
}

/// The pages of an endpoint.
pub struct Pages<'p> {
    paging: Option<&'p Paging>,
    /// the path with the parameters that all of them have
    base: Url,
    next: Option<Url>,
    /// how many were taken
    taken: u64,
    /// how many rows they had
    rows: u64,
    seen: HashSet<u64>,
    told: HashSet<u64>,
}

impl<'p> Pages<'p> {
    /// Begins with the first one.
    pub fn new(paging: Option<&'p Paging>, mut base: Url) -> Pages<'p> {
        if let Some((name, size)) = paging.and_then(|paging| paging.size.as_ref()) {
            base.query_pairs_mut().append_pair(name, &size.to_string());
        }
        let next = match paging.map(|paging| &paging.by) {
            Some(By::Offset { param, .. }) => with(&base, param, "0"),
            Some(By::Page { param, first, .. }) => with(&base, param, &first.to_string()),
            Some(By::Cursor { .. } | By::Link { .. }) | None => base.clone(),
        };
        let (seen, told) = (HashSet::new(), HashSet::new());
        Pages { paging, base, next: Some(next), taken: 0, rows: 0, seen, told }
    }

    /// What is asked for next; none behind the last one.
    pub fn wanted(&self) -> Option<&Url> {
        self.next.as_ref()
    }

    /// The number of the page that is asked for next, from 1.
    pub fn number(&self) -> u64 {
        self.taken + 1
    }

    /// How many rows came.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Takes the answer for the page that was asked for; or why there is no going on.
    pub fn take(&mut self, answered: &Answered) -> Result<(), String> {
        self.taken += 1;
        self.rows += answered.rows;
        if answered.rows > 0 && !self.seen.insert(answered.digest) {
            return Err("has the rows of a page before it".to_owned());
        }
        self.next = match self.paging.map(|paging| &paging.by) {
            None => None,
            Some(By::Offset { param, total }) => match self.is_last(answered, total.is_some())? {
                true => None,
                false => Some(with(&self.base, param, &self.rows.to_string())),
            },
            Some(By::Page { param, first, total }) => {
                match self.is_last(answered, total.is_some())? {
                    true => None,
                    false => {
                        let number = u64::from(*first) + self.taken;
                        Some(with(&self.base, param, &number.to_string()))
                    }
                }
            }
            Some(By::Cursor { param, .. }) => match &answered.next {
                None => None,
                Some(cursor) => {
                    self.is_new(cursor, "cursor")?;
                    Some(with(&self.base, param, cursor))
                }
            },
            Some(By::Link { .. }) => match &answered.next {
                None => None,
                Some(link) => Some(self.follow(link)?),
            },
        };
        Ok(())
    }

    fn is_last(&self, answered: &Answered, tells_total: bool) -> Result<bool, String> {
        match (tells_total, answered.total) {
            (false, _) => Ok(answered.rows == 0),
            (true, None) => Err("does not say how many rows there are".to_owned()),
            (true, Some(total)) if self.rows >= total => Ok(true),
            (true, Some(total)) if answered.rows == 0 => {
                Err(format!("is empty, and says that there are {total} rows; {} came", self.rows))
            }
            (true, Some(_)) => Ok(false),
        }
    }

    fn is_new(&mut self, told: &str, what: &str) -> Result<(), String> {
        match self.told.insert(fingerprint(told.as_bytes())) {
            true => Ok(()),
            false => Err(format!("tells the {what} of a page before it")),
        }
    }

    /// Who asks is told to nobody but whom the file names.
    fn follow(&mut self, link: &str) -> Result<Url, String> {
        let url =
            self.base.join(link).map_err(|_| "tells a next page that is no URL".to_owned())?;
        if url.origin() != self.base.origin() {
            return Err("tells a next page that is elsewhere".to_owned());
        }
        self.is_new(url.as_str(), "URL")?;
        Ok(url)
    }
}

fn with(base: &Url, param: &str, value: &str) -> Url {
    let mut url = base.clone();
    url.query_pairs_mut().append_pair(param, value);
    url
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::JsonPath;

    fn paged(by: By) -> Paging {
        Paging { by, size: Some(("limit".to_owned(), 2)) }
    }

    fn base() -> Url {
        Url::parse("https://api.example.com/v1/x?a=b").unwrap()
    }

    fn rows(rows: u64, digest: u64) -> Answered {
        Answered { rows, digest, ..Answered::default() }
    }

    fn asked(pages: &Pages<'_>) -> String {
        pages.wanted().map_or_else(String::new, |url| url.query().unwrap_or_default().to_owned())
    }

    #[test]
    fn an_offset_is_what_came_and_only_an_empty_page_ends_it() {
        let paging = paged(By::Offset { param: "skip".to_owned(), total: None });
        let mut pages = Pages::new(Some(&paging), base());
        assert_eq!(asked(&pages), "a=b&limit=2&skip=0");
        pages.take(&rows(2, 1)).unwrap();
        assert_eq!(asked(&pages), "a=b&limit=2&skip=2");
        // the API gives less at once than it was asked for
        pages.take(&rows(1, 2)).unwrap();
        assert_eq!((asked(&pages), pages.number()), ("a=b&limit=2&skip=3".to_owned(), 3));
        pages.take(&rows(0, 0)).unwrap();
        assert!(pages.wanted().is_none());
        assert_eq!(pages.rows(), 3);
    }

    #[test]
    fn a_total_that_is_told_must_come_true() {
        let total = Some(JsonPath(vec!["total".to_owned()]));
        let paging = paged(By::Page { param: "page".to_owned(), first: 1, total });
        let told = |total: u64, of: Answered| Answered { total: Some(total), ..of };
        let mut pages = Pages::new(Some(&paging), base());
        pages.take(&told(3, rows(2, 1))).unwrap();
        assert_eq!(asked(&pages), "a=b&limit=2&page=2");
        pages.take(&told(3, rows(1, 2))).unwrap();
        assert!(pages.wanted().is_none());
        let mut pages = Pages::new(Some(&paging), base());
        pages.take(&told(3, rows(2, 1))).unwrap();
        assert!(pages.take(&told(3, rows(0, 0))).unwrap_err().contains("3 rows; 2 came"));
        let mut pages = Pages::new(Some(&paging), base());
        assert!(pages.take(&rows(2, 1)).unwrap_err().contains("how many"));
    }

    #[test]
    fn what_came_before_does_not_come_for_ever() {
        let paging = paged(By::Offset { param: "skip".to_owned(), total: None });
        let mut pages = Pages::new(Some(&paging), base());
        pages.take(&rows(2, 1)).unwrap();
        assert!(pages.take(&rows(2, 1)).unwrap_err().contains("a page before"));
        let next = JsonPath(vec!["next".to_owned()]);
        let paging = paged(By::Cursor { param: "after".to_owned(), next });
        let cursor = |next: &str, of: Answered| Answered { next: Some(next.to_owned()), ..of };
        let mut pages = Pages::new(Some(&paging), base());
        assert_eq!(asked(&pages), "a=b&limit=2");
        pages.take(&cursor("x+/", rows(2, 1))).unwrap();
        assert_eq!(asked(&pages), "a=b&limit=2&after=x%2B%2F");
        // a page without rows may be followed by one that has some
        pages.take(&cursor("y", rows(0, 0))).unwrap();
        assert!(pages.take(&cursor("x+/", rows(0, 0))).unwrap_err().contains("cursor"));
    }

    #[test]
    fn a_link_is_followed_at_its_own_place_alone() {
        let paging = Paging { by: By::Link { next: None }, size: None };
        let link = |next: &str, digest| Answered { next: Some(next.to_owned()), ..rows(1, digest) };
        let mut pages = Pages::new(Some(&paging), base());
        pages.take(&link("/v1/x?page=2", 1)).unwrap();
        assert_eq!(pages.wanted().unwrap().as_str(), "https://api.example.com/v1/x?page=2");
        for (next, why) in [
            ("https://elsewhere.example.com/v1/x?page=3", "elsewhere"),
            ("http://api.example.com/v1/x?page=3", "elsewhere"),
            ("https://api.example.com/v1/x?page=2", "URL"),
            ("https://", "no URL"),
        ] {
            let mut again = Pages::new(Some(&paging), base());
            again.take(&link("/v1/x?page=2", 1)).unwrap();
            assert!(again.take(&link(next, 2)).unwrap_err().contains(why), "{next}");
        }
        pages.take(&rows(1, 2)).unwrap();
        assert!(pages.wanted().is_none());
    }
}
