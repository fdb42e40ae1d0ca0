//! TLS for the client port, from `gateway.tls`.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::ConfigError;

/// An acceptor for a certificate chain and its key, both PEM.
///
/// # Errors
/// Which file is wrong, and how.
pub fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, ConfigError> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable("gateway.tls.certPath", certificate, &error))?;
    if chain.is_empty() {
        return Err(unreadable(
            "gateway.tls.certPath",
            certificate,
            &"it holds no certificate",
        ));
    }
    let key_der = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| unreadable("gateway.tls.keyPath", key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(chain, key_der)
        })
        .map_err(|error| unreadable("gateway.tls.keyPath", key, &error))?;
    // The protocol is an HTTP/1.1 upgrade.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn unreadable(key: &str, file: &Path, what: &dyn std::fmt::Display) -> ConfigError {
    ConfigError::new(format!("cannot use {}: {what}", file.display()))
        .key(key)
        .fix("name a PEM file with the certificate chain, and one with its private key, both readable by this user")
}
