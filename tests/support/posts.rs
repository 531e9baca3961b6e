//! An HTTP server that keeps what is posted to it, and answers as a test wants.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, Uri};
use serde_json::Value;
use tokio::net::TcpListener;

/// What was posted.
#[derive(Clone, Debug)]
pub struct Post {
    /// Where to.
    pub path: String,
    /// What stood in `Authorization`.
    pub authorization: String,
    /// The body.
    pub body: Value,
}

/// The server.
pub struct Posts {
    address: String,
    received: Arc<Mutex<Vec<Post>>>,
    /// the code of its answers; 0 for none at all
    answer: Arc<Mutex<u16>>,
}

impl Posts {
    /// A server that answers 200.
    pub async fn start() -> Posts {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (received, answer) = (Arc::<Mutex<Vec<Post>>>::default(), Arc::new(Mutex::new(200)));
        let (kept, code) = (received.clone(), answer.clone());
        let handler = move |uri: Uri, headers: HeaderMap, body: Bytes| async move {
            let authorization = headers.get("authorization").map(|value| value.to_str().unwrap());
            let post = Post {
                path: uri.path().to_owned(),
                authorization: authorization.unwrap_or_default().to_owned(),
                body: serde_json::from_slice(&body).unwrap(),
            };
            kept.lock().unwrap().push(post);
            let code = *code.lock().unwrap();
            if code == 0 {
                std::future::pending::<()>().await;
            }
            // as careless servers do, it repeats what it was told
            (
                StatusCode::from_u16(code).unwrap(),
                format!("{uri} {}", String::from_utf8_lossy(&body)),
            )
        };
        tokio::spawn(async move {
            axum::serve(listener, Router::new().fallback(handler)).await.unwrap();
        });
        Posts { address, received, answer }
    }

    /// An address of it.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    /// Answers with this code from now on; 0 is no answer at all.
    pub fn answer(&self, code: u16) {
        *self.answer.lock().unwrap() = code;
    }

    /// What was posted to a path.
    pub fn at(&self, path: &str) -> Vec<Post> {
        let received = self.received.lock().unwrap();
        received.iter().filter(|post| post.path == path).cloned().collect()
    }

    /// Waits until so many posts have come to a path; all of them.
    pub async fn until(&self, path: &str, count: usize) -> Vec<Post> {
        for _ in 0..1200 {
            let posts = self.at(path);
            if posts.len() >= count {
                return posts;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("{path}: not {count} posts within a minute: {:#?}", self.received.lock().unwrap());
    }
}
