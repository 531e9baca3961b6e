//! TLS by rustls with ring, for SQL sessions and for the replication connection alike.
//!
//! `prefer` and `require` encrypt without checking the certificate, as libpq does; who needs more
//! says `verify-ca` or `verify-full`.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_cert::der::Decode;

use super::endpoint::{Endpoint, SslMode};
use crate::error::{Error, Kind, Result};

/// The TLS settings that an endpoint's `sslmode` asks for.
pub fn client_config(endpoint: &Endpoint) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let root_cert = endpoint.ssl_root_cert.as_deref();
    let verifier: Arc<dyn ServerCertVerifier> = match endpoint.ssl_mode {
        SslMode::Disable | SslMode::Prefer | SslMode::Require if root_cert.is_none() => {
            Arc::new(Unchecked(provider.clone()))
        }
        // libpq: a root certificate beside `require` means verify-ca
        SslMode::VerifyFull => Arc::new(verifier(&provider, root_cert, true)?),
        _ => Arc::new(verifier(&provider, root_cert, false)?),
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::bug("rustls refuses its own defaults").because(error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(config)
}

fn verifier(
    provider: &Arc<CryptoProvider>,
    root_cert: Option<&Path>,
    names: bool,
) -> Result<Checked> {
    let mut roots = RootCertStore::empty();
    let mut own = Vec::new();
    match root_cert {
        Some(path) => {
            let refuse =
                || Error::new(Kind::Config, format!("sslrootcert {} is unusable", path.display()));
            let certs = CertificateDer::pem_file_iter(path).map_err(|e| refuse().because(e))?;
            for cert in certs {
                let cert = cert.map_err(|error| refuse().because(error))?;
                own.push(cert.clone());
                roots.add(cert).map_err(|error| refuse().because(error))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let chain = chain.build().map_err(|error| {
        Error::new(Kind::Config, "there are no root certificates to check the server by")
            .remedy("give sslrootcert=FILE in the URL, or install ca-certificates")
            .because(error)
    })?;
    Ok(Checked { chain, own, names })
}

/// The channel binding data of a server certificate (RFC 5929, tls-server-end-point): its digest
/// under its signature's hash, SHA-1 and MD5 raised to SHA-256; none for signatures without a hash.
pub fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    use x509_cert::der::oid::db::rfc5912 as oid;
    let algorithm = x509_cert::Certificate::from_der(certificate).ok()?.signature_algorithm.oid;
    match algorithm {
        oid::SHA_1_WITH_RSA_ENCRYPTION
        | oid::SHA_256_WITH_RSA_ENCRYPTION
        | oid::ECDSA_WITH_SHA_256 => Some(Sha256::digest(certificate).to_vec()),
        oid::SHA_384_WITH_RSA_ENCRYPTION | oid::ECDSA_WITH_SHA_384 => {
            Some(Sha384::digest(certificate).to_vec())
        }
        oid::SHA_512_WITH_RSA_ENCRYPTION | oid::ECDSA_WITH_SHA_512 => {
            Some(Sha512::digest(certificate).to_vec())
        }
        _ => None,
    }
}

/// Takes any certificate.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Checks the chain, and for `verify-full` the name.
#[derive(Debug)]
struct Checked {
    chain: Arc<WebPkiServerVerifier>,
    /// the certificates of sslrootcert. A server may show one of them itself: a self-signed one, which
    /// webpki takes as a root only
    own: Vec<CertificateDer<'static>>,
    names: bool,
}

impl Checked {
    fn is_own(&self, certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
        let named = || {
            let parsed = ParsedCertificate::try_from(certificate);
            parsed.is_ok_and(|parsed| verify_server_name(&parsed, name).is_ok())
        };
        self.own.iter().any(|own| own == certificate) && (!self.names || named())
    }
}

impl ServerCertVerifier for Checked {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.is_own(end_entity, server_name) {
            return Ok(ServerCertVerified::assertion());
        }
        let checked = self.chain.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match checked {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.names => Ok(ServerCertVerified::assertion()),
            checked => checked,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
