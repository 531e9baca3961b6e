//! A broker that lets nobody in without a password or a certificate, and the user of its SCRAM logins.
//!
//! Source of the request: Kafka, AlterUserScramCredentialsRequest.json, version 0.

use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType,
};
use sha2::Sha512;
use siltstone::demo::kafka::{Broker, ServerOptions};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::env;

/// The user that its listener with a login knows.
pub const USER: &str = "siltstone";

/// The user's password by PLAIN.
pub const PLAIN: &str = "s3cret-plain";

/// The user's password by SCRAM.
pub const SCRAM: &str = "s3cret-scram";

/// A broker with two listeners beside the open one: LOGIN with TLS and a password, MUTUAL with TLS and a
/// certificate of the client's. Its certificate is one of `localhost`.
pub struct Secure {
    pub broker: Broker,
    folder: TempDir,
}

impl Secure {
    /// Starts it.
    pub async fn start(name: &str) -> Secure {
        let folder = TempDir::new().unwrap();
        let root_key = KeyPair::generate().unwrap();
        let mut root = named("an authority");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let write = |file: &str, text: String| std::fs::write(folder.path().join(file), text);
        write("root.pem", root.self_signed(&root_key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(root, root_key);
        for (who, name) in [("broker", "localhost"), ("client", "siltstone")] {
            let key = KeyPair::generate().unwrap();
            let mut leaf = named(who);
            leaf.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
            let leaf = leaf.signed_by(&key, &issuer).unwrap();
            write(&format!("{who}.pem"), leaf.pem()).unwrap();
            write(&format!("{who}.key"), key.serialize_pem()).unwrap();
            write(&format!("{who}.both"), key.serialize_pem() + &leaf.pem()).unwrap();
        }
        let stranger = named("another authority");
        let stranger = stranger.self_signed(&KeyPair::generate().unwrap()).unwrap();
        write("stranger.pem", stranger.pem()).unwrap();
        let broker = Broker::start(options(name, folder.path())).await.unwrap();
        let secure = Secure { broker, folder };
        secure.add_scram_user().await;
        secure
    }

    /// A file of certificates or keys: `root.pem`, `stranger.pem`, `client.pem`, `client.key`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where the listener is reached that asks for a password, by this name of the machine.
    pub fn login(&self, host: &str) -> String {
        format!("{host}:{}", self.broker.port_of("LOGIN").unwrap())
    }

    /// Where the listener is reached that asks for a certificate.
    pub fn mutual(&self) -> String {
        format!("localhost:{}", self.broker.port_of("MUTUAL").unwrap())
    }

    async fn add_scram_user(&self) {
        const ITERATIONS: u32 = 4096;
        const SHA_512: u8 = 2;
        let salt = b"a salt of its own";
        // a length in what Kafka calls compact is one more than it is
        let compact =
            |bytes: &[u8]| [&[u8::try_from(bytes.len() + 1).unwrap()][..], bytes].concat();
        let body = [
            vec![0, 51, 0, 0, 0, 0, 0, 7, 0, 4],
            b"test".to_vec(),
            // no tags; no deletions; one user
            vec![0, 1, 2],
            compact(USER.as_bytes()),
            vec![SHA_512],
            ITERATIONS.to_be_bytes().to_vec(),
            compact(salt),
            compact(&salted(SCRAM, salt, ITERATIONS)),
            vec![0, 0],
        ]
        .concat();
        let mut stream = TcpStream::connect(self.broker.address()).await.unwrap();
        let length = u32::try_from(body.len()).unwrap();
        stream.write_all(&[&length.to_be_bytes()[..], &body].concat()).await.unwrap();
        let length = stream.read_u32().await.unwrap();
        let mut answer = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut answer).await.unwrap();
        // correlation, tags, throttling, one result, its user, and then the code
        let code = 4 + 1 + 4 + 1 + 1 + USER.len();
        assert_eq!(answer[code..code + 2], [0, 0], "{}", String::from_utf8_lossy(&answer));
    }
}

/// A certificate's owner. OpenSSL takes one of the same name as its authority for its own authority.
fn named(who: &str) -> CertificateParams {
    let mut certificate = CertificateParams::new(Vec::new()).unwrap();
    certificate.distinguished_name = DistinguishedName::new();
    certificate.distinguished_name.push(DnType::CommonName, who);
    certificate
}

fn options(name: &str, folder: &Path) -> ServerOptions {
    let path = |file: &str| folder.join(file).display().to_string();
    let plain = "org.apache.kafka.common.security.plain.PlainLoginModule required";
    let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    let protocols = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LOGIN:SASL_SSL,MUTUAL:SSL";
    let mut options = ServerOptions::new(name, &env())
        .listener("LOGIN")
        .listener("MUTUAL")
        .set("listener.security.protocol.map", protocols)
        .set("listener.name.login.sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-512")
        .set(
            "listener.name.login.plain.sasl.jaas.config",
            &format!("{plain} user_{USER}=\"{PLAIN}\";"),
        )
        .set("listener.name.login.scram-sha-512.sasl.jaas.config", scram)
        .set("listener.name.mutual.ssl.client.auth", "required");
    for listener in ["login", "mutual"] {
        for (setting, value) in [
            ("keystore.type", "PEM".to_owned()),
            ("keystore.location", path("broker.both")),
            ("truststore.type", "PEM".to_owned()),
            ("truststore.location", path("root.pem")),
        ] {
            options = options.set(&format!("listener.name.{listener}.ssl.{setting}"), &value);
        }
    }
    options
}

/// A password as SCRAM keeps it: PBKDF2, of as many bytes as its hash has.
fn salted(password: &str, salt: &[u8], iterations: u32) -> Vec<u8> {
    let hash = |bytes: &[&[u8]]| {
        let mut mac = Hmac::<Sha512>::new_from_slice(password.as_bytes()).unwrap();
        bytes.iter().for_each(|bytes| mac.update(bytes));
        mac.finalize().into_bytes().to_vec()
    };
    let mut last = hash(&[salt, &1_u32.to_be_bytes()]);
    let mut all = last.clone();
    for _ in 1..iterations {
        last = hash(&[&last]);
        all.iter_mut().zip(&last).for_each(|(all, last)| *all ^= last);
    }
    all
}
