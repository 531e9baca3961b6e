//! The byte stream to a walsender: TCP or a Unix socket, TLS where the endpoint asks for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::error::{Error, Kind, Result};
use crate::postgres::{Endpoint, Host, SslMode, tls};

/// How long a connection may take to stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a walsender connection runs over.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A stream, and the channel binding data of its TLS, if any.
pub(super) struct Link {
    pub(super) stream: Box<dyn Duplex>,
    pub(super) server_end_point: Option<Vec<u8>>,
}

/// Connects to one of the endpoint's hosts.
pub(super) async fn connect(endpoint: &Endpoint, (host, port): &(Host, u16)) -> Result<Link> {
    match timeout(CONNECT_TIMEOUT, connect_host(endpoint, host, *port)).await {
        Ok(connected) => connected,
        Err(_elapsed) => Err(away(endpoint, "no answer within 10 s")),
    }
}

pub(super) fn away(endpoint: &Endpoint, why: &str) -> Error {
    Error::new(Kind::SourceAway, format!("connecting to {} failed: {why}", endpoint.shown()))
}

async fn connect_host(endpoint: &Endpoint, host: &Host, port: u16) -> Result<Link> {
    let failed = |error: std::io::Error| away(endpoint, &error.to_string());
    match host {
        Host::Unix(directory) => {
            let path = directory.join(format!(".s.PGSQL.{port}"));
            let stream = UnixStream::connect(path).await.map_err(failed)?;
            Ok(Link { stream: Box::new(stream), server_end_point: None })
        }
        Host::Tcp(name) => {
            let stream = TcpStream::connect((name.as_str(), port)).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            keep_alive(&stream).map_err(failed)?;
            encrypt(endpoint, name, stream).await
        }
    }
}

/// A silent peer is noticed by the kernel: the walsender's own keepalives only show that it lives
/// while it has something to say.
fn keep_alive(stream: &TcpStream) -> std::io::Result<()> {
    let probes = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10));
    socket2::SockRef::from(stream).set_tcp_keepalive(&probes)
}

/// Asks for TLS as the endpoint's mode says (SSLRequest, PostgreSQL protocol 3.0).
async fn encrypt(endpoint: &Endpoint, host: &str, mut stream: TcpStream) -> Result<Link> {
    if endpoint.ssl_mode == SslMode::Disable {
        return Ok(Link { stream: Box::new(stream), server_end_point: None });
    }
    let failed = |error: std::io::Error| away(endpoint, &error.to_string());
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(failed)?;
    let answer = stream.read_u8().await.map_err(failed)?;
    if answer != b'S' {
        if endpoint.ssl_mode == SslMode::Prefer {
            return Ok(Link { stream: Box::new(stream), server_end_point: None });
        }
        let what = format!("{} does not offer TLS, which sslmode asks for", endpoint.shown());
        return Err(Error::new(Kind::Config, what));
    }
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| Error::new(Kind::Config, "the host name is unusable").because(error))?;
    let connector = TlsConnector::from(Arc::new(tls::client_config(endpoint)?));
    let stream = connector.connect(name, stream).await.map_err(failed)?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let server_end_point = certificate.and_then(|c| tls::server_end_point(c));
    Ok(Link { stream: Box::new(stream), server_end_point })
}
