//! TLS to a server whose certificate is known beforehand: exactly that one is accepted, whatever names it carries.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use crate::auth::sha256_hex;
use crate::ingress::tls::provider;

/// A client that accepts this certificate and no other.
///
/// # Errors
/// TLS could not be set up.
pub(crate) fn client(certificate: CertificateDer<'static>) -> Result<ClientConfig, Error> {
    let refusal = "the gateway shows another certificate than the one in gateway.tls.certPath: another program has the port, or the file was replaced and gateway.reload.mode is off";
    config(Wanted::Certificate(certificate), refusal)
}

/// A client that accepts the certificate with this SHA-256 (small hexadecimal digits) and no other.
///
/// # Errors
/// TLS could not be set up.
pub(crate) fn by_fingerprint(fingerprint: String) -> Result<ClientConfig, Error> {
    let refusal = "the gateway shows another certificate than the one of upstream.tls_fingerprint: it has a new one, or another program answers";
    config(Wanted::Fingerprint(fingerprint), refusal)
}

#[derive(Debug)]
enum Wanted {
    Certificate(CertificateDer<'static>),
    Fingerprint(String),
}

fn config(wanted: Wanted, refusal: &'static str) -> Result<ClientConfig, Error> {
    let provider = provider();
    Ok(ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned {
            wanted,
            refusal,
            provider,
        }))
        .with_no_client_auth())
}

#[derive(Debug)]
struct Pinned {
    wanted: Wanted,
    refusal: &'static str,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let is_it = match &self.wanted {
            Wanted::Certificate(certificate) => end_entity == certificate,
            Wanted::Fingerprint(fingerprint) => sha256_hex(end_entity) == *fingerprint,
        };
        if is_it {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::General(self.refusal.to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(
            rustls::PeerIncompatible::Tls12NotOffered,
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
