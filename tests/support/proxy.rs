//! A proxy between the service and the warehouse that loses replies: the server has committed, and the
//! client never hears of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The reply to COMMIT, as the server writes it.
const COMMITTED: &[u8] = b"COMMIT\0";

/// A proxy in front of one port.
pub struct Proxy {
    /// Where it listens.
    pub port: u16,
    lose: Arc<AtomicU32>,
    lost: Arc<AtomicU32>,
}

impl Proxy {
    /// Listens in front of `port`.
    pub async fn before(port: u16) -> Proxy {
        Proxy::at(0, port).await
    }

    /// A port on which nobody listens.
    pub async fn free_port() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    }

    /// Listens on a port of its own, or any one for 0, in front of `port`.
    pub async fn at(own: u16, port: u16) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", own)).await.unwrap();
        let proxy = Proxy {
            port: listener.local_addr().unwrap().port(),
            lose: Arc::default(),
            lost: Arc::default(),
        };
        let (lose, lost) = (proxy.lose.clone(), proxy.lost.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, port, lose.clone(), lost.clone()));
            }
        });
        proxy
    }

    /// Loses the reply to the `nth` commit from now on, and the connection with it.
    pub fn lose_commit(&self, nth: u32) {
        self.lose.store(nth, Ordering::SeqCst);
    }

    /// How many replies were lost.
    pub fn lost(&self) -> u32 {
        self.lost.load(Ordering::SeqCst)
    }
}

async fn pass(client: TcpStream, port: u16, lose: Arc<AtomicU32>, lost: Arc<AtomicU32>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let upstream = tokio::spawn(async move {
        drop(tokio::io::copy(&mut from_client, &mut to_server).await);
    });
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
        let bytes = &buffer[..read];
        let committed = bytes.windows(COMMITTED.len()).any(|window| window == COMMITTED);
        if committed {
            let counted =
                lose.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            if counted == Ok(1) {
                lost.fetch_add(1, Ordering::SeqCst);
                break;
            }
        }
        if to_client.write_all(bytes).await.is_err() {
            break;
        }
    }
    upstream.abort();
}
