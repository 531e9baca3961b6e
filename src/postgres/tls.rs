//! TLS by rustls with ring, for SQL sessions and for the replication connection alike.
//!
//! `prefer` and `require` encrypt without checking the certificate, as libpq does; who needs more
//! says `verify-ca` or `verify-full`.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
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
        SslMode::VerifyFull => verifier(&provider, root_cert)?,
        _ => Arc::new(AnyName(verifier(&provider, root_cert)?)),
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
) -> Result<Arc<WebPkiServerVerifier>> {
    let mut roots = RootCertStore::empty();
    match root_cert {
        Some(path) => {
            let refuse =
                || Error::new(Kind::Config, format!("sslrootcert {} is unusable", path.display()));
            let certs = CertificateDer::pem_file_iter(path).map_err(|e| refuse().because(e))?;
            for cert in certs {
                let cert = cert.map_err(|error| refuse().because(error))?;
                roots.add(cert).map_err(|error| refuse().because(error))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().map_err(
        |error| {
            Error::new(Kind::Config, "there are no root certificates to check the server by")
                .remedy("give sslrootcert=FILE in the URL, or install ca-certificates")
                .because(error)
        },
    )
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

/// Checks the chain, not the name: `verify-ca`.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let checked =
            self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match checked {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            checked => checked,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
