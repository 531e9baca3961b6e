//! A mail server that keeps what it is sent. It asks for STARTTLS and for a login before it takes anything.

use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A root, and the certificate of `localhost` that it signed, with its key.
pub fn issue() -> (String, String, String) {
    let root_key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::new(Vec::new()).unwrap();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_text = root.self_signed(&root_key).unwrap().pem();
    let issuer = Issuer::new(root, root_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    (root_text, leaf.pem(), key.serialize_pem())
}

/// The server.
pub struct Mailbox {
    /// The root that signed its certificate, as PEM.
    pub root: String,
    port: u16,
    mails: Arc<Mutex<Vec<String>>>,
}

/// How far a conversation is.
enum Turn {
    Secure,
    Over,
}

const LOGIN: &str = "\0siltstone\0s3cret-mail";

impl Mailbox {
    pub async fn start() -> Mailbox {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (root, certificate, key) = issue();
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let mails = Arc::<Mutex<Vec<String>>>::default();
        let kept = mails.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, kept) = (acceptor.clone(), kept.clone());
                tokio::spawn(serve(stream, acceptor, kept));
            }
        });
        Mailbox { root, port, mails }
    }

    /// Its URL, with a password.
    pub fn url(&self, password: &str) -> String {
        format!("smtp://siltstone:{password}@localhost:{}?tls=required", self.port)
    }

    /// The mails that have come.
    pub fn mails(&self) -> Vec<String> {
        self.mails.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, acceptor: TlsAcceptor, mails: Arc<Mutex<Vec<String>>>) {
    stream.write_all(b"220 test\r\n").await.unwrap();
    if let Some(Turn::Secure) = talk(&mut stream, false, &mails).await
        && let Ok(mut secure) = acceptor.accept(stream).await
    {
        talk(&mut secure, true, &mails).await;
    }
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    secure: bool,
    mails: &Mutex<Vec<String>>,
) -> Option<Turn> {
    let mut stream = BufReader::new(stream);
    let (mut known, mut mail, mut data) = (false, String::new(), false);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return Some(Turn::Over);
        }
        if data {
            if line.trim_end() == "." {
                data = false;
                mails.lock().unwrap().push(std::mem::take(&mut mail));
                stream.write_all(b"250 kept\r\n").await.ok()?;
            } else {
                mail.push_str(&line);
            }
            continue;
        }
        let word = line.split_whitespace().next().unwrap_or_default().to_uppercase();
        let answer = match word.as_str() {
            "EHLO" if secure => "250-test\r\n250 AUTH PLAIN\r\n",
            "EHLO" => "250-test\r\n250 STARTTLS\r\n",
            "STARTTLS" => {
                stream.write_all(b"220 go on\r\n").await.ok()?;
                return Some(Turn::Secure);
            }
            "AUTH" => {
                let given = line.split_whitespace().nth(2).unwrap_or_default();
                known = STANDARD.decode(given).is_ok_and(|given| given == LOGIN.as_bytes());
                if known { "235 welcome\r\n" } else { "535 no such login\r\n" }
            }
            "QUIT" => "221 bye\r\n",
            "MAIL" | "RCPT" | "DATA" if !known => "530 who are you\r\n",
            "MAIL" | "RCPT" => "250 ok\r\n",
            "DATA" => {
                data = true;
                "354 go on\r\n"
            }
            _ => "502 what\r\n",
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
        if word == "QUIT" {
            return Some(Turn::Over);
        }
    }
}
