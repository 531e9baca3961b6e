//! An API of products that a test fills and breaks: it keeps what it was asked, and answers by a rule of the test's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Response, Uri};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What the API was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// How many came before it.
    pub number: usize,
    /// The path.
    pub path: String,
    /// The parameters.
    pub query: BTreeMap<String, String>,
    /// What stood in `Authorization`.
    pub authorization: String,
    /// When.
    pub at: Instant,
}

/// What it answers.
pub enum Reply {
    /// A document.
    Json(Value),
    /// A document, and a header `Link`.
    Linked(Value, String),
    /// A code, and `Retry-After` where one is given.
    Code(u16, Option<&'static str>),
    /// A text.
    Text(String),
    /// The beginning of an answer whose connection ends.
    Cut(String),
    /// Nothing, for as long as it is asked.
    Never,
}

type Rule = Box<dyn Fn(&Asked, &[Value]) -> Reply + Send + Sync>;

/// The server.
pub struct Api {
    address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    rows: Arc<Mutex<Vec<Value>>>,
    rule: Arc<Mutex<Rule>>,
}

/// Answers a page of the rows: from `skip` on, up to `limit`, those updated at `updated_after` or later.
pub fn by_offset(asked: &Asked, rows: &[Value]) -> Reply {
    let number = |name: &str| asked.query.get(name).map_or(0, |given| given.parse().unwrap());
    let since = asked.query.get("updated_after").map(String::as_str).unwrap_or_default();
    let due = rows.iter().filter(|row| row["updated"].as_str().is_none_or(|at| at >= since));
    let page: Vec<Value> = due.skip(number("skip")).take(number("limit")).cloned().collect();
    Reply::Json(json!({ "products": page }))
}

impl Api {
    /// A server of these rows, by [`by_offset`].
    pub async fn start(rows: Vec<Value>) -> Api {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let (rows, rule) =
            (Arc::new(Mutex::new(rows)), Arc::new(Mutex::new(Box::new(by_offset) as Rule)));
        let (kept, held, by) = (asked.clone(), rows.clone(), rule.clone());
        let handler = move |uri: Uri, headers: HeaderMap| async move {
            let reply = {
                let mut kept = kept.lock().unwrap();
                let asked = note(kept.len(), &uri, &headers);
                kept.push(asked.clone());
                let rows = held.lock().unwrap();
                by.lock().unwrap()(&asked, &rows)
            };
            answer(reply).await
        };
        tokio::spawn(async move {
            axum::serve(listener, Router::new().fallback(handler)).await.unwrap();
        });
        Api { address, asked, rows, rule }
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.address
    }

    /// Answers by another rule from now on.
    pub fn answers(&self, rule: impl Fn(&Asked, &[Value]) -> Reply + Send + Sync + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }

    /// Has other rows from now on.
    pub fn has(&self, rows: Vec<Value>) {
        *self.rows.lock().unwrap() = rows;
    }

    /// What it was asked since the last call.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// Waits until it was asked so often.
    pub async fn until(&self, count: usize) {
        for _ in 0..1200 {
            if self.asked.lock().unwrap().len() >= count {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("not asked {count} times within a minute: {:#?}", self.asked.lock().unwrap());
    }
}

fn note(number: usize, uri: &Uri, headers: &HeaderMap) -> Asked {
    let url = reqwest::Url::parse(&format!("http://localhost{uri}")).unwrap();
    let authorization = headers.get("authorization").map(|value| value.to_str().unwrap());
    Asked {
        number,
        path: uri.path().to_owned(),
        query: url.query_pairs().into_owned().collect(),
        authorization: authorization.unwrap_or_default().to_owned(),
        at: Instant::now(),
    }
}

async fn answer(reply: Reply) -> Response<Body> {
    let json = |value: Value| Body::from(value.to_string());
    let built = match reply {
        Reply::Json(value) => Response::builder().body(json(value)),
        Reply::Linked(value, link) => Response::builder().header("link", link).body(json(value)),
        Reply::Code(code, None) => Response::builder().status(code).body(Body::empty()),
        Reply::Code(code, Some(after)) => {
            Response::builder().status(code).header("retry-after", after).body(Body::empty())
        }
        Reply::Text(text) => Response::builder().body(Body::from(text)),
        Reply::Cut(text) => {
            let pieces = [Ok(Bytes::from(text)), Err(std::io::Error::other("cut off"))];
            Response::builder().body(Body::from_stream(stream::iter(pieces)))
        }
        Reply::Never => {
            std::future::pending::<()>().await;
            Response::builder().body(Body::empty())
        }
    };
    built.unwrap()
}
