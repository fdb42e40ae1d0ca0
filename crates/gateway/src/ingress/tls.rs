//! TLS for the client port, from `gateway.tls`.
//!
//! As the original: TLS 1.3 only, a pair of PEM files, made by us when both are missing and `autoGenerate` is not false, read
//! again when they change. Source: `loadGatewayTlsServerRuntime` in src/infra/tls/gateway.ts at 2026.9.6.

mod generate;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use crate::config::ConfigError;
use crate::config::settings::TlsSettings;

/// Largest certificate or key file, bytes. Source: `MAX_TLS_LEAF_FILE_BYTES` of the original.
const PEM_BYTES_MAX: u64 = 65_536;

const CERT_KEY: &str = "gateway.tls.certPath";
const KEY_KEY: &str = "gateway.tls.keyPath";

/// The certificate that is served, and the files it comes from.
#[derive(Debug)]
pub(crate) struct ServerTls {
    certificate: PathBuf,
    key: PathBuf,
    served: Arc<Served>,
    config: Arc<rustls::ServerConfig>,
}

/// What new connections are shown. Those that stand keep what they were shown.
#[derive(Debug)]
struct Served(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Served {
    fn resolve(&self, _client: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl ServerTls {
    /// Reads the pair, and makes it first where it may.
    ///
    /// # Errors
    /// Which file is wrong, and how.
    pub(crate) fn open(settings: &TlsSettings) -> Result<Self, ConfigError> {
        let (certificate, key) = (&settings.cert_path, &settings.key_path);
        match (certificate.exists(), key.exists()) {
            (false, false) if settings.auto_generate => {
                generate::pair(certificate, key).map_err(|why| {
                    ConfigError::new(format!("cannot make a certificate: {why}"))
                        .key(CERT_KEY)
                        .fix("make the folder writable, or name a pair of PEM files of yours")
                })?;
                tracing::info!(certificate = %certificate.display(), "made a self-signed certificate");
            }
            (false, true) => return Err(half(CERT_KEY, certificate, key)),
            (true, false) => return Err(half(KEY_KEY, key, certificate)),
            _ => {}
        }
        if let Some(ca) = &settings.ca_path {
            // The original reads it and asks no client for a certificate; a file that can't be read stops it too.
            std::fs::read(ca).map_err(|error| unreadable("gateway.tls.caPath", ca, &error))?;
        }
        let served = Arc::new(Served(ArcSwap::from_pointee(load(certificate, key)?)));
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| unreadable(KEY_KEY, key, &error))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&served) as Arc<dyn ResolvesServerCert>);
        // The protocol is an HTTP/1.1 upgrade.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            certificate: certificate.clone(),
            key: key.clone(),
            served,
            config: Arc::new(config),
        })
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }

    /// The two files, for whoever watches them.
    pub(crate) fn files(&self) -> [&Path; 2] {
        [&self.certificate, &self.key]
    }

    /// SHA-256 of the served certificate, lower-case hex.
    pub(crate) fn fingerprint(&self) -> String {
        self.served
            .0
            .load()
            .cert
            .first()
            .map(fingerprint)
            .unwrap_or_default()
    }

    /// Reads the files again. What can't be used, a pair in the middle of its replacement for instance, changes nothing.
    pub(crate) fn renew(&self) {
        match load(&self.certificate, &self.key) {
            Ok(new) => {
                let is_new = new.cert != self.served.0.load().cert;
                self.served.0.store(Arc::new(new));
                if is_new {
                    let fingerprint = self.fingerprint();
                    tracing::info!(certificate = %self.certificate.display(), %fingerprint, "a new certificate is served");
                }
            }
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "the changed certificate can't be used; the former one stays"
                );
            }
        }
    }
}

/// SHA-256 of a certificate, lower-case hex.
pub(crate) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    ring::digest::digest(&ring::digest::SHA256, certificate)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The first certificate of a PEM file: what a server that uses the file shows.
///
/// # Errors
/// The file is unreadable or holds no certificate.
pub(crate) fn leaf(certificate: &Path) -> Result<CertificateDer<'static>, ConfigError> {
    chain(certificate)?
        .into_iter()
        .next()
        .ok_or_else(|| unreadable(CERT_KEY, certificate, &"it holds no certificate"))
}

pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn chain(certificate: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let pem = read(certificate).map_err(|error| unreadable(CERT_KEY, certificate, &error))?;
    CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unreadable(CERT_KEY, certificate, &error))
}

fn load(certificate: &Path, key: &Path) -> Result<CertifiedKey, ConfigError> {
    let chain = chain(certificate)?;
    if chain.is_empty() {
        return Err(unreadable(
            CERT_KEY,
            certificate,
            &"it holds no certificate",
        ));
    }
    let pem = read(key).map_err(|error| unreadable(KEY_KEY, key, &error))?;
    let key_der =
        PrivateKeyDer::from_pem_slice(&pem).map_err(|error| unreadable(KEY_KEY, key, &error))?;
    CertifiedKey::from_der(chain, key_der, &provider())
        .map_err(|error| unreadable(KEY_KEY, key, &error))
}

fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(file)?
        .take(PEM_BYTES_MAX + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > PEM_BYTES_MAX {
        return Err(std::io::Error::other(format!(
            "larger than {PEM_BYTES_MAX} bytes"
        )));
    }
    Ok(bytes)
}

fn half(key: &str, missing: &Path, there: &Path) -> ConfigError {
    ConfigError::new(format!(
        "{} is missing, and {} is there",
        missing.display(),
        there.display()
    ))
    .key(key)
    .fix("put the missing file beside it, or remove both to have a self-signed pair made")
}

fn unreadable(key: &str, file: &Path, what: &dyn std::fmt::Display) -> ConfigError {
    ConfigError::new(format!("cannot use {}: {what}", file.display()))
        .key(key)
        .fix("name a PEM file with the certificate chain, and one with its private key, both readable by this user; with both missing and gateway.tls.autoGenerate not false, they are made")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(dir: &Path) -> TlsSettings {
        TlsSettings {
            enabled: true,
            auto_generate: true,
            cert_path: dir.join("deep/er/cert.pem"),
            key_path: dir.join("keys/key.pem"),
            ca_path: None,
        }
    }

    #[test]
    fn a_pair_is_made_once_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a folder");
        let settings = settings(dir.path());
        let first = ServerTls::open(&settings).expect("made");
        let again = ServerTls::open(&settings).expect("read");
        assert_eq!(first.fingerprint(), again.fingerprint());
        assert_eq!(first.fingerprint().len(), 64);
        for file in first.files() {
            let mode = file.metadata().expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", file.display());
            let beside = file.parent().expect("a folder").read_dir().expect("listed");
            assert_eq!(beside.count(), 1, "something staged was left");
        }
    }

    #[test]
    fn half_a_pair_is_left_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let settings = settings(dir.path());
        drop(ServerTls::open(&settings).expect("made"));
        std::fs::remove_file(&settings.key_path).expect("removed");
        let error = ServerTls::open(&settings)
            .expect_err("half a pair")
            .to_string();
        assert!(
            error.contains("key.pem is missing") && error.contains(KEY_KEY),
            "{error}"
        );
        assert!(!settings.key_path.exists());
    }

    #[test]
    fn without_leave_nothing_is_made() {
        let dir = tempfile::tempdir().expect("a folder");
        let settings = TlsSettings {
            auto_generate: false,
            ..settings(dir.path())
        };
        let error = ServerTls::open(&settings)
            .expect_err("no files")
            .to_string();
        assert!(error.contains("cert.pem"), "{error}");
        assert!(!settings.cert_path.exists());
    }

    #[test]
    fn a_renewed_pair_is_served_and_a_broken_one_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let old = settings(dir.path());
        let tls = ServerTls::open(&old).expect("made");
        let first = tls.fingerprint();
        let other = settings(&dir.path().join("other"));
        let new = ServerTls::open(&other).expect("made").fingerprint();
        std::fs::copy(&other.cert_path, &old.cert_path).expect("copied");
        tls.renew();
        assert_eq!(tls.fingerprint(), first, "a certificate without its key");
        std::fs::copy(&other.key_path, &old.key_path).expect("copied");
        tls.renew();
        assert_eq!(tls.fingerprint(), new);
        std::fs::write(&old.cert_path, vec![b'x'; PEM_BYTES_MAX as usize + 1]).expect("written");
        tls.renew();
        assert_eq!(tls.fingerprint(), new);
    }
}
